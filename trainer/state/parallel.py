"""The processes of a run: joined by torchrun or Ray Train, the model sharded by FSDP2.

One process is the same code with nothing to shard. FSDP averages gradients over processes, so a process
scales its share of the loss by their number (`Ranks.size`).
Weights are made where they will lie: the model is built without memory, sharded, and each shard filled with
its part of a value that follows from the seed and the weight's name, the same for any number of processes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from learning import processes
from manifests.errors import UsageError
from trainer.config import FitConfig
from trainer.model.dit import DiT, initial_value
from trainer.model.routes import checked_route
from trainer.model.routing import NEVER
from trainer.model.sequence import SequenceGroup
from trainer.state.adapters import adapt
from trainer.state.recompute import recomputed


@dataclass(frozen=True)
class Ranks:
    """This process among those of the run; those of one `sequence` group share each pack."""

    rank: int
    size: int
    device: torch.device
    sequence: SequenceGroup | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    @property
    def data_rank(self) -> int:
        """Which packs of a step are this process'."""
        return self.rank // (self.sequence.size if self.sequence else 1)

    @property
    def data_size(self) -> int:
        """Among how many a step's packs are dealt."""
        return self.size // (self.sequence.size if self.sequence else 1)

    def sum(self, numbers: list[float]) -> list[float]:
        """Each number summed over all processes, in double precision."""
        return processes.summed(numbers) if self.size > 1 else numbers

    @property
    def num_sharing(self) -> int:
        """Processes that share each pack."""
        return self.sequence.size if self.sequence else 1

    def gather(self, number: float) -> list[float]:
        """One number of each process, in the order of ranks."""
        return self.sum([number if rank == self.rank else 0.0 for rank in range(self.size)])

    def wait(self) -> None:
        """Wait for the others."""
        if self.size > 1:
            processes.wait_for_all()


def join(sequence_parallel: int = 1, ring: int = 1) -> Ranks:
    """Join the process group that torchrun's environment describes; without one, run alone.

    Raises:
        UsageError: the processes do not divide into groups of `sequence_parallel`, or these into `ring`
            parts.
    """
    rank, size, device = processes.join()
    if size % sequence_parallel:
        raise UsageError(
            "--sequence-parallel", f"{size} processes do not divide into groups of {sequence_parallel}"
        )
    if sequence_parallel % ring:
        raise UsageError(
            "--ring",
            f"{sequence_parallel} processes that share a pack do not divide into {ring} parts",
            "Give a multiple of it as --sequence-parallel.",
        )
    if sequence_parallel == 1:
        return Ranks(rank, size, device)
    dealing = sequence_parallel // ring
    of_part = of_ring = None
    for first in range(0, size, sequence_parallel):  # every process makes all groups
        members = range(first, first + sequence_parallel)
        for part in range(first, members.stop, dealing):
            of_part = _group(range(part, part + dealing), rank) or of_part
        for head in range(dealing):
            of_ring = _group(members[head::dealing], rank) or of_ring
    # NCCL wants all members at a group's first call; at later ones some may be missing
    for group in (of_part, of_ring):
        if group is not None:
            dist.all_reduce(torch.zeros(1, device=device), group=group)
    own = SequenceGroup(rank % sequence_parallel, sequence_parallel, ring, of_part, of_ring)
    return Ranks(rank, size, device, own)


def _group(members: range, rank: int) -> Any:
    """A group of several processes; None where this one is not among them, or alone."""
    made = dist.new_group(members) if len(members) > 1 else None
    return made if rank in members else None


def check(config: FitConfig, ranks: Ranks) -> None:
    """Whether the settings fit the processes.

    Raises:
        UsageError: the packs of a step, the shards or the heads do not divide among them.
    """
    if config.packs_per_step % ranks.data_size:
        raise UsageError(
            "--packs-per-step",
            f"{config.packs_per_step} do not divide among {ranks.data_size} processes",
            f"Give {-(-config.packs_per_step // ranks.data_size) * ranks.data_size}.",
        )
    if config.shard_size and ranks.size % config.shard_size:
        raise UsageError(
            "--shard-size", f"{ranks.size} processes do not divide into groups of {config.shard_size}"
        )
    dealing = ranks.sequence.num_dealing if ranks.sequence else 1
    if config.ring > 1 and ranks.device.type == "cuda" and not config.is_bf16:
        raise UsageError("--ring", "needs half precision on a GPU", "Give --bf16 True.")
    if ranks.sequence and (config.model.num_heads % dealing or config.model.text == "joint"):
        raise UsageError(
            "--sequence-parallel",
            f"{config.model.num_heads} heads with text by {config.model.text} cannot be dealt to "
            f"{dealing} processes",
            "Give a divisor of the number of heads, or a larger --ring, and text by cross-attention.",
        )


def build(
    config: FitConfig,
    ranks: Ranks,
    is_trained: bool = True,
    keeps: str = "nothing",
    is_filled: bool = True,
) -> DiT:
    """A new model on this process's device: checkpointed, compiled, sharded, then filled.

    Args:
        is_trained: False for an average of the weights, which needs neither gradients nor speed.
        is_filled: False where a checkpoint will fill all of it.
        keeps: what of a block is not computed again, where blocks are (trainer/state/recompute.py).
    """
    check(config, ranks)
    with torch.device("meta"):
        model = DiT(config.model)
    if config.lora_rank:
        adapt(model, config.lora_rank, config.init_fresh)
    if not is_trained or not config.lora_rank:  # of an adapted one the adapters, and what began anew
        model.requires_grad_(is_trained)
    for index, plain in enumerate(model.blocks):
        block = recomputed(plain, keeps) if config.is_checkpointed and is_trained else plain
        if config.is_compiled and is_trained:
            block.compile(dynamic=True)
        model.blocks[index] = block
    if config.is_compiled and is_trained:
        model.compile_ends()
    if config.is_half_stream and config.is_bf16:
        model.keep_stream_half()
    if ranks.size > 1:
        shape = (
            (ranks.size // config.shard_size, config.shard_size) if config.shard_size else (ranks.size,)
        )  # two: copies of shards (HSDP)
        mesh = dist.init_device_mesh(
            ranks.device.type, shape, mesh_dim_names=("copies", "shards")[-len(shape) :]
        )
        half = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        for block in model.blocks:
            policy = half if config.is_bf16 else MixedPrecisionPolicy()
            # offsets and gains of a block are cast too; on one device autocast leaves them as they are
            fully_shard(block, mesh=mesh, mp_policy=policy)
        fully_shard(model, mesh=mesh)  # angles and the shared modulation stay fp32
    model.to_empty(device=ranks.device)
    if is_filled:
        fill(model, config.seed)
    model.share_sequence(ranks.sequence)
    heads, width = config.model.num_heads, config.model.width // config.model.num_heads
    model.long_from = checked_route(ranks.device, heads, width, config.long_documents or NEVER)
    if ranks.device.type == "cuda" and config.ring > 1 and model.long_from is None:
        raise UsageError(
            "--ring",
            "needs kernels of attention that this device does not have, or that are wrong on it",
            "Deal the heads alone: leave --ring out.",
        )
    return model


@torch.no_grad()
def fill(model: DiT, seed: int) -> None:
    """Give every weight its first value, one at a time; of a sharded one, this process' part."""
    for name, value in model.named_parameters():
        plain = clean_name(name)
        number = int.from_bytes(hashlib.sha256(f"{seed}|{plain}".encode()).digest()[:6], "big")
        full = initial_value(plain, value.shape, torch.Generator().manual_seed(number))
        if isinstance(value, DTensor):
            own = value.to_local()
            own.copy_(
                distribute_tensor(
                    full.to(own.device), value.device_mesh, value.placements, src_data_rank=None
                ).to_local()
            )
        else:
            value.copy_(full)


def reshard(model: nn.Module) -> None:
    """Give back what a forward pass without a backward pass has gathered."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def sync_gradients(model: nn.Module, is_last: bool, ranks: Ranks) -> None:
    """Gradients are dealt out at every pack, so that none holds them whole; copies add theirs up once."""
    if ranks.size > 1:
        model.set_requires_all_reduce(is_last)  # type: ignore[operator]


def whole(value: Tensor) -> Tensor:
    """A sharded tensor in full; every process must ask."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def own_part(value: Tensor) -> Tensor:
    """This process' part of a weight, in place."""
    return (value.to_local() if isinstance(value, DTensor) else value).detach()


def full_state(model: nn.Module, ranks: Ranks) -> dict[str, Tensor]:
    """All weights in full on the CPU by their plain names, on the first process; every one must call."""
    found = {}
    for name, value in model.state_dict().items():
        full = whole(value).detach()
        if ranks.is_first:
            found[clean_name(name)] = full.cpu()
    return found


def clean_name(name: str) -> str:
    """A weight's name without what wrapping added."""
    for part in ("_checkpoint_wrapped_module.", "_orig_mod.", "base_layer."):
        name = name.replace(part, "")
    return name
