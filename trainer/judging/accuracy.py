"""How much of its prompt a sample shows, by attribute, beside true renders, round trips and chance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from manifests.intervals import wilson
from trainer.judging.cases import Case
from world.reading.reader import ATTRIBUTES, read, truth_of

RESAMPLES = 1000


@dataclass(frozen=True)
class Answer:
    """What was read of one film, by attribute, beside what was asked for.

    `is_cut`: whether the border cuts the main subject off; None where there is none.
    """

    case: Case
    found: dict[str, str]
    is_cut: bool | None = None

    @property
    def right(self) -> dict[str, bool]:
        return {name: self.found[name] == value for name, value in truth_of(self.case.shot).items()}

    @property
    def share(self) -> float:
        """The share of attributes that are as asked for."""
        return sum(self.right.values()) / len(self.right)


def answer(case: Case, frames: Tensor) -> Answer:
    """Read frames [T, H, W, 3] uint8 made for a case."""
    seen = read(frames.numpy(), case.canvas.fps)
    return Answer(case, seen.attributes(case.is_still), seen.things[0].is_cut if seen.things else None)


@dataclass(frozen=True)
class Score:
    """A share with its 95 % interval by bootstrap over cases, and the number of cases.

    Where all cases are alike, of which draws say nothing, it is Wilson's.
    """

    value: float
    low: float
    high: float
    count: int

    def to_json(self) -> dict[str, float]:
        return {"value": self.value, "low": self.low, "high": self.high, "count": self.count}


def score(values: Sequence[bool | float], statistic: Callable[..., np.ndarray] = np.mean) -> Score:
    """A statistic of values, the mean unless told otherwise, with its interval."""
    if not len(values):
        return Score(float("nan"), float("nan"), float("nan"), 0)
    own = np.asarray(values, dtype=float)
    draws = np.random.default_rng(0).integers(0, len(own), (RESAMPLES, len(own)))
    low, high = np.percentile(statistic(own[draws], axis=1), [2.5, 97.5])
    # where all are alike, draws of them are, too
    if statistic is np.mean and low == high and set(own.tolist()) <= {0.0, 1.0}:
        low, high = wilson(int(own.sum()), len(own))
    return Score(float(statistic(own)), float(low), float(high), len(own))


def accuracy(answers: Sequence[Answer]) -> dict[str, Score]:
    """The share of answers that are right, by attribute."""
    return {name: score([own.right[name] for own in answers if name in own.right]) for name in ATTRIBUTES}


def chance(answers: Sequence[Answer]) -> dict[str, Score]:
    """The same for the answers of other prompts: what a model that reads none would score."""
    found = {}
    for name in ATTRIBUTES:
        own = [part for part in answers if name in part.right]
        truths = [truth_of(part.case.shot)[name] for part in own]
        shifted = [part.found[name] for part in [*own[1:], *own[:1]]]
        found[name] = score([one == other for one, other in zip(truths, shifted, strict=True)])
    return found
