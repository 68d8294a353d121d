"""A small strictly causal spacetime VAE: by default 4x in time, 8x8 in space, 16 channels.

Shape legend: B batch, C channels, T frames, H W pixels, t h w latent cells, f_t f f the factors.

Why this shape: a patchify front end makes the first layer cheap; no attention and a norm per position make
every output depend on a finite past and neighbourhood, so streaming in pieces and tiling with a halo equal
the whole; a linear highway from the blocks of a cell, initialised with their principal components, starts
training at PCA quality. The residual linear path follows WF-VAE (arXiv:2411.17459) and DC-AE
(arXiv:2410.10733).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifests.cli.ranges import check_ranges
from manifests.errors import UsageError
from vae.grid import Extent, Factors, Latent, latent_size, pad_to_grid
from vae.network.layers import Blocks, Cache, CausalConv, bias_of, patchify, unpatchify
from vae.network.streaming import DecodeStream, EncodeStream

_SIZE = (1, 1 << 16, True)


@dataclass(frozen=True, kw_only=True)
class VAEConfig:
    """Sizes of the network."""

    latent_channels: int = 16
    """Channels of a latent cell."""
    widths: tuple[int, int, int] = (32, 64, 96)
    """Channels at half the factor in space with every frame, at the whole factor with some of the frames, and
    at the latent's grid."""
    num_blocks: int = 1
    """Residual blocks per stage of the encoder; the decoder has one more."""
    factor_t: int = 4
    """Frames in a latent cell: 2, 4 or 8."""
    factor_px: int = 8
    """Rows and columns of pixels in a latent cell: 4, 8, 16 or 32."""

    def __post_init__(self) -> None:
        check_ranges("--model.", self, dict.fromkeys(("latent_channels", "widths", "num_blocks"), _SIZE))
        if self.factor_t not in (2, 4, 8) or self.factor_px not in (4, 8, 16, 32):
            raise UsageError(
                f"VAE factors {self.factor_t}x{self.factor_px}x{self.factor_px}",
                "are not offered",
                "Time: 2, 4, 8; space: 4, 8, 16, 32.",
            )

    def to_dict(self) -> dict:
        return asdict(self)

    @staticmethod
    def from_dict(values: dict) -> VAEConfig:
        return VAEConfig(**(values | {"widths": tuple(values["widths"])}))


class CausalVAE(nn.Module):
    """The project's own VAE.

    `encode` and `decode` are total: any T >= 1, H >= 1, W >= 1, and back to exactly that size.
    """

    is_strictly_causal = True
    chunk_rule = "any"
    """Latents do not depend on how a clip is cut into pieces or tiles."""
    fingerprint = ""

    def __init__(self, config: VAEConfig | None = None) -> None:
        super().__init__()
        self.config = config or VAEConfig()
        a, b, c = self.config.widths
        z, n = self.config.latent_channels, self.config.num_blocks
        self.patch_px, self.down_t = self.config.factor_px // 2, self.config.factor_t // 2
        pixels, cell = 3 * self.patch_px**2, 3 * self.config.factor_t * self.config.factor_px**2

        self.enc_in, self.enc1, self.down1 = (
            CausalConv(pixels, a),
            Blocks(a, n),
            nn.Conv3d(a * 4 * self.down_t, b, 1),
        )
        self.enc2, self.down2, self.enc3 = Blocks(b, n), nn.Conv3d(b * 2, c, 1), Blocks(c, n)
        self.enc_out = nn.Conv3d(c, 2 * z, 1)
        self.dec_in, self.dec3, self.up2 = CausalConv(z, c), Blocks(c, n + 1), nn.Conv3d(c, b * 2, 1)
        self.dec2, self.up1, self.dec1 = Blocks(b, n + 1), nn.Conv3d(b, a * 4 * self.down_t, 1), Blocks(a, n)
        self.dec_out = CausalConv(a, pixels)
        self.linear_in, self.linear_out = nn.Conv3d(cell, z, 1), nn.Conv3d(z, cell, 1)
        for layer in (self.enc_out, self.dec_out.conv):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(bias_of(layer))
        with torch.no_grad():
            bias_of(self.enc_out)[z:] = -6.0  # a small starting variance

    @property
    def factors(self) -> Factors:
        return self.config.factor_t, self.config.factor_px, self.config.factor_px

    @property
    def latent_channels(self) -> int:
        return self.config.latent_channels

    @property
    def encode_halo(self) -> int:
        """Cells around a cell whose pixels its latent can see."""
        n = self.config.num_blocks
        return -(-(1 + 2 * n) // 2) + 4 * n

    @property
    def decode_halo(self) -> int:
        """Cells around a cell that its pixels can see."""
        n = self.config.num_blocks
        return 1 + 4 * (n + 1) + -(-(1 + 2 * n) // 2)

    def checkpoint_blocks(self, is_on: bool = True) -> None:
        """Save memory in training at the price of a second forward pass."""
        for blocks in (self.enc1, self.enc2, self.enc3, self.dec1, self.dec2, self.dec3):
            blocks.is_checkpointed = is_on

    @torch.no_grad()
    def init_highway(self, blocks: Tensor) -> None:
        """Set the linear highway to the whitened principal components of training cells.

        Cells are [N, 3 * f_t * f * f], as `cells` gives them.
        """
        z = self.config.latent_channels
        mean = blocks.mean(0)
        _, scale, axes = torch.linalg.svd(blocks - mean, full_matrices=False)
        axes, std = axes[:z], scale[:z] / len(blocks) ** 0.5
        self.linear_in.weight.copy_((axes / std[:, None]).view_as(self.linear_in.weight))
        bias_of(self.linear_in).copy_(-(axes @ mean) / std)
        self.linear_out.weight.copy_((axes * std[:, None]).t().reshape(self.linear_out.weight.shape))
        bias_of(self.linear_out).copy_(mean)

    def cells(self, x: Tensor) -> Tensor:
        """Pixels [B, 3, f_t*t, f*h, f*w] by latent cell: [B, 3 * f_t * f * f, t, h, w]."""
        return patchify(x, self.config.factor_t, self.config.factor_px)

    def encode_groups(self, x: Tensor, cache: Cache | None = None) -> tuple[Tensor, Tensor]:
        """Posterior of whole groups of frames [B, 3, f_t*t, f*h, f*w]: mean and logvar [B, C, t, h, w]."""
        h = self.enc1(self.enc_in(patchify(x, 1, self.patch_px), cache), cache)
        h = self.enc2(self.down1(patchify(h, self.down_t, 2)), cache)
        h = self.enc3(self.down2(patchify(h, 2, 1)), cache)
        mean, logvar = self.enc_out(F.silu(h)).chunk(2, dim=1)
        return mean + self.linear_in(self.cells(x)), logvar.clamp(-20, 10)

    def decode_groups(self, z: Tensor, cache: Cache | None = None) -> Tensor:
        """Whole groups of frames. z: [B, C, t, h, w]; returns [B, 3, f_t*t, f*h, f*w], not clamped."""
        h = self.dec3(self.dec_in(z, cache), cache)
        h = self.dec2(unpatchify(self.up2(h), 2, 1), cache)
        h = self.dec1(unpatchify(self.up1(h), self.down_t, 2), cache)
        highway = unpatchify(self.linear_out(z), self.config.factor_t, self.config.factor_px)
        return unpatchify(self.dec_out(F.silu(h), cache), 1, self.patch_px) + highway

    @torch.no_grad()
    def encode(self, video: Tensor, fps: float = 0.0) -> Latent:
        """Posterior of one video [3, T, H, W] in [-1, 1], any size >= 1.

        `fps` is part of the protocol; this model does not need it.
        """
        stream = self.stream()
        pieces = [*stream.push(video), *stream.flush()]
        mean, logvar = (torch.cat(part, dim=1) for part in zip(*pieces, strict=True))
        return Latent(mean, logvar, Extent(*video.shape[1:]), self.factors, fingerprint=self.fingerprint)

    @torch.no_grad()
    def encode_many(self, videos: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(mean, logvar) [C, t, h, w] of some short videos [B, 3, T, H, W] in [-1, 1], in one pass."""
        mean, logvar = self.encode_groups(pad_to_grid(videos, self.factors))
        return list(zip(mean, logvar, strict=True))

    @torch.no_grad()
    def decode(self, latent: Latent) -> Tensor:
        """The posterior mean as video [3, T, H, W] in [-1, 1], exactly of `latent.extent`."""
        found, expected = (
            tuple(latent.mean.shape),
            (self.latent_channels, *latent_size(latent.extent, self.factors)),
        )
        if latent.first_type == "frame" and found != expected:
            raise UsageError(
                f"latent of shape {found}",
                f"is not of this VAE, whose latent of {tuple(latent.extent)} is {expected}",
            )
        stream = self.decode_stream(latent.extent, latent.first_type)
        return torch.cat([*stream.push(latent.mean), *stream.flush()], dim=1)

    def stream(self, tile_px: int | None = None) -> EncodeStream:
        """An encoder that takes frames in pieces of any size, with memory constant in T.

        Args:
            tile_px: side of the tiles a large frame is encoded in, with a halo, to the same latents; None: as
                memory asks.
        """
        return EncodeStream(self.encode_groups, self.factors, self.encode_halo, tile_px)

    def decode_stream(
        self, extent: Extent, first_type: Literal["frame", "group"] = "frame", tile_px: int | None = None
    ) -> DecodeStream:
        """A decoder that takes latents in pieces of any size and gives the frames of `extent`.

        Its memory is constant in T.
        """
        return DecodeStream(self.decode_groups, self.factors, self.decode_halo, extent, first_type, tile_px)
