"""Frames in doubt: damage that the decoder did not report, found when the next keyframe mends the picture."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from media.decode.healing import MAX_FRAMES, broken_from
from pipeline.curate.sampling import Sample

Seen = tuple[Sample, np.ndarray]
"""A frame's sample and its glance."""


def judged(stream: Iterator[Seen]) -> Iterator[Seen]:
    """The same frames, those marked as damaged that a keyframe shows to be broken; up to a group late.

    Where the stream ends in an error, the frames in hand are given out before it is raised.
    """
    held: list[Seen] = []
    try:
        for item in stream:
            if item[0].is_key:
                yield from _with_doubt(held, item[1])
                held = []
            elif len(held) == MAX_FRAMES:
                yield from held
                held = []
            held.append(item)
    except Exception:
        yield from held
        raise
    yield from held


def _with_doubt(held: list[Seen], after: np.ndarray) -> list[Seen]:
    first = broken_from([glance for _, glance in held], after)
    if first is None:
        return held
    return held[:first] + [(replace(sample, is_damaged=True), glance) for sample, glance in held[first:]]
