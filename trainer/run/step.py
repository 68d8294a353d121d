"""One step of a training: what its packs hold, forward and backward, the averages."""

from __future__ import annotations

import itertools
from dataclasses import astuple, dataclass
from typing import Any

import torch
from torch import Tensor

from learning.loop.schedules import warmed_up
from learning.stopping import Stop
from trainer.config import FitConfig
from trainer.data.loader import Pack
from trainer.model.dit import DiT
from trainer.model.flow import NoisyPack, sums_of
from trainer.reports.efficiency import LossTable
from trainer.state.parallel import Ranks, own_part, sync_gradients, whole


@dataclass(frozen=True)
class StepTotals:
    """What the packs of a step hold: on one process or, after `reduce`, on all."""

    valid: float  # latent values that count in the loss, partly real ones by their share
    num_tokens: float
    num_read: float  # samples asked for
    num_corrupt: float  # of these, samples that could not be read
    stop_requests: float  # processes that were asked to stop

    @classmethod
    def of(cls, packs: list[NoisyPack], stop: Stop, num_sharing: int) -> StepTotals:
        """Totals of this process; a pack that several processes share counts once."""
        num_corrupt = sum(len(noisy.pack.corrupt) for noisy in packs)
        num_good = sum(len(noisy.pack.members) for noisy in packs)
        return cls(
            valid=sum(sum(noisy.weights) for noisy in packs),
            num_tokens=sum(noisy.pack.num_tokens for noisy in packs) / num_sharing,
            num_read=(num_corrupt + num_good) / num_sharing,
            num_corrupt=num_corrupt / num_sharing,
            stop_requests=float(bool(stop.signal_name)),
        )

    def reduce(self, ranks: Ranks) -> StepTotals:
        return StepTotals(*ranks.sum(list(astuple(self))))


@dataclass
class StepResult:
    """The outcome of one step, over all processes."""

    totals: StepTotals
    loss: float  # mean per valid value
    loss_by: dict[str, float]  # the same by shape class and noise band
    norm: float  # of the gradient, before it was clipped
    is_skipped: bool = False


def train_step(
    model: DiT, packs: list[NoisyPack], config: FitConfig, ranks: Ranks, stop: Stop
) -> StepResult | None:
    """Forward and backward on the packs of this process; the gradient is clipped.

    The loss is the mean over the valid values of all packs of the step, on whichever process they are. A
    device is waited for once, at the end.

    Returns:
        None, before any forward pass, if any process was asked to stop.
    """
    totals = StepTotals.of(packs, stop, ranks.num_sharing).reduce(ranks)
    if totals.stop_requests:
        return None
    valid, sums = max(totals.valid, 1.0), list[Tensor]()
    for index, noisy in enumerate(packs):
        sync_gradients(model, index == len(packs) - 1, ranks)
        placed = noisy.on(ranks.device)
        with torch.autocast(ranks.device.type, torch.bfloat16, enabled=config.is_bf16):
            velocity = model(*placed.inputs())
        error = placed.error(velocity)  # [N]
        (error.sum() * (ranks.size / valid)).backward()  # FSDP divides gradients by the number of processes
        sums.append(sums_of(error.detach(), noisy.local_cu))
    norm = whole(torch.nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm))
    told = iter(torch.cat([*sums, norm.double().reshape(1)]).tolist())
    table = LossTable()
    for noisy, own in zip(packs, sums, strict=True):
        table.add(noisy, list(itertools.islice(told, len(own))))
    table = table.reduce(ranks)
    return StepResult(totals, table.total / valid, table.means(), next(told))


def consumed_row(packs: list[Pack], is_skipped: bool) -> dict[str, Any]:
    """Which samples a process read at a step, for `consumed*.jsonl`."""
    members = [member for pack in packs for member in pack.members]
    corrupt = [clip_id for pack in packs for clip_id in pack.corrupt]
    row: dict[str, Any] = {
        "samples": [[member.sample.clip_id, member.sample.shard] for member in members],
        "windows": {
            member.sample.clip_id: list(member.sample.window) for member in members if member.is_window
        },
    }
    return row | ({"corrupt": corrupt} if corrupt else {}) | ({"skipped": True} if is_skipped else {})


@torch.no_grad()
def update_ema(ema: torch.nn.Module, model: torch.nn.Module, decay: float, step: int) -> None:
    """The average of the weights, each process for its own shards."""
    decay = warmed_up(decay, step)
    averages, values = ([own_part(value) for value in part.parameters()] for part in (ema, model))
    torch._foreach_lerp_(averages, values, 1 - decay)
