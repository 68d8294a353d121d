"""The questions: shots of the film world that no training has seen, each on a canvas.

Half of the canvases have a shape, a length and a rate as the world's films have them, half do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor, from_numpy

from trainer.sampling.canvas import Canvas
from world.captions import dense
from world.film import RATES_FPS, SIZES_PX
from world.render import render_frame
from world.scene import Shot, sample_shot

FIRST_SEED = 1 << 40
"""Films draw the seeds of their shots below 2 ** 31."""
UNSEEN_PX = [(176, 104), (104, 176), (152, 120), (120, 152), (200, 96), (128, 128), (88, 136)]
"""Widths and heights that no film of the world has, before they are scaled."""
UNSEEN_FPS = [10.0, 14.0, 20.0]
SEEN_S, UNSEEN_S = (1.2, 3.4), ((0.6, 1.1), (3.5, 4.2))
"""Lengths in seconds that films have, and that they do not."""
DEFAULT_SCALE = 0.75
MAX_FPS = 16.0
"""Rate at which the dataset's films are encoded at most (`rushes ingest`)."""


@dataclass(frozen=True)
class Case:
    """One question."""

    shot: Shot
    canvas: Canvas
    is_seen: bool

    @property
    def is_still(self) -> bool:
        return self.canvas.num_frames == 1

    @property
    def prompt(self) -> str:
        return dense(self.shot)

    def render(self) -> Tensor:
        """The shot as the world draws it, [T, H, W, 3] uint8."""
        canvas = self.canvas
        times = [index / canvas.fps for index in range(canvas.num_frames)]
        return from_numpy(
            np.stack([render_frame(self.shot, time_s, canvas.width_px, canvas.height_px) for time_s in times])
        )


def world_scale(record: dict[str, Any]) -> float:
    """The scale of the films that a model was trained on, where its record says it."""
    return float(record.get("made", {}).get("world_scale", DEFAULT_SCALE))


def cases(count: int, scale: float, stills: float = 0.2, seed: int = 0) -> list[Case]:
    """Questions, every other one on a canvas that was not trained on.

    Args:
        scale: of the picture sizes, as in `rushes make-films --scale`.
        stills: share of them that are images.
    """
    return [_case(number, scale, stills, seed) for number in range(count)]


def _case(number: int, scale: float, stills: float, seed: int) -> Case:
    rng = np.random.default_rng([FIRST_SEED, seed, number])
    is_seen = number % 2 == 0
    width, height = (max(16, round(side * scale)) for side in _one(rng, SIZES_PX if is_seen else UNSEEN_PX))
    own = int(FIRST_SEED + rng.integers(1 << 31))
    if rng.random() < stills:
        canvas = Canvas(num_frames=1, height_px=height, width_px=width, fps=1.0)
        return Case(sample_shot(own, width / height, 0.0), canvas, is_seen)
    low, high = SEEN_S if is_seen else _one(rng, UNSEEN_S)
    rates = [min(rate, rate / 2 if rate > MAX_FPS else rate) for rate in RATES_FPS]
    fps = _one(rng, rates if is_seen else UNSEEN_FPS)
    frames = max(2, round(float(rng.uniform(low, high)) * fps))
    canvas = Canvas(num_frames=frames, height_px=height, width_px=width, fps=fps)
    return Case(sample_shot(own, width / height, frames / fps), canvas, is_seen)


def _one(rng: np.random.Generator, options: list | tuple):  # type: ignore[no-untyped-def]
    return options[int(rng.integers(len(options)))]
