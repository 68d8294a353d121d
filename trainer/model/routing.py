"""Which kernel of a GPU takes which documents of a pack, and the calls that follow from it.

Shape legend: N packed query tokens, M packed key tokens, H heads, K head width, S documents, R calls.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

NEVER = 1 << 40
"""A `long_from` that no document has."""


def route_of(at_q: Tensor, at_k: Tensor, long_from: int) -> Tensor:
    """Calls that cover all documents, in a row: made once a pass, read by every layer.

    Documents without queries belong to whatever lies around them. A document is long by the fewer of its
    queries and keys.

    Args:
        at_q, at_k: offsets [S + 1], on the CPU.

    Returns:
        [R, 9] on the CPU: first document, the one after the last, whether it is one long one, first query,
            the one after the last, the same of keys, most queries and most keys of a document.
    """
    places_q, places_k = at_q.tolist(), at_k.tolist()
    counts_q, counts_k = at_q.diff().tolist(), at_k.diff().tolist()
    spans, begin = list[tuple[int, int, int]](), 0
    for index, lengths in enumerate(zip(counts_q, counts_k, strict=True)):
        if min(lengths) >= long_from:
            spans += [(begin, index, 0)] if begin < index else []
            spans.append((index, index + 1, 1))
            begin = index + 1
    spans += [(begin, len(counts_q), 0)] if begin < len(counts_q) else []
    rows = [
        (
            *span,
            *(places_q[span[0]], places_q[span[1]], places_k[span[0]], places_k[span[1]]),
            *(max(counts_q[span[0] : span[1]]), max(counts_k[span[0] : span[1]])),
        )
        for span in spans
    ]
    return torch.tensor(rows, dtype=torch.int64).view(-1, 9)


class _Call(NamedTuple):
    """One row of a route."""

    first: int
    end: int
    is_long: bool
    own: slice
    keys: slice
    longest: tuple[int, int]


def _calls(route: Tensor) -> list[_Call]:
    """The calls of a route that have queries."""
    return _read(route.numpy().tobytes())


@functools.lru_cache(maxsize=64)
def _read(route: bytes) -> list[_Call]:
    """The same of a route's bytes: every block of a pass asks again."""
    rows = struct.iter_unpack("9q", route)
    return [
        _Call(first, end, bool(is_long), slice(q0, q1), slice(k0, k1), (most_q, most_k))
        for first, end, is_long, q0, q1, k0, k1, most_q, most_k in rows
        if q0 < q1
    ]


class Kernels(NamedTuple):
    """Attention of several short documents together, and of a long one alone; forward and backward.

    Forward: (q, k, v, offsets of queries, of keys, longest) to [n, H, K] and logarithmic sums [H, n].
    Backward: (gradient, q, k, v, out, sums, offsets, offsets, longest) to gradients of q, k, v.
    """

    together: Callable[..., tuple[Tensor, Tensor]]
    alone: Callable[..., tuple[Tensor, Tensor]]
    together_back: Callable[..., tuple[Tensor, ...]]
    alone_back: Callable[..., tuple[Tensor, ...]]


def forward_routed(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, route: Tensor, kernels: Kernels
) -> tuple[Tensor, Tensor]:
    """Attention per document, and the logarithm of each query's sum: [N, H, K] and [H, N]."""
    calls = _calls(route)
    if len(calls) == 1 and calls[0].own == slice(0, len(q)):  # nothing to put together
        [call] = calls
        kernel = kernels.alone if call.is_long else kernels.together
        places = *_offsets(cu_q, cu_k, call), call.longest
        found, logs = kernel(q, k[call.keys], v[call.keys], *places)
        return found.contiguous(), logs.contiguous()
    out, sums = torch.empty_like(q), q.new_zeros(q.shape[1], q.shape[0], dtype=torch.float32)
    for call in calls:
        kernel = kernels.alone if call.is_long else kernels.together
        out[call.own], sums[:, call.own] = kernel(
            q[call.own], k[call.keys], v[call.keys], *_offsets(cu_q, cu_k, call), call.longest
        )
    return out, sums


def backward_routed(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    sums: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    route: Tensor,
    kernels: Kernels,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    found = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
    for call in _calls(route):
        own, keys = call.own, call.keys
        kernel = kernels.alone_back if call.is_long else kernels.together_back
        made = kernel(
            *(gradient[own], q[own], k[keys], v[keys], out[own], sums[:, own].contiguous()),
            *_offsets(cu_q, cu_k, call),
            call.longest,
        )
        for whole, span, part in zip(found, (own, keys, keys), made, strict=True):
            whole[span] = part
    return found


def _offsets(cu_q: Tensor, cu_k: Tensor, call: _Call) -> tuple[Tensor, Tensor]:
    """Offsets of some documents in a row, from the first of them on."""
    first, end = call.first, call.end
    if first == 0 and end == len(cu_q) - 1:
        return cu_q, cu_k
    return cu_q[first : end + 1] - cu_q[first], cu_k[first : end + 1] - cu_k[first]


def _batch(x: Tensor) -> Tensor:
    """[n, H, K] as a batch of one: [1, H, n, K]."""
    return x.transpose(0, 1)[None]


def _varlen(
    q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, longest: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    found = torch.ops.aten._flash_attention_forward(
        q, k, v, cu_q, cu_k, *longest, 0.0, False, return_debug_mask=False
    )
    return found[0], found[1]


def _cudnn(q: Tensor, k: Tensor, v: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    found = torch.ops.aten._scaled_dot_product_cudnn_attention(
        _batch(q), _batch(k), _batch(v), None, True, 0.0, False, False
    )
    return found[0][0].transpose(0, 1), found[1].reshape(q.shape[1], -1)


def _varlen_back(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    sums: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    longest: tuple[int, int],
) -> tuple[Tensor, ...]:
    none = torch.zeros((), dtype=torch.int64, device=q.device)  # nothing is dropped out: no random state
    state = torch.zeros(2, dtype=torch.uint64, device=q.device)
    made: tuple[Tensor, ...] = torch.ops.aten._flash_attention_backward(
        gradient, q, k, v, out, sums, cu_q, cu_k, *longest, 0.0, False, state, none
    )
    return made


def _cudnn_back(
    gradient: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    sums: Tensor,
    cu_q: Tensor,
    cu_k: Tensor,
    longest: tuple[int, int],
) -> tuple[Tensor, ...]:
    none = torch.zeros((), dtype=torch.int64, device=q.device)
    made = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
        *(_batch(x) for x in (gradient, q, k, v, out)),
        sums[None, :, :, None],
        *(none, none, None, None, None),
        *longest,
        0.0,
        False,
    )
    return tuple(part[0].transpose(0, 1) for part in made)


GPU = Kernels(_varlen, _cudnn, _varlen_back, _cudnn_back)
