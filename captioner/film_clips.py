"""Clips of the film world as a captioner meets them: in many shapes, seen through their previews.

For training and for evaluation with exact truth.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from media.decode.geometry import pick_times
from world.film import SIZES_PX
from world.render import render_frame
from world.scene import Shot, sample_shot

PREVIEW_FPS = 2.0
STILL_SHARE = 0.1
SCALES = (0.75, 1.0)


@dataclass(frozen=True)
class FilmClip:
    """One shot in one picture size."""

    shot: Shot
    width_px: int
    height_px: int


def sample_clip(seed: int, is_video: bool | None = None) -> FilmClip:
    """A clip drawn from its seed; a tenth are stills unless told."""
    rng = np.random.default_rng(seed)
    scale = float(rng.choice(SCALES))
    width, height = (round(side * scale) for side in SIZES_PX[int(rng.integers(len(SIZES_PX)))])
    is_still = rng.random() < STILL_SHARE if is_video is None else not is_video
    duration_s = 0.0 if is_still else float(rng.uniform(1.2, 3.4))
    return FilmClip(sample_shot(int(rng.integers(1 << 31)), width / height, duration_s), width, height)


def frames_at(clip: FilmClip, times_s: list[float]) -> np.ndarray:
    """[T, H, W, 3] uint8."""
    return np.stack([render_frame(clip.shot, time_s, clip.width_px, clip.height_px) for time_s in times_s])


def times_of(clip: FilmClip, fps: float) -> list[float]:
    """Times of frames at `fps` from the clip's start to its end."""
    return [index / fps for index in range(max(1, int(np.ceil(clip.shot.duration_s * fps - 1e-6))))]


def preview_frames(clip: FilmClip) -> tuple[list[float], np.ndarray]:
    """Times and pictures of the previews that curation would keep."""
    times = times_of(clip, PREVIEW_FPS)
    return times, frames_at(clip, times)


def proxy_frames(clip: FilmClip, fps: float = 8.0) -> tuple[list[float], np.ndarray]:
    """Times and pictures at the rate at which motion is measured; previews are `previews_of` these."""
    times = times_of(clip, fps)
    return times, frames_at(clip, times)


def previews_of(times: list[float]) -> list[int]:
    """Which of a clip's frames become previews."""
    return pick_times(times, PREVIEW_FPS)


def with_shot(clip: FilmClip, shot: Shot) -> FilmClip:
    return replace(clip, shot=shot)
