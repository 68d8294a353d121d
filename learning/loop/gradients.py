"""Gradients of processes that share a step, where each holds the whole model."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch import Tensor

from learning.processes import alone


def sum_gradients(weights: Iterable[Tensor], numbers: list[float]) -> list[float]:
    """Sum gradients over all processes in place, and numbers beside them. Every process must call.

    A process that had nothing to do in a step adds nothing; weights that none had use for stay without a
    gradient.

    Returns:
        The sums of the numbers.
    """
    if alone():
        return numbers
    trained = [value for value in weights if value.requires_grad]
    told = torch.tensor(
        [*numbers, *(float(value.grad is not None) for value in trained)],
        device=trained[0].device,
        dtype=torch.float64,
    )
    dist.all_reduce(told)
    used = [value for value, count in zip(trained, told[len(numbers) :].tolist(), strict=True) if count]
    flat = torch.cat(
        [(value.grad if value.grad is not None else torch.zeros_like(value)).flatten() for value in used]
    )
    dist.all_reduce(flat)
    for value, piece in zip(used, flat.split([value.numel() for value in used]), strict=True):
        value.grad = piece.view_as(value).clone()
    return [float(number) for number in told[: len(numbers)]]
