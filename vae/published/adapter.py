"""Published VAEs of diffusers behind this project's protocol: any shape in, exactly that shape out.

Every one of them takes 1 + k * f_t frames and whole cells of pixels; what lacks is filled by repeating the
last frame, the right column and the bottom row, and cut off after decoding. So no frame is dropped and no
border cropped, which is what their own `encode` does in silence.

`AutoencoderKLWan` is streamed exactly through its own convolution caches, one group at a time, in constant
memory. The others are encoded whole ("whole"), or in the
pieces that their own code cuts ("8 frames"): for them a stream collects the clip first, up to
`MAX_WHOLE_PIXELS`, and refuses beyond.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifests.errors import UsageError
from media.errors import MediaError
from vae.grid import Extent, Latent, latent_size
from vae.published.factors import factors_of

MAX_WHOLE_PIXELS = 160 * 1280 * 720
"""Frames x height x width beyond which a clip is not collected to be encoded whole."""


@dataclass(frozen=True)
class Family:
    """What is known of a class of diffusers.

    Attributes:
        is_strictly_causal: measured by the tests on every class: latents of a prefix are the prefix of the
            latents.
        chunk_rule: how its own code cuts a clip.
    """

    is_strictly_causal: bool
    chunk_rule: str


FAMILIES = {
    "AutoencoderKLWan": Family(True, "any"),
    "AutoencoderKLLTXVideo": Family(True, "whole"),
    "AutoencoderKLHunyuanVideo15": Family(True, "whole"),
    "AutoencoderKLCosmos": Family(True, "whole"),
    "AutoencoderKLCogVideoX": Family(False, "8 frames"),
    "AutoencoderKLHunyuanVideo": Family(False, "whole"),
}


class Published(nn.Module):
    """A published VAE that is encoded whole."""

    def __init__(self, model: Any, family: Family) -> None:
        super().__init__()
        self.model, self.factors = model, factors_of(model)
        self.is_strictly_causal, self.chunk_rule, self.fingerprint = (
            family.is_strictly_causal,
            family.chunk_rule,
            "",
        )
        for name in ("use_tiling", "use_slicing", "use_framewise_encoding", "use_framewise_decoding"):
            if hasattr(model, name):  # blended tiles and windows give other numbers than the whole
                setattr(model, name, False)

    @property
    def latent_channels(self) -> int:
        config = self.model.config
        return int(getattr(config, "latent_channels", None) or config.z_dim)

    def padded(self, video: Tensor) -> Tensor:
        """[3, T, H, W] to [1, 3, 1 + k f_t, f h, f w] by repetition."""
        factor_t, f_h, f_w = self.factors
        space = F.pad(video, (0, -video.shape[3] % f_w, 0, -video.shape[2] % f_h), mode="replicate")
        missing = -(space.shape[1] - 1) % factor_t
        return torch.cat([space, space[:, -1:].expand(-1, missing, -1, -1)], dim=1)[None]

    @torch.no_grad()
    def _posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        found = self.model.encode(x).latent_dist
        if not hasattr(found, "logvar"):  # Cosmos is no VAE: it gives one latent
            return found.mode(), torch.full_like(found.mode(), -30.0)
        return found.mean, found.logvar.expand_as(found.mean)

    @torch.no_grad()
    def encode(self, video: Tensor, fps: float = 0.0) -> Latent:
        """Posterior of one video [3, T, H, W] in [-1, 1].

        Raises:
            UsageError: the model's own code gave another number of cells than it says it does.
        """
        extent = Extent(*video.shape[1:])
        mean, logvar = self._posterior(self.padded(video))
        expected = latent_size(extent, self.factors)
        if tuple(mean.shape[2:]) != expected:
            raise UsageError(
                type(self.model).__name__,
                f"gave {tuple(mean.shape[2:])} cells for {tuple(extent)}, not {expected}",
                "Its settings do not fit.",
            )
        return Latent(mean[0], logvar[0], extent, self.factors, fingerprint=self.fingerprint)

    def encode_many(self, videos: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(mean, logvar) [C, t, h, w] of each of several short videos [B, 3, T, H, W] in [-1, 1]."""
        latents = [self.encode(video) for video in videos]
        return [(latent.mean, latent.logvar) for latent in latents]

    @torch.no_grad()
    def _pixels(self, z: Tensor) -> Tensor:
        found = self.model.decode(z)
        return found.sample if hasattr(found, "sample") else found[0]

    @torch.no_grad()
    def decode(self, latent: Latent) -> Tensor:
        """The posterior mean as video [3, T, H, W] in [-1, 1], exactly of `latent.extent`."""
        if latent.first_type != "frame":
            raise UsageError(
                type(self.model).__name__,
                "cannot decode a slice from the middle of a clip",
                "Decode the clip from its beginning.",
            )
        t, h, w = latent.extent
        video = self._pixels(latent.mean[None])[0].clamp(-1, 1)
        if video.shape[1] < t or video.shape[2] < h or video.shape[3] < w:
            raise UsageError(
                type(self.model).__name__,
                f"gave {tuple(video.shape[1:])} of {t} x {h} x {w}",
                "Its settings do not fit.",
            )
        return video[:, :t, :h, :w]

    def stream(self) -> Any:
        """A stream that collects the clip and encodes it whole at the flush."""
        return CollectedEncoding(self)

    def decode_stream(self, extent: Extent, first_type: Literal["frame", "group"] = "frame") -> Any:
        """A stream that collects the latents and decodes them whole at the flush."""
        return CollectedDecoding(self, extent, first_type)


class CollectedEncoding:
    """For models whose latents are of the whole clip only."""

    def __init__(self, vae: Published) -> None:
        self._vae, self._parts, self._pixels = vae, list[Tensor](), 0

    def push(self, frames: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Keeps the frames.

        Raises:
            MediaError: the clip is too large to be encoded in one piece.
        """
        self._pixels += frames[0].numel()
        if self._pixels > MAX_WHOLE_PIXELS:
            raise MediaError(
                "too_large",
                f"{type(self._vae.model).__name__} encodes a clip in one piece, and this one is too large "
                "for that; cut clips shorter (curate.max_clip_s), lower encode.max_pixels, or use a VAE that "
                "streams (ours, Wan)",
            )
        self._parts.append(frames)
        return []

    def flush(self) -> list[tuple[Tensor, Tensor]]:
        """All latents at once."""
        if not self._parts:
            return []
        latent = self._vae.encode(torch.cat(self._parts, dim=1))
        self._parts = []
        return [(latent.mean, latent.logvar)]


class CollectedDecoding:
    """For models that decode whole clips only."""

    def __init__(self, vae: Published, extent: Extent, first_type: Literal["frame", "group"]) -> None:
        self._vae, self._extent, self._first_type, self._parts = vae, extent, first_type, list[Tensor]()

    def push(self, z: Tensor) -> list[Tensor]:
        self._parts.append(z)
        return []

    def flush(self) -> list[Tensor]:
        z = torch.cat(self._parts, dim=1)
        return [
            self._vae.decode(
                Latent(z, torch.zeros_like(z), self._extent, self._vae.factors, self._first_type)
            )
        ]
