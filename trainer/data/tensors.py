"""Tensors that lie in a buffer of safetensors bytes, without copying them.

Every offset is checked before it is used.

The format: 8 bytes with the length of a JSON header, the header (dtype, shape and byte span of each tensor),
the bytes (github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import math

import numpy as np
import torch
from torch import Tensor

from manifests.errors import IntegrityError
from manifests.store.shards import AGAIN

DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
}
_HEADER_LIMIT = 1 << 20


def tensors_in(data: np.ndarray, where: str, step: str = AGAIN) -> dict[str, Tensor]:
    """Views into `data` [bytes] uint8, by name; they live as long as its bytes are left alone.

    Args:
        where: what to call the source in an error.
        step: what to do then.

    Raises:
        IntegrityError: the bytes are not safetensors, or a tensor would lie outside of them.
    """
    try:
        length = int.from_bytes(data[:8].tobytes(), "little")
        if not 2 <= length <= min(len(data) - 8, _HEADER_LIMIT):
            raise ValueError(f"header of {length} bytes in {len(data)}")
        header = json.loads(data[8 : 8 + length].tobytes())
        header.pop("__metadata__", None)
        return {name: _one(data[8 + length :], entry) for name, entry in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise IntegrityError(where, f"cannot be read as safetensors ({error})", step) from error


def _one(body: np.ndarray, entry: dict) -> Tensor:
    if entry["dtype"] not in DTYPES:
        raise ValueError(f"{entry['dtype']} is none of {', '.join(DTYPES)}")
    dtype, shape, (begin, end) = DTYPES[entry["dtype"]], entry["shape"], entry["data_offsets"]
    count = math.prod(shape)
    if not (
        0 <= begin <= end <= len(body)
        and min(shape, default=0) >= 0
        and end - begin == count * dtype.itemsize
    ):
        raise ValueError(f"tensor of shape {shape} at bytes {begin} to {end} of {len(body)}")
    if not count:
        return torch.empty(shape, dtype=dtype)
    part = body[begin:end]
    if part.ctypes.data % dtype.itemsize:
        part = part.copy()  # the header's length decides the alignment; writers pad it, others need not
    return torch.from_numpy(part).view(dtype).view(shape)
