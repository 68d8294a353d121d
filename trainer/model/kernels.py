"""What compiled blocks call as one operation: attention over a pack's documents, and sums by noise level.

Both are registered with torch, with shapes for tracing and gradients, so that a block compiles without a
break. On a GPU a document of at least `long_from` tokens goes to cuDNN's kernel alone, and what lies
between such documents goes to the variable-length kernel together: a prototype of the step had cuDNN 1.5 to
1.7 times as fast on an H100 above about 2,000 tokens (heads of 128), and far slower below, where launching it
takes longer than its work. `rushes measure` finds the length on the device at hand. Where torch has FA3
or FA4 (`torch.nn.attention.activate_flash_attention_impl`), the variable-length kernel is theirs. On a CPU
documents of equal lengths share a call.

Shape legend: N packed query tokens, M packed key tokens, H heads, K head width, S documents.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor

from trainer.model.routing import GPU, backward_routed, forward_routed

OPERATIONS = torch.ops.rushes
PIECE = 256
"""Most tokens of a run of one noise level that are added up by one thread of a GPU for each value."""


@torch.library.custom_op("rushes::attend", mutates_args=())
def attend_documents(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    at_q: Tensor,
    at_k: Tensor,
    route: Tensor,
) -> tuple[Tensor, Tensor]:
    """Softmax attention per document, and the logarithm of each query's sum.

    Args:
        q: [N, H, K], contiguous, as k and v [M, H, K] are.
        cu_q, cu_k: offsets [S + 1] of documents where q lies, in int32.
        at_q, at_k: the same on the CPU, in int64.
        route: `route_of` these, for a GPU.

    Returns:
        [N, H, K] and [H, N].
    """
    if not q.is_cuda:
        return _forward_grouped(q, k, v, at_q, at_k)
    return forward_routed(q, k, v, cu_q, cu_k, route, GPU)


@attend_documents.register_fake
def _(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    at_q: Tensor,
    at_k: Tensor,
    route: Tensor,
) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[1], q.shape[0], dtype=_sum_dtype(q))


@torch.library.custom_op("rushes::attend_backward", mutates_args=())
def attend_backward(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    sums: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    at_q: Tensor,
    at_k: Tensor,
    route: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    if not q.is_cuda:
        return _backward_grouped(gradient, q, k, v, out, sums, at_q, at_k)
    return backward_routed(gradient, q, k, v, out, sums, cu_q, cu_k, route, GPU)


@attend_backward.register_fake
def _(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    sums: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    at_q: Tensor,
    at_k: Tensor,
    route: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _keep(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs[:3], *output, *inputs[3:])


def _gradients(ctx: Any, gradient: Tensor, _: Tensor) -> tuple[Any, ...]:
    q, k, v, out, sums, *places = ctx.saved_tensors
    found = attend_backward(gradient.contiguous(), q, k, v, out, sums, *places)
    return *found, None, None, None, None, None


attend_documents.register_autograd(_gradients, setup_context=_keep)


def _sum_dtype(q: Tensor) -> torch.dtype:
    return torch.float64 if q.dtype is torch.float64 else torch.float32


def _groups(at_q: Tensor, at_k: Tensor) -> list[list[int]]:
    """Documents of equal lengths together; those without queries left out."""
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, lengths in enumerate(zip(at_q.diff().tolist(), at_k.diff().tolist(), strict=True)):
        if lengths[0]:
            found[lengths].append(index)
    return list(found.values())


class _Parts:
    """A packed tensor [N, H, K] by document."""

    def __init__(self, whole: Tensor, at: Tensor) -> None:
        self.whole, self.parts = whole, whole.split(at.diff().tolist())

    def batch(self, members: list[int]) -> Tensor:
        """Documents of one length as [S, H, n, K]."""
        return torch.stack([self.parts[index] for index in members]).transpose(1, 2)

    def put(self, members: list[int], batch: Tensor) -> None:
        """The way back."""
        for index, part in zip(members, batch.transpose(1, 2).unbind(), strict=True):
            self.parts[index].copy_(part)


def _forward_grouped(q: Tensor, k: Tensor, v: Tensor, at_q: Tensor, at_k: Tensor) -> tuple[Tensor, Tensor]:
    out, sums = _Parts(torch.empty_like(q), at_q), q.new_empty(q.shape[0], q.shape[1], 1, dtype=_sum_dtype(q))
    logs = _Parts(sums, at_q)
    given = _Parts(q, at_q), _Parts(k, at_k), _Parts(v, at_k)
    for members in _groups(at_q, at_k):
        found, log = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *(part.batch(members) for part in given)
        )
        out.put(members, found)
        logs.put(members, log[..., None])
    return out.whole, sums[..., 0].T.contiguous()


def _backward_grouped(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    sums: Tensor,
    at_q: Tensor,
    at_k: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    made = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    takers = _Parts(made[0], at_q), _Parts(made[1], at_k), _Parts(made[2], at_k)
    given = [_Parts(x, at) for x, at in ((gradient, at_q), (q, at_q), (k, at_k), (v, at_k), (out, at_q))]
    logs = _Parts(sums.T[..., None], at_q)
    for members in _groups(at_q, at_k):
        found = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward(
            *(part.batch(members) for part in given), logs.batch(members)[..., 0], 0.0, False
        )
        for taker, part in zip(takers, found, strict=True):
            taker.put(members, part)
    return made


@torch.library.custom_op("rushes::sum_levels", mutates_args=())
def sum_levels(values: Tensor, level: Tensor, lengths: Tensor, levels: Tensor, count: int) -> Tensor:
    """Sums [count, D] of values [N, D] by noise level [N]: on a GPU by pieces in a row, each of one level.

    Args:
        lengths, levels: of each piece.
    """
    if not values.is_cuda:
        return values.new_zeros(count, values.shape[1]).index_add_(0, level, values)
    pieces = torch.segment_reduce(values, "sum", lengths=lengths, unsafe=True)
    return values.new_zeros(count, values.shape[1]).index_add_(0, levels, pieces)


@sum_levels.register_fake
def _(values: Tensor, level: Tensor, lengths: Tensor, levels: Tensor, count: int) -> Tensor:
    return values.new_empty(count, values.shape[1])


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, level: Tensor, lengths: Tensor, levels: Tensor) -> Tensor:
        ctx.save_for_backward(level, lengths, levels)
        ctx.count = table.shape[0]
        return table.index_select(0, level)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        found = sum_levels(gradient.contiguous(), *ctx.saved_tensors, ctx.count)
        return found, None, None, None


def look_up(table: Tensor, level: Tensor, lengths: Tensor, levels: Tensor) -> Tensor:
    """Rows [N, D] of table [M, D], whose gradient is added up piece by piece.

    On a GPU the gradient of a plain lookup adds row by row with atomics, in 8 % of a step of the
    prototype on an H100.

    Args:
        level: [N] which row.
        lengths, levels: `level` as pieces in a row (`pieces_of`).
    """
    return _LookUp.apply(table, level, lengths, levels)  # type: ignore[no-any-return]


def pieces_of(level: Tensor) -> tuple[Tensor, Tensor]:
    """(lengths, levels) of pieces in a row of which each has one level and at most `PIECE` tokens.

    Args:
        level: [N] of the tokens, on the CPU.
    """
    levels, counts = torch.unique_consecutive(level, return_counts=True)
    each = -(-counts // PIECE)  # pieces of a run
    lengths = torch.full((int(each.sum()),), PIECE)
    lengths[each.cumsum(0) - 1] = counts - (each - 1) * PIECE
    return lengths, levels.repeat_interleave(each)
