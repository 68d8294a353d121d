"""The training loop, on one process or many: forward, backward, guard, optimizer, average, logs."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict, replace
from pathlib import Path

from captioner.mixing import realised
from learning.stopping import Interrupted, Stop
from manifests.cli import say
from manifests.errors import RushesError
from trainer.config import FitConfig
from trainer.data.loader import Loader, Pack
from trainer.data.tars.streaming import StreamLoader
from trainer.model.dit import DiT
from trainer.model.flow import NoisyPack, add_noise
from trainer.reports.efficiency import StepTime, peak_memory_bytes, step_efficiency
from trainer.reports.progress import StepProgress
from trainer.reports.run_log import RunLog
from trainer.reports.sheets import Sheets
from trainer.reports.validation import Validation, evaluate
from trainer.run.going_back import GoingBack
from trainer.run.guard import Guard, given_up
from trainer.run.slow_ranks import LOOK_EVERY, name_slow
from trainer.run.step import StepResult, consumed_row, train_step, update_ema
from trainer.run.upkeep import Tracer, collect, quiet_memory, steps_traced
from trainer.state.checkpoint_files import TrainState
from trainer.state.checkpoints import Saver, Trained
from trainer.state.mirror import Mirror
from trainer.state.optimizers import lr_at
from trainer.state.parallel import Ranks


def tell(ranks: Ranks, text: str) -> None:
    if ranks.is_first:
        say(f"fit: {text}")


class Run:
    """A run under way: what the steps share."""

    def __init__(
        self,
        config: FitConfig,
        out: Path,
        ranks: Ranks,
        trained: Trained,
        state: TrainState,
        validation: Validation,
        sheets: Sheets | None,
    ) -> None:
        self.config, self.out, self.ranks, self.trained, self.state = config, out, ranks, trained, state
        self.validation, self.sheets = validation, sheets
        self.guard, self.num_read, self.num_corrupt = (
            Guard(config.spike_factor, config.spike_norm, state),
            state.num_read,
            state.num_corrupt,
        )
        mirror = Mirror(config.checkpoints, out, ranks) if config.checkpoints else None
        self.back = GoingBack(config, out / "checkpoints", ranks, state.not_yet_trusted, mirror)
        self.saver = Saver(out / "checkpoints", config.keep, ranks, config.is_async_saving, mirror)
        self.log = RunLog(out, state.step, ranks, config.is_tensorboard, config.wandb)
        self.drawn: Counter[str] = Counter()
        self.done = state.step
        self.is_sound = False  # whether all processes are at the same point, so that they may speak together

    @property
    def ema(self) -> DiT:
        """The averaged weights that are validated, shown and exported first."""
        return self.trained.emas[self.config.ema_decay]  # type: ignore[return-value]

    def validate(self, step: int) -> dict[str, dict[str, float]]:
        """Evaluate the averaged weights, all processes together."""
        scores = evaluate(self.ema, self.validation, self.config.flow, self.ranks, self.config.is_bf16)
        self.log.validation(step, scores)
        return scores

    def show(self, step: int, stop: Stop) -> None:
        """Make a sheet of samples, unless the run is to stop."""

        def is_stopped() -> bool:
            return self.ranks.sum([float(bool(stop.signal_name))])[0] > 0

        if self.sheets and (path := self.sheets.make(self.ema, step, is_stopped)):
            self.log.sheet(step, path)
            tell(self.ranks, f"samples beside held-out clips: {path}")

    def loop(self, loader: Loader | StreamLoader, stop: Stop) -> int:
        """Train until the last step or a requested stop. Returns the number of steps done."""
        config, step = self.config, self.state.step
        self.trained.model.train()
        if step >= config.steps:
            if step > config.steps:
                tell(self.ranks, f"{step} steps are done, more than --steps {config.steps}: nothing to train")
            self._check_taken(step)
            self._end_calmly()
            self.is_sound = True
            return step
        ready_s = time.monotonic()
        tracer = Tracer(steps_traced(config.profile), self.out, self.ranks)
        with closing(tracer), StepProgress(self.ranks, step, config.steps) as progress, quiet_memory():
            for number, epoch, noisy in self._read(step, loader):
                tracer.before(number)
                stalled_s, packs = time.monotonic() - ready_s, [item.pack for item in noisy]
                result = self._step(number, noisy, stop)
                if result is None:
                    break
                step = self.done = number + 1
                self._write(number, epoch, packs, result, StepTime(time.monotonic() - ready_s, stalled_s))
                if number == 0:
                    self._tell_first(packs)
                progress.step(step, epoch, result.loss, result.totals.num_tokens)
                tracer.after(number)
                self._after(step, loader, stop)
                collect(step)
                if step % LOOK_EVERY == 0 or number == self.state.step:
                    name_slow(self.ranks)
                if step == config.steps:
                    break
                ready_s = time.monotonic()
        if self.drawn:
            tell(self.ranks, f"captions drawn: {realised(self.drawn)}")
        self.is_sound = True
        if step < config.steps:
            self.save(step, loader)
        self.saver.finish()
        if step == config.steps:
            self._check_taken(step)
        else:
            tell(
                self.ranks,
                f"{stop.signal_name or 'another process'}: saved after step {step}; run the same command to "
                "go on",
            )
            raise Interrupted(stop.signal_name)
        return step

    def _check_taken(self, step: int) -> None:
        """
        Raises:
            RushesError: of a run that is over no step was taken.
        """
        if 0 < step <= self.guard.num_skipped:
            raise given_up(f"all of its {step} steps were skipped")

    def _read(self, step: int, loader: Loader | StreamLoader) -> Iterator[tuple[int, int, list[NoisyPack]]]:
        """(step, epoch, packs) of the loader. Where the data ends the run, what was learnt is saved.

        Weights between two steps are sound; one process alone knows that the others are between the same.
        """
        try:
            yield from loader.steps_from(step, self._noisy)
        except RushesError:
            if self.ranks.size == 1 and self.done > self.state.step and not self.guard.in_a_row:
                with suppress(RushesError, OSError):  # the first error is the one to tell
                    self.save(self.done, loader)
                    self.saver.finish()
                    tell(self.ranks, f"saved after step {self.done}")
            raise

    def _noisy(self, pack: Pack, step: int) -> NoisyPack:
        """Done by the loader's threads."""
        made = add_noise(
            pack,
            self.config.flow,
            salt=step,
            group=self.ranks.sequence,
            is_on_device=self.config.noise == "device",
        )
        return made.pinned() if self.ranks.device.type == "cuda" else made

    def save(self, done: int, loader: Loader | StreamLoader) -> None:
        state = replace(
            self.guard.state(),
            step=done,
            plan_mark=loader.mark(done),
            num_read=self.num_read,
            num_corrupt=self.num_corrupt,
            not_yet_trusted=self.back.calm | {str(done): 0},
        )
        self.saver.save(self.trained, state)
        self.back.saved(done)

    def _after(self, step: int, loader: Loader | StreamLoader, stop: Stop) -> None:
        """What is due after `step` steps."""
        config = self.config
        self.saver.poll()
        # not amid refused steps: what a roll back takes must be from before them
        if (step % config.save_every == 0 and not self.guard.in_a_row) or step == config.steps:
            self.save(step, loader)
        if step == config.steps:
            self._end_calmly()
        if config.validate_every and step % config.validate_every == 0 and step < config.steps:
            told = self.validate(step)["all"]
            tell(
                self.ranks,
                f"step {step}: validation loss {told['loss']:.4f}, {told['shuffled']:.4f} with other "
                f"captions, {told['baseline']:.4f} of the mean velocity",
            )
        if config.sample_every and step % config.sample_every == 0 and step < config.steps:
            self.show(step, stop)

    def _step(self, number: int, packs: list[NoisyPack], stop: Stop) -> StepResult | None:
        """One optimizer step, unless the guard refuses it.

        Raises:
            RushesError: too many samples are unreadable, or too many steps were refused; on every process
                alike.
        """
        config, trained = self.config, self.trained
        for optimizer in trained.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr_at(number, config)
        result = train_step(trained.model, packs, config, self.ranks, stop)  # type: ignore[arg-type]
        if result is None:
            return None
        self._count(result)
        why = self.guard.refuses(result.loss, result.norm)
        for optimizer in trained.optimizers:
            if not why:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if why:
            result.is_skipped = True
            tell(self.ranks, f"step {number} skipped, {why}")
            self.back.step(is_refused=True)
            if config.roll_back_after and self.guard.in_a_row % config.roll_back_after == 0:
                self._go_back()
            return result
        self.back.step(is_refused=False)
        for decay, ema in trained.emas.items():
            update_ema(ema, trained.model, decay, number)
        return result

    def _count(self, result: StepResult) -> None:
        self.num_read += round(result.totals.num_read)
        self.num_corrupt += round(result.totals.num_corrupt)
        limit = self.config.max_corrupt
        if self.num_corrupt > max(3, limit * self.num_read):
            raise RushesError(
                "training data",
                f"{self.num_corrupt} of {self.num_read} samples read so far are unreadable, over the limit "
                f"of {limit:.0%}",
                "They are named above and in consumed*.jsonl. Of a dataset, run `rushes verify --deep`.",
            )

    def _go_back(self) -> None:
        """After several skipped steps in a row, restore earlier weights. The data is not rewound."""
        self.saver.finish()
        tell(
            self.ranks,
            f"weights and optimizer are {self.back.go(self.trained, self.guard)}; the data goes on",
        )

    def _end_calmly(self) -> None:
        """A run that ends amid skipped steps makes its model of weights that are trusted, if there are any.

        Its last checkpoint stays as it is, so that more steps go on as if it had not ended.
        """
        if self.guard.in_a_row:
            self.saver.finish()
            tell(self.ranks, f"the last steps were skipped; weights are {self.back.end(self.trained)}")

    def _write(self, number: int, epoch: int, packs: list[Pack], result: StepResult, took: StepTime) -> None:
        """Log a step: what this process read, and the numbers of the step over all processes."""
        efficiency = step_efficiency(packs, result.totals.num_tokens, took, self.config, self.ranks)
        captions = Counter(member.caption_kind for pack in packs for member in pack.members)
        self.drawn += captions
        where = {"step": number, "epoch": epoch}
        # One row for each pack, not for each share of it.
        if not self.ranks.sequence or self.ranks.sequence.rank == 0:
            self.log.consumed(where | {"rank": self.ranks.rank} | consumed_row(packs, result.is_skipped))
        row = {
            "time_s": round(time.time(), 3),
            "lr": lr_at(number, self.config),
            "loss": result.loss,
            "grad_norm": result.norm,
            "tokens": int(result.totals.num_tokens),
            "valid": result.totals.valid,
            **asdict(efficiency),
            "memory_bytes": peak_memory_bytes(self.ranks.device),
            "skipped": self.guard.num_skipped,
            "rolled_back": self.guard.num_rolled_back,
            "corrupt": self.num_corrupt,
            "captions": dict(captions),
            "loss_by": result.loss_by,
        }
        self.log.metrics(where | row)

    def _tell_first(self, packs: list[Pack]) -> None:
        shapes = sorted({"x".join(map(str, member.grid)) for pack in packs for member in pack.members})
        held = sum(len(pack.samples) for pack in packs)
        tell(
            self.ranks,
            f"the first pack holds {held} samples of {len(shapes)} distinct shapes (t x h x w in tokens): "
            f"{', '.join(shapes)}",
        )
