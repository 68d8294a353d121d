"""CIDEr-D (Vedantam et al. 2015, arXiv:1411.5726).

Do not rank captioners by it: on captions with known truth it puts a half-false template above a true
paraphrase.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

_MAX_N, _SIGMA = 4, 6.0


def _grams(text: str, n: int) -> Counter[tuple[str, ...]]:
    words = re.findall(r"\w+", text.lower())
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def cider(texts: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Mean CIDEr-D of texts against their references, 0 to 10."""
    if not texts:
        return float("nan")
    total = np.zeros(len(texts))
    for n in range(1, _MAX_N + 1):
        found = [_grams(text, n) for text in texts]
        wanted = [[_grams(reference, n) for reference in own] for own in references]
        documents: Counter[tuple[str, ...]] = Counter()
        for own in wanted:
            documents.update(set().union(*own) if own else set())
        rarity = {gram: math.log(len(texts) / count) for gram, count in documents.items()}
        default = math.log(len(texts))

        def vector(
            grams: Counter[tuple[str, ...]], rarity: dict = rarity, default: float = default
        ) -> dict[tuple[str, ...], float]:
            return {gram: count * rarity.get(gram, default) for gram, count in grams.items()}

        for index, (grams, others) in enumerate(zip(found, wanted, strict=True)):
            one = vector(grams)
            scores = [
                _likeness(one, vector(other), sum(grams.values()), sum(other.values())) for other in others
            ]
            total[index] += float(np.mean(scores)) if scores else 0.0
    return float(10 * total.mean() / _MAX_N)


def _likeness(one: dict, other: dict, length: int, other_length: int) -> float:
    dot = sum(min(one.get(gram, 0.0), value) * value for gram, value in other.items())
    norm = math.sqrt(sum(value**2 for value in one.values())) * math.sqrt(
        sum(value**2 for value in other.values())
    )
    return dot / norm * math.exp(-((length - other_length) ** 2) / (2 * _SIGMA**2)) if norm else 0.0
