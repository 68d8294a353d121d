"""What a run needs of a device, memory by part and hours, told from its settings before anything is built.

Weights, gradients, optimizer and averages are counted exactly. Activations are bytes for each token and unit
of width: those of a block as written are counted in tests/trainer/run/test_memory.py. Compiled code keeps
fewer; how many rests on one figure of a prototype, XL's 52.6 GiB at 16,384 tokens on an H100, taken for a
compiled step.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from manifests.errors import UsageError
from trainer.config import FitConfig
from trainer.model.dit import DiT
from trainer.reports.efficiency import forward_flops
from trainer.state.adapters import adapt
from trainer.state.optimizers import is_matrix

GIB = 1 << 30
BLOCK_BYTES = {True: 86, False: 124}
"""A block's activations for each token and unit of width in half precision: compiled, or not."""
SINGLE_FACTOR = 1.35
"""How many times as much they are in single precision."""
KEPT_BYTES = {"nothing": 4.0, "attention": 8.0, "widest": 18.7}
"""The same of a block that is computed again in the backward pass: what goes into it and, where that is kept,
both results of attention, and the product into the MLP."""
AT_LEAST_FREE = 0.08
"""Share of the memory that is left free when it is chosen what a recomputed block keeps."""
TOKEN_BYTES = 4 * 16
"""Each value of a token: noisy, target, weight, prediction and their gradients."""
USABLE = 0.94
"""Share of a device's memory that a process gets: the rest is the driver's and what allocation loses."""
DOCUMENT = 4096
"""Tokens of a sample that hours are estimated for."""


@dataclass(frozen=True)
class Needs:
    """Bytes of one device by part, and what a run does.

    Attributes:
        parameters: of the model.
        pflops: operations of the whole run, forward and backward, without recomputation.
    """

    parts: dict[str, float]
    parameters: int
    pflops: float

    @property
    def total(self) -> float:
        return sum(self.parts.values())


def needs(config: FitConfig, devices: int = 1) -> Needs:
    """What each of `devices` needs; weights and what belongs to them are shared out among them."""
    with torch.device("meta"):
        model = DiT(config.model)
    if config.lora_rank:
        model.requires_grad_(False)
        adapt(model, config.lora_rank, config.init_fresh)
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    trained = sum(value.numel() for _, value in named)
    count = sum(value.numel() for value in model.parameters())
    matrices = sum(value.numel() for name, value in named if is_matrix(name, value))
    of_block = sum(value.numel() for value in model.blocks[0].parameters())
    shards = config.shard_size or devices
    moments = 8 * trained - (4 * matrices if config.optimizer == "muon" else 0)
    # alone, autocast holds all weights in half precision until the pass ends; FSDP a block and the next
    half = 2 * count if shards == 1 else 2 * of_block * 2
    return Needs(
        {
            "weights": 4 * count / shards,
            "gradients": 4 * trained / shards,
            "optimizer": moments / shards,
            "averages": 4 * count * (1 + len(config.ema_more)) / shards,
            "copies in use": (half if config.is_bf16 else 0) + (4 * of_block if shards > 1 else 0),
            "activations": _activations(config),
        },
        count,
        _pflops(config),
    )


def _activations(config: FitConfig) -> float:
    model, tokens = config.model, config.tokens / config.sequence_parallel
    each = BLOCK_BYTES[config.is_compiled] * (1 if config.is_bf16 else SINGLE_FACTOR) * model.width
    kept = KEPT_BYTES["nothing" if config.checkpoint_keeps == "auto" else config.checkpoint_keeps]
    blocks = (model.depth * kept * model.width + each) if config.is_checkpointed else model.depth * each
    values = model.latent_channels * model.patch[0] * model.patch[1] * model.patch[2]
    return float(tokens * (blocks + values * TOKEN_BYTES))


def _pflops(config: FitConfig) -> float:
    lengths = [min(DOCUMENT, config.tokens)] * max(1, config.tokens // DOCUMENT)
    return (
        3
        * forward_flops(config.model, lengths, [64] * len(lengths))
        * config.packs_per_step
        * config.steps
        / 1e15
    )


def kept_that_fit(config: FitConfig, devices: int, device: torch.device) -> str:
    """What a recomputed block keeps: as set or, if that is "auto", the most that fits the device's memory."""
    if config.checkpoint_keeps != "auto":
        return config.checkpoint_keeps
    if device.type != "cuda" or not config.is_checkpointed:
        return "nothing"
    return kept_within(config, devices, torch.cuda.get_device_properties(device).total_memory)


def kept_within(config: FitConfig, devices: int, device_bytes: float) -> str:
    """The most of `KEPT_BYTES` with which a run fits a device of so much memory."""
    for keeps in ("widest", "attention"):
        found = needs(replace(config, checkpoint_keeps=keeps), devices)
        if found.total <= device_bytes * USABLE * (1 - AT_LEAST_FREE):
            return keeps
    return "nothing"


def check_fits(config: FitConfig, devices: int, device_bytes: float, usable: float = USABLE) -> Needs:
    """What a run needs of each device.

    Args:
        usable: share of the memory that it may take.

    Raises:
        UsageError: it is more than a device has.
    """
    found = needs(config, devices)
    if found.total > device_bytes * usable:
        state = found.total - found.parts["activations"]
        steps = [] if config.is_checkpointed else ["--checkpointing True"]
        fitting = (
            int(config.tokens * (device_bytes * usable - state) / found.parts["activations"]) // 256 * 256
        )
        steps += [f"--tokens {fitting}"] if fitting > 0 else []
        steps += [f"more devices than {devices}"] if state > 0.2 * device_bytes else []
        raise UsageError(
            f"{config.preset} with {config.tokens} tokens a pack",
            f"needs about {found.total / GIB:.0f} GiB of each device, which has {device_bytes / GIB:.0f}: "
            + ", ".join(f"{name} {value / GIB:.1f}" for name, value in found.parts.items()),
            f"Give {', or '.join(steps)}.",
        )
    return found
