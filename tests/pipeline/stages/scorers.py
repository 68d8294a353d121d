"""Scorers of a user's own, as their package would have them."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from pipeline.scores.protocol import Score


class Redness:
    """How red a clip is, over the middle."""

    name, version, frames = "redness", "1", 4
    seen: ClassVar[list[int]] = []

    def setup(self) -> None:
        self.is_ready = True

    def score(self, clips):
        assert self.is_ready
        self.seen.append(len(clips))
        return [
            Score(float(np.mean([rgb[..., 0].mean() - rgb[..., 2].mean() for rgb in clip]))) for clip in clips
        ]


class Frames(Redness):
    """How many frames it was given; it fails for clips of one, and says nothing true of those of two."""

    name, version, frames = "frames", "1", 3

    def score(self, clips):
        if any(len(clip) == 1 for clip in clips):
            raise ValueError("a clip of one frame")
        return [Score(float("nan") if len(clip) == 2 else float(len(clip))) for clip in clips]


class Nameless:
    """No scorer."""

    name, version, frames = "Not A Name", "1", 3

    def setup(self) -> None: ...

    def score(self, clips): ...


class Lengths(Redness):
    """How many frames it was given, with words that are none."""

    name, version, frames = "lengths", "1", 3

    def score(self, clips):
        return [Score(float(len(clip)), None) for clip in clips]  # type: ignore[arg-type]


class Raising(Redness):
    """It cannot be made."""

    def __init__(self) -> None:
        raise ValueError("no weights")


class Odd(Redness):
    """Its name is a number."""

    name, frames = 5, "many"  # type: ignore[assignment]
