"""Blocks that break off: straight edges on the coding grid that were not in the frame before.

What FFmpeg decodes of flipped bits in HEVC it gives out without a word. A block that was built wrongly ends
in a sharp step along rows or columns whose numbers are multiples of eight, where the coding grid lies. In a
sound picture as many steps lie beside the grid as on it.
"""

from __future__ import annotations

import math

import av
import numpy as np

MUTE = frozenset({"hevc"})
"""Codecs, as FFmpeg names them, whose decoder takes most damage for a picture."""
_GRID_PX = 8
_BESIDE_PX = (2, 3, 5, 6)
_LEAST_LEVELS = 12
"""Of a step: mean difference of the pixels on both sides, in levels of eight bits."""
_SHARP = 4
"""A step is so many times as high as the slopes on both sides of it."""
_MOST, _OF_PLACES, _LEAST = 0.0045, 1676, 0.0022
"""Share of the places that hardly ever holds such steps in sound video: of a picture of 320 x 180 pixels. In
larger ones it shrinks with the square root of the number of places, to the last one."""
_FEWEST = 7.5
"""Steps that chance gives in a picture of any size."""
_ENOUGH = 8000
"""Places that are looked at, of 640 x 360 pixels nearly all: of larger pictures every so many'th band, as all
of them would cost as much as decoding."""


def _luma(frame: av.VideoFrame) -> np.ndarray | None:
    """[h, w] uint8 or uint16, a view; None where there is no plane of it alone."""
    first = frame.format.components[0]
    if not frame.planes or (len(frame.format.components) > 1 and len(frame.planes) == 1):
        return None
    plane = frame.planes[0]
    kind = np.dtype(np.uint8 if first.bits <= 8 else "<u2")
    return np.frombuffer(memoryview(plane), kind).reshape(plane.height, -1)[:, : plane.width]


class GridEdges:
    """Compares each frame of a stream with the one before it."""

    def __init__(self) -> None:
        self._before: list[np.ndarray] = []

    def excess(self, frame: av.VideoFrame) -> tuple[float, float]:
        """How many new steps lie on the grid beyond those beside it, and how many that are gone.

        1 is seldom seen in sound film. 0 for the first frame and where the size changes.
        """
        luma = _luma(frame)
        if luma is None or min(luma.shape) < 3 * _GRID_PX:
            return 0.0, 0.0
        height, width = luma.shape
        bits = frame.format.components[0].bits
        skip = max(1, 2 * (height // _GRID_PX) * (width // _GRID_PX) // _ENOUGH)
        now = [np.diff(bands, axis=1) for bands in (_bands(luma, skip), _bands(luma.T, skip))]
        before, self._before = self._before, now
        if [steps.shape for steps in before] != [steps.shape for steps in now]:
            return 0.0, 0.0
        least = _LEAST_LEVELS << max(0, bits - 8)
        places = sum(steps.shape[0] * (steps.shape[1] // _GRID_PX) for steps in now)
        share = min(_MOST, max(_LEAST, _MOST * math.sqrt(_OF_PLACES / places)))
        most = max(_FEWEST, share * places)
        new = sum(_new_steps(*pair, least) for pair in zip(now, before, strict=True))
        return new / most, sum(_new_steps(*pair, least) for pair in zip(before, now, strict=True)) / most


def _bands(luma: np.ndarray, skip: int) -> np.ndarray:
    """[bands, w] int32: means of the rows of the grid, of every `skip`th of its bands."""
    bands = luma[: luma.shape[0] // _GRID_PX * _GRID_PX]
    rows = [bands[place :: _GRID_PX * skip] for place in range(_GRID_PX)]
    total = rows[0].astype(np.int32)
    for row in rows[1:]:
        total += row
    return (total + _GRID_PX // 2) // _GRID_PX


def _new_steps(now: np.ndarray, before: np.ndarray, least: int) -> float:
    """New steps on the grid, less those beside it in the mean."""
    counts = list[int]()
    num = (now.shape[1] - 2 * _GRID_PX) // _GRID_PX + 1
    for offset in (0, *_BESIDE_PX):
        at = _GRID_PX - 1 + offset
        step, left, right, old = (
            array[:, place : place + num * _GRID_PX : _GRID_PX]
            for array, place in ((now, at), (now, at - 1), (now, at + 1), (before, at))
        )
        high = np.abs(step)
        is_step = (high > least) & (np.abs(step - old) * 2 > high)
        is_step &= np.maximum(np.abs(left), np.abs(right)) * _SHARP < high
        counts.append(int(is_step.sum()))
    return counts[0] - sum(counts[1:]) / len(_BESIDE_PX)
