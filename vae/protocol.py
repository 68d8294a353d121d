"""The protocol of a spacetime VAE: any video to latents, and back to exactly its shape."""

from __future__ import annotations

from typing import Literal, Protocol

import torch
from torch import Tensor

from vae.grid import Extent, Factors, Latent


class Encoding(Protocol):
    """An encoding under way."""

    def push(self, frames: Tensor) -> list[tuple[Tensor, Tensor]]:
        """frames [3, n, H, W] in [-1, 1], n >= 1.

        Returns (mean, logvar) [C, m, h, w] of the latents completed.
        """

    def flush(self) -> list[tuple[Tensor, Tensor]]:
        """What is left, the tail repeated to the grid."""


class Decoding(Protocol):
    """A decoding under way."""

    def push(self, z: Tensor) -> list[Tensor]:
        """z [C, n, h, w]. Returns frames [3, m, H, W] in [-1, 1]."""

    def flush(self) -> list[Tensor]:
        """The frames still owed."""


class VAE(Protocol):
    """A spacetime VAE.

    Attributes:
        factors: frames, rows, columns of pixels in a latent cell.
        latent_channels: channels of a latent.
        is_strictly_causal: latents of a prefix are the prefix of the latents.
        chunk_rule: how latents depend on the way a clip is cut: "any" (they do not), "whole" (a clip is
            encoded in one piece), or the pieces that the model was made for.
        fingerprint: of weights and settings; empty for weights that were not loaded.
    """

    @property
    def factors(self) -> Factors: ...
    @property
    def latent_channels(self) -> int: ...

    is_strictly_causal: bool
    chunk_rule: str
    fingerprint: str

    def encode(self, video: Tensor, fps: float = 0.0) -> Latent:
        """Posterior of one video [3, T, H, W] in [-1, 1], any size >= 1."""

    def encode_many(self, videos: Tensor) -> list[tuple[Tensor, Tensor]]:
        """(mean, logvar) [C, t, h, w] of each of several short videos [B, 3, T, H, W] in [-1, 1]."""

    def decode(self, latent: Latent) -> Tensor:
        """The posterior mean as video [3, T, H, W] in [-1, 1], exactly of `latent.extent`."""

    def stream(self) -> Encoding:
        """An encoding that takes frames in pieces of any size."""

    def decode_stream(self, extent: Extent, first_type: Literal["frame", "group"] = "frame") -> Decoding:
        """A decoding that takes latents in pieces of any size."""

    def to(self, device: torch.device) -> VAE:
        """The model on another device."""
