"""Samplers proved without training: a Gaussian "video" whose velocity is known in closed form, with a noise
level per frame.
"""

import numpy as np
import pytest
import torch

from trainer.sampling.sample import integrate, sigma_grid

FRAMES, RHO, COUNT = 8, 0.9, 6000
COVARIANCE = torch.tensor(
    RHO ** np.abs(np.subtract.outer(np.arange(FRAMES), np.arange(FRAMES))), dtype=torch.float64
)


def oracle(x, sigma):
    """Velocity E[noise - clean | x] of clean ~ N(0, COVARIANCE). x: [frames, samples]; sigma: [frames]."""
    keep = 1 - sigma.double()
    joint = keep[:, None] * COVARIANCE * keep[None] + torch.diag(sigma.double() ** 2)
    gain = (COVARIANCE * keep[None]) @ torch.linalg.pinv(joint)
    clean = gain @ x.double()
    noise = torch.where(
        sigma[:, None] > 0,
        (x.double() - keep[:, None] * clean) / sigma[:, None].clamp_min(1e-9).double(),
        0.0,
    )
    return (noise - clean).to(x.dtype)


def start(seed=0):
    return torch.randn((FRAMES, COUNT), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(
    ("solver", "steps", "shift", "limit"),
    [("euler", 50, 1.0, 0.12), ("heun", 20, 1.0, 0.1), ("heun", 20, 3.0, 0.1)],
)
def test_sampling_from_nothing_gives_the_distribution(solver, steps, shift, limit):
    out = integrate(
        oracle, start(), torch.zeros(FRAMES, dtype=torch.bool), sigma_grid(steps, shift).double(), solver
    )
    assert (torch.cov(out) - COVARIANCE).abs().max() < limit


@pytest.mark.parametrize(
    "given", [[0], [0, 1], [6, 7], [0, 7]], ids=["first frame", "prefix", "suffix", "both ends"]
)
def test_given_frames_stay_bit_equal_and_the_rest_follows_them(given):
    known = torch.zeros(FRAMES, dtype=torch.bool)
    known[given] = True
    x = start()
    values = torch.tensor([1.5, -0.7])[: len(given)].double()
    x[known] = values[:, None]
    out = integrate(oracle, x, known, sigma_grid(40, 1.0).double(), "heun")
    assert torch.equal(out[known], x[known])
    gain = COVARIANCE[~known][:, known] @ torch.linalg.inv(COVARIANCE[known][:, known])
    assert (out[~known].mean(1) - gain @ values).abs().max() < 0.06
    spread = COVARIANCE[~known][:, ~known] - gain @ COVARIANCE[known][:, ~known]
    assert (torch.cov(out[~known]) - spread).abs().max() < 0.1
