"""Curves over the steps of a training that more than one of them follows."""

from __future__ import annotations

import math

LEAST = 0.02
"""What a rate falls to, of its peak."""


def cosine(share: float, least: float = LEAST) -> float:
    """From 1 to `least` along half a cosine, `share` of the way from 0 to 1."""
    return least + (1 - least) * 0.5 * (1 + math.cos(math.pi * share))


def warmed_up(decay: float, step: int) -> float:
    """Decay of an average of weights at a step: less at first, so that how they began is soon forgotten."""
    return min(decay, (1 + step) / (10 + step))
