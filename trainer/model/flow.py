"""Noise on packs: the path from data to noise, a noise level per token, the prediction target.

linear: x = (1 - sigma) clean + sigma noise, the velocity is noise - clean (rectified flow, Liu et al. 2022,
arXiv:2209.03003).
cosine: x = cos(a) clean + sin(a) noise with a = sigma pi / 2, and v = cos(a) noise - sin(a) clean
(v-prediction, Salimans and Ho 2022, arXiv:2202.00512), which is the direction in a. Logit-normal sigma and
shift by size: Esser et al. 2024 (arXiv:2403.03206, eq. 19 and 23), here with separate powers of
space and time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trainer.config import FlowConfig
from trainer.data.loader import Pack
from trainer.data.samples import Size
from trainer.model.layout import Layout
from trainer.model.sequence import SequenceGroup

BASE_SPATIAL_TOKENS, BASE_FRAMES = 32, 4
APART = 1 << 52
"""Between the seeds of a sample's levels and of its noise on the device: one draw does not tell the other."""


def shift_of(grid: tuple[int, int, int], config: FlowConfig) -> float:
    """How far noise levels move up for a shape: more redundant pixels need more noise to hide.

    One function for training and sampling.

    Args:
        grid: (t, h, w) in tokens.
    """
    spatial = (grid[1] * grid[2] / BASE_SPATIAL_TOKENS) ** (config.shift_spatial / 2)
    temporal = (grid[0] / BASE_FRAMES) ** (config.shift_temporal / 2)
    most = config.shift_max or math.inf
    return min(max(spatial * temporal, 1 / most), most)


def shifted(sigma: Tensor, shift: float) -> Tensor:
    """Esser et al. 2024, eq. 23."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def noised(clean: Tensor, noise: Tensor, sigma: Tensor, path: str) -> tuple[Tensor, Tensor]:
    """(noisy latents, velocity target) at noise levels `sigma`, which broadcast over clean and noise."""
    if path == "linear":
        return (1 - sigma) * clean + sigma * noise, noise - clean
    angle = sigma * (math.pi / 2)
    return angle.cos() * clean + angle.sin() * noise, angle.cos() * noise - angle.sin() * clean


def pace(path: str) -> float:
    """Units that x moves along the predicted velocity for one unit of sigma."""
    return 1.0 if path == "linear" else math.pi / 2


def draw_sigma(grid: tuple[int, int, int], config: FlowConfig, generator: torch.Generator) -> float:
    """Logit-normal, shifted by the sample's shape."""
    value = torch.sigmoid(config.logit_mean + config.logit_std * torch.randn(1, generator=generator))
    return float(shifted(value, shift_of(grid, config)))


def draw_known(
    grid: tuple[int, int, int], frame: Tensor, config: FlowConfig, generator: torch.Generator
) -> Tensor:
    """Which tokens of a sample are given, [n] bool, by a pattern drawn for it; of an image a box or none."""
    names = list(config.condition)
    weights = torch.tensor([config.condition[name] for name in names], dtype=torch.float32)
    name = names[int(torch.multinomial(weights, 1, generator=generator))]
    is_dropped = (
        config.condition_dropout > 0 and float(torch.rand(1, generator=generator)) < config.condition_dropout
    )
    if name == "none" or is_dropped or (grid[0] < 2 and name != "box"):
        return torch.zeros(len(frame), dtype=torch.bool)
    if name == "box":
        return _box(grid, generator).flatten()
    return _frames_given(name, grid[0], frame, generator)


def _frames_given(name: str, total: int, frame: Tensor, generator: torch.Generator) -> Tensor:
    """Tokens [n] of the frames that a pattern gives, of `total` frames."""
    count, other = (
        int(torch.randint(1, max(2, total // 4 + 1), (1,), generator=generator)) for _ in range(2)
    )
    if name == "first":
        return frame < 1
    if name == "prefix":
        return frame < count
    if name == "suffix":
        return frame >= total - count
    if name == "ends":
        given = (frame < count) | (frame >= total - other)
        return given if not bool(given.all()) else frame < 1
    return torch.isin(frame, torch.randperm(total, generator=generator)[:count])  # random


def _box(grid: tuple[int, int, int], generator: torch.Generator) -> Tensor:
    """[t, h, w] bool: all that lies inside a box of rows and columns or, as often, all outside it.

    Neither is empty where there are two tokens in a frame; the box stands for the whole length.
    """
    _, h, w = grid
    inside = torch.zeros(h, w, dtype=torch.bool)
    spans = []
    for size in (h, w):
        length = int(torch.randint(max(1, size // 4), max(2, 3 * size // 4 + 1), (1,), generator=generator))
        start = int(torch.randint(0, size - length + 1, (1,), generator=generator))
        spans.append(slice(start, start + length))
    inside[spans[0], spans[1]] = True
    is_outside = bool(torch.rand(1, generator=generator) < 0.5) and h * w > 1
    given = ~inside if is_outside else inside
    return given.expand(grid) if not bool(given.all()) else torch.zeros(grid, dtype=torch.bool)


@dataclass(frozen=True)
class SampleNoise:
    """What is drawn for the n tokens of one sample."""

    sigma: Tensor  # [n] noise level
    known: Tensor  # [n] bool: given clean, or almost
    noise: Tensor  # [n, P]


def draw_noise(
    grid: Size, frame: Tensor, values: int, config: FlowConfig, generator: torch.Generator
) -> SampleNoise:
    """Noise of a sample in training: one level for the sample, and some of its frames given.

    Args:
        grid: (t, h, w) in tokens.
        frame: [n] latent frame of each token.
        values: P, the values of a token.
    """
    level = draw_sigma(grid, config, generator)
    known = draw_known(grid, frame, config, generator)
    known_level = 0.0
    if config.condition_sigma and bool(known.any()) and float(torch.rand(1, generator=generator)) < 0.5:
        known_level = config.condition_sigma * float(torch.rand(1, generator=generator))
    noise = torch.randn(len(frame), values, generator=generator)
    return SampleNoise(torch.where(known, known_level, level), known, noise)


def fixed_noise(sigma: float, count: int, values: int, generator: torch.Generator) -> SampleNoise:
    """Noise of a sample in validation: every token at level `sigma`, none given."""
    noise = torch.randn(count, values, generator=generator)
    return SampleNoise(torch.full((count,), sigma), torch.zeros(count, dtype=torch.bool), noise)


@dataclass(frozen=True)
class NoisyTokens:
    """The tensors of a noisy pack that have a row for each token."""

    x: Tensor  # [N, P] noisy latents
    target: Tensor  # [N, P] prediction target
    weight: Tensor  # [N, P] share of real pixels; 0 for padding and given tokens
    coords: Tensor  # [N, 4]
    sigma: Tensor  # [N]
    known: Tensor  # [N] bool

    def each(self, change: Callable[[Tensor], Tensor]) -> NoisyTokens:
        return NoisyTokens(**{name: change(value) for name, value in vars(self).items()})

    def padded(self, count: int) -> NoisyTokens:
        """With `count` more tokens, all zero and therefore without weight in the loss."""
        return self.each(lambda value: torch.cat([value, value.new_zeros(count, *value.shape[1:])]))


@dataclass(frozen=True)
class DeviceNoise:
    """Noise that is drawn where the model is: a sample's follows from its seed, whoever holds it.

    Its numbers are those of the device's own generator: the same for any number of processes, others on a
    device of another kind.

    Attributes:
        seeds, counts: of each sample of the whole pack, and its tokens.
        first: place in the pack of the first token that is here.
    """

    seeds: list[int]
    counts: list[int]
    first: int
    path: str

    def added(self, clean: NoisyTokens) -> NoisyTokens:
        """Tokens with their noise and target; `clean.x` holds them without."""
        noise = torch.zeros_like(clean.x)
        generator, end = torch.Generator(clean.x.device), self.first + len(noise)
        begin = 0
        for seed, count in zip(self.seeds, self.counts, strict=True):
            own = slice(max(begin, self.first), min(begin + count, end))
            if own.start < own.stop:
                drawn = torch.empty(count, noise.shape[1], device=noise.device)
                drawn.normal_(generator=generator.manual_seed(seed))
                noise[own.start - self.first : own.stop - self.first] = drawn[
                    own.start - begin : own.stop - begin
                ]
            begin += count
        x, target = noised(clean.x, noise, clean.sigma[:, None], self.path)
        return replace(clean, x=x, target=target)


@dataclass(frozen=True)
class NoisyPack:
    """A pack as the model reads it: inputs, prediction target and loss weights.

    In a sequence group `tokens` are this process's share. `cu` counts all tokens , `local_cu` those here.
    """

    pack: Pack
    tokens: NoisyTokens
    cu: Tensor  # [S + 1], or [S + 2] with a sample of padding
    local_cu: Tensor
    text: Tensor
    text_cu: Tensor
    weights: list[float]  # of the tokens here, summed by sample
    levels: list[float]  # highest noise level of the tokens here, by sample; 0 where there are none
    layout: Layout
    noise: DeviceNoise | None = None  # drawn where the model is; None: it is in the tokens already

    def pinned(self) -> NoisyPack:
        """The same in pinned memory, from which a GPU copies asynchronously."""
        small = {name: getattr(self, name).pin_memory() for name in ("cu", "text", "text_cu")}
        return replace(self, tokens=self.tokens.each(Tensor.pin_memory), layout=self.layout.pinned(), **small)

    def on(self, device: torch.device) -> NoisyPack:
        """The same on a device, with its noise."""
        tokens = self.tokens.each(lambda value: value.to(device, non_blocking=True))
        if self.noise:
            tokens = self.noise.added(tokens)
        cu, text, text_cu = (
            part.to(device, non_blocking=True) for part in (self.cu, self.text, self.text_cu)
        )
        return replace(self, tokens=tokens, noise=None, cu=cu, text=text, text_cu=text_cu)

    def inputs(self) -> tuple[Any, ...]:
        """The arguments of `DiT.forward`."""
        tokens = self.tokens
        of_tokens = tokens.x, tokens.sigma, tokens.known, tokens.coords
        return *of_tokens, self.cu, self.text, self.text_cu, self.layout

    def error(self, velocity: Tensor) -> Tensor:
        """Weighted squared error of each token [N]; padding and given tokens count 0."""
        tokens = self.tokens
        return ((velocity.float() - tokens.target).pow(2) * tokens.weight).sum(dim=1)


def add_noise(
    pack: Pack,
    config: FlowConfig,
    salt: int = 0,
    sigma: float | None = None,
    group: SequenceGroup | None = None,
    is_on_device: bool = False,
) -> NoisyPack:
    """Draw noise for a pack, as a function of each sample's seed and `salt`.

    Args:
        salt: tells apart several draws for one sample, such as the step.
        sigma: one fixed noise level for all tokens, for validation; None: drawn, with some frames given.
        group: processes that share the pack; each gets an equal share of its tokens.
        is_on_device: leave the noise itself to the device (`NoisyPack.on`); levels and what is given are
            drawn here.
    """
    values = pack.clean.shape[1]
    width = 0 if is_on_device and sigma is None else values
    draws = [fixed_noise(0.0, 0, width, torch.Generator())]  # an empty pack has something to concatenate
    for member, frame in zip(pack.members, pack.frame.split(pack.cu.diff().tolist()), strict=True):
        generator = torch.Generator().manual_seed(member.seed + 1 + salt)
        if sigma is None:
            draws.append(draw_noise(member.grid, frame, width, config, generator))
        else:
            draws.append(fixed_noise(sigma, len(frame), values, generator))
    levels, known, noise = (
        torch.cat([getattr(draw, name) for draw in draws]) for name in ("sigma", "known", "noise")
    )
    is_later = is_on_device and sigma is None
    x, target = (
        (pack.clean, pack.clean[:, :0])
        if is_later
        else noised(pack.clean, noise, levels[:, None], config.path)
    )
    channels = values // pack.valid.shape[1]
    weight = (pack.valid * ~known[:, None]).repeat_interleave(channels, dim=1)  # patches are cell-major
    tokens = NoisyTokens(x, target, weight, pack.coords, levels, known)
    made = _shared_out(pack, tokens, group)
    if not is_later:
        return made
    seeds = [member.seed + 1 + salt + APART for member in pack.members]
    counts = pack.cu.diff().tolist()
    first = group.span(int(made.cu[-1])).start if group else 0
    return replace(made, noise=DeviceNoise(seeds, counts, first, config.path))


def _shared_out(pack: Pack, tokens: NoisyTokens, group: SequenceGroup | None) -> NoisyPack:
    """Pad to at least one token and a multiple of the group's size, then take this process's share."""
    cu, text, text_cu = pack.cu, pack.text, pack.text_cu
    size = group.size if group else 1
    total = -(-max(1, pack.num_tokens) // size) * size
    if padding := total - pack.num_tokens:  # one more sample, with the null text
        tokens = tokens.padded(padding)
        text = torch.cat([text, text.new_zeros(1, text.shape[1])])
        cu, text_cu = torch.cat([cu, cu[-1:] + padding]), torch.cat([text_cu, text_cu[-1:] + 1])
    local_cu = cu
    if group is not None:
        span, local_cu = group.span(total), group.offsets(cu)
        tokens = tokens.each(lambda value: value[span])
    of = torch.repeat_interleave(local_cu.diff())
    levels = torch.zeros(len(local_cu) - 1).scatter_reduce(0, of, tokens.sigma, "amax")
    weights = sums_of(tokens.weight.sum(dim=1), local_cu)
    layout = Layout.of(tokens.sigma, cu, text_cu, group)
    return NoisyPack(pack, tokens, cu, local_cu, text, text_cu, weights.tolist(), levels.tolist(), layout)


def sums_of(values: Tensor, offsets: Tensor) -> Tensor:
    """Sums [S] of [N] values by sample, given the samples' offsets [S + 1], where the values lie."""
    running = torch.cat([values.new_zeros(1, dtype=torch.float64), values.double().cumsum(0)])
    places = offsets.to(values.device, non_blocking=True)
    return running[places[1:]] - running[places[:-1]]
