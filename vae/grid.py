"""The grid contract: which latent cells cover a video of any T x H x W, and how much of each cell is real.

Time: the first latent is the first frame alone (so an image is a one-frame video and every prefix has its own
latents); each later latent covers the next `factor_t` frames. Space: ceil. What is missing is filled by edge
replication, its extent is stored, and `validity` says how much of a cell is real, so padding enters no loss
and no metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Extent(NamedTuple):
    """The valid size of a video inside its padding, in frames and pixels; each >= 1."""

    num_frames: int
    height_px: int
    width_px: int


Factors = tuple[int, int, int]
"""Frames, rows and columns of pixels in one latent cell."""


@dataclass(frozen=True)
class Latent:
    """A Gaussian posterior over latents.

    mean, logvar: [C, t, h, w] float.
    extent: size of the video it came from.
    factors: what a cell covers.
    first_type: what the first latent covers: one frame, as an encoding begins, or a whole group, as a slice
    from the middle does. The two are not alike.
    fingerprint: of the VAE that made it; empty where that was not said.
    """

    mean: Tensor
    logvar: Tensor
    extent: Extent
    factors: Factors = (4, 8, 8)
    first_type: Literal["frame", "group"] = "frame"
    fingerprint: str = ""

    @property
    def validity(self) -> Tensor:
        """[t, h, w]: the share of each cell that is real."""
        return validity(self.extent, self.factors)


def latent_size(extent: Extent, factors: Factors = (4, 8, 8)) -> tuple[int, int, int]:
    """(t, h, w) of the latent of a video of `extent`."""
    factor_t, factor_h, factor_w = factors
    return (
        1 + -(-(extent.num_frames - 1) // factor_t),
        -(-extent.height_px // factor_h),
        -(-extent.width_px // factor_w),
    )


def validity(extent: Extent, factors: Factors = (4, 8, 8)) -> Tensor:
    """[t, h, w] float: the share of each latent cell's pixels that are real, in (0, 1]."""
    factor_t, factor_h, factor_w = factors
    size = latent_size(extent, factors)

    def shares(total: int, factor: int, count: int) -> Tensor:
        return ((total - factor * torch.arange(count)).clamp(max=factor) / factor).float()

    time = torch.cat([torch.ones(1), shares(extent.num_frames - 1, factor_t, size[0] - 1)])
    rows, columns = shares(extent.height_px, factor_h, size[1]), shares(extent.width_px, factor_w, size[2])
    return time[:, None, None] * rows[None, :, None] * columns[None, None, :]


def pad_to_grid(x: Tensor, factors: Factors) -> Tensor:
    """Pad [B, 3, T, H, W] to whole cells by repetition of the first frame, tail, right and bottom.

    The first frame becomes a group of its own.
    """
    factor_t, f_h, f_w = factors
    x = F.pad(x, (0, -x.shape[4] % f_w, 0, -x.shape[3] % f_h, 0, 0), mode="replicate")
    x = torch.cat([x[:, :, :1].expand(-1, -1, factor_t - 1, -1, -1), x], dim=2)
    tail = -x.shape[2] % factor_t
    return torch.cat([x, x[:, :, -1:].expand(-1, -1, tail, -1, -1)], dim=2) if tail else x
