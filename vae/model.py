"""A small strictly causal spacetime VAE: 4x in time, 8x8 in space, 16 channels.

Shape legend: B batch, C channels, T frames, H W pixels, t h w latent cells.

Why this shape: a patchify front end makes the first layer cheap; no attention and a norm per position make every output depend on a finite past and
neighbourhood, so streaming in pieces equals the whole; a linear highway from 4x8x8 blocks, initialised with their principal components, starts training at
PCA quality. The residual linear path follows WF-VAE (arXiv:2411.17459) and DC-AE (arXiv:2410.10733).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vae.grid import Extent, Latent

Cache = dict[nn.Module, Tensor]
PIECE_PIXELS = 2 << 20  # frames x height x width that go through the network at once when streaming


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Sizes of the network."""

    latent_channels: int = 16
    widths: tuple[int, int, int] = (32, 64, 96)
    """Channels at 1/4, at 1/8 with half the frames, and at 1/8 with a quarter of them."""
    num_blocks: int = 1
    """Residual blocks per stage of the encoder; the decoder has one more."""

    def to_dict(self) -> dict:
        return asdict(self)


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
    """A convolution's bias, which all of ours have."""
    assert layer.bias is not None
    return layer.bias


class CausalConv(nn.Module):
    """A 3x3x3 convolution that sees only the past in time. Before the first frame lies zero memory; `cache` carries memory between pieces."""

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


def run(blocks: nn.ModuleList, x: Tensor, cache: Cache | None) -> Tensor:
    for block in blocks:
        x = block(x, cache)
    return x


class CausalVAE(nn.Module):
    """The project's own VAE. `encode` and `decode` are total: any T >= 1, H >= 1, W >= 1, and back to exactly that size."""

    factors = (4, 8, 8)
    is_strictly_causal = True

    def __init__(self, config: VAEConfig | None = None) -> None:
        super().__init__()
        self.config = config or VAEConfig()
        a, b, c = self.config.widths
        z, n = self.config.latent_channels, self.config.num_blocks

        def blocks(width: int, count: int) -> nn.ModuleList:
            return nn.ModuleList([Block(width) for _ in range(count)])

        self.enc_in, self.enc1, self.down1 = CausalConv(48, a), blocks(a, n), nn.Conv3d(a * 8, b, 1)
        self.enc2, self.down2, self.enc3 = blocks(b, n), nn.Conv3d(b * 2, c, 1), blocks(c, n)
        self.enc_out = nn.Conv3d(c, 2 * z, 1)
        self.dec_in, self.dec3, self.up2 = CausalConv(z, c), blocks(c, n + 1), nn.Conv3d(c, b * 2, 1)
        self.dec2, self.up1, self.dec1 = blocks(b, n + 1), nn.Conv3d(b, a * 8, 1), blocks(a, n)
        self.dec_out = CausalConv(a, 48)
        self.linear_in, self.linear_out = nn.Conv3d(768, z, 1), nn.Conv3d(z, 768, 1)
        for layer in (self.enc_out, self.dec_out.conv):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(bias_of(layer))
        with torch.no_grad():
            bias_of(self.enc_out)[z:] = -6.0  # a small starting variance

    @torch.no_grad()
    def init_highway(self, blocks: Tensor) -> None:
        """Set the linear highway to the whitened principal components of training blocks [N, 768] (`patchify(video, 4, 8)` cells)."""
        z = self.config.latent_channels
        mean = blocks.mean(0)
        _, scale, axes = torch.linalg.svd(blocks - mean, full_matrices=False)
        axes, std = axes[:z], scale[:z] / len(blocks) ** 0.5
        self.linear_in.weight.copy_((axes / std[:, None]).view(z, 768, 1, 1, 1))
        bias_of(self.linear_in).copy_(-(axes @ mean) / std)
        self.linear_out.weight.copy_((axes * std[:, None]).t().reshape(768, z, 1, 1, 1))
        bias_of(self.linear_out).copy_(mean)

    def encode_groups(self, x: Tensor, cache: Cache | None = None) -> tuple[Tensor, Tensor]:
        """Posterior of whole 4-frame groups. x: [B, 3, 4t, 8h, 8w]; returns mean and logvar [B, C, t, h, w]."""
        h = run(self.enc1, self.enc_in(patchify(x, 1, 4), cache), cache)
        h = run(self.enc2, self.down1(patchify(h, 2, 2)), cache)
        h = run(self.enc3, self.down2(patchify(h, 2, 1)), cache)
        mean, logvar = self.enc_out(F.silu(h)).chunk(2, dim=1)
        return mean + self.linear_in(patchify(x, 4, 8)), logvar.clamp(-20, 10)

    def decode_groups(self, z: Tensor, cache: Cache | None = None) -> Tensor:
        """Whole 4-frame groups of pixels. z: [B, C, t, h, w]; returns [B, 3, 4t, 8h, 8w], not clamped."""
        h = run(self.dec3, self.dec_in(z, cache), cache)
        h = run(self.dec2, unpatchify(self.up2(h), 2, 1), cache)
        h = run(self.dec1, unpatchify(self.up1(h), 2, 2), cache)
        return unpatchify(self.dec_out(F.silu(h), cache), 1, 4) + unpatchify(self.linear_out(z), 4, 8)

    @torch.no_grad()
    def encode(self, video: Tensor) -> Latent:
        """Posterior of one video [3, T, H, W] in [-1, 1], any size >= 1."""
        stream = self.stream()
        pieces = [*stream.push(video), *stream.flush()]
        mean, logvar = (torch.cat(part, dim=1) for part in zip(*pieces, strict=True))
        return Latent(mean, logvar, Extent(*video.shape[1:]))

    @torch.no_grad()
    def decode(self, latent: Latent) -> Tensor:
        """The posterior mean as video [3, T, H, W] in [-1, 1], exactly of `latent.extent`. Working memory does not grow with T."""
        t, h, w = latent.extent
        cache: Cache = {}
        step = max(1, PIECE_PIXELS // (4 * h * w))
        pieces = [self.decode_groups(latent.mean[None, :, i : i + step], cache)[0, :, :, :h, :w] for i in range(0, latent.mean.shape[1], step)]
        pieces[0] = pieces[0][:, 3:]
        return torch.cat(pieces, dim=1)[:, :t].clamp(-1, 1)

    def stream(self) -> EncodeStream:
        """An encoder that takes frames in pieces of any size, with memory constant in T."""
        return EncodeStream(self.encode_groups)


class EncodeStream:
    """Push frames, get latents as soon as their four frames are there, flush at the end. Equals the whole encoding."""

    def __init__(self, encode_groups: Callable[[Tensor, Cache], tuple[Tensor, Tensor]]) -> None:
        self._encode = encode_groups
        self._cache: Cache = {}
        self._pending: Tensor | None = None

    def _emit(self, groups: Tensor) -> list[tuple[Tensor, Tensor]]:
        out = []
        step = 4 * max(1, PIECE_PIXELS // (4 * groups.shape[2] * groups.shape[3]))  # bounded memory, whatever the piece and the picture
        for i in range(0, groups.shape[1], step):
            mean, logvar = self._encode(groups[None, :, i : i + step], self._cache)
            out.append((mean[0], logvar[0]))
        return out

    @torch.no_grad()
    def push(self, frames: Tensor) -> list[tuple[Tensor, Tensor]]:
        """frames [3, n, H, W] in [-1, 1], n >= 1. Returns (mean, logvar) [C, n, h, w] of the latents completed."""
        height, width = frames.shape[2:]
        padded = F.pad(frames, (0, -width % 8, 0, -height % 8), mode="replicate")
        if self._pending is None:
            padded = torch.cat([padded[:, :1].expand(-1, 3, -1, -1), padded], dim=1)
        else:
            padded = torch.cat([self._pending, padded], dim=1)
        whole = padded.shape[1] // 4 * 4
        self._pending = padded[:, whole:]
        self._last = padded[:, -1:]
        return self._emit(padded[:, :whole])

    @torch.no_grad()
    def flush(self) -> list[tuple[Tensor, Tensor]]:
        """The latent of the frames left over, padded by repeating the last one; nothing if none are."""
        if self._pending is None or self._pending.shape[1] == 0:
            return []
        missing = 4 - self._pending.shape[1]
        groups = torch.cat([self._pending, self._last.expand(-1, missing, -1, -1)], dim=1)
        self._pending = self._pending[:, :0]
        return self._emit(groups)
