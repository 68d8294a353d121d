"""Spacetime patches: a latent of any shape to tokens with true coordinates, and back.

Token order: time, then rows, then columns. Coordinates: seconds from the clip's start (the centre of the
frames a token stands for), and rows and columns in tokens from the picture's centre. So 16 and 30 fps clips,
wide and tall ones, live in one space with no largest size.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.data.samples import Sample, Size
from vae.grid import Extent, Factors, validity

FACTORS: Factors = (4, 8, 8)


def padded(latent: Tensor, patch: Size) -> Tensor:
    """[C, t, h, w] padded to whole patches by edge replication."""
    pad = [(-side) % size for side, size in zip(latent.shape[1:], patch, strict=True)]
    return F.pad(latent[None], (0, pad[2], 0, pad[1], 0, pad[0]), mode="replicate")[0] if any(pad) else latent


def patchify(latent: Tensor, patch: Size) -> tuple[Tensor, Size]:
    """[C, t, h, w] to tokens [n, cells * C] (cell-major) and the token grid (t, h, w)."""
    cells = _cells(latent, patch)
    return cells.reshape(cells.shape[:3].numel(), -1), (cells.shape[0], cells.shape[1], cells.shape[2])


def _cells(latent: Tensor, patch: Size) -> Tensor:
    """A view [t, h, w, pt, ph, pw, C] of a latent in whole patches."""
    latent = padded(latent, patch)
    c, t, h, w = latent.shape
    x = latent.reshape(c, t // patch[0], patch[0], h // patch[1], patch[1], w // patch[2], patch[2])
    return x.permute(1, 3, 5, 2, 4, 6, 0)


def unpatchify(tokens: Tensor, grid: Size, patch: Size, size: Size) -> Tensor:
    """The inverse of `patchify`: tokens [n, cells * C] to [C, t, h, w] of exactly `size`."""
    channels = tokens.shape[1] // (patch[0] * patch[1] * patch[2])
    x = tokens.view(*grid, *patch, channels).permute(6, 0, 3, 1, 4, 2, 5)
    x = x.reshape(channels, grid[0] * patch[0], grid[1] * patch[1], grid[2] * patch[2])
    return x[:, : size[0], : size[1], : size[2]]


def latent_frames(index: Tensor, factor_t: int = FACTORS[0]) -> tuple[Tensor, Tensor]:
    """First and last frame of latents by index: 0 and 0 of the first, then `factor_t` frames each."""
    return (factor_t * index - factor_t + 1).clamp_min(0), factor_t * index


def coordinates(
    grid: Size, patch: Size, fps: float, start: int = 0, factor_t: int = FACTORS[0], length: int | None = None
) -> tuple[Tensor, Tensor]:
    """Coordinates [n, 4] and the frame index [n] of each token of a grid.

    Coordinates are seconds (the centre of the frames that a token stands for), row, column, and 1 where a
    token holds the first latent of its clip, 0 elsewhere.

    Args:
        fps: frames per second of the encoded clip; 0 for an image.
        start: index of the first latent in its clip, for a window.
        factor_t: frames in a latent.
        length: latents there are; a last patch may be part padding, which has no time. None: whole patches.
    """
    t, h, w = grid
    frames = torch.arange(t)
    latents = start + frames * patch[0]
    end = start + (t * patch[0] if length is None else length) - 1
    first, _ = latent_frames(latents, factor_t)
    _, last = latent_frames((latents + patch[0] - 1).clamp_max(end), factor_t)
    seconds = (first + last) / 2 / fps if fps > 0 else torch.zeros(t)
    rows, columns = torch.arange(h) - (h - 1) / 2, torch.arange(w) - (w - 1) / 2
    mesh = torch.meshgrid(seconds, rows, columns, indexing="ij")
    is_first = (latents == 0).repeat_interleave(h * w)
    found = torch.stack([*(axis.flatten() for axis in mesh), is_first], dim=-1).float()
    return found, frames.repeat_interleave(h * w)


def token_validity(extent: Extent, sample: Sample, patch: Size, factors: Factors = FACTORS) -> Tensor:
    """[n, cells]: share of real pixels of each latent cell of each token; 0 for cells of padding."""
    share = validity(extent, factors)[None, sample.start : sample.start + sample.latent_t]
    share = share[
        :, :, sample.top : sample.top + sample.latent_h, sample.left : sample.left + sample.latent_w
    ]
    pad = [(-side) % size for side, size in zip(share.shape[1:], patch, strict=True)]
    return patchify(F.pad(share, (0, pad[2], 0, pad[1], 0, pad[0])), patch)[0]
