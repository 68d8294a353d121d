"""Latents as a dataset stores them: one safetensors member a clip, long ones in slabs of time.

A short clip is two tensors, `mean` and `logvar` [C, t, h, w]. A long one is one, `slabs` [t, 2, C, h, w], so
that a window in time is a range of bytes; each slab has its own crc32, which the `latents` table holds.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import NamedTuple

import torch
from safetensors.torch import save
from torch import Tensor

LEAST_SLABS = 8
"""Latents in time from which on a clip is stored in slabs."""


class Slabs(NamedTuple):
    """Where the slabs of a member lie: bytes before the first, and the crc32 of each."""

    offset: int | None
    crc32: list[int] | None


def stored_bytes(mean: Tensor, logvar: Tensor) -> tuple[bytes, Slabs]:
    """The member of a clip, and where its slabs lie in it.

    Args:
        mean, logvar: [C, t, h, w] bfloat16.
    """
    if mean.shape[1] < LEAST_SLABS:
        return save({"mean": mean.contiguous(), "logvar": logvar.contiguous()}), Slabs(None, None)
    slabs = torch.stack([mean, logvar]).permute(2, 0, 1, 3, 4).contiguous()
    data = save({"slabs": slabs})
    size = slabs[0].nbytes
    offset = len(data) - size * len(slabs)
    return data, Slabs(offset, [zlib.crc32(data[at : at + size]) for at in range(offset, len(data), size)])


def mean_and_logvar(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Both [C, t, h, w], of the tensors of a member; views, where it is in slabs.

    Raises:
        KeyError: they are no latent.
    """
    if "slabs" in tensors:
        return of_slabs(tensors["slabs"])
    return tensors["mean"], tensors["logvar"]


def of_slabs(slabs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log variance [C, t, h, w] of slabs [t, 2, C, h, w]: views."""
    mean, logvar = slabs.permute(1, 2, 0, 3, 4).unbind(0)
    return mean, logvar
