"""Geometry: from a stored frame to the picture a viewer sees, and to a size cap, without cropping.

The rules of native shape: rotation metadata applied; non-square pixels made square by enlarging the short
axis; a size cap scales both axes by one factor. All of it happens here and nowhere else, whatever decoder
made the frame.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Geometry:
    """How a stored frame is shown.

    Args:
        stored_width_px, stored_height_px: size as coded, >= 1.
        sample_aspect: width of a stored pixel over its height, > 0.
        rotation_deg: counter-clockwise turn that shows the picture upright; a multiple of 90.
        is_mirrored: the picture is shown flipped left to right, after the turn.
    """

    stored_width_px: int
    stored_height_px: int
    sample_aspect: float = 1.0
    rotation_deg: int = 0
    is_mirrored: bool = False

    @property
    def quarter_turns(self) -> int:
        return round(self.rotation_deg / 90) % 4

    @property
    def display_size_px(self) -> tuple[int, int]:
        """Width and height as displayed: square pixels, upright."""
        width, height = float(self.stored_width_px), float(self.stored_height_px)
        if self.sample_aspect > 1:
            width *= self.sample_aspect
        else:
            height /= self.sample_aspect
        if self.quarter_turns % 2:
            width, height = height, width
        return max(1, round(width)), max(1, round(height))

    def capped_size_px(self, max_pixels: int | None) -> tuple[int, int]:
        """Display size, reduced by one factor so that width x height is at most about `max_pixels`."""
        width, height = self.display_size_px
        if max_pixels is None or width * height <= max_pixels:
            return width, height
        factor = math.sqrt(max_pixels / (width * height))
        return max(1, round(width * factor)), max(1, round(height * factor))

    def fitted_size_px(self, max_side_px: int) -> tuple[int, int]:
        """Display size, reduced by one factor so that the longer side is at most `max_side_px`."""
        width, height = self.display_size_px
        factor = min(1.0, max_side_px / max(width, height))
        return max(1, round(width * factor)), max(1, round(height * factor))

    def stored_orientation(self, width: int, height: int) -> tuple[int, int]:
        """The (width, height) to scale a stored frame to, so that turning it gives `width` x `height`."""
        return (height, width) if self.quarter_turns % 2 else (width, height)

    def upright(self, rgb: np.ndarray) -> np.ndarray:
        """Turn a frame [H, W, 3] upright."""
        if self.quarter_turns:
            rgb = np.rot90(rgb, self.quarter_turns)
        if self.is_mirrored:
            rgb = rgb[:, ::-1]
        return np.ascontiguousarray(rgb)


def orientation(matrix: tuple[float, ...]) -> tuple[int, bool]:
    """Rotation (degrees, counter-clockwise, a multiple of 90) and mirroring of a 3x3 display matrix.

    The matrix is row by row, as ISO 14496-12 stores it.

    A stored pixel (x, y) is shown at (a x + c y, b x + d y) where the matrix begins a, b, u, c, d. A negative
    determinant is a mirroring.
    """
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    is_mirrored = a * d - b * c < 0
    if is_mirrored:  # undo the flip along x, which comes last
        a, c = -a, -c
    return round(math.degrees(math.atan2(-b, a)) / 90) * 90, is_mirrored


_CLOCK_S = 6e-4
"""A little more than Matroska rounds times by."""


def is_uneven(times_s: Sequence[float] | np.ndarray) -> bool:
    """Whether frames come at uneven times, given those in order."""
    steps = np.diff(times_s)
    return len(steps) > 1 and float(steps.max() - steps.min()) > max(0.002, 0.1 * float(np.median(steps)))


def slot_of(time_s: float, fps: float) -> int:
    """The number of the slot that a time lies in, of a rate; a rounded time just before one counts to it."""
    return int(time_s * fps + 1e-3)


def pick_times(times_s: list[float], max_fps: float | None) -> list[int]:
    """Indices of the frames kept under a rate cap: evenly by true time, the first one always.

    Args:
        times_s: ascending presentation times.
        max_fps: frames per second to keep at most; None keeps all.
    """
    if max_fps is None or not times_s:
        return list(range(len(times_s)))
    kept, slot = [], -1
    early = min(0.25, 1e-3 + _CLOCK_S * max_fps)
    for index, time_s in enumerate(times_s):
        current = math.floor((time_s - times_s[0]) * max_fps + early)
        if current > slot:
            kept.append(index)
            slot = current
    return kept
