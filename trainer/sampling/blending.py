"""Blending two videos: from one to the other through noise, so that the middle is no double image.

The noise level rises to the middle and falls again, and the two are mixed so that their variance stays. In a
plain cross-fade, (1 - w) a + w b, the middle of two independent latents has half of their variance, and that
of two equal latents all of it; so the mix is divided by the deviation that the two have together.

Shape legend: C t h w a latent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.sampling.conditions import Start
from trainer.sampling.trained import TrainedModel

PEAK = 0.8
"""Noise level in the middle."""
_LEAST_LIKE = -0.9
"""Values more opposed than this nearly cancel in the middle; the little that is left stays little."""


def blended(model: TrainedModel, first: Tensor, second: Tensor, peak: float = PEAK) -> Start:
    """Where the sample begins: `first` [C, t, h, w] at its first frame, `second` at its last, both kept."""
    weight = torch.linspace(0, 1, first.shape[1]) if first.shape[1] > 1 else torch.tensor([0.5])
    level = (peak * 4 * weight * (1 - weight))[:, None, None].expand(first.shape[1:]).contiguous()
    mean, std = model.mean.view(-1, 1, 1, 1), model.std.view(-1, 1, 1, 1)
    share = weight.view(1, -1, 1, 1)
    mixed = spherical((first - mean) / std, (second - mean) / std, share) * std + mean
    mixed = torch.where(share == 0, first, torch.where(share == 1, second, mixed))
    return Start(latent=mixed, level=level)


def spherical(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """A mix that keeps the variance of two values of variance 1.

    Args:
        first, second: [C, t, h, w]; how alike they are is measured in each latent frame.
        weight: [1, t, 1, 1] of the second.
    """
    along = (0, 2, 3)
    power = (first.square().mean(along) * second.square().mean(along)).sqrt().clamp_min(1e-8)
    likeness = ((first * second).mean(along) / power).clamp(_LEAST_LIKE, 1).view(1, -1, 1, 1)
    left = 1 - weight
    return (left * first + weight * second) / (left**2 + weight**2 + 2 * left * weight * likeness).sqrt()
