"""Packs that several processes share: by heads (Ulysses), by parts in a row (a ring), or both.

Ulysses (Jacobs et al. 2023, arXiv:2309.14509): each process holds a part of the tokens and, for attention,
all tokens of a part of the heads. Two exchanges of all with all around self-attention; everything else in a
block is per token, or reads the text, which every process of a group has whole. There are no more processes
than heads, and every head's keys are whole on one.

In a ring (trainer/model/ring.py) heads stay together and parts of the tokens exchange keys. Both compose: a
group of 8 with a ring of 2 is two parts, within each of which heads are dealt to four processes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.model.ring import RingPlan


class _Exchange(torch.autograd.Function):
    """All-to-all: part i of x [size, ...] goes to process i; differentiable."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        return _exchanged(x, group)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return _exchanged(gradients[0], ctx.group), None


def _exchanged(x: Tensor, group: dist.ProcessGroup) -> Tensor:
    out = x.new_empty(x.shape)  # not empty_like, which would keep the order of another's memory
    dist.all_to_all_single(out, x.contiguous(), group=group)
    return out


@dataclass(frozen=True)
class SequenceGroup:
    """This process among those that share a pack: `rank` of `size`.

    Attributes:
        ring: parts of the pack's tokens; `size / ring` processes in a row deal the heads of each.
        of_part: the processes of this part; None where each is alone.
        of_ring: those with the same heads in all parts; None where there is one part.
    """

    rank: int
    size: int
    ring: int = 1
    of_part: dist.ProcessGroup | None = None
    of_ring: dist.ProcessGroup | None = None

    @property
    def num_dealing(self) -> int:
        """Processes among which the heads of a part are dealt."""
        return self.size // self.ring

    def span(self, num_tokens: int) -> slice:
        """The tokens of this process; their number must divide."""
        part = num_tokens // self.size
        return slice(self.rank * part, (self.rank + 1) * part)

    def offsets(self, cu: Tensor) -> Tensor:
        """Offsets of documents [S + 1] within this process' tokens; those elsewhere have length 0."""
        span = self.span(int(cu[-1]))
        return cu.clamp(span.start, span.stop) - span.start

    def part_offsets(self, cu: Tensor) -> Tensor:
        """The same within the tokens of this process' part, which it has of some heads for attention."""
        part, size = self.rank // self.num_dealing, int(cu[-1]) // self.ring
        return cu.clamp(part * size, (part + 1) * size) - part * size

    def ring_plan(self, at: Tensor) -> RingPlan | None:
        """What parts exchange, of documents whose offsets [S + 1] are on the CPU; None for one part."""
        if self.ring == 1:
            return None
        return RingPlan(at, self.rank // self.num_dealing, self.ring, self.of_ring)

    def to_heads(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """Each [n, H, K] of this process' tokens to [n * dealing, H / dealing, K], in one exchange.

        All tokens of a part, some of the heads.
        """
        if self.of_part is None:
            return parts
        n, heads, k = parts[0].shape
        count = self.num_dealing
        dealt = torch.stack(parts, dim=1).view(n, len(parts), count, heads // count, k)
        found = _Exchange.apply(dealt.movedim(2, 0).contiguous(), self.of_part)
        return found.flatten(0, 1).unbind(1)  # type: ignore[no-any-return]

    def to_tokens(self, x: Tensor) -> Tensor:
        """The way back: [n * dealing, H / dealing, K] to [n, H, K]."""
        if self.of_part is None:
            return x
        parts = _Exchange.apply(x.unflatten(0, (self.num_dealing, -1)).contiguous(), self.of_part)
        return parts.transpose(0, 1).flatten(1, 2)  # type: ignore[no-any-return]
