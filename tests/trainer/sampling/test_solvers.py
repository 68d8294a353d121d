"""Solvers against the oracle: the distribution, conditional means, strengths, loops, blends."""

import pytest
import torch

from tests.trainer.sampling import oracle
from tests.trainer.sampling.oracle import FRAMES
from trainer.sampling.blending import spherical
from trainer.sampling.solvers import SOLVERS, integrate, levels, sigma_grid

ALL = torch.ones(FRAMES, dtype=torch.float64)


@pytest.fixture(autouse=True)
def one_thread():
    """Small matrices are slower on several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(start, starts=ALL, steps=50, shift=1.0, solver="dpm++2m", velocity=oracle.velocity):
    grid = sigma_grid(steps, shift, float(starts.max())).double()
    return integrate(velocity, start, levels(grid, starts), solver)


@pytest.mark.parametrize(
    ("solver", "steps", "shift", "limit"),
    [
        ("euler", 50, 1.0, 0.1),
        ("heun", 20, 1.0, 0.05),
        ("heun", 20, 3.0, 0.05),
        ("dpm++2m", 20, 1.0, 0.07),
        ("dpm++2m", 20, 3.0, 0.05),
    ],
)
def test_sampling_from_noise_gives_the_distribution(solver, steps, shift, limit):
    floor = oracle.covariance_error(oracle.draw())
    out = run(oracle.noise(), steps=steps, shift=shift, solver=solver)
    assert oracle.covariance_error(out) < limit + floor


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("feature", "known"),
    [
        ("image to video", [0]),
        ("extend after", [0, 1, 2, 3]),
        ("extend before", [8, 9, 10, 11]),
        ("connect", [0, 1, 2, 9, 10, 11]),
        ("first and last", [0, 11]),
        ("keyframes", [0, 5, 8]),
    ],
)
def test_kept_frames_stay_bit_equal_and_the_rest_follows_them(feature, known, solver):
    values = 1.5 * oracle.draw(1, seed=5)[known, 0]
    start, starts = oracle.noise(), ALL.clone()
    start[known], starts[known] = values[:, None].expand(-1, oracle.COUNT), 0.0
    out = run(start, starts, steps=50, solver=solver)
    assert torch.equal(out[known], start[known])
    rest, mean, covariance = oracle.conditional(known, values)
    assert (out[rest].mean(1) - mean).abs().max() <= 0.03
    assert (torch.cov(out[rest]) - covariance).abs().max() < 0.08


@pytest.mark.parametrize("shift", [1.0, 3.0, 5.0])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_strength_is_the_level_it_starts_from_whatever_the_shift(solver, shift):
    source = oracle.draw()
    for strength, expected in ((0.3, 0.95), (0.5, 0.853), (0.7, 0.65)):
        start = (1 - strength) * source + strength * oracle.noise()
        out = run(start, strength * ALL, shift=shift, solver=solver)
        assert oracle.correlation(source, out) == pytest.approx(expected, abs=0.03)
        assert oracle.covariance_error(out) < 0.08


def test_strength_zero_returns_the_source_and_one_ignores_it():
    source = oracle.draw()
    assert torch.equal(run(source.clone(), 0 * ALL), source)
    assert abs(oracle.correlation(source, run(oracle.noise()))) < 0.02


def test_strength_and_correlation_fall_together():
    source, found = oracle.draw(), []
    for strength in (0.1, 0.3, 0.5, 0.7, 0.9):
        out = run((1 - strength) * source + strength * oracle.noise(), strength * ALL)
        found.append(oracle.correlation(source, out))
    assert found == sorted(found, reverse=True)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_level_per_token_that_agrees_is_a_level_per_sample(solver):
    """Tokens that start lower wait at their level until the others reach it."""
    starts = torch.linspace(0.2, 0.9, FRAMES).double()
    grid = sigma_grid(20, 2.0, 0.9).double()
    seen = levels(grid, starts)
    assert torch.equal(seen[0], starts)
    assert bool((seen[1:] <= seen[:-1]).all())
    assert bool((seen[-1] == 0).all())
    whole = integrate(oracle.velocity, oracle.noise(), levels(grid, 0.9 * ALL), solver)
    each = integrate(oracle.velocity, oracle.noise(), grid[:, None].expand(-1, FRAMES), solver)
    assert torch.equal(whole, each)


@pytest.mark.parametrize("path", ["linear", "cosine"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_model_that_knows_the_clean_data_is_followed_to_it(path, solver):
    generator = torch.Generator().manual_seed(0)
    clean, start = (torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(2))

    def knows(x, sigma):
        from trainer.sampling.solvers import coefficients

        a, b = coefficients(sigma, path)
        noise = torch.where(b > 0, (x - a * clean) / b.clamp_min(1e-9), 0.0)
        return noise - clean if path == "linear" else a * noise - b * clean

    grid = sigma_grid(400 if solver == "euler" else 100, 1.0).double()
    out = integrate(knows, start, levels(grid, torch.ones(6).double()), solver, path)
    assert torch.allclose(out, clean, atol=2e-2 if solver == "euler" else 1e-3)


def test_grids_begin_at_the_strength_exactly_and_are_the_tail_of_the_shifted_curve():
    whole = sigma_grid(100, 3.0)
    for start in (0.9, 0.5, 0.123):
        grid = sigma_grid(40, 3.0, start)
        assert float(grid[0]) == pytest.approx(start, abs=1e-7)
        assert float(grid[-1]) == 0.0
        assert bool((grid.diff() < 0).all())
        # the same density of levels: as many of the whole grid lie below as the tail is long
        assert float((whole <= start).float().mean()) == pytest.approx(start / (3 - 2 * start), abs=0.02)
    assert sigma_grid(10, 3.0, 0.0).tolist() == [0.0]


def test_a_mix_keeps_the_variance_of_what_is_alike_and_of_what_is_not():
    one, other = torch.randn(2, 16, 7, 12, 12, generator=torch.Generator().manual_seed(0))
    weight = torch.linspace(0, 1, 7).view(1, -1, 1, 1)
    for second in (other, one, 0.7 * one + 0.51**0.5 * other, 0.51**0.5 * other - 0.7 * one):
        spread = spherical(one, second, weight).std(dim=(0, 2, 3))
        assert ((spread - 1).abs() < 0.05).all(), spread
    assert torch.allclose(spherical(one, one, weight), one)
