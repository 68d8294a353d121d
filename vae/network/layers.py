"""Layers whose outputs depend on a finite past and neighbourhood, so streaming and tiling are exact.

Shape legend: B batch, C channels, T frames, H W pixels or cells.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

Cache = dict[nn.Module, Tensor]
"""The frames that each convolution remembers between the pieces of a stream."""


def patchify(x: Tensor, p_t: int, p: int) -> Tensor:
    """[B, C, T, H, W] to [B, C*p_t*p*p, T/p_t, H/p, W/p]."""
    b, c, t, h, w = x.shape
    x = x.view(b, c, t // p_t, p_t, h // p, p, w // p, p).permute(0, 1, 3, 5, 7, 2, 4, 6)
    return x.reshape(b, c * p_t * p * p, t // p_t, h // p, w // p)


def unpatchify(x: Tensor, p_t: int, p: int) -> Tensor:
    """The inverse of `patchify`."""
    b, cpp, t, h, w = x.shape
    c = cpp // (p_t * p * p)
    x = x.view(b, c, p_t, p, p, t, h, w).permute(0, 1, 5, 2, 6, 3, 7, 4)
    return x.reshape(b, c, t * p_t, h * p, w * p)


def bias_of(layer: nn.Conv3d) -> Tensor:
    assert layer.bias is not None
    return layer.bias


class CausalConv(nn.Module):
    """A 3x3x3 convolution that sees only the past in time.

    Before the first frame lies zero memory; `cache` carries memory between pieces.
    """

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(c_in, c_out, 3, padding=(0, 1, 1))

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        past = None if cache is None else cache.get(self)
        if past is None:
            past = x.new_zeros(x.shape[0], x.shape[1], 2, *x.shape[3:])
        x = torch.cat([past, x], dim=2)
        if cache is not None:
            cache[self] = x[:, :, -2:].clone()
        return self.conv(x)


class PositionNorm(nn.Module):
    """RMS norm over channels at each position alone, so no position knows of another through it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(1, keepdim=True) + 1e-6) * self.gain.view(1, -1, 1, 1, 1)


class Block(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))))))."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = PositionNorm(channels), CausalConv(channels, channels)
        self.norm2, self.conv2 = PositionNorm(channels), CausalConv(channels, channels)
        nn.init.zeros_(self.conv2.conv.weight)
        nn.init.zeros_(bias_of(self.conv2.conv))

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)), cache)
        return x + self.conv2(F.silu(self.norm2(h)), cache)


class Blocks(nn.ModuleList):
    """Residual blocks in a row; with `is_checkpointed` activations are recomputed in the backward pass."""

    is_checkpointed = False

    def __init__(self, width: int, count: int) -> None:
        super().__init__([Block(width) for _ in range(count)])

    def forward(self, x: Tensor, cache: Cache | None = None) -> Tensor:
        for block in self:
            x = (
                checkpoint(block, x, use_reentrant=False)
                if self.is_checkpointed and cache is None and self.training
                else block(x, cache)
            )
        return x
