"""Attention over packed documents: each sample attends within itself (or to its own text), never across.

Shape legend: N packed query tokens, M packed key tokens, H heads, K head width, S documents; `cu` are [S + 1]
offsets.

On a GPU in half precision it is torch's variable-length kernel (`varlen_attn`), otherwise FlexAttention with
a document mask. On a CPU, for which the one has no kernel
and the other no backward pass, documents of equal lengths go through one batched call of
`scaled_dot_product_attention`, the rest one by one: several times faster there than one dense block mask
(benchmarks/attention.py). All give what the dense mask gives.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

MOST_PLAIN = 512 * 512  # queries x keys of a document that plain products attend, in half precision
MOST_SCORES = 1 << 24  # of all documents of a length
PADDED_TO = 32  # words of a text, to a multiple of which texts are padded to share a call

_varlen: Callable[..., Any] | None
try:  # looked up once and not in a call, which compiled code would trace
    from torch.nn.attention.varlen import varlen_attn as _varlen
except ImportError:  # a torch without it
    _varlen = None


class Documents(NamedTuple):
    """Which queries may see which keys, made once a pass for all layers.

    Attributes:
        cu_q, cu_k: offsets of each document's queries and keys.
        max_q, max_k: most of them in a document.
        mask: for FlexAttention, where it is what attends.
    """

    cu_q: Tensor
    cu_k: Tensor
    max_q: int
    max_k: int
    mask: Any = None


def documents(cu_q: Tensor, cu_k: Tensor, dtype: torch.dtype) -> Documents:
    """The document boundaries of one forward pass, made once and used by every layer.

    On a GPU this synchronizes once, and builds FlexAttention's block mask where `dtype` needs it.
    """
    mask = document_mask(cu_q, cu_k) if cu_q.is_cuda and not _is_varlen(dtype) else None
    return Documents(cu_q, cu_k, int(cu_q.diff().max()), int(cu_k.diff().max()), mask)


def attend(q: Tensor, k: Tensor, v: Tensor, of: Documents) -> Tensor:
    """Softmax attention per document. q: [N, H, K]; k, v: [M, H, K]; returns [N, H, K].

    Every document has at least one key.
    """
    q, k = q.to(v.dtype), k.to(v.dtype)
    if not q.is_cuda:
        return attend_grouped(q, k, v, of)
    return attend_varlen(q, k, v, of) if of.mask is None else attend_flex(q, k, v, of)


def _is_varlen(dtype: torch.dtype) -> bool:
    return dtype in (torch.bfloat16, torch.float16) and _varlen is not None


def attend_varlen(q: Tensor, k: Tensor, v: Tensor, of: Documents) -> Tensor:
    """`attend` by the variable-length kernel: CUDA, half precision."""
    assert _varlen is not None
    return _varlen(
        q.contiguous(), k.contiguous(), v.contiguous(), of.cu_q.int(), of.cu_k.int(), of.max_q, of.max_k
    )  # type: ignore[no-any-return]


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
    """`attend` by one call for all documents of equal lengths; in half precision, of nearly equal texts."""
    lengths_q, lengths_k = of.cu_q.diff().tolist(), of.cu_k.diff().tolist()
    parts_q, parts_k, parts_v = (
        q.split(lengths_q),
        k.split(lengths_k),
        v.split(lengths_k),
    )  # split, whose gradient is one concatenation
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    step = 1 if q.dtype == torch.float32 else PADDED_TO
    for index, (length_q, length_k) in enumerate(zip(lengths_q, lengths_k, strict=True)):
        is_own = length_q == length_k  # a document that attends to itself: many have just its length
        groups[length_q, length_k if is_own else -(-length_k // step) * step].append(index)
    pieces = list(parts_q)  # right for documents without queries, replaced for all others
    for (length_q, _), members in groups.items():
        if length_q == 0:
            continue
        counts = [lengths_k[i] for i in members]
        is_padded = len(set(counts)) > 1
        batch = functools.partial(pad_sequence, batch_first=True) if is_padded else torch.stack
        queries, keys, values = (
            gather([parts[i] for i in members]).transpose(1, 2)
            for gather, parts in ((torch.stack, parts_q), (batch, parts_k), (batch, parts_v))
        )
        out = _attend_batch(queries, keys, values, counts if is_padded else None)
        for index, piece in zip(members, out.transpose(1, 2).unbind(0), strict=True):
            pieces[index] = piece
    return torch.cat(pieces)


def _attend_batch(q: Tensor, k: Tensor, v: Tensor, counts: list[int] | None = None) -> Tensor:
    """Softmax attention of a batch [S, H, L, K] on a CPU.

    In half precision the fused kernel takes several times as long on short documents as plain products do;
    those hold the scores of all heads, so long documents go through the kernel.

    Args:
        counts: keys of each document, where some are padding.
    """
    mask = None
    if counts is not None:
        is_key = torch.arange(k.shape[2]) < torch.tensor(counts)[:, None]
        mask = torch.zeros(is_key.shape, dtype=q.dtype).masked_fill(~is_key, -torch.inf)[:, None, None]
    scores = q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2]
    if q.dtype == torch.float32 or q.shape[2] * k.shape[2] > MOST_PLAIN or scores > MOST_SCORES:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    products = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if mask is not None:
        products = products + mask
    return torch.softmax(products, dim=-1, dtype=torch.float32).to(v.dtype) @ v


def attend_dense(q: Tensor, k: Tensor, v: Tensor, of: Documents) -> Tensor:
    """The oracle: one dense mask. For tests."""
    owner_q, owner_k = (
        torch.repeat_interleave(torch.arange(len(cu) - 1, device=q.device), cu.diff())
        for cu in (of.cu_q, of.cu_k)
    )
    mask = owner_q[:, None] == owner_k[None]
    out = F.scaled_dot_product_attention(
        q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), attn_mask=mask
    )
    return out.transpose(0, 1)
