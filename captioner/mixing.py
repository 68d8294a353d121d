"""Caption mixing: which caption of a clip a training step sees.

The DALL-E 3 blend (Betker et al. 2023, section 3): dense synthetic captions with p = 0.95, the short or given one otherwise, drawn per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

FALLBACK = ("dense", "short", "structured", "alt")


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Weights over groups of kinds; within a group, kinds are equally likely."""

    weights: dict[str, float] = field(default_factory=lambda: {"dense": 0.95, "alt,short": 0.05})


def draw(kinds: Sequence[str], mixing: Mixing, rng: np.random.Generator) -> int | None:
    """Index of the caption to use among those a clip has, None if it has none.

    Args:
        kinds: kind of each accepted caption.
        mixing: the weights.
        rng: seeded by (seed, epoch, sample), so a run repeats.
    """
    if not kinds:
        return None
    groups = list(mixing.weights)
    share = np.array([mixing.weights[group] for group in groups])
    wanted = groups[int(rng.choice(len(groups), p=share / share.sum()))].split(",")
    pool = [index for index, kind in enumerate(kinds) if kind in wanted]
    for kind in FALLBACK:
        if pool:
            break
        pool = [index for index, found in enumerate(kinds) if found == kind]
    return pool[int(rng.integers(len(pool)))] if pool else None
