"""Wan's VAE, streamed exactly through its own convolution caches."""

from __future__ import annotations

from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from manifests.errors import UsageError
from vae.grid import Extent, Latent
from vae.published.adapter import Published


class PublishedWan(Published):
    """Wan 2.1 and 2.2, streamed: one set of convolution caches for each stream, group by group.

    The caches that diffusers keeps inside the model are kept here.
    """

    @torch.no_grad()
    def encode(self, video: Tensor, fps: float = 0.0) -> Latent:
        """Posterior of one video [3, T, H, W] in [-1, 1], a group at a time."""
        stream = WanEncoding(self)
        pieces = [*stream.push(video), *stream.flush()]
        mean, logvar = (torch.cat(part, dim=1) for part in zip(*pieces, strict=True))
        return Latent(mean, logvar, Extent(*video.shape[1:]), self.factors, fingerprint=self.fingerprint)

    @torch.no_grad()
    def decode(self, latent: Latent) -> Tensor:
        """The posterior mean as video [3, T, H, W] in [-1, 1], exactly of `latent.extent`, group by group."""
        stream = self.decode_stream(latent.extent, latent.first_type)
        return torch.cat([*stream.push(latent.mean), *stream.flush()], dim=1)

    def stream(self) -> WanEncoding:
        """An encoder with memory constant in T."""
        return WanEncoding(self)

    def decode_stream(self, extent: Extent, first_type: Literal["frame", "group"] = "frame") -> WanDecoding:
        """A decoder with memory constant in T."""
        if first_type != "frame":
            raise UsageError(
                "AutoencoderKLWan",
                "cannot decode a slice from the middle of a clip",
                "Decode the clip from its beginning.",
            )
        return WanDecoding(self, extent)


class WanEncoding:
    """First one frame, then groups of four; each through the encoder with this stream's caches."""

    def __init__(self, vae: PublishedWan) -> None:
        self._vae, model = vae, vae.model
        model.clear_cache()
        self._caches: list[Any] = [None] * model._enc_conv_num
        self._pending: Tensor | None = None
        self._last: Tensor | None = None

    def _group(self, group: Tensor) -> tuple[Tensor, Tensor]:
        from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

        model, x = self._vae.model, group[None]
        if model.config.patch_size is not None:
            x = patchify(x, patch_size=model.config.patch_size)
        mean, logvar = model.quant_conv(model.encoder(x, feat_cache=self._caches, feat_idx=[0])).chunk(
            2, dim=1
        )
        return mean[0], logvar[0].clamp(-30, 20)

    @torch.no_grad()
    def push(self, frames: Tensor) -> list[tuple[Tensor, Tensor]]:
        _, f_h, f_w = self._vae.factors
        x = F.pad(frames, (0, -frames.shape[3] % f_w, 0, -frames.shape[2] % f_h), mode="replicate")
        out = []
        if self._pending is None:
            out.append(self._group(x[:, :1]))
            self._pending, self._last, x = x[:, :0], x[:, :1], x[:, 1:]
        if x.shape[1]:
            self._last = x[:, -1:].clone()
        x = torch.cat([self._pending, x], dim=1)
        whole = x.shape[1] // 4 * 4
        out += [self._group(x[:, i : i + 4]) for i in range(0, whole, 4)]
        self._pending = x[:, whole:].clone()
        return out

    @torch.no_grad()
    def flush(self) -> list[tuple[Tensor, Tensor]]:
        if self._pending is None or self._last is None or not self._pending.shape[1]:
            return []
        group = torch.cat([self._pending, self._last.expand(-1, 4 - self._pending.shape[1], -1, -1)], dim=1)
        self._pending = self._pending[:, :0]
        return [self._group(group)]


class WanDecoding:
    """Each latent through the decoder with this stream's caches."""

    def __init__(self, vae: PublishedWan, extent: Extent) -> None:
        self._vae, self._extent, self._left, self._is_first = vae, extent, extent.num_frames, True
        vae.model.clear_cache()
        self._caches: list[Any] = [None] * vae.model._conv_num

    @torch.no_grad()
    def push(self, z: Tensor) -> list[Tensor]:
        from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

        model, out = self._vae.model, []
        x = model.post_quant_conv(z[None])
        for i in range(x.shape[2]):
            first = {"first_chunk": True} if self._is_first else {}
            video = model.decoder(x[:, :, i : i + 1], feat_cache=self._caches, feat_idx=[0], **first)
            self._is_first = False
            if model.config.patch_size is not None:
                video = unpatchify(video, patch_size=model.config.patch_size)
            frames = video[0, :, : self._left, : self._extent.height_px, : self._extent.width_px].clamp(-1, 1)
            self._left -= frames.shape[1]
            if frames.shape[1]:
                out.append(frames)
        return out

    def flush(self) -> list[Tensor]:
        return []
