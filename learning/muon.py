"""Muon in the precision of the weights, which may be whole or sharded.

torch's own rounds to bfloat16, which is slow on a CPU, takes fused projections for one matrix, and gathers
sharded weights one after the other. Sources: Jordan et al. 2024 (the quintic iteration and its coefficients);
Liu et al. 2025, arXiv:2502.16982 (updates of the size that AdamW's have).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.distributed.tensor import DTensor

from learning.sharded import Shards, bucketed

STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows (or columns) of each of [k, n, m], approximately.

    Singular values come out between .7 and 1.2.
    """
    x = matrices.bfloat16() if matrices.is_cuda else matrices  # a GPU is many times faster in half precision
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT if is_tall else x
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if is_tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for matrices [n, m].

    A group may say of how many matrices, one below the other, each of its weights is made (`parts`): the
    projections of an attention are three. Without it, one of [3 m, m] is three and others are one.

    `processes` hold the same weights and gradients: each orthogonalises its share of the matrices and gives
    it to the others. Sharded weights (`DTensor`) go to an owner each and come back, all of a bucket in one
    exchange there and one back.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor] | Iterable[dict[str, Any]],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        processes: tuple[int, int] = (0, 1),
    ) -> None:
        """`processes`: rank and number; several must have joined (`learning.processes`)."""
        settings = {"lr": lr, "weight_decay": weight_decay, "momentum": momentum, "parts": 0}
        super().__init__(matrices, settings)
        self.rank, self.size = processes

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            weights = [weight for weight in group["params"] if weight.grad is not None]
            updates = [self._nesterov(weight, group["momentum"]) for weight in weights]
            parts = [_parts_of(weight, group["parts"]) for weight in weights]
            if weights and isinstance(weights[0], DTensor):
                turned = _turned_shards(weights, updates, parts)
            else:
                turned = self._turned(updates, parts)
            for weight, update, count in zip(weights, turned, parts, strict=True):
                scale = 0.2 * max(weight.shape[0] // count, weight.shape[1]) ** 0.5
                _own(weight).mul_(1 - group["lr"] * group["weight_decay"]).add_(
                    update, alpha=-group["lr"] * scale
                )

    def _nesterov(self, weight: Tensor, momentum: float) -> Tensor:
        """The update before it is made orthogonal; of a sharded weight, what is here of it."""
        state = self.state[weight]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(weight)
        average = state["momentum_buffer"]
        own, gradient = _own(average), _own(weight.grad)  # type: ignore[arg-type]
        own.lerp_(gradient, 1 - momentum)
        return gradient.lerp(own, momentum)

    def _turned(self, updates: list[Tensor], parts: list[int]) -> list[Tensor]:
        """`orthogonal` of each part of whole updates."""
        alike: dict[torch.Size, list[Tensor]] = defaultdict(list)  # of one shape: orthogonalised together
        for update, count in zip(updates, parts, strict=True):
            for part in update.chunk(count):
                alike[part.shape].append(part)
        stacks = self._orthogonal([torch.stack(own) for own in alike.values()])
        found = {shape: iter(stack.unbind()) for shape, stack in zip(alike, stacks, strict=True)}
        return [
            torch.cat([next(found[part.shape]) for part in update.chunk(count)])
            for update, count in zip(updates, parts, strict=True)
        ]

    def _orthogonal(self, stacks: list[Tensor]) -> list[Tensor]:
        """`orthogonal` of stacks [k, n, m], shared out equally over all processes, in one exchange."""
        if self.size == 1 or not stacks:
            return [orthogonal(stack) for stack in stacks]
        shares = [-(-len(stack) // self.size) for stack in stacks]
        own = []
        for stack, share in zip(stacks, shares, strict=True):
            mine = stack[self.rank * share : (self.rank + 1) * share]
            own.append(F.pad(orthogonal(mine) if len(mine) else mine, (0, 0, 0, 0, 0, share - len(mine))))
        flat = torch.cat([part.flatten() for part in own])
        everyone = [torch.empty_like(flat) for _ in range(self.size)]
        dist.all_gather(everyone, flat)
        rows = [row.split([part.numel() for part in own]) for row in everyone]
        return [
            torch.cat([row[index].view_as(own[index]) for row in rows])[: len(stack)]
            for index, stack in enumerate(stacks)
        ]


def _turned_shards(weights: list[DTensor], updates: list[Tensor], parts: list[int]) -> list[Tensor]:
    """`orthogonal` of sharded updates: each process makes some of the matrices whole, and turns them."""
    found = dict[int, Tensor]()
    shards = Shards(weights[0])
    for bucket in bucketed([weight.shape for weight in weights]):
        shapes = [weights[index].shape for index in bucket]
        whole = shards.to_owners([updates[index] for index in bucket], shapes)
        turned = {
            at: torch.cat([orthogonal(part[None])[0] for part in matrix.chunk(parts[bucket[at]])])
            for at, matrix in whole.items()
        }
        back = shards.from_owners(turned, shapes, updates[0])
        found |= dict(zip(bucket, back, strict=True))
    return [found[index] for index in range(len(weights))]


def _parts_of(weight: Tensor, parts: int) -> int:
    return parts or (3 if weight.shape[0] == 3 * weight.shape[1] else 1)


def _own(value: Tensor) -> Tensor:
    """What this process holds of a value, in place."""
    return value.to_local() if isinstance(value, DTensor) else value
