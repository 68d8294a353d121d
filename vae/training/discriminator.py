"""An optional late adversarial loss: a 3D PatchGAN with the hinge loss and an adaptive weight.

Sources: Isola et al. 2017 (patches), Lim & Ye 2017 (hinge), Esser et al. 2021, arXiv:2012.09841, section 3.1
(the adaptive weight).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Video [B, 3, T, H, W] to one score per patch of about 4 x 24 x 24."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv3d(3, width, 3, (1, 2, 2), 1),
            nn.LeakyReLU(0.2),
            nn.Conv3d(width, 2 * width, 3, (1, 2, 2), 1, bias=False),
            nn.GroupNorm(8, 2 * width),
            nn.LeakyReLU(0.2),
            nn.Conv3d(2 * width, 4 * width, 3, 1, 1, bias=False),
            nn.GroupNorm(8, 4 * width),
            nn.LeakyReLU(0.2),
            nn.Conv3d(4 * width, 1, 3, 1, 1),
        )

    def forward(self, video: Tensor) -> Tensor:
        return self.layers(video)


def judge_loss(judge: PatchDiscriminator, real: Tensor, made: Tensor) -> Tensor:
    """Hinge loss of the discriminator."""
    return 0.5 * (F.relu(1 - judge(real)).mean() + F.relu(1 + judge(made.detach())).mean())


def fooling_loss(judge: PatchDiscriminator, made: Tensor, reconstruction: Tensor, last: Tensor) -> Tensor:
    """The generator's loss, scaled to the gradient of `reconstruction` at the last layer's weights."""
    loss = -judge(made).mean()
    ours = torch.autograd.grad(reconstruction, last, retain_graph=True)[0].norm()
    theirs = torch.autograd.grad(loss, last, retain_graph=True)[0].norm()
    return loss * (ours / (theirs + 1e-6)).clamp(max=1e4).detach()
