"""The steps of a run, on one process or many: forward, backward, guard, optimizer, average, logs, checkpoints."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from captioner.mixing import realised
from learning.stopping import Interrupted, Stop
from manifests.cli import say
from manifests.errors import RushesError
from trainer.checkpoint_files import TrainState, damage, list_checkpoints, read_state
from trainer.checkpoints import Saver, Trained, load_checkpoint
from trainer.config import FitConfig
from trainer.dit import DiT
from trainer.efficiency import LossTable, forward_flops, peak_memory_bytes
from trainer.evaluate import evaluate
from trainer.flow import NoisyPack
from trainer.guard import Guard
from trainer.loader import Loader, Pack
from trainer.optimizers import lr_at
from trainer.packs import attention_cost_of, pack_cost
from trainer.parallel import Ranks, own_part, sync_gradients, whole
from trainer.progress import StepProgress
from trainer.run_log import RunLog
from trainer.sheets import Sheets
from trainer.streaming import StreamLoader


def tell(ranks: Ranks, text: str) -> None:
    if ranks.is_first:
        say(f"fit: {text}")


@dataclass
class StepResult:
    """What one step gave, over all processes: loss per valid value, the same by class and noise band, valid values, tokens, samples read and unreadable ones, the
    gradient's norm, and whether the guard refused it."""

    loss: float
    classes: dict[str, float]
    valid: float
    num_tokens: float
    num_read: int
    num_corrupt: int
    norm: float = 0.0
    is_skipped: bool = False


def train_step(model: DiT, packs: list[NoisyPack], config: FitConfig, ranks: Ranks, stop: Stop) -> StepResult | None:
    """Forward and backward of this process' packs; gradients are those of the mean over the valid values of all packs of the step.

    Returns:
        None, and no gradient, where any process wishes to stop.
    """
    shares = ranks.sequence.size if ranks.sequence else 1
    plain = [item.pack for item in packs]
    corrupt, good = sum(len(pack.corrupt) for pack in plain), sum(len(pack.samples) for pack in plain)
    total, wishes, *counts = ranks.sum([
        sum(float(item.weight.sum()) for item in packs), float(bool(stop.signal_name)), sum(pack.num_tokens for pack in plain) / shares,
        (corrupt + good) / shares, corrupt / shares,
    ])  # fmt: skip
    if wishes:
        return None
    table, error_sum = LossTable(), 0.0
    for index, item in enumerate(packs):
        sync_gradients(model, index == len(packs) - 1, ranks)
        with torch.autocast(ranks.device.type, torch.bfloat16, enabled=config.is_bf16):
            velocity = model(*(value.to(ranks.device, non_blocking=True) for value in item.inputs()))
        error = item.error(velocity)
        (error.sum() * (ranks.size / max(total, 1.0))).backward()
        error_sum += float(error.detach().sum())
        table.add(item, error.detach().cpu())
    sums = ranks.sum([error_sum, *table.numbers])
    return StepResult(sums[0] / max(total, 1.0), table.means(sums[1:]), total, counts[0], round(counts[1]), round(counts[2]))


@torch.no_grad()
def update_ema(ema: torch.nn.Module, model: torch.nn.Module, decay: float, step: int) -> None:
    """The average of the weights, each process for its own shards."""
    decay = min(decay, (1 + step) / (10 + step))
    averages, values = ([own_part(value) for value in part.parameters()] for part in (ema, model))
    torch._foreach_lerp_(averages, values, 1 - decay)


class Run:
    """A run under way: what the steps share."""

    def __init__(
        self, config: FitConfig, out: Path, ranks: Ranks, trained: Trained, state: TrainState, validation: list[Pack], sheets: Sheets | None
    ) -> None:
        self.config, self.out, self.ranks, self.trained, self.state = config, out, ranks, trained, state
        self.validation, self.sheets = validation, sheets
        self.guard, self.num_read, self.num_corrupt = Guard(config.spike_factor, state), state.num_read, state.num_corrupt
        self.saver = Saver(out / "checkpoints", config.keep, ranks, config.is_async_saving)
        self.log = RunLog(out, state.step, ranks, config.is_tensorboard, config.wandb)
        self.drawn: Counter[str] = Counter()
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

    def show(self, step: int) -> None:
        """Make a sheet of samples."""
        if self.sheets and (path := self.sheets.make(self.ema, step)):
            self.log.sheet(step, path)
            tell(self.ranks, f"samples beside held-out clips: {path}")

    def loop(self, loader: Loader | StreamLoader, stop: Stop) -> int:
        """Steps until the last or a wish to stop. Returns the number of steps done."""
        config, step = self.config, self.state.step
        self.trained.model.train()
        if step >= config.steps:
            self.is_sound = True
            return step
        ready_s = time.monotonic()
        with StepProgress(self.ranks, step, config.steps) as progress:
            for number, epoch, noisy in loader.steps_from(step, self._noisy):
                stalled_s, packs = time.monotonic() - ready_s, [item.pack for item in noisy]
                result = self._step(number, noisy, stop)
                if result is None:
                    break
                step = number + 1
                self._write(number, epoch, packs, result, stalled_s, time.monotonic() - ready_s)
                if number == 0:
                    self._tell_first(packs)
                progress.step(step, epoch, result.loss, result.num_tokens)
                self._after(step, loader)
                if step == config.steps:
                    break
                ready_s = time.monotonic()
        if self.drawn:
            tell(self.ranks, f"captions drawn: {realised(self.drawn)}")
        self.is_sound = True
        if step < config.steps:
            self.save(step, loader)
        self.saver.finish()
        if step < config.steps:
            tell(self.ranks, f"{stop.signal_name or 'another process'}: saved after step {step}; run the same command to go on")
            raise Interrupted(stop.signal_name)
        return step

    def _noisy(self, pack: Pack, step: int) -> NoisyPack:
        """Done by the loader's threads."""
        made = NoisyPack(pack, self.config.flow, salt=step, group=self.ranks.sequence)
        return made.pinned() if self.ranks.device.type == "cuda" else made

    def save(self, done: int, loader: Loader | StreamLoader) -> None:
        state = replace(self.guard.state(), step=done, plan_mark=loader.mark(done), num_read=self.num_read, num_corrupt=self.num_corrupt)
        self.saver.save(self.trained, state)

    def _after(self, step: int, loader: Loader | StreamLoader) -> None:
        """What is due after `step` steps."""
        config = self.config
        self.saver.poll()
        # not amid refused steps: what a roll back takes must be from before them
        if (step % config.save_every == 0 and not self.guard.in_a_row) or step == config.steps:
            self.save(step, loader)
        if config.validate_every and step % config.validate_every == 0 and step < config.steps:
            self.validate(step)
        if config.sample_every and step % config.sample_every == 0 and step < config.steps:
            self.show(step)

    def _step(self, number: int, packs: list[NoisyPack], stop: Stop) -> StepResult | None:
        """One optimizer step, unless the guard refuses it.

        Raises:
            RushesError: too many samples are unreadable, or too many steps were refused; on every process alike.
        """
        config, trained = self.config, self.trained
        for optimizer in trained.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr_at(number, config)
        result = train_step(trained.model, packs, config, self.ranks, stop)  # type: ignore[arg-type]
        if result is None:
            return None
        self._count(result)
        result.norm = float(whole(torch.nn.utils.clip_grad_norm_(trained.model.parameters(), config.clip_norm)))
        why = self.guard.refuses(result.loss, result.norm)
        for optimizer in trained.optimizers:
            if not why:
                optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if why:
            result.is_skipped = True
            tell(self.ranks, f"step {number} skipped, {why}")
            self._roll_back()
            return result
        for decay, ema in trained.emas.items():
            update_ema(ema, trained.model, decay, number)
        return result

    def _count(self, result: StepResult) -> None:
        self.num_read += result.num_read
        self.num_corrupt += result.num_corrupt
        limit = self.config.max_corrupt
        if self.num_corrupt > max(3, limit * self.num_read):
            raise RushesError(
                "training data", f"{self.num_corrupt} of {self.num_read} samples read so far are unreadable, over the limit of {limit:.0%}",
                "They are named above and in consumed*.jsonl. Run `python -m manifests verify --deep`.",
            )  # fmt: skip

    def _roll_back(self) -> None:
        """After several skipped steps in a row the weights themselves are not to be trusted: take those of the last checkpoint, and go on with the data from here."""
        config, guard = self.config, self.guard
        if not config.roll_back_after or guard.in_a_row % config.roll_back_after:
            return
        self.saver.finish()
        calm = [path for path in list_checkpoints(self.out / "checkpoints") if not read_state(path).in_a_row]
        sound = next((path for path in reversed(calm) if not damage(path, self.ranks)), None)
        if sound is None:
            tell(self.ranks, "there is no sound checkpoint from before the refused steps to go back to; the weights stay as they are")
            return
        load_checkpoint(sound, self.trained, self.state.digest, self.ranks)
        guard.num_rolled_back += 1
        tell(self.ranks, f"weights and optimizer are those of {sound.name} again; the data goes on")

    def _write(self, number: int, epoch: int, packs: list[Pack], result: StepResult, stalled_s: float, seconds: float) -> None:
        config, ranks = self.config, self.ranks
        kinds = Counter(kind for pack in packs for kind in pack.kinds)
        self.drawn += kinds
        shares = ranks.sequence.size if ranks.sequence else 1
        lengths = [pack.cu.diff().tolist() for pack in packs]
        flops = 3 * sum(forward_flops(config.model, own, pack.text_cu.diff().tolist()) for own, pack in zip(lengths, packs, strict=True)) / shares
        cost = sum(pack_cost(own, attention_cost_of(config)) for own in lengths) / shares
        costs = ranks.sum([cost if rank == ranks.rank else 0.0 for rank in range(ranks.size)])
        stalled, all_flops = ranks.sum([stalled_s, flops])
        if not ranks.sequence or ranks.sequence.rank == 0:
            windows = {
                item.clip_id: [item.start, item.latent_t, item.top, item.latent_h, item.left, item.latent_w] for pack in packs for item in pack.cut
            }
            samples = [[item.clip_id, item.shard] for pack in packs for item in pack.samples]
            row = {"step": number, "epoch": epoch, "rank": ranks.rank, "samples": samples, "windows": windows}
            corrupt = [name for pack in packs for name in pack.corrupt]
            self.log.consumed(row | ({"corrupt": corrupt} if corrupt else {}) | ({"skipped": True} if result.is_skipped else {}))
        self.log.metrics({
            "step": number, "epoch": epoch, "loss": result.loss, "grad_norm": result.norm, "tokens": int(result.num_tokens), "valid": result.valid,
            "fill": round(result.num_tokens / (config.tokens * config.packs_per_step), 4), "imbalance": round(max(costs) * ranks.size / max(sum(costs), 1e-9), 4),
            "tokens_per_s": round(result.num_tokens / max(seconds, 1e-9), 1), "stall_share": round(stalled / ranks.size / max(seconds, 1e-9), 4),
            "tflops": round(all_flops / max(seconds, 1e-9) / 1e12, 5), "mfu": _mfu(all_flops, seconds, config.peak_tflops * ranks.size),
            "memory_bytes": peak_memory_bytes(ranks.device), "skipped": self.guard.num_skipped, "rolled_back": self.guard.num_rolled_back,
            "corrupt": self.num_corrupt,
            "captions": dict(kinds), "loss_by": result.classes,
        })  # fmt: skip

    def _tell_first(self, packs: list[Pack]) -> None:
        shapes = sorted({"x".join(map(str, grid)) for pack in packs for grid in pack.shapes})
        held = sum(len(pack.samples) for pack in packs)
        tell(self.ranks, f"the first pack holds {held} samples of {len(shapes)} distinct shapes (t x h x w in tokens): {', '.join(shapes)}")


def _mfu(flops: float, seconds: float, peak_tflops: float) -> float | None:
    """Share of the devices' peak that was used; None where the peak was not given."""
    return round(flops / max(seconds, 1e-9) / (peak_tflops * 1e12), 4) if peak_tflops else None
