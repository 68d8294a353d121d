"""Sequence parallelism (Ulysses, Jacobs et al. 2023, arXiv:2309.14509).

Each process holds a part of the tokens and, for attention, all tokens of a part of the heads.

Two exchanges of all with all around self-attention; everything else in a block is per token, or reads the
text, which every process of a group has whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Exchange(torch.autograd.Function):
    """All-to-all: part i of x [size, ...] goes to process i; differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        out = torch.empty_like(x)
        dist.all_to_all_single(out, x.contiguous(), group=group)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        out = torch.empty_like(gradients[0])
        dist.all_to_all_single(out, gradients[0].contiguous(), group=ctx.group)
        return out, None


@dataclass(frozen=True)
class SequenceGroup:
    """This process among those that share a pack: `rank` of `size`."""

    rank: int
    size: int
    group: dist.ProcessGroup

    def span(self, num_tokens: int) -> slice:
        """The tokens of this process; their number must divide."""
        part = num_tokens // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def offsets(self, cu: Tensor) -> Tensor:
        """Offsets of documents [S + 1] within this process' tokens; those elsewhere have length 0."""
        span = self.span(int(cu[-1]))
        return cu.clamp(span.start, span.stop) - span.start

    def to_heads(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Each [n, H, K] of this process' tokens to [n * size, H / size, K], in one exchange.

        All tokens, a part of the heads.
        """
        n, heads, k = parts[0].shape
        dealt = torch.stack(parts, dim=1).view(n, len(parts), self.size, heads // self.size, k)
        found = _Exchange.apply(dealt.movedim(2, 0).contiguous(), self.group)
        return found.flatten(0, 1).unbind(1)  # type: ignore[no-any-return]

    def to_tokens(self, x: Tensor) -> Tensor:
        """The way back: [n * size, H / size, K] to [n, H, K]."""
        parts = _Exchange.apply(x.unflatten(0, (self.size, -1)).contiguous(), self.group)
        return parts.transpose(0, 1).flatten(1, 2)  # type: ignore[no-any-return]
