"""Measured facts of pictures or a file that are in no dataset, as the `clips` table has them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from media.apart.reader import Reader, probe
from media.errors import MediaError
from media.measure.clip import look, measure
from media.shots.detector import GLANCE_PX, ShotDetector

CUT_THRESHOLD, PREVIEW_FPS = 3.0, 2.0
_MAX_SECONDS, _SMALL_PX, _PREVIEW_PX, _SMALL_FPS = 60.0, 256, 512, 8.0


def facts_of_frames(
    frames: Sequence[np.ndarray], times_s: Sequence[float], previews: Sequence[int], end_s: float
) -> dict[str, Any]:
    """Facts of a clip from its frames.

    Args:
        frames: [H, W, 3] uint8 pictures at about eight a second; times_s: their times, ascending; previews:
            which of them are previews.
        end_s: where the clip ends.
    """
    height, width = frames[0].shape[:2]
    scale = min(1.0, _SMALL_PX / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = [
        cv2.resize(frame, size, interpolation=cv2.INTER_AREA) if scale < 1 else frame for frame in frames
    ]
    changes = [cv2.norm(a, b, cv2.NORM_L1) / a.size / 255 for a, b in itertools.pairwise(small)]
    length_s = times_s[-1] - times_s[0]
    row = {
        "kind": "video" if len(frames) > 1 else "image",
        "width_px": width,
        "height_px": height,
        "num_frames": len(frames),
        "start_s": times_s[0],
        "end_s": end_s,
        "fps": (len(frames) - 1) / length_s if length_s > 0 else 0.0,
    }
    return row | measure(
        [look(frames[index]) for index in previews], small, list(times_s), changes, length_s, width
    )


def file_facts(path: Path) -> tuple[list[np.ndarray], list[float], dict[str, Any]]:
    """Preview frames, their times, and facts of a file taken as one clip, the times of its cuts among them.

    Of a long video, the first minute (`is_part`).

    Raises:
        MediaError: the file cannot be read.
    """
    facts = probe(str(path))
    times_s: list[float] = []
    small: list[np.ndarray] = []
    previews: list[np.ndarray] = []
    picks: list[int] = []
    slots, length_s = (-1, -1), 0.0

    def glances() -> Iterator[tuple[float, np.ndarray]]:
        nonlocal slots, length_s
        for picture in Reader(facts).pictures(0.0, _MAX_SECONDS):
            now = (int(picture.time_s * _SMALL_FPS + 1e-3), int(picture.time_s * PREVIEW_FPS + 1e-3))
            length_s = picture.time_s
            if now[1] != slots[1]:
                picks.append(len(small))
                previews.append(picture.draft(_PREVIEW_PX))
            if now[0] != slots[0] or now[1] != slots[1]:
                times_s.append(picture.time_s)
                small.append(picture.draft(_SMALL_PX))
            slots = now
            yield picture.time_s, picture.glance(GLANCE_PX)

    labels = list(ShotDetector[float](CUT_THRESHOLD, facts.fps).labelled(glances()))
    if not previews:
        raise MediaError("no_frames", f"{path} gave no frame")
    if changed := next(
        (time_s for time_s, picture in zip(times_s, small, strict=True) if picture.shape != small[0].shape),
        None,
    ):
        raise MediaError(
            "size_changes",
            f"{path} changes its picture size at {changed:.2f} s; `rushes ingest` parts it there",
        )
    width, height = facts.geometry.display_size_px
    row = facts_of_frames(small, times_s, picks, max(length_s, min(facts.duration_s, _MAX_SECONDS)))
    row |= {
        "kind": facts.kind,
        "width_px": width,
        "height_px": height,
        "num_frames": len(labels),
        "fps": facts.fps,
    }
    row["is_part"] = facts.kind == "video" and facts.duration_s > _MAX_SECONDS
    row["cuts_s"] = [
        time_s for time_s, label in labels if label.is_cut and not label.is_transition and time_s > 0
    ]
    return previews, [times_s[index] for index in picks], row
