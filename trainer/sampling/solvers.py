"""Solvers of the flow from noise to data, each with a noise level per token.

Shape legend: N tokens, P values of a token, K steps.

A path is x = a(sigma) clean + b(sigma) noise: linear, a = 1 - sigma, b = sigma (rectified flow), or cosine,
a = cos(sigma pi / 2) and b = sin(sigma pi / 2). A token whose level does not change from one step to the next
is not touched: kept tokens, at level 0 from start to end, come back bit-equal.

Sources: Heun's method; DPM-Solver++(2M) (Lu et al. 2022, arXiv:2211.01095), here in terms of clean data with
log(a / b) as time, its history kept per token.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from trainer.model.flow import pace, shifted

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x [N, P], sigma [N]) to the model's prediction [N, P]: the derivative of x along the path."""
Solver = Literal["euler", "heun", "dpm++2m"]
SOLVERS: tuple[Solver, ...] = ("euler", "heun", "dpm++2m")
DEFAULT_SOLVER: Solver = "dpm++2m"


def sigma_grid(steps: int, shift: float, start: float = 1.0) -> Tensor:
    """Descending noise levels [steps + 1] from exactly `start` to 0, shifted by shape.

    A grid that starts below 1 is the part of the shifted curve below `start`, so that what is made of a start
    at a level does not depend on the shift.
    """
    if start <= 0:
        return torch.zeros(1)
    first = start / (shift - (shift - 1) * start)  # the place on the unshifted grid that is moved to `start`
    grid = shifted(torch.linspace(first, 0, steps + 1), shift)
    grid[0] = start
    return grid


def levels(grid: Tensor, start: Tensor) -> Tensor:
    """The level of each token at each step, [K + 1, N]: the grid's, but never above the token's own start.

    Args:
        grid: [K + 1] descending levels.
        start: [N] where each token begins; 0 for kept tokens.
    """
    return torch.minimum(grid[:, None], start[None])


def integrate(
    velocity: Velocity, x: Tensor, levels: Tensor, solver: Solver = DEFAULT_SOLVER, path: str = "linear"
) -> Tensor:
    """Follow the flow from noise to data.

    Args:
        velocity: the model, guidance included.
        x: start [N, P]: each token at its first level.
        levels: [K + 1, N] descending levels of each token, as `levels` gives them.
        path: linear or cosine.

    Returns:
        [N, P]; tokens whose level is 0 throughout are bit-equal to their start.
    """
    kinds: dict[Solver, type[_Euler | _DpmSolver2M]] = {
        "euler": _Euler,
        "heun": _Heun,
        "dpm++2m": _DpmSolver2M,
    }
    step = kinds[solver](velocity, path)
    for now, later in itertools.pairwise(levels):
        moves = (later < now)[:, None]
        if bool(moves.any()):
            x = torch.where(moves, step(x, now, later), x)
    return x


def coefficients(sigma: Tensor, path: str) -> tuple[Tensor, Tensor]:
    """a and b of the path at levels [N], as [N, 1]."""
    if path == "linear":
        return (1 - sigma)[:, None], sigma[:, None]
    angle = sigma[:, None] * (math.pi / 2)
    return angle.cos(), angle.sin()


def clean_of(x: Tensor, prediction: Tensor, sigma: Tensor, path: str) -> Tensor:
    """The clean data [N, P] that a prediction stands for."""
    a, b = coefficients(sigma, path)
    return x - b * prediction if path == "linear" else a * x - b * prediction


class _Euler:
    def __init__(self, velocity: Velocity, path: str) -> None:
        self.velocity, self.path = velocity, path
        self.pace = pace(path)

    def __call__(self, x: Tensor, now: Tensor, later: Tensor) -> Tensor:
        return x + self._width(now, later) * self.velocity(x, now)

    def _width(self, now: Tensor, later: Tensor) -> Tensor:
        return (later - now)[:, None] * self.pace


class _Heun(_Euler):
    """Second order, by the mean of the slopes at both ends; the step to level 0 is an Euler step."""

    def __call__(self, x: Tensor, now: Tensor, later: Tensor) -> Tensor:
        width, slope = self._width(now, later), self.velocity(x, now)
        ahead = x + width * slope
        if not bool((later > 0).any()):
            return ahead
        moved = torch.where((later < now)[:, None], ahead, x)
        mean = 0.5 * (slope + self.velocity(moved, later))
        return torch.where((later > 0)[:, None], x + width * mean, ahead)


class _DpmSolver2M:
    """Second order with one call of the model a step, by the clean data of the step before."""

    def __init__(self, velocity: Velocity, path: str) -> None:
        self.velocity, self.path = velocity, path
        self._before: tuple[Tensor, Tensor, Tensor] | None = None  # clean data, its time, where there is any

    def __call__(self, x: Tensor, now: Tensor, later: Tensor) -> Tensor:
        clean = clean_of(x, self.velocity(x, now), now, self.path)
        (a_now, b_now), (a_later, b_later) = (coefficients(sigma, self.path) for sigma in (now, later))
        time, time_later = self._time(now), self._time(later)
        target = clean
        if self._before is not None:
            before, time_before, is_there = self._before
            ratio = (time_later - time) / (time - time_before)  # 0 where the step before began at level 1
            usable = is_there & (later < now)[:, None] & torch.isfinite(ratio) & (b_later > 0)
            target = torch.where(usable, clean + 0.5 * ratio.nan_to_num() * (clean - before), clean)
        moves = (later < now)[:, None]
        self._before = clean, time, moves
        share = b_later / b_now.clamp_min(1e-12)
        return share * x + (a_later - share * a_now) * target

    def _time(self, sigma: Tensor) -> Tensor:
        """log(a / b) [N, 1]; infinite at the ends."""
        a, b = coefficients(sigma, self.path)
        return torch.log(a.clamp_min(0)) - torch.log(b)
