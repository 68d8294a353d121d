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

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manifests.errors import IntegrityError, UsageError
from media.errors import MediaError
from vae.folder import weights_digest
from vae.grid import Extent, Factors, Latent, latent_size

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


def load_published(folder: Path, record: dict[str, Any]) -> Published:
    """A VAE in diffusers' layout from a local folder.

    Raises:
        UsageError: it is of a class that cannot be used exactly, or was made for other factors than its class
            can do.
        IntegrityError: its weights are not there, damaged, or not finite.
    """
    import diffusers

    name = record["_class_name"]
    if name not in FAMILIES:
        raise UsageError(
            str(folder), f"holds a {name}, for which there is no adapter", f"Known: {', '.join(FAMILIES)}."
        )
    try:
        model = getattr(diffusers, name).from_pretrained(
            folder,
            torch_dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
        )
    except (OSError, RuntimeError, TypeError, ValueError, KeyError) as error:
        what = f"cannot be loaded: {(str(error).splitlines() or [type(error).__name__])[0]}"
        raise IntegrityError(str(folder), what, "Fetch the whole folder again.") from error
    if wrong := next((key for key, value in model.named_parameters() if not value.isfinite().all()), ""):
        raise IntegrityError(
            str(folder), f"holds numbers in {wrong} that are not finite", "Fetch the whole folder again."
        )
    rule = hashlib.sha256(f"{weights_digest(folder)} {FAMILIES[name].chunk_rule}".encode()).hexdigest()
    made = published(model)
    made.fingerprint = rule
    return made


def published(model: Any) -> Published:
    """The adapter of a model that is in memory."""
    name = type(model).__name__
    if name not in FAMILIES:
        raise UsageError(name, "has no adapter", f"Known: {', '.join(FAMILIES)}.")
    return (PublishedWan if name == "AutoencoderKLWan" else Published)(
        model.eval().requires_grad_(False), FAMILIES[name]
    )


def _factors(model: Any) -> Factors:
    """(f_t, f_h, f_w) of a model, from its configuration, whose names differ by class."""
    config, name = model.config, type(model).__name__
    if name == "AutoencoderKLWan":
        halvings = len(config.dim_mult) - 1
        time = 2 ** sum(config.temperal_downsample)
        if time != 4:  # diffusers cuts groups of four whatever the configuration says
            raise UsageError(
                name,
                f"compresses time {time} times, which diffusers' code cannot do",
                "Its groups are of four frames.",
            )
        return time, 2**halvings * (config.patch_size or 1), 2**halvings * (config.patch_size or 1)
    if name == "AutoencoderKLLTXVideo":
        space, time = model.spatial_compression_ratio, model.temporal_compression_ratio
    elif name == "AutoencoderKLCogVideoX":
        space, time = 2 ** (len(config.block_out_channels) - 1), int(config.temporal_compression_ratio)
    else:
        space, time = int(config.spatial_compression_ratio), int(config.temporal_compression_ratio)
    return int(time), int(space), int(space)


class Published(nn.Module):
    """A published VAE that is encoded whole."""

    def __init__(self, model: Any, family: Family) -> None:
        super().__init__()
        self.model, self.factors = model, _factors(model)
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
