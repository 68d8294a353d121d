"""Steps whose gradient is not finite: left out, told, and too many in a row end the run."""

from __future__ import annotations

import math

from manifests.cli import say
from manifests.errors import RushesError

MOST_IN_A_ROW = 20


class FiniteSteps:
    """Whether steps may be taken.

    Args:
        name: of the training, as its lines begin.
        is_telling: of several processes one tells.
    """

    def __init__(self, name: str, is_telling: bool) -> None:
        self.name, self.is_telling, self.in_a_row = name, is_telling, 0

    def takes(self, step: int, norm: float) -> bool:
        """Whether a step may be taken, whose gradient has this norm: the same on all processes.

        Raises:
            RushesError: too many in a row may not.
        """
        if math.isfinite(norm):
            self.in_a_row = 0
            return True
        self.in_a_row += 1
        if self.in_a_row >= MOST_IN_A_ROW:
            raise RushesError(
                self.name,
                f"the gradients of {self.in_a_row} steps in a row are not finite, the last of step {step}",
                "Give a lower learning rate, in a folder of its own: what is saved here may be spoiled too.",
            )
        if self.is_telling and self.in_a_row == 1:
            say(f"{self.name}: step {step} is left out, its gradient is not finite")
        return False
