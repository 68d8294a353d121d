"""Blending two videos: from one to the other through noise, so that the middle is no double image.

The noise level rises to the middle and falls again, and the two are mixed on a sphere: a plain cross-fade of
independent latents has half their variance in the middle.

Shape legend: C t h w a latent.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.sampling.conditions import Start
from trainer.sampling.trained import TrainedModel

PEAK = 0.8
"""Noise level in the middle."""


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
    """A mix that keeps the variance of two independent values of variance 1."""
    return ((1 - weight) * first + weight * second) / ((1 - weight) ** 2 + weight**2).sqrt()
