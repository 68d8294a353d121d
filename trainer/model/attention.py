"""Attention over packed documents: each sample attends within itself (or to its own text), never across.

Shape legend: N packed query tokens, M packed key tokens, H heads, K head width, S documents; `cu` are [S + 1]
offsets.

On a GPU in half precision each document goes to the kernel that is fastest for its length
(trainer/model/kernels.py), otherwise to FlexAttention with a document mask. On a CPU, which has no
variable-length kernel, documents of equal lengths go through one batched call of
`scaled_dot_product_attention`, the rest one by one: several times faster there than one dense block mask
(benchmarks/attention.py). In half precision those of nearly equal lengths are padded and share plain
products. All give what the dense mask gives.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.model.kernels import attend_documents
from trainer.model.routing import route_of

_HALF = (torch.bfloat16, torch.float16)
PADDED_TO, MOST_PADDED = 32, 512  # lengths to whose multiple documents are padded, and up to which
MOST_SCORES = 1 << 24  # of all documents of a group, for plain products

_varlen: Callable[..., Any] | None
try:  # looked up once and not in a call, which compiled code would trace
    from torch.nn.attention.varlen import varlen_attn as _varlen
except ImportError:  # a torch without it
    _varlen = None


class Documents(NamedTuple):
    """Which queries may see which keys, made once a pass for all layers.

    Attributes:
        cu_q, cu_k: offsets of each document's queries and keys, int32, on the device of the queries.
        at_q, at_k: the same on the CPU, in int64.
        longest: most queries and most keys of a document.
        route: which kernel takes which documents (trainer/model/kernels.py); None on a GPU: torch's own
            variable-length call for all.
        mask: set where FlexAttention is the backend.
        padding: set where `attend_padded` is.
    """

    cu_q: Tensor
    cu_k: Tensor
    at_q: Tensor
    at_k: Tensor
    longest: tuple[int, int]
    route: Tensor | None = None
    mask: Any = None
    padding: Padding | None = None


def documents(
    at_q: Tensor,
    at_k: Tensor,
    dtype: torch.dtype,
    device: torch.device | None = None,
    long_from: int | None = None,
) -> Documents:
    """The document boundaries of one forward pass, made once and used by every layer.

    Nothing waits for a GPU where the offsets lie on the CPU. FlexAttention's block mask is built where
    `dtype` needs it.

    Args:
        device: of queries and keys; None: that of the offsets.
        long_from: tokens of a document from which it has a kernel to itself; None: no route is made.
    """
    device, at_q, at_k = device or at_q.device, at_q.cpu(), at_k.cpu()
    cu_q, cu_k = (at.to(device, torch.int32, non_blocking=True) for at in (at_q, at_k))
    mask = document_mask(cu_q, cu_k) if device.type == "cuda" and not is_varlen(dtype) else None
    is_padded = device.type == "cpu" and dtype in _HALF and int(at_q[-1]) > 0
    padding = Padding(at_q, at_k) if is_padded else None
    longest = int(at_q.diff().max()), int(at_k.diff().max())
    route = None if long_from is None else route_of(at_q, at_k, long_from)
    return Documents(cu_q, cu_k, at_q, at_k, longest, route, mask, padding)


def attend(q: Tensor, k: Tensor, v: Tensor, of: Documents) -> Tensor:
    """Softmax attention per document. q: [N, H, K]; k, v: [M, H, K]; returns [N, H, K].

    Every document has at least one key.
    """
    q, k = q.to(v.dtype), k.to(v.dtype)
    if of.mask is not None:
        return attend_flex(q, k, v, of)
    if q.is_cuda:
        return attend_varlen(q, k, v, of) if of.route is None else attend_routed(q, k, v, of)
    if torch.compiler.is_compiling():  # one operation to the compiler; run as written it copies more
        return attend_routed(q, k, v, of)
    if of.padding is not None and v.dtype in _HALF:
        return attend_padded(q, k, v, of.padding)
    return attend_grouped(q, k, v, of)


def attend_routed(q: Tensor, k: Tensor, v: Tensor, of: Documents) -> Tensor:
    """`attend` by the kernel that is fastest for each document's length (trainer/model/kernels.py)."""
    route = of.at_q[:0] if of.route is None else of.route  # a CPU needs none
    return attend_documents(  # type: ignore[no-any-return]
        *(x.contiguous() for x in (q, k, v)), of.cu_q, of.cu_k, of.at_q, of.at_k, route
    )[0]


def is_varlen(dtype: torch.dtype) -> bool:
    """Whether this torch has a variable-length kernel of a GPU for a precision."""
    return dtype in _HALF and _varlen is not None


def attend_varlen(q: Tensor, k: Tensor, v: Tensor, of: Documents) -> Tensor:
    """`attend` by the variable-length kernel: CUDA, half precision."""
    assert _varlen is not None
    return _varlen(  # type: ignore[no-any-return]
        q.contiguous(), k.contiguous(), v.contiguous(), of.cu_q, of.cu_k, *of.longest
    )


@functools.cache
def _flex(is_compiled: bool) -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    made: Any = torch.compile(flex_attention, dynamic=True) if is_compiled else flex_attention
    return made  # type: ignore[no-any-return]


def document_mask(cu_q: Tensor, cu_k: Tensor) -> Any:
    """FlexAttention's block mask; made by compiled code on a GPU, which needs no N x M memory."""
    from torch.nn.attention.flex_attention import create_block_mask

    owner_q, owner_k = (
        torch.repeat_interleave(torch.arange(len(cu) - 1, device=cu.device), cu.diff()) for cu in (cu_q, cu_k)
    )

    def is_own(batch: Tensor, head: Tensor, at_q: Tensor, at_k: Tensor) -> Tensor:
        return owner_q[at_q] == owner_k[at_k]

    return create_block_mask(
        is_own, None, None, len(owner_q), len(owner_k), device=str(cu_q.device), _compile=cu_q.is_cuda
    )


def attend_flex(q: Tensor, k: Tensor, v: Tensor, of: Documents) -> Tensor:
    """`attend` by FlexAttention with a document mask; compiled on a GPU."""
    mask = document_mask(of.cu_q, of.cu_k) if of.mask is None else of.mask
    queries, keys, values = (x.transpose(0, 1)[None] for x in (q, k, v))
    attended: Tensor = _flex(q.is_cuda)(queries, keys, values, block_mask=mask)[0]
    return attended.transpose(0, 1)


@torch.compiler.disable
def attend_grouped(q: Tensor, k: Tensor, v: Tensor, of: Documents) -> Tensor:
    """`attend` by one call for all documents of equal lengths."""
    lengths_q, lengths_k = of.at_q.diff().tolist(), of.at_k.diff().tolist()
    parts_q, parts_k, parts_v = (
        q.split(lengths_q),
        k.split(lengths_k),
        v.split(lengths_k),
    )  # split, whose gradient is one concatenation
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index, lengths in enumerate(zip(lengths_q, lengths_k, strict=True)):
        groups[lengths].append(index)
    pieces = list(parts_q)  # right for documents without queries, replaced for all others
    for (length_q, _), members in groups.items():
        if length_q == 0:
            continue
        queries, keys, values = (
            torch.stack([parts[i] for i in members]).transpose(1, 2) for parts in (parts_q, parts_k, parts_v)
        )
        out = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2)
        for index, piece in zip(members, out.unbind(0), strict=True):
            pieces[index] = piece
    return torch.cat(pieces)


class Padding:
    """How documents of nearly equal lengths are padded to share a call, on a CPU in half precision.

    The fused kernel takes several times as long there on short documents as plain products, and those are
    best of many documents at once. Not a tuple: compiled code would be made anew for its numbers.

    Attributes:
        groups: (documents, queries and keys of each with the padding, mask of keys or None).
        rows_q, rows_k: which query and key lies where in the padded order; padding shows the first.
        back: where each query lies in it.
    """

    def __init__(self, cu_q: Tensor, cu_k: Tensor) -> None:
        found: dict[tuple[int, int], list[int]] = defaultdict(list)
        lengths_q, lengths_k = cu_q.diff().tolist(), cu_k.diff().tolist()
        for index, lengths in enumerate(zip(lengths_q, lengths_k, strict=True)):
            if lengths[0]:
                found[_padded(lengths[0]), _padded(lengths[1])].append(index)
        self.groups: list[tuple[int, int, int, Tensor | None]] = []
        rows_q, rows_k, back, filled = [], [], torch.zeros(int(cu_q[-1]), dtype=torch.long), 0
        for (most_q, most_k), members in found.items():
            own_q, own_k = (
                torch.tensor([lengths[i] for i in members])[:, None] for lengths in (lengths_q, lengths_k)
            )
            at_q, at_k = torch.arange(most_q), torch.arange(most_k)
            is_query, is_key = at_q < own_q, at_k < own_k
            rows_q.append(((cu_q[members][:, None] + at_q) * is_query).flatten())
            rows_k.append(((cu_k[members][:, None] + at_k) * is_key).flatten())
            back[rows_q[-1][is_query.flatten()]] = filled + torch.nonzero(is_query.flatten())[:, 0]
            filled += is_query.numel()
            mask = None if bool(is_key.all()) else torch.zeros(is_key.shape).masked_fill(~is_key, -torch.inf)
            self.groups.append((len(members), len(at_q), len(at_k), mask))
        self.rows_q, self.rows_k, self.back = torch.cat(rows_q), torch.cat(rows_k), back


def _padded(length: int) -> int:
    """A length that documents share a call by: long ones only with their like."""
    return -(-length // PADDED_TO) * PADDED_TO if length <= MOST_PADDED else length


@torch.compiler.disable
def attend_padded(q: Tensor, k: Tensor, v: Tensor, padding: Padding) -> Tensor:
    """`attend` by one call for all documents of nearly equal lengths: CPU, half precision."""
    sizes = [[count * most for count, most, _, _ in padding.groups], [c * m for c, _, m, _ in padding.groups]]
    # split, and not slices: its gradient is one concatenation
    queries = q.index_select(0, padding.rows_q).split(sizes[0])
    keys, values = (part.index_select(0, padding.rows_k).split(sizes[1]) for part in (k, v))
    pieces = []
    for (count, _, _, mask), *parts in zip(padding.groups, queries, keys, values, strict=True):
        q, k, v = (part.unflatten(0, (count, -1)).transpose(1, 2) for part in parts)
        pieces.append(_attend_batch(q, k, v, mask).transpose(1, 2).flatten(0, 1))
    return torch.cat(pieces).index_select(0, padding.back)


def _attend_batch(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Softmax attention of a batch [S, H, L, K] whose keys have a mask [S, L] to add to their scores."""
    scores = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
    added = None if mask is None else mask[:, None, None].to(q.dtype)
    if max(q.shape[2], k.shape[2]) > MOST_PADDED or scores > MOST_SCORES:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=added)
    products = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if added is not None:
        products = products + added
    return torch.softmax(products, dim=-1, dtype=torch.float32).to(v.dtype) @ v


def attend_dense(q: Tensor, k: Tensor, v: Tensor, of: Documents) -> Tensor:
    """The oracle: one dense mask. Tests and the choice of a route compare with it."""
    owner_q, owner_k = (
        torch.repeat_interleave(torch.arange(len(cu) - 1, device=q.device), cu.diff())
        for cu in (of.cu_q, of.cu_k)
    )
    mask = owner_q[:, None] == owner_k[None]
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), attn_mask=mask
    )
    return out.transpose(0, 1)
