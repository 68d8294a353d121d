"""Paths from data to noise with a noise level per token, and what the model is to say on them: the direction of the path.

linear: x = (1 - sigma) clean + sigma noise, the velocity is noise - clean (rectified flow, Liu et al. 2022, arXiv:2209.03003).
cosine: x = cos(a) clean + sin(a) noise with a = sigma pi / 2, and v = cos(a) noise - sin(a) clean (v-prediction, Salimans and Ho 2022, arXiv:2202.00512), which is
the direction in a. Logit-normal sigma and shift by size: Esser et al. 2024 (arXiv:2403.03206, eq. 19 and 23), here with separate, bounded spatial and temporal powers.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from trainer.config import FlowConfig
from trainer.loader import Pack
from trainer.sequence import SequenceGroup

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


def noised(clean: Tensor, noise: Tensor, sigma: Tensor, path: str) -> tuple[Tensor, Tensor]:
    """(x, what the model is to say) at noise levels `sigma`, which broadcast over clean and noise."""
    if path == "linear":
        return (1 - sigma) * clean + sigma * noise, noise - clean
    angle = sigma * (math.pi / 2)
    return angle.cos() * clean + angle.sin() * noise, angle.cos() * noise - angle.sin() * clean


def pace(path: str) -> float:
    """How far x moves for one unit of sigma along what the model says."""
    return 1.0 if path == "linear" else math.pi / 2


def draw_sigma(grid: tuple[int, int, int], config: FlowConfig, generator: torch.Generator) -> float:
    """Logit-normal, shifted by the sample's shape."""
    value = torch.sigmoid(config.logit_mean + config.logit_std * torch.randn(1, generator=generator))
    return float(shifted(value, shift_of(grid, config)))


def draw_known(grid: tuple[int, int, int], frame: Tensor, config: FlowConfig, generator: torch.Generator) -> Tensor:
    """Which tokens of a sample are given, [n] bool, by a pattern drawn for it. A one-frame sample gets none."""
    names = list(config.condition)
    weights = torch.tensor([config.condition[name] for name in names])
    name = names[int(torch.multinomial(weights, 1, generator=generator))]
    is_dropped = config.condition_dropout > 0 and float(torch.rand(1, generator=generator)) < config.condition_dropout
    if grid[0] < 2 or name == "none" or is_dropped:
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
    return torch.isin(frame, torch.randperm(grid[0], generator=generator)[:count])  # random


class NoisyPack:
    """A pack with noise levels, noise and given tokens drawn: what the model sees and what it should say.

    With a sequence group, x, sigma, known, coords, target and weight are this process' part; `cu` counts all tokens and `offsets` those of each sample here.
    """

    def __init__(self, pack: Pack, config: FlowConfig, salt: int = 0, sigma: float | None = None, group: SequenceGroup | None = None) -> None:
        """Draws are a function of each sample's seed and `salt`. A fixed `sigma` (for validation) gives no tokens away."""
        sigmas, known, noise = [torch.zeros(0)], [torch.zeros(0, dtype=torch.bool)], [torch.zeros(0, pack.clean.shape[1])]
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
        self.pack, self.coords, self.cu, self.offsets, self.text, self.text_cu = pack, pack.coords, pack.cu, pack.cu, pack.text, pack.text_cu
        self.sigma, self.known = torch.cat(sigmas), torch.cat(known)
        self.x, self.target = noised(pack.clean, torch.cat(noise), self.sigma[:, None], config.path)
        channels = pack.clean.shape[1] // pack.valid.shape[1]
        self.weight = (pack.valid * ~self.known[:, None]).repeat_interleave(channels, dim=1)  # patches are cell-major
        if group is not None or not pack.shapes:
            self._fill_up(group.size if group else 1)
        if group is not None:
            self._part(group)

    def _fill_up(self, multiple: int) -> None:
        """Add a sample that weighs nothing, so that the number of tokens is a multiple and not 0."""
        count = -len(self.x) % multiple or (0 if len(self.x) else multiple)
        if not count:
            return
        for name in ("x", "target", "weight", "coords", "sigma", "known"):
            value = getattr(self, name)
            setattr(self, name, torch.cat([value, value.new_zeros(count, *value.shape[1:])]))
        self.text = torch.cat([self.text, self.text.new_zeros(1, self.text.shape[1])])
        self.cu, self.text_cu = (torch.cat([cu, cu[-1:] + more]) for cu, more in ((self.cu, count), (self.text_cu, 1)))

    def _part(self, group: SequenceGroup) -> None:
        span = group.span(len(self.x))
        for name in ("x", "target", "weight", "coords", "sigma", "known"):
            setattr(self, name, getattr(self, name)[span])
        self.offsets = group.offsets(self.cu)

    def pinned(self) -> NoisyPack:
        """The same in memory from which a GPU copies without waiting."""
        for name in ("x", "sigma", "known", "coords", "cu", "text", "text_cu", "target", "weight"):
            setattr(self, name, getattr(self, name).pin_memory())
        return self

    def inputs(self) -> tuple[Tensor, ...]:
        """What the model is called with."""
        return self.x, self.sigma, self.known, self.coords, self.cu, self.text, self.text_cu

    def error(self, velocity: Tensor) -> Tensor:
        """Weighted squared error of each token [n]; padding and given tokens weigh nothing."""
        target, weight = (value.to(velocity.device, non_blocking=True) for value in (self.target, self.weight))
        return ((velocity.float() - target).pow(2) * weight).sum(dim=1)
