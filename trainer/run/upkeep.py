"""What is done around the training loop: no garbage collected amid a step, and a trace when asked for."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from manifests.cli import say
from manifests.errors import UsageError
from trainer.state.parallel import Ranks

COLLECT_EVERY = 1000
"""Steps between collections of garbage, the same on every process: else each waits for the others'."""
_ROWS = 30


@contextmanager
def quiet_memory() -> Iterator[None]:
    """Garbage is collected by `collect` alone; what is there now is never looked at again."""
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.unfreeze()


def collect(step: int) -> None:
    """Collect garbage, where it is time to."""
    if step % COLLECT_EVERY == 0:
        gc.collect(1)


def steps_traced(text: str) -> range:
    """The steps that `--profile 10:13` names: 10, 11 and 12.

    Raises:
        UsageError: it names none.
    """
    first, _, end = text.partition(":")
    if not text:
        return range(0)
    if not (first.isdigit() and end.isdigit() and int(first) < int(end)):
        raise UsageError(
            f"--profile {text}", "names no steps", "Give the first and the one after the last: 10:13."
        )
    return range(int(first), int(end))


class Tracer:
    """Writes `profile/steps-<a>-<b>.json.gz` for Perfetto, and a table beside it, on the first process."""

    def __init__(self, steps: range, out: Path, ranks: Ranks) -> None:
        self.steps, self.folder = steps if ranks.is_first else range(0), out / "profile"
        self._profiler: torch.profiler.profile | None = None

    def before(self, step: int) -> None:
        """A step begins."""
        if step == self.steps.start and self.steps:
            self._profiler = torch.profiler.profile(with_stack=False)
            self._profiler.start()

    def after(self, step: int) -> None:
        """A step has ended."""
        if step + 1 >= self.steps.stop:
            self.close()

    def close(self) -> None:
        """Write what was traced, also where the run ends before the last step that was to be."""
        if self._profiler is None:
            return
        profiler, self._profiler = self._profiler, None
        profiler.stop()
        self.folder.mkdir(exist_ok=True)
        path = self.folder / f"steps-{self.steps.start}-{self.steps.stop}.json.gz"
        profiler.export_chrome_trace(str(path))
        by = "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
        table = profiler.key_averages().table(sort_by=by, row_limit=_ROWS)
        path.with_name(path.name.replace(".json.gz", ".txt")).write_text(table)
        say(f"fit: trace of steps {self.steps.start} to {self.steps.stop - 1}: {path} (for ui.perfetto.dev)")
