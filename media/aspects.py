"""What a file says of the shape of its pixels."""

from __future__ import annotations

from fractions import Fraction

_MOST = 16
"""No screen has pixels so many times as wide as high, or as high as wide."""


def plausible(aspect: Fraction | None) -> Fraction | None:
    """A pixel's width over its height; None where a file says nothing, or what cannot be."""
    return aspect if aspect and Fraction(1, _MOST) <= aspect <= _MOST else None
