"""Recomputing a block in the backward pass, all of it or all but what is dearest to compute again."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts

from trainer.model import kernels

_ATEN = torch.ops.aten
_PRODUCTS = (_ATEN.mm.default, _ATEN.addmm.default)


def _attention() -> set[Any]:
    """The operations that attend, as far as this torch has them."""
    named = [
        (_ATEN, "_scaled_dot_product_flash_attention_for_cpu"),
        (_ATEN, "_scaled_dot_product_flash_attention"),
        (_ATEN, "_scaled_dot_product_cudnn_attention"),
        (torch.ops.torch_attn, "_varlen_attn"),
        (kernels.OPERATIONS, "attend"),
    ]
    return {getattr(room, name).default for room, name in named if hasattr(room, name)}


def recomputed(block: nn.Module, keeps: str) -> Any:
    """A block whose activations are computed again in the backward pass.

    Args:
        keeps: "nothing"; "attention": its results; "widest": the product into the MLP as well.
    """
    made: Callable[..., Any] = checkpoint_wrapper
    if keeps == "nothing":
        return made(block, checkpoint_impl=CheckpointImpl.NO_REENTRANT)
    attention, up = _attention(), block.get_submodule("up")
    columns = up.out_features if keeps == "widest" and isinstance(up, nn.Linear) else 0

    def policy(_: Any, operation: Any, *inputs: Any, **__: Any) -> CheckpointPolicy:
        is_widest = columns and operation in _PRODUCTS and inputs[-1].shape[-1] == columns
        kept = operation in attention or is_widest
        return CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE

    contexts = functools.partial(create_selective_checkpoint_contexts, policy)
    return made(block, checkpoint_impl=CheckpointImpl.NO_REENTRANT, context_fn=contexts)
