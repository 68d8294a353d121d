"""The steps of a run, on one process or many: forward, backward, guard, optimizer, average, logs, checkpoints."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from captioner.mixing import realised
from manifests.cli import say
from trainer.checkpoints import Trained, TrainState, save_checkpoint
from trainer.config import FitConfig
from trainer.dit import DiT
from trainer.efficiency import LossTable, forward_flops, peak_memory_bytes
from trainer.evaluate import evaluate
from trainer.flow import NoisyPack, lr_at
from trainer.guard import Guard
from trainer.loader import Loader, Pack
from trainer.packs import pack_cost
from trainer.parallel import Ranks, full_state, sync_gradients, whole
from trainer.run_log import RunLog
from trainer.stopping import Interrupted, Stop

EVERY_S = 10.0


def tell(ranks: Ranks, text: str) -> None:
    if ranks.is_first:
        say(f"fit: {text}")


@dataclass
class StepResult:
    """What one step gave, over all processes: loss per valid value, the same by class and noise band, valid values, tokens, the gradient's norm."""

    loss: float
    classes: dict[str, float]
    valid: float
    num_tokens: float
    norm: float = 0.0


def train_step(model: DiT, packs: list[Pack], config: FitConfig, step: int, ranks: Ranks, stop: Stop) -> StepResult | None:
    """Forward and backward of this process' packs; gradients are those of the mean over the valid values of all packs of the step.

    Returns:
        None, and no gradient, where any process wishes to stop.
    """
    noisy = [NoisyPack(pack, config.flow, salt=step) for pack in packs]
    total, wishes, tokens = ranks.sum(
        [sum(float(item.weight.sum()) for item in noisy), float(bool(stop.signal_name)), float(sum(pack.num_tokens for pack in packs))]
    )
    if wishes:
        return None
    table, error_sum = LossTable(), 0.0
    for index, item in enumerate(noisy):
        sync_gradients(model, index == len(noisy) - 1, ranks)
        if not item.pack.num_tokens and ranks.size == 1:
            continue
        inputs = item.inputs() if item.pack.num_tokens else _nothing(model)
        with torch.autocast(ranks.device.type, torch.bfloat16, enabled=config.is_bf16):
            velocity = model(*(value.to(ranks.device) for value in inputs))
        if not item.pack.num_tokens:  # the others wait for this process' part of every layer
            (velocity.sum() * 0.0).backward()
            continue
        error = item.error(velocity)
        (error.sum() * (ranks.size / max(total, 1.0))).backward()
        error_sum += float(error.detach().sum())
        table.add(item, error.detach().cpu())
    sums = ranks.sum([error_sum, *table.numbers])
    return StepResult(sums[0] / max(total, 1.0), table.means(sums[1:]), total, tokens)


def _nothing(model: DiT) -> tuple[torch.Tensor, ...]:
    """One token that counts for nothing: what a process computes when it has no sample."""
    config = model.config
    values = config.latent_channels * config.patch[0] * config.patch[1] * config.patch[2]
    one = torch.tensor([0, 1])
    return torch.zeros(1, values), torch.ones(1), torch.zeros(1), torch.zeros(1, 3), one, torch.zeros(1, config.text_width), one


@torch.no_grad()
def update_ema(ema: torch.nn.Module, model: torch.nn.Module, decay: float, step: int) -> None:
    """The average of the weights, each process for its own shards."""
    decay = min(decay, (1 + step) / (10 + step))
    for average, value in zip(ema.parameters(), model.parameters(), strict=True):
        average.lerp_(value.detach(), 1 - decay)


class Run:
    """A run under way: what the steps share."""

    def __init__(self, config: FitConfig, out: Path, ranks: Ranks, trained: Trained, state: TrainState, validation: list[Pack]) -> None:
        self.config, self.out, self.ranks, self.trained, self.state, self.validation = config, out, ranks, trained, state, validation
        self.guard = Guard(config.spike_factor, state.recent)
        self.log = RunLog(out, state.step, ranks, config.is_tensorboard)
        self.drawn: Counter[str] = Counter()
        self.is_sound = False  # whether all processes are at the same point, so that they may speak together

    def save(self, done: int) -> None:
        state = TrainState(done, self.state.digest, self.guard.recent)
        save_checkpoint(self.out / "checkpoints", self.trained, state, self.config.keep, self.ranks)

    def validate(self, step: int) -> dict[str, dict[str, float]] | None:
        """Evaluate the averaged weights on the first process and append to `validation.jsonl`."""
        weights = full_state(self.trained.ema)
        scores = None
        if self.ranks.is_first:
            averaged = DiT(self.config.model)
            averaged.load_state_dict(weights)
            scores = evaluate(averaged, self.validation, self.config.flow)
            with open(self.out / "validation.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "scores": scores}) + "\n")
        self.ranks.wait()
        return scores

    def loop(self, loader: Loader, stop: Stop) -> int:
        """Steps until the last or a wish to stop. Returns the number of steps done."""
        config, step, told_s, begin, tokens_done = self.config, self.state.step, 0.0, time.monotonic(), 0.0
        self.trained.model.train()
        if step >= config.steps:
            self.is_sound = True
            return step
        ready_s = time.monotonic()
        for number, epoch, packs in loader.steps_from(step):
            stalled_s = time.monotonic() - ready_s
            result = self._step(number, packs, stop)
            if result is None:
                break
            step, tokens_done = number + 1, tokens_done + result.num_tokens
            self._write(number, epoch, packs, result, stalled_s, time.monotonic() - ready_s)
            if number == 0:
                self._tell_first(packs)
            if time.monotonic() - told_s > EVERY_S or step == config.steps:
                told_s = time.monotonic()
                tell(self.ranks, f"step {step}/{config.steps} epoch {epoch} loss {result.loss:.4f} {tokens_done / (told_s - begin):.0f} tokens/s")
            if step % config.save_every == 0 or step == config.steps:
                self.save(step)
            if config.validate_every and step % config.validate_every == 0 and step < config.steps:
                self.validate(step)
            if step == config.steps:
                break
            ready_s = time.monotonic()
        if self.drawn:
            tell(self.ranks, f"captions drawn: {realised(self.drawn)}")
        self.is_sound = True
        if step < config.steps:
            self.save(step)
            tell(self.ranks, f"{stop.signal_name or 'another process'}: saved after step {step}; run the same command to go on")
            raise Interrupted(stop.signal_name)
        return step

    def _step(self, number: int, packs: list[Pack], stop: Stop) -> StepResult | None:
        """One optimizer step, unless the guard refuses it."""
        config, trained = self.config, self.trained
        for group in trained.optimizer.param_groups:
            group["lr"] = lr_at(number, config.steps, config.lr, config.warmup_steps, config.cooldown)
        result = train_step(trained.model, packs, config, number, self.ranks, stop)  # type: ignore[arg-type]
        if result is None:
            return None
        result.norm = float(whole(torch.nn.utils.clip_grad_norm_(trained.model.parameters(), config.clip_norm)))
        if why := self.guard.refuses(result.loss, result.norm):
            tell(self.ranks, f"step {number} skipped, {why}")
        else:
            trained.optimizer.step()
        trained.optimizer.zero_grad(set_to_none=True)
        update_ema(trained.ema, trained.model, config.ema_decay, number)
        return result

    def _write(self, number: int, epoch: int, packs: list[Pack], result: StepResult, stalled_s: float, seconds: float) -> None:
        config, ranks = self.config, self.ranks
        kinds = Counter(kind for pack in packs for kind in pack.kinds)
        self.drawn += kinds
        lengths = [pack.cu.diff().tolist() for pack in packs]
        flops = 3 * sum(forward_flops(config.model, own, pack.text_cu.diff().tolist()) for own, pack in zip(lengths, packs, strict=True))
        cost = sum(pack_cost(own, config.model.width) for own in lengths)
        costs = ranks.sum([cost if rank == ranks.rank else 0.0 for rank in range(ranks.size)])
        stalled, all_flops = ranks.sum([stalled_s, flops])
        windows = {
            item.clip_id: [item.start, item.latent_t, item.top, item.latent_h, item.left, item.latent_w] for pack in packs for item in pack.cut
        }
        self.log.consumed(
            {
                "step": number,
                "epoch": epoch,
                "rank": ranks.rank,
                "samples": [[item.clip_id, item.shard] for pack in packs for item in pack.samples],
                "windows": windows,
            }
        )
        self.log.metrics({
            "step": number, "epoch": epoch, "loss": result.loss, "grad_norm": result.norm, "tokens": int(result.num_tokens), "valid": result.valid,
            "fill": round(result.num_tokens / (config.tokens * config.packs_per_step), 4), "imbalance": round(max(costs) * ranks.size / max(sum(costs), 1e-9), 4),
            "tokens_per_s": round(result.num_tokens / max(seconds, 1e-9), 1), "stall_share": round(stalled / ranks.size / max(seconds, 1e-9), 4),
            "tflops": round(all_flops / max(seconds, 1e-9) / 1e12, 5), "mfu": _mfu(all_flops, seconds, config.peak_tflops * ranks.size),
            "memory_bytes": peak_memory_bytes(ranks.device), "skipped": self.guard.num_skipped, "captions": dict(kinds), "loss_by": result.classes,
        })  # fmt: skip

    def _tell_first(self, packs: list[Pack]) -> None:
        shapes = sorted({"x".join(map(str, grid)) for pack in packs for grid in pack.shapes})
        held = sum(len(pack.samples) for pack in packs)
        tell(self.ranks, f"the first pack holds {held} samples of {len(shapes)} distinct shapes (t x h x w in tokens): {', '.join(shapes)}")


def _mfu(flops: float, seconds: float, peak_tflops: float) -> float | None:
    """Share of the devices' peak that was used; None where the peak was not given."""
    return round(flops / max(seconds, 1e-9) / (peak_tflops * 1e12), 4) if peak_tflops else None
