"""Intervals of shares."""

from __future__ import annotations

import math

_Z = 1.96
"""Standard deviations on each side within which 95 % of a normal distribution lie."""


def wilson(wrong: int, count: int) -> tuple[float, float]:
    """The 95 % interval of a share."""
    if not count:
        return 0.0, 1.0
    share, square = wrong / count, _Z * _Z
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = _Z / (1 + square / count) * math.sqrt(share * (1 - share) / count + square / (4 * count * count))
    return max(0.0, middle - half), min(1.0, middle + half)
