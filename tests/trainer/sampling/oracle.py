"""A Gaussian "video" whose velocity is known in closed form, with a noise level per frame.

Clean videos are x0 ~ N(mean, COVARIANCE) over frames, an AR(1) process; P independent ones are the columns of
x [frames, P]. So every sampler can be held to exact conditional means and covariances, without training.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

FRAMES, RHO, COUNT = 12, 0.9, 8000
COVARIANCE = torch.tensor(
    RHO ** np.abs(np.subtract.outer(np.arange(FRAMES), np.arange(FRAMES))), dtype=torch.float64
)


def velocity(x: Tensor, sigma: Tensor, mean: Tensor | float = 0.0) -> Tensor:
    """E[noise - clean | x] at levels sigma [frames], of all frames or of the first few."""
    sigma = sigma.double()
    keep, covariance = 1 - sigma, COVARIANCE[: len(x), : len(x)]
    joint = keep[:, None] * covariance * keep[None] + torch.diag(sigma**2)
    gain = torch.linalg.solve(joint, covariance * keep[None], left=False)
    offset = torch.as_tensor(mean, dtype=torch.float64)
    clean = offset + gain @ (x.double() - keep[:, None] * offset)
    rest = x.double() - keep[:, None] * clean
    noise = torch.where(sigma[:, None] > 0, rest / sigma[:, None].clamp_min(1e-9), 0.0)
    return torch.where(sigma[:, None] > 0, noise - clean, 0.0).to(x.dtype)


def draw(count: int = COUNT, seed: int = 0) -> Tensor:
    """Clean videos [frames, count]."""
    noise = torch.randn((FRAMES, count), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.linalg.cholesky(COVARIANCE) @ noise


def noise(count: int = COUNT, seed: int = 1) -> Tensor:
    """[frames, count] of standard noise."""
    return torch.randn((FRAMES, count), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def covariance_error(x: Tensor) -> float:
    """Largest difference between the covariance of x [frames, P] and the true one."""
    return float((torch.cov(x) - COVARIANCE).abs().max())


def conditional(known: list[int], values: Tensor) -> tuple[list[int], Tensor, Tensor]:
    """The other frames, and their mean and covariance given frames `known` at `values` [len(known)]."""
    rest = [index for index in range(FRAMES) if index not in known]
    gain = COVARIANCE[rest][:, known] @ torch.linalg.inv(COVARIANCE[known][:, known])
    return rest, gain @ values, COVARIANCE[rest][:, rest] - gain @ COVARIANCE[known][:, rest]


def correlation(x: Tensor, y: Tensor) -> float:
    """Mean over frames of the correlation of two [frames, P]."""
    a, b = (value - value.mean(1, keepdim=True) for value in (x, y))
    return float(((a * b).mean(1) / (a.std(1) * b.std(1))).mean())
