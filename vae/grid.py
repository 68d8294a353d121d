"""The grid contract: which latent cells cover a video of any T x H x W, and how much of each cell is real.

Time: the first latent is the first frame alone (so an image is a one-frame video and every prefix has its own latents); each later latent covers
the next `factor_t` frames. Space: ceil. What is missing is filled by edge replication, its extent is stored, and `validity` says how much of a
cell is real, so padding enters no loss and no metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


class Extent(NamedTuple):
    """The valid size of a video inside its padding, in frames and pixels; each >= 1."""

    num_frames: int
    height_px: int
    width_px: int


@dataclass(frozen=True)
class Latent:
    """A Gaussian posterior over latents.

    mean, logvar: [C, t, h, w] float; extent: size of the video it came from.
    """

    mean: Tensor
    logvar: Tensor
    extent: Extent


def latent_size(extent: Extent, factors: tuple[int, int, int] = (4, 8, 8)) -> tuple[int, int, int]:
    """(t, h, w) of the latent of a video of `extent`."""
    factor_t, factor_h, factor_w = factors
    return 1 + -(-(extent.num_frames - 1) // factor_t), -(-extent.height_px // factor_h), -(-extent.width_px // factor_w)


def validity(extent: Extent, factors: tuple[int, int, int] = (4, 8, 8)) -> Tensor:
    """[t, h, w] float: the share of each latent cell's pixels that are real, in (0, 1]."""
    factor_t, factor_h, factor_w = factors
    size = latent_size(extent, factors)

    def shares(total: int, factor: int, count: int) -> Tensor:
        return ((total - factor * torch.arange(count)).clamp(max=factor) / factor).float()

    time = torch.cat([torch.ones(1), shares(extent.num_frames - 1, factor_t, size[0] - 1)])
    rows, columns = shares(extent.height_px, factor_h, size[1]), shares(extent.width_px, factor_w, size[2])
    return time[:, None, None] * rows[None, :, None] * columns[None, None, :]
