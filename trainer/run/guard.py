"""A guard against steps that would harm: what is not finite or far above normal.

They are skipped and counted, the same on every process. A loss is that of the weights before the step: a run
that has blown up shows it one step later, when a checkpoint may have been written. So the guard also says how
long the run has been calm (trainer/run/going_back.py).
"""

from __future__ import annotations

import math
import statistics
from dataclasses import replace

from manifests.errors import RushesError
from trainer.state.checkpoint_files import TrainState

MEMORY, LEAST, MOST_IN_A_ROW = 64, 16, 20
EARLY = 5.0
"""Before `LEAST` losses are known, a spike is this many times further up."""
CALM_STEPS = 16
"""Steps in a row without a refusal, after which what was before them is trusted."""
MOST_RETURNS = 4
"""Times that a run goes back without becoming calm in between."""


class Guard:
    """Decides whether a step is taken, and when so many were refused that the run should go back.

    Args:
        loss_factor: a loss this many times the usual one is a spike. Usual is the lowest median of `MEMORY`
            losses so far, so that a run which climbs does not get used to it. 0 lets all finite ones pass.
        norm_factor: the same of the gradient's norm before clipping, against the median of the last ones.
        state: what was remembered before a resume.
    """

    def __init__(self, loss_factor: float, norm_factor: float, state: TrainState) -> None:
        self.loss_factor, self.norm_factor = loss_factor, norm_factor
        self.recent, self.norms, self.usual = list(state.recent), list(state.norms), state.usual
        self._begun = state
        self.num_skipped, self.in_a_row, self.num_rolled_back = (
            state.num_skipped,
            state.in_a_row,
            state.num_rolled_back,
        )
        self.calm, self.returns = state.calm, 0  # who runs it again has changed something

    def _spike(self, loss: float, norm: float) -> str:
        if not (math.isfinite(loss) and math.isfinite(norm)):
            return "its loss or gradient is not finite"
        is_early = len(self.recent) < LEAST
        factor = self.loss_factor * (EARLY if is_early else 1)
        if self.usual and factor and loss > factor * self.usual:
            return f"its loss {loss:.4g} is over {factor:g} times the usual {self.usual:.4f}"
        median = statistics.median(self.norms) if len(self.norms) >= LEAST else 0.0
        if self.norm_factor and median and norm > self.norm_factor * median:
            return (
                f"its gradient's norm {norm:.4g} is over {self.norm_factor:g} times the median "
                f"{median:.4g} of the last {len(self.norms)}"
            )
        return ""

    def refuses(self, loss: float, norm: float) -> str:
        """Why the step must be skipped; empty if it may be taken.

        Raises:
            RushesError: too many in a row.
        """
        why = self._spike(loss, norm)
        if not why:
            self.in_a_row, self.calm = 0, self.calm + 1
            self.recent, self.norms = [*self.recent, loss][-MEMORY:], [*self.norms, norm][-MEMORY:]
            if len(self.recent) < LEAST:
                self.usual = max(self.recent)  # one easy pack is not what is usual
            else:
                median = statistics.median(self.recent)
                self.usual = min(self.usual, median) if len(self.recent) > LEAST else median
            if self.calm >= CALM_STEPS:
                self.returns = 0
            return ""
        self.calm = 0
        self.num_skipped += 1
        self.in_a_row += 1
        if self.in_a_row >= MOST_IN_A_ROW:
            raise given_up(f"{self.in_a_row} steps in a row were skipped: {why}")
        return why

    def went_back(self) -> None:
        """The run goes on from earlier weights.

        Raises:
            RushesError: it did so too often without becoming calm.
        """
        self.num_rolled_back += 1
        self.returns += 1
        self.in_a_row = 0
        if self.returns > MOST_RETURNS:
            raise given_up(f"it went back {MOST_RETURNS} times and was never calm after it")

    def forget(self) -> None:
        """The run begins anew: what was usual is so no more."""
        self.recent, self.norms, self.usual = [], [], 0.0

    def state(self) -> TrainState:
        """The state it began with, and what it remembers now."""
        return replace(
            self._begun,
            recent=self.recent,
            norms=self.norms,
            usual=self.usual,
            in_a_row=self.in_a_row,
            calm=self.calm,
            num_skipped=self.num_skipped,
            num_rolled_back=self.num_rolled_back,
        )


def given_up(why: str) -> RushesError:
    return RushesError(
        "training",
        why,
        "Give a lower --lr, or a higher --spike-factor, and run again: it goes on from the last checkpoint, "
        "and from the last calm one if that is no good.",
    )
