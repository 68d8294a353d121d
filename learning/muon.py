"""Muon in the precision of the weights; torch's own rounds to bfloat16, which is slow on a CPU.

Sources: Jordan et al. 2024 (the quintic iteration and its coefficients); Liu et al. 2025, arXiv:2502.16982
(updates of the size that AdamW's have).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

STEPS = 5
COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(matrices: Tensor) -> Tensor:
    """The nearest matrix with orthonormal rows (or columns) of each of [k, n, m], approximately.

    Singular values come out between .7 and 1.2.
    """
    x = matrices / (matrices.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    is_tall = x.shape[-2] > x.shape[-1]
    x = x.mT if is_tall else x
    a, b, c = COEFFICIENTS
    for _ in range(STEPS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for matrices [n, m].

    One of [3 m, m], the projections of an attention, is three matrices.

    `processes` hold the same weights and gradients: each orthogonalises its share of the matrices and gives
    it to the others.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        processes: tuple[int, int] = (0, 1),
    ) -> None:
        """`processes`: rank and number; several must have joined (`learning.processes`)."""
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.rank, self.size = processes

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            alike: dict[torch.Size, list[tuple[Tensor, Tensor]]] = defaultdict(
                list
            )  # of one shape: orthogonalised together
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                average = state.setdefault("momentum", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - group["momentum"])
                update = weight.grad.lerp(average, group["momentum"])  # Nesterov's
                size = weight.shape[1] if weight.shape[0] == 3 * weight.shape[1] else weight.shape[0]
                for part, own in zip(weight.split(size), update.split(size), strict=True):
                    alike[part.shape].append((part, own))
            updates = self._orthogonal([torch.stack([own for _, own in pairs]) for pairs in alike.values()])
            for (shape, pairs), turned in zip(alike.items(), updates, strict=True):
                scale = 0.2 * max(shape) ** 0.5
                for (part, _), update in zip(pairs, turned, strict=True):
                    part.mul_(1 - group["lr"] * group["weight_decay"]).add_(
                        update, alpha=-group["lr"] * scale
                    )

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
