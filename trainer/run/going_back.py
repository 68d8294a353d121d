"""Going back after a run has blown up: to the last checkpoint beyond which it was calm, each time further.

A checkpoint may be written just after the step that spoiled the weights. So it is trusted only once
`CALM_STEPS` steps beyond it were taken without a refusal; that is noted beside it. Those that are not trusted
are deleted when the run goes back before them. Where none is, the run begins anew.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from learning import processes
from trainer.config import FitConfig
from trainer.run import guard as guards
from trainer.run.guard import Guard
from trainer.state.beginning import begin_from
from trainer.state.checkpoint_files import (
    HAS_CHECKPOINTS,
    checkpoint_path,
    damage,
    is_trusted,
    list_checkpoints,
    step_of,
    trust,
)
from trainer.state.checkpoints import Trained, load_checkpoint
from trainer.state.mirror import Mirror
from trainer.state.parallel import Ranks, fill


class GoingBack:
    """The checkpoints of a run, as places to go back to.

    Args:
        calm: steps taken without a refusal since each checkpoint that is not yet trusted, by its step.
    """

    def __init__(
        self,
        config: FitConfig,
        folder: Path,
        ranks: Ranks,
        calm: dict[str, int],
        mirror: Mirror | None = None,
    ) -> None:
        self.config, self.folder, self.ranks, self.mirror = config, folder, ranks, mirror
        self.calm = dict(calm)
        if not calm and (
            older := list_checkpoints(folder)
        ):  # an earlier version's: it went on beyond all but one
            self.calm[str(step_of(older[-1]))] = 0
            for path in older[:-1] if ranks.is_first else ():
                trust(path)

    def saved(self, step: int) -> None:
        """A checkpoint was written, and others may have been deleted."""
        here = {step_of(path) for path in list_checkpoints(self.folder)}
        self.calm = {name: count for name, count in self.calm.items() if int(name) in here} | {str(step): 0}

    def step(self, is_refused: bool) -> None:
        """A step was taken, or refused."""
        self.calm = {name: 0 if is_refused else count + 1 for name, count in self.calm.items()}
        for name in [name for name, count in self.calm.items() if count >= guards.CALM_STEPS]:
            path = checkpoint_path(self.folder, int(name))
            if path.exists():  # else it is being written
                if self.ranks.is_first:
                    trust(path)
                    if self.mirror:
                        self.mirror.trust(path)
                del self.calm[name]

    def go(self, trained: Trained, guard: Guard) -> str:
        """Restore weights, averages and optimizers. Every process must call.

        Later checkpoints that are not trusted are deleted. The run begins anew only where none is trusted.

        Returns:
            What they are now.

        Raises:
            RushesError: the run went back too often.
        """
        further = guard.returns
        guard.went_back()
        if path := self._restore(trained, further):
            self._forget(step_of(path))
            return f"those of {path.name} again"
        models = [trained.model, *trained.emas.values()]
        for model in models:
            fill(model, self.config.seed)  # type: ignore[arg-type]
        if self.config.init:
            begin_from(models, self.config.init, self.config.init_fresh)
        for optimizer in trained.optimizers:
            optimizer.state.clear()
        guard.forget()
        self._forget(0)
        return "those of the beginning: no checkpoint is trusted"

    def end(self, trained: Trained) -> str:
        """Where a run ends amid refused steps: restore what is trusted, if anything, and delete nothing."""
        path = self._restore(trained, 0)
        return f"those of {path.name}" if path else "as they are: no checkpoint is trusted"

    def _restore(self, trained: Trained, further: int) -> Path | None:
        """Load the newest intact checkpoint, skipping the `further` newest, never past the oldest.

        Returns: its path, or None where there is none.
        """
        trusted = processes.first_decides(
            lambda: [path.name for path in list_checkpoints(self.folder) if is_trusted(path)]
        )
        for name in reversed(trusted[: max(1, len(trusted) - further)]):
            path = self.folder / name
            if not damage(path, self.ranks):
                load_checkpoint(path, trained, self.ranks)
                return path
        return None

    def _forget(self, step: int) -> None:
        """Delete the checkpoints after a step that are not trusted: the run has left them."""
        self.calm.clear()
        self.ranks.wait()
        if self.ranks.is_first:
            left = [
                path
                for path in list_checkpoints(self.folder)
                if step_of(path) > step and not is_trusted(path)
            ]
            if self.mirror:  # first there: else they would come back when this machine is lost
                self.mirror.forget([path.name for path in left])
            if len(left) == len(list_checkpoints(self.folder)):
                (self.folder.parent / HAS_CHECKPOINTS).unlink(missing_ok=True)  # it begins anew
            for path in left:
                gone = path.with_name(f".{path.name}.gone")
                path.rename(gone)
                shutil.rmtree(gone)
        self.ranks.wait()
