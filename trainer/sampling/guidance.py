"""Guidance: from several predictions of the model, with and without text and conditions, to one.

Sources: classifier-free guidance (Ho and Salimans 2022, arXiv:2207.12598), apart for text and conditions as
in InstructPix2Pix (arXiv:2211.09800, eq. 3); only at some noise levels (Kynkaanniemi et al. 2024,
arXiv:2404.07724); rescaled (Lin et al. 2023, arXiv:2305.08891, eq. 15-16).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from torch import Tensor

from manifests.errors import UsageError


class Branch(Enum):
    """A prediction of the model, by what it is shown."""

    FULL = "prompt and conditions"
    CONDITION = "negative prompt and conditions"
    NONE = "negative prompt alone"


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """How strongly a sample follows its text and its conditions.

    Attributes:
        text: weight of the difference that the text makes; 1 turns it off.
        condition: weight of the difference that kept content makes; 1 turns it off.
        rescale: 0 .. 1, how far the spread of the guided prediction is brought back to that of the plain one,
            against colours that burn out at high weights.
        interval: lowest and highest noise level at which predictions are guided.
    """

    text: float = 3.0
    condition: float = 1.0
    rescale: float = 0.0
    interval: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        low, high = self.interval
        if not (0 <= self.text <= 1e3 and 0 <= self.condition <= 1e3 and 0 <= self.rescale <= 1):
            raise UsageError(
                f"guidance {self.text}, {self.condition}, rescale {self.rescale}",
                "is out of range",
                "Weights are from 0 to 1000, rescale from 0 to 1.",
            )
        if not 0 <= low <= high <= 1:
            raise UsageError(
                f"--guidance-interval {low} {high}", "is not from low to high within 0 to 1", "Give 0.1 0.9."
            )

    def branches(self, sigma: float, has_conditions: bool) -> tuple[Branch, ...]:
        """The predictions that are needed at a noise level."""
        if not self.interval[0] <= sigma <= self.interval[1]:
            return (Branch.FULL,)
        if self.condition != 1 and has_conditions:
            return (Branch.FULL, Branch.CONDITION, Branch.NONE)
        return (Branch.FULL, Branch.CONDITION) if self.text != 1 else (Branch.FULL,)

    def combine(self, found: dict[Branch, Tensor], moves: Tensor) -> Tensor:
        """The guided prediction of one sample [n, P].

        Args:
            found: predictions [n, P] of its branches.
            moves: [n] bool, tokens that are not kept: only these count for the spread.
        """
        full = found[Branch.FULL]
        if len(found) == 1:
            return full
        guided = found[Branch.CONDITION] + self.text * (full - found[Branch.CONDITION])
        if Branch.NONE in found:
            guided = guided + (self.condition - 1) * (found[Branch.CONDITION] - found[Branch.NONE])
        if not self.rescale or not bool(moves.any()):
            return guided
        spread = full[moves].std() / guided[moves].std().clamp_min(1e-8)
        return guided * (1 + self.rescale * (spread - 1))
