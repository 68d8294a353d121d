"""Attention over packed documents: each sample attends within itself (or to its own text), never across.

Shape legend: N packed query tokens, M packed key tokens, H heads, K head width, S documents; `cu` are [S + 1] offsets.

Documents of equal lengths go through one batched call of `scaled_dot_product_attention`; the rest one by one. On a CPU that is several times
faster than one dense block mask (benchmarks/attention.py).
"""

from __future__ import annotations

from collections import defaultdict

import torch
import torch.nn.functional as F
from torch import Tensor


def attend(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor) -> Tensor:
    """Softmax attention per document. q: [N, H, K]; k, v: [M, H, K]; returns [N, H, K]. Every document has at least one key."""
    starts_q, starts_k = cu_q.tolist(), cu_k.tolist()
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    for index in range(len(starts_q) - 1):
        groups[starts_q[index + 1] - starts_q[index], starts_k[index + 1] - starts_k[index]].append(index)
    pieces: list[Tensor | None] = [None] * (len(starts_q) - 1)
    for (length_q, length_k), members in groups.items():
        if length_q == 0:
            continue
        queries, keys, values = (
            torch.stack([x[starts[i] : starts[i] + length] for i in members]).transpose(1, 2)
            for x, starts, length in ((q, starts_q, length_q), (k, starts_k, length_k), (v, starts_k, length_k))
        )
        out = F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2)
        for position, index in enumerate(members):
            pieces[index] = out[position]
    return torch.cat([piece for piece in pieces if piece is not None]) if any(piece is not None for piece in pieces) else q


def attend_dense(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor) -> Tensor:
    """The oracle: one dense mask. For tests."""
    owner_q = torch.repeat_interleave(torch.arange(len(cu_q) - 1), cu_q.diff())
    owner_k = torch.repeat_interleave(torch.arange(len(cu_k) - 1), cu_k.diff())
    mask = owner_q[:, None] == owner_k[None]
    out = F.scaled_dot_product_attention(q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1), attn_mask=mask)
    return out.transpose(0, 1)
