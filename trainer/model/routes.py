"""Which kernels of attention a GPU has that give what they should, found out once when a model is built.

Torch's registry swaps the variable-length kernel for FlashAttention 3 or 4 where their packages are installed
(extra `gpu`); cuDNN's takes long documents. Each is tried against the dense oracle, with gradients: one that
a library's next version breaks costs speed and a line, not a run.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from importlib.util import find_spec

import torch

from manifests.cli import say
from trainer.model.attention import attend_dense, attend_routed, documents, is_varlen

IMPLEMENTATIONS = {"FA4": "flash_attn.cute", "FA3": "flash_attn_interface"}
"""By torch's name, the module that each needs; the first that works is taken."""
_PACKS = (
    ((96, 4, 128, 72), (96, 4, 128, 72)),
    ((96, 4, 0, 72, 40, 130), (96, 40, 7, 72, 3, 130)),
    ((33, 1, 64, 5, 0, 17), (33, 1, 64, 5, 2, 17)),
)
"""Queries and keys of documents: long ones between short ones, captions, some without queries."""
_LONG_FROM, _MOST = 96, 0.15


def checked_route(device: torch.device, num_heads: int, width: int, long_from: int) -> int | None:
    """`long_from` where kernels chosen by length can be used on a device, for heads of a width; else None."""
    return long_from if device.type == "cuda" and _is_usable(device, num_heads, width) else None


@functools.cache
def _is_usable(device: torch.device, num_heads: int, width: int) -> bool:
    if not is_varlen(torch.bfloat16):
        return False
    for name, module in IMPLEMENTATIONS.items():
        if not _is_there(module) or not _activated(name):
            continue
        if not (why := fault(device, num_heads, width)):
            say(f"attention of short documents by {name}")
            return True
        say(f"{name} is installed and not used: {why}")
        with contextlib.suppress(AttributeError, RuntimeError):
            torch.nn.attention.restore_flash_attention_impl(_raise_warn=False)
    if why := fault(device, num_heads, width):
        say(f"attention by kernels chosen for each length cannot be used here ({why}); torch's own call is")
    return not why


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # of a parent
        return False


def _activated(name: str) -> bool:
    """Whether torch's registry has an implementation and could put it in place."""
    attention = torch.nn.attention
    try:
        if name not in attention.list_flash_attention_impls():
            return False
        attention.activate_flash_attention_impl(name)  # type: ignore[arg-type]
    except (AttributeError, ImportError, RuntimeError, ValueError) as error:
        say(f"{name} is installed and cannot be used: {str(error).splitlines()[0]}")
        return False
    return True


def fault(device: torch.device, num_heads: int, width: int) -> str:
    """Why kernels chosen by length cannot be used; empty where they give what the oracle gives."""
    try:
        worst = max(_worst(device, num_heads, width, *lengths) for lengths in _PACKS)
    except (RuntimeError, NotImplementedError, TypeError, AttributeError, ImportError) as error:
        return (str(error) or type(error).__name__).splitlines()[0]
    return "" if worst < _MOST else f"differs from the oracle by {worst:.2g}"


def _worst(
    device: torch.device, num_heads: int, width: int, queries: Sequence[int], keys: Sequence[int]
) -> float:
    """Largest difference from the oracle, of values and gradients."""
    at_q, at_k = (torch.tensor([0, *lengths]).cumsum(0) for lengths in (queries, keys))
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    q, k, v = (
        torch.randn(sum(lengths), num_heads, width, device=device, dtype=dtype, requires_grad=True)
        for lengths in (queries, keys, keys)
    )
    weights, found = torch.randn(sum(queries), num_heads, width, device=device), []
    for way in (attend_dense, attend_routed):
        out = way(q, k, v, documents(at_q, at_k, dtype, device, _LONG_FROM)).float()
        found.append([out.detach(), *torch.autograd.grad((out * weights).sum(), (q, k, v))])
    pairs = zip(*found, strict=True)
    return max(float((one.float() - other.float()).abs().nan_to_num(1e9).max()) for one, other in pairs)
