"""Losses of reconstruction that need no downloaded weights.

All compare a video [B, 3, T, H, W] with its reconstruction over the frames and pixels that are real: the
caller cuts the padding off, so that nothing of it is learnt.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

_C1, _C2 = 0.01**2, 0.03**2
_LEVELS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, Multiscale structural similarity


def shown_error(made: Tensor, video: Tensor) -> Tensor:
    """`made` - `video`, both [...] with -1 as black and 1 as white, as it shows once `made` is clamped.

    Where black is wanted, what is blacker is right, and so for white: a picture's darkest and lightest parts
    come back as they were, however often they are encoded.
    """
    error = made - video
    return error.masked_fill((video.abs() >= 1) & (error * video > 0), 0)


def haar(x: Tensor) -> Tensor:
    """One level of the orthonormal 3D Haar transform: [B, C, T, H, W] to [B, 8 C, T/2, H/2, W/2].

    Odd ends are left out.
    """
    for axis in (2, 3, 4):
        count = x.shape[axis] // 2 * 2
        if count == 0:  # one frame has no partner in time
            continue
        pairs = x.narrow(axis, 0, count).unflatten(axis, (count // 2, 2))
        first, second = pairs.unbind(axis + 1)
        x = torch.cat([first + second, first - second], dim=1) * 0.5**0.5
    return x


def ssim(a: Tensor, b: Tensor, window: int = 7) -> tuple[Tensor, Tensor]:
    """(SSIM, its contrast-structure part) per picture of [N, C, H, W] in [0, 1], uniform window.

    Wang et al. 2004.
    """
    size = min(window, a.shape[-2], a.shape[-1])
    mean_a, mean_b = F.avg_pool2d(a, size, 1), F.avg_pool2d(b, size, 1)
    var_a, var_b = F.avg_pool2d(a * a, size, 1) - mean_a**2, F.avg_pool2d(b * b, size, 1) - mean_b**2
    cov = F.avg_pool2d(a * b, size, 1) - mean_a * mean_b
    structure = (2 * cov + _C2) / (var_a + var_b + _C2)
    full = structure * (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return full.mean((1, 2, 3)), structure.mean((1, 2, 3))


def ms_ssim(a: Tensor, b: Tensor) -> Tensor:
    """Multi-scale SSIM of pictures [N, C, H, W] in [0, 1], over as many halvings as their size allows."""
    levels = max(1, min(len(_LEVELS), int(torch.tensor(min(a.shape[-2:]) / 7).log2().floor()) + 1))
    weights = torch.tensor(_LEVELS[:levels])
    weights = weights / weights.sum()
    found = torch.ones(len(a), device=a.device)
    for level, weight in enumerate(weights.tolist()):
        full, structure = ssim(a, b)
        found = found * (full if level == levels - 1 else structure).clamp(min=1e-4) ** weight
        if level < levels - 1:
            a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    return found.mean()


def frames_of(video: Tensor) -> Tensor:
    """[B, 3, T, H, W] in [-1, 1] to pictures [B * T, 3, H, W] in [0, 1]."""
    return video.transpose(1, 2).flatten(0, 1) / 2 + 0.5


def kl(mean: Tensor, logvar: Tensor) -> Tensor:
    """Mean divergence of the posterior from the unit Gaussian, per latent number."""
    return 0.5 * (mean.pow(2) + logvar.exp() - 1 - logvar).mean()


def psnr_db(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio of two videos in [-1, 1]."""
    mse = ((a.float() - b.float()) / 2).pow(2).mean().clamp_min(1e-10)
    return float(-10 * torch.log10(mse))
