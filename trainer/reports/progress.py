"""How far a run is: a bar on a terminal, lines in a log; on the first process alone."""

from __future__ import annotations

import math
import time
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from manifests import cli
from trainer.state.parallel import Ranks

EVERY_S = 10.0
SMOOTHING = 0.05
"""Share of a step in the loss that is shown, an exponential mean."""


class StepProgress:
    """Use as a context; `step` after each step."""

    def __init__(self, ranks: Ranks, first: int, steps: int) -> None:
        self._is_first, self._first, self._steps = ranks.is_first, first, steps
        self._begin, self._told_s, self._tokens = time.monotonic(), 0.0, 0.0
        self._loss: float | None = None
        columns = (
            TextColumn("fit"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
            TimeRemainingColumn(),
        )
        console = cli.terminal() if ranks.is_first else None
        self._bar = Progress(*columns, console=console) if console else None
        self._task = self._bar.add_task("fit", total=steps, completed=first, told="") if self._bar else None

    def step(self, done: int, epoch: int, loss: float, num_tokens: float) -> None:
        """After step number `done` of all, which read `num_tokens`."""
        now = time.monotonic()
        self._tokens += num_tokens
        each_s = (now - self._begin) / max(1, done - self._first)
        if math.isfinite(loss):  # of a step that was skipped it may be none
            self._loss = loss if self._loss is None else self._loss + SMOOTHING * (loss - self._loss)
        shown, rate = loss if self._loss is None else self._loss, self._tokens / max(now - self._begin, 1e-9)
        told = f"epoch {epoch} loss {shown:.4f} {rate:.0f} tokens/s"
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, completed=done, told=told)
        elif self._is_first and (now - self._told_s > EVERY_S or done == self._steps):
            self._told_s = now
            cli.say(
                f"fit: step {done}/{self._steps} {told}, about {each_s * (self._steps - done):.0f} s left"
            )

    def __enter__(self) -> StepProgress:
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
