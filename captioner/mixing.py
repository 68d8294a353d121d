"""Caption mixing: which caption of a clip a training step sees.

The DALL-E 3 blend (Betker et al. 2023, section 3): dense synthetic captions with p = 0.95, the short or given
one otherwise, drawn per sample. Structured captions lose and shuffle fields, so that a model learns prompts
of many lengths and orders (HunyuanVideo, Kong et al. 2024).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from captioner.gates.answers import fields_text
from manifests.errors import UsageError

FALLBACK = ("dense", "short", "structured", "alt")


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """Weights over groups of kinds.

    A group is one or more of `kind` or `kind@source` with commas between; its members are equally likely.

    `{"dense": .95, "alt,short": .05}` is the blend; `{"dense@coca": .5, "dense@openai": .45, "alt": .05}`
    mixes two captioners' versions.
    """

    weights: dict[str, float] = field(default_factory=lambda: {"dense": 0.95, "alt,short": 0.05})

    def __post_init__(self) -> None:
        for group, weight in self.weights.items():
            for part in group.split(","):
                if part.split("@")[0] not in FALLBACK:
                    raise UsageError(
                        f"mixing {group}",
                        f"has no kind {part.split('@')[0]}",
                        f"Kinds: {', '.join(FALLBACK)}.",
                    )
            if weight < 0:
                raise UsageError(f"mixing {group}", f"has weight {weight}, below 0")
        if not self.weights or sum(self.weights.values()) <= 0:
            raise UsageError("mixing", "has no weight above 0")


def _fits(part: str, kind: str, source: str) -> bool:
    wanted, _, version = part.partition("@")
    return kind == wanted and version in {"", source}


def draw(captions: Sequence[tuple[str, str]], mixing: Mixing, rng: np.random.Generator) -> int | None:
    """Index of the caption to use among those a clip has, None if it has none.

    Args:
        captions: (kind, source) of each accepted caption.
        mixing: the weights. Where a clip has nothing of the group drawn, the kinds of `FALLBACK` are tried in
            order.
        rng: seeded by (seed, epoch, sample), so a run repeats.
    """
    if not captions:
        return None
    groups = list(mixing.weights)
    share = np.array([mixing.weights[group] for group in groups])
    wanted = groups[int(rng.choice(len(groups), p=share / share.sum()))].split(",")
    pool = [
        index
        for index, (kind, source) in enumerate(captions)
        if any(_fits(part, kind, source) for part in wanted)
    ]
    for fallback in FALLBACK:
        if pool:
            break
        pool = [index for index, (kind, _) in enumerate(captions) if kind == fallback]
    return pool[int(rng.integers(len(pool)))] if pool else None


def realised(drawn: Counter[str]) -> str:
    """The proportions that were drawn, in words."""
    total = max(1, sum(drawn.values()))
    return ", ".join(
        f"{kind} {count / total:.3f}" for kind, count in sorted(drawn.items(), key=lambda item: -item[1])
    )


def structured_variant(fields: Mapping[str, Any], rng: np.random.Generator, dropout: float = 0.3) -> str:
    """The fields as text in random order, each but the subjects left out with probability `dropout`."""
    names = [
        name for name, value in fields.items() if value and (name == "subjects" or rng.random() >= dropout)
    ]
    return fields_text({names[index]: fields[names[index]] for index in rng.permutation(len(names))})
