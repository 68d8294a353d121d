"""A training of a model that each process holds whole: steps, averages, saves, log, resume, and a calm end.

What a step sees must follow from its number alone, so that weights, averages, optimizers and one integer are
all that a resume needs. The trainer's own loop, of sharded models, is trainer/run/loop.py.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from learning.loop.finite_steps import FiniteSteps
from learning.loop.schedules import warmed_up
from learning.loop.step_log import cut_rows, finite
from learning.processes import join, summed, wait_for_all
from learning.state import Parts, load_state, save_state
from learning.stopping import Interrupted, stop_on_signals
from manifests.cli import say

TELL_EVERY_S = 20.0


class Training:
    """A training under way.

    Args:
        name: as its lines begin.
        folder: where its state and its log lie.
        parts: modules with their optimizers by name; the weights of `model` are averaged.
        digest: of all that a saved run must agree on.
        ema_decay: of the averaged weights.
    """

    def __init__(self, name: str, folder: Path, parts: Parts, digest: str, ema_decay: float) -> None:
        self.name, self.folder, self.parts, self.digest, self.decay = name, folder, parts, digest, ema_decay
        self.rank, self.num_processes, self.device = join()
        self.model = parts["model"][0]
        self.average = {key: value.detach().clone() for key, value in self.model.state_dict().items()}
        self.finite = FiniteSteps(name, self.rank == 0)
        self.step = 0
        self._seconds, self._begun_s = 0.0, time.monotonic()

    @property
    def seconds(self) -> float:
        """Time of training, that before a resume too."""
        return self._seconds + time.monotonic() - self._begun_s

    def resume(self) -> None:
        """Go on where the folder's state left off, if there is one.

        Raises:
            UsageError: it is of other data or settings.
        """
        numbers = load_state(self.folder, self.parts, self.average, self.digest)
        if numbers:
            self.step, self._seconds = int(numbers["step"]), numbers.get("seconds", 0.0)
            self._say(f"resumed after step {self.step}")

    def run(self, steps: int, save_every: int, one: Callable[[], Mapping[str, float]], told: str) -> None:
        """Do steps until `steps` are done, or a signal asks to stop.

        Args:
            one: does step number `step`, and returns numbers for the log, the same on all processes.
            told: of these, the ones a reader is told now and then, with spaces between.

        Raises:
            Interrupted: a signal asked; what was done is saved.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        log = self.folder / "metrics.jsonl"
        if self.rank == 0:
            cut_rows(log, self.step)
        first, begin_s, told_s = self.step, time.monotonic(), time.monotonic()
        with stop_on_signals() as stop, open(log, "a", buffering=1) as file:
            while self.step < steps:
                if summed([float(bool(stop.signal_name))])[0]:
                    self._end_calmly(stop.signal_name)
                row = one()
                self._average()
                self.step += 1
                if self.rank:
                    continue
                values = {key: finite(value) for key, value in row.items()}
                file.write(json.dumps({"step": self.step - 1, **values}) + "\n")
                if self.step % save_every == 0 or self.step == steps:
                    self._save()
                now_s = time.monotonic()
                if now_s - told_s > TELL_EVERY_S or self.step == steps:
                    told_s, left = now_s, steps - self.step
                    numbers = " ".join(f"{key} {row[key]:.4g}" for key in told.split() if key in row)
                    pace_s = (now_s - begin_s) / (self.step - first)
                    self._say(f"step {self.step}/{steps} {numbers}, {pace_s * left:.0f} s left")
            if summed([float(bool(stop.signal_name))])[0]:  # in the last step
                self._end_calmly(stop.signal_name)

    def take(self, names: Sequence[str], norm: float) -> None:
        """Let these optimizers step, unless the gradient's norm is not finite; the gradient is gone after it.

        Raises:
            RushesError: too many in a row were not finite.
        """
        is_taken = self.finite.takes(self.step, norm)
        for optimizer in (self.parts[name][1] for name in names if name in self.parts):
            if is_taken:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def _average(self) -> None:
        now: dict[str, Tensor] = self.model.state_dict()
        weight = 1 - warmed_up(self.decay, self.step)
        torch._foreach_lerp_([self.average[key] for key in now], list(now.values()), weight)

    def _save(self) -> None:
        save_state(self.folder, self.parts, self.average, self.digest, step=self.step, seconds=self.seconds)

    def _end_calmly(self, signal_name: str) -> None:
        if self.rank == 0 and self.step:
            self._save()
        wait_for_all()  # who ends first takes the others along
        done = f"saved after step {self.step}" if self.step else "stopped before the first step"
        self._say(f"{signal_name or 'another process'}: {done}; the same command goes on")
        raise Interrupted(signal_name)

    def _say(self, text: str) -> None:
        if self.rank == 0:
            say(f"{self.name}: {text}")


def drive(parts: Parts, rates: Mapping[str, float]) -> None:
    """Give optimizers their learning rates, by the names of their parts."""
    for name, rate in rates.items():
        for group in parts[name][1].param_groups:
            group["lr"] = rate


__all__ = ["Training", "drive"]
