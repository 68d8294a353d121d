"""Attention over a pack whose tokens several processes hold in parts, in a row.

As in ring attention (Liu et al. 2023, arXiv:2310.01889) no process ever holds the keys of all: each attends
to its own part, then to one other part after the other, and results are joined by their logarithmic sums.
What packs add: two parts in a row share at most one document, the one that crosses all borders between them.
So only that document's keys travel, between the processes that need them; where documents are short, next to
none do. While one part is attended to, the next is on its way.

In the backward pass keys travel again, and their gradients home.

Shape legend: n tokens of this part, H heads, K head width, R parts.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from trainer.model.kernels import attend_backward, attend_documents
from trainer.model.routing import NEVER, route_of


class Shared(NamedTuple):
    """The rows of one document in two parts, each counted from the part's first."""

    own: slice
    other: slice


class RingPlan:
    """Which rows two parts share, for the pack at hand. Not a tuple: compiled code would be made anew for it.

    Args:
        at: offsets [S + 1] of documents in the whole pack, on the CPU; their end divides by `size`.
        group: the processes that hold the parts, in their order.
    """

    def __init__(self, at: Tensor, rank: int, size: int, group: dist.ProcessGroup | None) -> None:
        self.rank, self.size, self.group = rank, size, group
        part = int(at[-1]) // size
        self.shared = [_shared(at, rank, other, part) for other in range(size)]

    def rounds(self) -> Iterator[tuple[int, int]]:
        """(whom to give, from whom to take), one after the other: all are given to and taken from."""
        for distance in range(1, self.size):
            yield (self.rank + distance) % self.size, (self.rank - distance) % self.size


def _shared(at: Tensor, one: int, other: int, part: int) -> Shared | None:
    first, last = min(one, other), max(one, other)
    if first == last:
        return None
    document = int(torch.searchsorted(at, (first + 1) * part - 1, right=True)) - 1
    begin, end = int(at[document]), int(at[document + 1])
    if end <= last * part:
        return None
    rows = {
        first: slice(max(begin - first * part, 0), part),
        last: slice(0, min(end - last * part, part)),
    }
    return Shared(rows[one], rows[other])


class _Exchange:
    """One round under way: what this process gives, and what it waits for."""

    def __init__(self, plan: RingPlan, given: Tensor | None, to: int, taken: Tensor | None, of: int) -> None:
        self.taken, self._given = taken, given  # kept until they are sent
        peers = (to, of) if plan.group is None else (_name(plan, to), _name(plan, of))
        steps = [dist.P2POp(dist.isend, given, peers[0], plan.group)] if given is not None else []
        steps += [dist.P2POp(dist.irecv, taken, peers[1], plan.group)] if taken is not None else []
        self._works = dist.batch_isend_irecv(steps) if steps else []

    def wait(self) -> Tensor | None:
        for work in self._works:
            work.wait()
        return self.taken


def _name(plan: RingPlan, member: int) -> int:
    """A member's rank among all processes."""
    assert plan.group is not None
    return dist.get_global_rank(plan.group, member)


def _begin(plan: RingPlan, keys: Tensor, round_: tuple[int, int]) -> _Exchange:
    """Send own keys and values [n, 2, H, K] where they are needed, and ask for those of another part."""
    to, of = round_
    mine, theirs = plan.shared[to], plan.shared[of]
    return _Exchange(
        plan,
        keys[mine.own].contiguous() if mine else None,
        to,
        keys.new_empty(theirs.other.stop - theirs.other.start, *keys.shape[1:]) if theirs else None,
        of,
    )


def _taken(plan: RingPlan, keys: Tensor) -> Iterator[tuple[int, int, Tensor | None]]:
    """(given to, taken of, keys and values of that part or None), the next one on its way meanwhile."""
    rounds = list(plan.rounds())
    ahead = _begin(plan, keys, rounds[0]) if rounds else None
    for number, (to, of) in enumerate(rounds):
        assert ahead is not None
        came = ahead.wait()
        if number + 1 < len(rounds):
            ahead = _begin(plan, keys, rounds[number + 1])
        yield to, of, came


def _one_document(queries: int, keys: int, device: torch.device, long_from: int) -> tuple[Tensor, ...]:
    """Offsets of a single document, where it lies and on the CPU, and its route."""
    at = torch.tensor([0, queries]), torch.tensor([0, keys])
    return *(own.to(device, torch.int32, non_blocking=True) for own in at), *at, route_of(*at, long_from)


def _exact(x: Tensor) -> torch.dtype:
    """What sums are kept in: at least single precision."""
    return torch.promote_types(x.dtype, torch.float32)


def join(out: Tensor, sums: Tensor, more: Tensor, more_sums: Tensor) -> tuple[Tensor, Tensor]:
    """Attention to two sets of keys, from that to each: [n, H, K] with logarithmic sums [H, n]."""
    both = torch.logaddexp(sums, more_sums)
    weight, other = ((part - both).exp().T[..., None] for part in (sums, more_sums))
    return out * weight + more * other, both


class _RingAttend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        cu: Tensor,
        at: Tensor,
        long_from: int,
        plan: RingPlan,
    ) -> Tensor:
        route = route_of(at, at, long_from)
        out, sums = attend_documents(q, k, v, cu, cu, at, at, route)
        out, sums = out.to(_exact(q), copy=True), sums.clone()  # what an operation gave may be kept elsewhere
        for _, of, came in _taken(plan, torch.stack((k, v), dim=1)):
            shared = plan.shared[of]
            if came is None or shared is None:
                continue
            rows = shared.own
            places = _one_document(rows.stop - rows.start, len(came), q.device, long_from)
            keys, values = (part.contiguous() for part in came.unbind(1))
            found = attend_documents(q[rows].contiguous(), keys, values, *places)
            out[rows], sums[:, rows] = join(out[rows], sums[:, rows], *found)
        out = out.to(q.dtype)
        ctx.save_for_backward(q, k, v, out, sums, cu, at, route)
        ctx.long_from, ctx.plan = long_from, plan
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        q, k, v, out, sums, cu, at, route = ctx.saved_tensors
        plan, long_from, gradient = ctx.plan, ctx.long_from, gradient.contiguous()
        local = attend_backward(gradient, q, k, v, out, sums, cu, cu, at, at, route)
        of_q, of_k, of_v = (part.to(_exact(q)) for part in local)
        for to, of, came in _taken(plan, torch.stack((k, v), dim=1)):
            shared, mine = plan.shared[of], plan.shared[to]
            home = None
            if came is not None and shared is not None:
                rows = shared.own
                places = _one_document(rows.stop - rows.start, len(came), q.device, long_from)
                given = [part[rows].contiguous() for part in (gradient, q)]
                keys = [part.contiguous() for part in came.unbind(1)]
                of_rows = out[rows].contiguous(), sums[:, rows].contiguous()
                more, *others = attend_backward(*given, *keys, *of_rows, *places)
                of_q[rows] += more
                home = torch.stack(others, dim=1)
            wanted = k.new_empty(mine.own.stop - mine.own.start, 2, *k.shape[1:]) if mine else None
            found = _Exchange(plan, home, of, wanted, to).wait()  # to whom the keys went, of them gradients
            if found is not None and mine is not None:
                of_k[mine.own] += found[:, 0]
                of_v[mine.own] += found[:, 1]
        return of_q.to(q.dtype), of_k.to(k.dtype), of_v.to(v.dtype), None, None, None, None


@torch.compiler.disable
def attend_ring(
    q: Tensor, k: Tensor, v: Tensor, cu: Tensor, at: Tensor, long_from: int | None, plan: RingPlan
) -> Tensor:
    """Softmax attention per document over all parts of a pack. q, k, v: [n, H, K] of this part; as q.

    Args:
        cu, at: offsets [S + 1] of documents within this part, in int32 where q lies and on the CPU; those
            that lie elsewhere are empty.
    """
    parts = (part.contiguous() for part in (q, k, v))
    return _RingAttend.apply(*parts, cu, at, long_from or NEVER, plan)  # type: ignore[no-any-return]
