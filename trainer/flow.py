"""Rectified flow with a noise level per token.

x_sigma = (1 - sigma) * clean + sigma * noise; the model predicts the velocity noise - clean. Sources: Liu et al. 2022 (arXiv:2209.03003); logit-
normal sigma and shift by size, Esser et al. 2024 (arXiv:2403.03206, eq. 19 and 23), here with separate, bounded spatial and temporal powers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from manifests.errors import UsageError
from trainer.config import FlowConfig
from trainer.loader import Pack

BASE_SPATIAL_TOKENS, BASE_FRAMES = 32, 4


def shift_of(grid: tuple[int, int, int], config: FlowConfig) -> float:
    """How far noise levels move up for a shape: more redundant pixels need more noise to hide. One function for training and sampling.

    Args:
        grid: (t, h, w) in tokens.
    """
    spatial = (grid[1] * grid[2] / BASE_SPATIAL_TOKENS) ** (config.shift_spatial / 2)
    temporal = (grid[0] / BASE_FRAMES) ** (config.shift_temporal / 2)
    return min(max(spatial * temporal, 1 / config.shift_max), config.shift_max)


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """Esser et al. 2024, eq. 23."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def draw_sigma(grid: tuple[int, int, int], config: FlowConfig, generator: torch.Generator) -> float:
    """Logit-normal, shifted by the sample's shape."""
    value = torch.sigmoid(config.logit_mean + config.logit_std * torch.randn(1, generator=generator))
    return float(shifted(value, shift_of(grid, config)))


def draw_known(grid: tuple[int, int, int], frame: Tensor, config: FlowConfig, generator: torch.Generator) -> Tensor:
    """Which tokens of a sample are given, [n] bool, by a pattern drawn for it. A one-frame sample gets none."""
    names = list(config.condition)
    weights = torch.tensor([config.condition[name] for name in names])
    name = names[int(torch.multinomial(weights, 1, generator=generator))]
    if grid[0] < 2 or name == "none":
        return torch.zeros(len(frame), dtype=torch.bool)
    most = max(2, grid[0] // 4 + 1)
    count, other = (int(torch.randint(1, most, (1,), generator=generator)) for _ in range(2))
    if name == "first":
        return frame < 1
    if name == "prefix":
        return frame < count
    if name == "suffix":
        return frame >= grid[0] - count
    if name == "ends":
        given = (frame < count) | (frame >= grid[0] - other)
        return given if not bool(given.all()) else frame < 1
    if name == "random":
        return torch.isin(frame, torch.randperm(grid[0], generator=generator)[:count])
    raise UsageError(f"flow.condition {name}", "is no pattern", "Patterns: none, first, prefix, suffix, ends, random.")


class NoisyPack:
    """A pack with noise levels, noise and given tokens drawn: what the model sees and what it should say."""

    def __init__(self, pack: Pack, config: FlowConfig, salt: int = 0, sigma: float | None = None) -> None:
        """Draws are a function of each sample's seed and `salt`. A fixed `sigma` (for validation) gives no tokens away."""
        sigmas, known, noise = [], [], []
        for index, grid in enumerate(pack.shapes):
            generator = torch.Generator().manual_seed(pack.seeds[index] + 1 + salt)
            span = slice(int(pack.cu[index]), int(pack.cu[index + 1]))
            count = span.stop - span.start
            level = draw_sigma(grid, config, generator) if sigma is None else sigma
            given = draw_known(grid, pack.frame[span], config, generator) if sigma is None else torch.zeros(count, dtype=torch.bool)
            slight = 0.0
            if sigma is None and config.condition_sigma and bool(given.any()) and float(torch.rand(1, generator=generator)) < 0.5:
                slight = config.condition_sigma * float(torch.rand(1, generator=generator))
            sigmas.append(torch.where(given, slight, level))
            known.append(given)
            noise.append(torch.randn(count, pack.clean.shape[1], generator=generator))
        self.pack = pack
        if not pack.shapes:  # a pack without samples: nothing to say, nothing to weigh
            sigmas, known, noise = [torch.zeros(0)], [torch.zeros(0, dtype=torch.bool)], [torch.zeros_like(pack.clean)]
        self.sigma, self.known, noise_all = torch.cat(sigmas), torch.cat(known), torch.cat(noise)
        sigma_each = self.sigma[:, None]
        self.x = (1 - sigma_each) * pack.clean + sigma_each * noise_all
        self.target = noise_all - pack.clean
        channels = pack.clean.shape[1] // pack.valid.shape[1]
        self.weight = (pack.valid * ~self.known[:, None]).repeat_interleave(channels, dim=1)  # patches are cell-major

    def inputs(self) -> tuple[Tensor, ...]:
        """What the model is called with."""
        pack = self.pack
        return self.x, self.sigma, self.known, pack.coords, pack.cu, pack.text, pack.text_cu

    def error(self, velocity: Tensor) -> Tensor:
        """Weighted squared error of each token [N]; padding and given tokens weigh nothing."""
        target, weight = self.target.to(velocity.device), self.weight.to(velocity.device)
        return ((velocity.float() - target).pow(2) * weight).sum(dim=1)


def lr_at(step: int, steps: int, peak: float, warmup: int, cooldown: float) -> float:
    """Linear warm-up, flat, then a cosine to a twentieth over the last share of the run."""
    if step < warmup:
        return peak * (step + 1) / warmup
    begin = steps * (1 - cooldown)
    if step <= begin or cooldown == 0:
        return peak
    share = min(1.0, (step - begin) / (steps - begin))
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))
