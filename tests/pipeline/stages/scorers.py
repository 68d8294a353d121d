"""Scorers of a user's own, as their package would have them."""

from __future__ import annotations

import os
import sys
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


class Complex(Redness):
    """It says what cannot be ordered."""

    name = "complex"

    def score(self, clips):
        return [Score(np.complex64(1 + 1j)) for _ in clips]  # type: ignore[arg-type]


class Leaving(Redness):
    """It takes the process for its own."""

    name = "leaving"

    def score(self, clips):
        sys.exit(3)


class Deadly(Redness):
    """It ends the process, whatever it is given."""

    name = "deadly"

    def score(self, clips):
        os._exit(7)


class Picky(Redness):
    """It fails for every second clip, until it is mended."""

    name, version, frames = "picky", "1", 1
    is_mended: ClassVar[bool] = False

    def score(self, clips):
        Picky.seen.append(len(clips))
        if not Picky.is_mended and len(clips) == 1 and len(Picky.seen) % 2:
            raise ValueError("not this one")
        if not Picky.is_mended and len(clips) > 1:
            raise ValueError("one at a time")
        return [Score(1.0) for _ in clips]


class Careless(Redness):
    """Numbers in the place of scores."""

    name, version, frames = "careless", "1", 1

    def score(self, clips):
        return [1.0 for _ in clips]


class Wordy(Redness):
    """Text in the place of words."""

    name, version, frames = "wordy", "1", 1

    def score(self, clips):
        return (Score(1.0, "hello") for _ in clips)  # type: ignore[arg-type]


class Blackening(Redness):
    """It writes into its pictures."""

    name, version, frames = "blackening", "1", 4

    def score(self, clips):
        for rgb in clips[0]:
            rgb[...] = 0
        return [Score(0.0) for _ in clips]


class Refusing(Redness):
    """It fails as a machine does."""

    name, version, frames = "refusing", "1", 1
    error: ClassVar[BaseException] = OSError("cannot identify image file")

    def score(self, clips):
        raise self.error


class Full(Refusing):
    """It finds no memory."""

    name, error = "full", MemoryError()


class Breaking(Refusing):
    """It raises what is no Exception."""

    name, error = "breaking", GeneratorExit("over")


class Endless(Redness):
    """It never stops to give scores."""

    name, version, frames = "endless", "1", 1

    def score(self, clips):
        while True:
            yield Score(1.0)


class Silent(Redness):
    """It gives nothing."""

    name, version, frames = "silent", "1", 1

    def score(self, clips): ...


class Lettered(Redness):
    """Text in the place of a number."""

    name, version, frames = "lettered", "1", 1

    def score(self, clips):
        return [Score("a") for _ in clips]  # type: ignore[arg-type]


class Unversioned(Redness):
    """Its version is a number."""

    version = 1  # type: ignore[assignment]


class Doubtful(Redness):
    """Its count is none."""

    frames = True


class Unready(Redness):
    """It cannot be set up."""

    name, version, frames = "unready", "1", 1

    def setup(self) -> None:
        raise OSError("no weights")
