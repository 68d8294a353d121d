"""Optimizers and learning rate: AdamW, or Muon for the blocks' matrices with AdamW for the rest.

Muon (Jordan et al. 2024; at scale, Liu et al. 2025, arXiv:2502.16982) makes each matrix' update orthogonal.
Its updates are scaled to the size that AdamW's have, so one learning rate serves both.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from learning.loop.schedules import cosine
from learning.muon import Muon
from trainer.config import FitConfig
from trainer.state.parallel import clean_name

_FUSED = {"qkv": 3, "cross_kv": 2, "up": 2}
"""Layers that are several in one: queries, keys and values; keys and values; the two halves of SwiGLU."""


def is_matrix(name: str, value: Tensor) -> bool:
    """Whether a weight is a matrix of a block: those that Muon is for."""
    return name.startswith("blocks.") and name.endswith("weight") and value.ndim == 2


def parts_of(name: str) -> int:
    """Of how many matrices, one below the other, a weight of a block is made."""
    return next(
        (parts for layer, parts in _FUSED.items() if f".{layer}." in name and "lora_A" not in name), 1
    )


def is_decayed(name: str, value: Tensor) -> bool:
    """Whether a weight is drawn towards zero: matrices, not gains, biases, offsets or the null text."""
    return value.ndim > 1 and not name.endswith("offset")


def make_optimizers(model: nn.Module, config: FitConfig) -> list[torch.optim.Optimizer]:
    """One optimizer, or two that share the weights between them."""
    named = [(clean_name(name), value) for name, value in model.named_parameters() if value.requires_grad]
    hidden: dict[int, list[Tensor]] = {}
    for name, value in named:
        if config.optimizer == "muon" and is_matrix(name, value):
            hidden.setdefault(parts_of(name), []).append(value)
    taken = {id(value) for own in hidden.values() for value in own}
    others = [(name, value) for name, value in named if id(value) not in taken]
    groups = [
        {"params": own, "weight_decay": decay}
        for decay, own in (
            (config.weight_decay, [value for name, value in others if is_decayed(name, value)]),
            (0.0, [value for name, value in others if not is_decayed(name, value)]),
        )
        if own
    ]
    found: list[torch.optim.Optimizer] = []
    if others:
        is_fused = others[0][1].device.type == "cuda"
        found = [torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.95), fused=is_fused)]
    if not hidden:
        return found
    matrices = [{"params": own, "parts": parts} for parts, own in sorted(hidden.items())]
    return [Muon(matrices, lr=config.lr, weight_decay=config.weight_decay), *found]


def lr_at(step: int, config: FitConfig) -> float:
    """Learning rate of a step: linear warm-up, then `flat-cosine`, `cosine` or `constant`.

    A cosine falls to a twentieth: over the last share of the run, or all along.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    begin = {
        "flat-cosine": config.steps * (1 - config.cooldown),
        "cosine": float(config.warmup_steps),
        "constant": float("inf"),
    }[config.schedule]
    if step <= begin or config.steps <= begin or (config.schedule == "flat-cosine" and config.cooldown == 0):
        return config.lr
    share = min(1.0, (step - begin) / (config.steps - begin))
    return config.lr * cosine(share, least=0.05)
