"""How well a video comes back: measures over real pixels, and codes of the same size to compare with.

All take videos [3, T, H, W] in [-1, 1].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vae.grid import Extent, latent_size, pad_to_grid
from vae.network.layers import patchify, unpatchify
from vae.protocol import VAE
from vae.training.losses import frames_of, psnr_db, ssim

ROUND_TRIPS = 5
BANDS = 4


@dataclass(frozen=True)
class Quality:
    """One video and its reconstruction.

    Attributes:
        psnr_db: peak signal-to-noise ratio.
        ssim: structural similarity, mean over frames.
        flicker: mean |d/dt of the error| over mean |d/dt of the video|, so unsteadiness that the original
            does not have; 0 for one frame.
        drift_db: PSNR lost from the first round trip to the fifth.
        bands: share of the original's energy that is error, in `BANDS` rings of spatial frequency from coarse
            to fine.
    """

    psnr_db: float
    ssim: float
    flicker: float
    drift_db: float
    bands: tuple[float, ...]


def flicker(made: Tensor, video: Tensor) -> float:
    """See `Quality.flicker`."""
    if video.shape[1] < 2:
        return 0.0
    return float((made - video).diff(dim=1).abs().mean() / video.diff(dim=1).abs().mean().clamp_min(1 / 255))


def band_errors(made: Tensor, video: Tensor) -> tuple[float, ...]:
    """See `Quality.bands`."""
    spectrum, error = (
        torch.fft.rfft2(x - x.mean((2, 3), keepdim=True)).abs().pow(2) for x in (video, made - video)
    )
    rows, columns = torch.fft.fftfreq(video.shape[2]).abs(), torch.fft.rfftfreq(video.shape[3])
    ring = ((rows[:, None] ** 2 + columns[None] ** 2).sqrt() / 0.5 * BANDS).long().clamp(max=BANDS - 1)
    shares = []
    for band in range(BANDS):
        inside = ring == band
        shares.append(float(error[:, :, inside].sum() / spectrum[:, :, inside].sum().clamp_min(1e-6)))
    return tuple(shares)


def measure(round_trip: Callable[[Tensor], Tensor], video: Tensor, with_drift: bool = True) -> Quality:
    """Measures of one video through `round_trip`."""
    made = round_trip(video)
    first, last = psnr_db(made, video), made
    for _ in range(ROUND_TRIPS - 1 if with_drift else 0):
        last = round_trip(last)
    similarity = float(ssim(frames_of(made[None]), frames_of(video[None]))[0].mean())
    return Quality(
        first,
        similarity,
        flicker(made, video),
        first - psnr_db(last, video) if with_drift else 0.0,
        band_errors(made, video),
    )


def through(vae: VAE) -> Callable[[Tensor], Tensor]:
    """Encode and decode."""
    return lambda video: vae.decode(vae.encode(video))


def constant_grid(vae: VAE, side_px: int = 64) -> float:
    """Largest difference of neighbouring pixels in reconstructed one-colour clips, in 8-bit steps.

    A grid or a checkerboard shows here.
    """
    worst = 0.0
    for level in (-0.8, 0.0, 0.5):
        made = vae.decode(vae.encode(torch.full((3, 5, side_px, side_px), level))) * 127.5
        inner = made[:, :, 8:-8, 8:-8]
        steps = [float(inner.diff(dim=axis).abs().max()) for axis in (2, 3)]
        worst = float(np.max([worst, *steps]))  # which is not a number where one of them is none
    return worst


class BlockPca:
    """A linear code with as many numbers as the VAE's latent: principal components of pixel cells."""

    def __init__(self, cells: Tensor, components: int, factors: tuple[int, int, int]) -> None:
        """cells: [N, 3 * f_t * f * f] training cells."""
        self.factors, self.mean = factors, cells.mean(0)
        self.axes = torch.linalg.svd(cells - self.mean, full_matrices=False)[2][:components]

    def __call__(self, video: Tensor) -> Tensor:
        _, t, h, w = video.shape
        x = pad_to_grid(video[None], self.factors)
        cells = patchify(x, self.factors[0], self.factors[1]).movedim(1, -1)
        back = ((cells - self.mean) @ self.axes.t() @ self.axes + self.mean).movedim(-1, 1)
        skip = self.factors[0] - 1
        return unpatchify(back, self.factors[0], self.factors[1])[0, :, skip : skip + t, :h, :w].clamp(-1, 1)


def bicubic(factors: tuple[int, int, int], channels: int) -> Callable[[Tensor], Tensor]:
    """Each frame made smaller and larger again, to about as many numbers as the latent has."""

    def round_trip(video: Tensor) -> Tensor:
        _, t, h, w = video.shape
        cells = latent_size(Extent(t, h, w), factors)
        share = (channels * cells[0] * cells[1] * cells[2] / (3 * t * h * w)) ** 0.5
        small = (max(1, round(h * share)), max(1, round(w * share)))
        frames = F.interpolate(
            video.transpose(0, 1), small, mode="bicubic", antialias=True, align_corners=False
        )
        return F.interpolate(frames, (h, w), mode="bicubic", align_corners=False).transpose(0, 1).clamp(-1, 1)

    return round_trip
