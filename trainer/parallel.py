"""Processes of one run: joined by torchrun or Ray Train, the model sharded over them (FSDP2), numbers added up.

One process is the same code with nothing to shard. FSDP averages gradients over processes, so a process scales its share of the loss by their number (`Ranks.size`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor

from manifests.errors import UsageError
from trainer.config import FitConfig
from trainer.dit import DiT


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run."""

    rank: int
    size: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def sum(self, numbers: list[float]) -> list[float]:
        """Each number summed over all processes, in double precision."""
        if self.size == 1:
            return numbers
        total = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(total)
        return [float(number) for number in total]

    def wait(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            dist.barrier()


def join() -> Ranks:
    """Join the processes that the environment speaks of, or stand alone."""
    is_gpu = torch.cuda.is_available()
    if "RANK" in os.environ and not dist.is_initialized():
        dist.init_process_group("nccl" if is_gpu else "gloo")
    local = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local % max(1, torch.cuda.device_count())) if is_gpu else torch.device("cpu")
    if is_gpu:
        torch.cuda.set_device(device)
    return Ranks(dist.get_rank(), dist.get_world_size(), device) if dist.is_initialized() else Ranks(0, 1, device)


def prepare(model: DiT, config: FitConfig, ranks: Ranks) -> DiT:
    """The model on this process' device: activations recomputed per block, blocks compiled, sharded, as the settings say; in that order.

    Raises:
        UsageError: the steps' packs do not divide among the processes.
    """
    if config.packs_per_step % ranks.size:
        raise UsageError(
            "--packs-per-step", f"{config.packs_per_step} do not divide among {ranks.size} processes",
            f"Give {-(-config.packs_per_step // ranks.size) * ranks.size}.",
        )  # fmt: skip
    model.to(ranks.device)
    for index, plain in enumerate(model.blocks):
        block = checkpoint_wrapper(plain, checkpoint_impl=CheckpointImpl.NO_REENTRANT) if config.is_checkpointed else plain
        if config.is_compiled:
            block.compile(dynamic=True)
        model.blocks[index] = block
    if ranks.size > 1:
        mesh = dist.init_device_mesh(ranks.device.type, (ranks.size,))
        policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32) if config.is_bf16 else MixedPrecisionPolicy()
        for block in model.blocks:
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh, mp_policy=policy)
    return model


def sync_gradients(model: nn.Module, is_last: bool, ranks: Ranks) -> None:
    """With several packs a step, gradients are added up over processes at the last one alone."""
    if ranks.size > 1:
        model.set_requires_gradient_sync(is_last)  # type: ignore[operator]


def whole(value: Tensor) -> Tensor:
    """A sharded tensor in full; every process must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def full_state(model: nn.Module) -> dict[str, Tensor]:
    """All weights in full, on the CPU, by the names of the plain model; every process must ask."""
    return {clean_name(name): whole(value).detach().cpu() for name, value in model.state_dict().items()}


def clean_name(name: str) -> str:
    """A weight's name without what wrapping added."""
    return name.replace("_checkpoint_wrapped_module.", "").replace("_orig_mod.", "")
