"""The steps of all epochs in a row, addressed by one integer."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from manifests.errors import UsageError
from trainer.data.packs import Chosen, EpochPlan, PackSettings, plan_steps
from trainer.data.samples import Sample, SampleTable

Deal = Callable[[list[Any]], list[Any]]
BARREN_EPOCHS = 1000
KEPT_BEGINS = 64  # of epochs: a loader that reads ahead is some small ones further than what is saved


class PlanStream:
    """Steps of all epochs in a row, addressed by one integer; only a span of steps is held.

    Args:
        first_epoch: number of the first epoch.
    """

    def __init__(self, table: SampleTable, settings: PackSettings, first_epoch: int = 0) -> None:
        self._table, self._settings, self._first_epoch = table, settings, first_epoch
        self._begins: dict[int, int] = {}  # first step of the epochs met last
        self.seek(first_epoch, 0)

    def seek(self, epoch: int, first_step: int) -> None:
        """Go to the start of an epoch whose first step is known (`mark`), without planning earlier ones."""
        self._step, self._epoch, self._barren = first_step - 1, epoch - 1, 0
        self._plan, self._steps = EpochPlan(self._table, self._settings.budget), iter(list[Chosen]())
        self._chosen = list[list[int]]()

    def mark(self, step: int) -> tuple[int, int]:
        """Epoch of a recent step and the first step of that epoch, for `seek` at a resume."""
        # a copy at once: the thread that plans may be at it
        known = [(epoch, begin) for epoch, begin in list(self._begins.items()) if begin <= step]
        return max(known, default=(self._first_epoch, 0))

    def at(self, step: int, deal: Deal = list) -> tuple[int, list[list[Sample]]]:
        """(epoch, packs) of a global step, counted from 0.

        Args:
            deal: which of the step's packs are wanted, in which order; the others' samples are not made.
        """
        if step < self._step:
            self.seek(*self.mark(step))
        while self._step < step:
            chosen = next(self._steps, None)
            if chosen is None:
                self._next_epoch()
                continue
            self._plan.forget(self._chosen)
            self._chosen, self._barren, self._step = chosen, 0, self._step + 1
        return self._epoch, self._plan.packs(deal(self._chosen))

    def _next_epoch(self) -> None:
        self._epoch += 1
        self._barren += 1
        if self._barren > BARREN_EPOCHS:
            raise UsageError(
                "the plan",
                f"draws no sample in {BARREN_EPOCHS} epochs",
                "Raise the weights of the views that are mixed.",
            )
        self._begins[self._epoch] = self._step + 1
        while len(self._begins) > KEPT_BEGINS:
            del self._begins[min(self._begins)]
        self._plan, self._chosen = EpochPlan(self._table, self._settings.budget), []
        self._steps = plan_steps(self._plan, self._settings, self._epoch)

    def steps_from(self, step: int, deal: Deal = list) -> Iterator[tuple[int, int, list[list[Sample]]]]:
        """(step, epoch, packs) without end, from `step` on."""
        while True:
            epoch, packs = self.at(step, deal)
            yield step, epoch, packs
            step += 1
