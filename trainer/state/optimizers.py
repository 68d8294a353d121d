"""Optimizers and learning rate: AdamW, or Muon for the blocks' matrices with AdamW for the rest.

Muon (Jordan et al. 2024; at scale, Liu et al. 2025, arXiv:2502.16982) makes each matrix' update orthogonal.
Its updates are scaled to the size that AdamW's have, so one learning rate serves both.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from trainer.config import FitConfig


def make_optimizers(model: nn.Module, config: FitConfig) -> list[torch.optim.Optimizer]:
    """One optimizer, or two that share the weights between them."""
    named = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    hidden = [
        value
        for name, value in named
        if config.optimizer == "muon"
        and name.startswith("blocks.")
        and name.endswith("weight")
        and value.ndim == 2
    ]
    taken = {id(value) for value in hidden}
    others = [value for _, value in named if id(value) not in taken]
    is_fused = others[0].device.type == "cuda"
    adam = torch.optim.AdamW(
        others, lr=config.lr, betas=(0.9, 0.95), weight_decay=config.weight_decay, fused=is_fused
    )
    if not hidden:
        return [adam]
    return [
        torch.optim.Muon(
            hidden, lr=config.lr, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        adam,
    ]


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
    return config.lr * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))
