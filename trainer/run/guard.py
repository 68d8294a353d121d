"""A guard against steps that would harm: gradients that are not finite, losses far above those before them.

They are skipped and counted, the same on every process.
"""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

from manifests.errors import RushesError
from trainer.state.checkpoint_files import TrainState

MEMORY, LEAST, MOST_IN_A_ROW = 64, 16, 20


class Guard:
    """Decides whether a step is taken, and when so many were refused that the run should go back.

    Args:
        factor: a loss this many times the median of the last ones is a spike; 0 lets all finite ones pass.
        state: what was remembered before a resume.
    """

    def __init__(self, factor: float, state: TrainState) -> None:
        self.factor, self.recent = factor, list(state.recent)
        self._begun = state
        self.num_skipped, self.in_a_row, self.num_rolled_back = (
            state.num_skipped,
            state.in_a_row,
            state.num_rolled_back,
        )

    def refuses(self, loss: float, norm: float) -> str:
        """Why the step must be skipped; empty if it may be taken.

        Raises:
            RushesError: too many in a row.
        """
        why = ""
        if not (math.isfinite(loss) and math.isfinite(norm)):
            why = "its loss or gradient is not finite"
        elif (
            self.factor and len(self.recent) >= LEAST and loss > self.factor * statistics.median(self.recent)
        ):
            why = (
                f"its loss {loss:.4f} is over {self.factor:g} times the median "
                f"{statistics.median(self.recent):.4f} of the last {len(self.recent)}"
            )
        if not why:
            self.in_a_row = 0
            self.recent = [*self.recent, loss][-MEMORY:]
            return ""
        self.num_skipped += 1
        self.in_a_row += 1
        if self.in_a_row >= MOST_IN_A_ROW:
            raise RushesError(
                "training",
                f"{self.in_a_row} steps in a row were skipped: {why}",
                "Give a lower --lr or a higher --spike-factor and run again: it goes on from the last "
                "checkpoint.",
            )
        return why

    def state(self) -> TrainState:
        """The state it began with, and what it remembers now."""
        return replace(
            self._begun,
            recent=self.recent,
            in_a_row=self.in_a_row,
            num_skipped=self.num_skipped,
            num_rolled_back=self.num_rolled_back,
        )
