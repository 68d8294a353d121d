"""Weights in safetensors files: written whole, read so that a damaged one gives an error that names it.

A file carries a checksum of its tensors; files of others, and of older versions, have none and are believed.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from manifests.errors import IntegrityError
from manifests.store import storage

_SUM = "rushes_crc32"


def write_weights(
    weights: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write tensors, which may lie on any device; the file appears whole and has the process's usual
    permissions (safetensors gives its own to their owner alone).

    Args:
        metadata: text that the file carries besides.

    Raises:
        OSError: it cannot be written, as on a full disk; nothing is left of it.
    """
    plain = {name: value.detach().cpu().contiguous() for name, value in weights.items()}
    storage.sweep(path)
    try:
        with storage.beside(str(path)) as temporary:
            with open(temporary, "wb") as file:
                mode = os.fstat(file.fileno()).st_mode & 0o777
            save_file(plain, temporary, {**(metadata or {}), _SUM: _sum_of(plain)})
            temporary.chmod(mode)
            storage.flush(temporary)
            temporary.replace(path)
        storage.flush(path.parent)
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """All tensors of a file by name.

    Raises:
        IntegrityError: the file is damaged, or no safetensors.
        OSError: it cannot be read.
    """
    try:
        found: dict[str, Tensor] = load_file(path)
    except SafetensorError as error:
        raise IntegrityError(
            str(path), f"is not readable safetensors ({error})", "Restore it from a backup."
        ) from error
    told = _metadata(path).get(_SUM)
    if told is not None and told != _sum_of(found):
        raise IntegrityError(
            str(path), "does not hold the tensors that were written", "Restore it from a backup."
        )
    return found


def _sum_of(tensors: Mapping[str, Tensor]) -> str:
    """The crc32 of tensors on a CPU, in the order of their names."""
    crc = 0
    for name in sorted(tensors):
        flat: Any = tensors[name].reshape(-1).view(torch.uint8).numpy()
        crc = zlib.crc32(flat, crc)
    return f"{crc:08x}"


def read_metadata(path: Path) -> dict[str, str]:
    """The text that a file carries besides its tensors.

    Raises:
        IntegrityError: the file is damaged, or no safetensors.
        OSError: it cannot be read.
    """
    return {name: text for name, text in _metadata(path).items() if name != _SUM}


def is_ours(path: Path) -> bool:
    """Whether there is a file that `write_weights` wrote."""
    try:
        return path.is_file() and _SUM in _metadata(path)
    except (IntegrityError, OSError):
        return False


def _metadata(path: Path) -> dict[str, str]:
    try:
        with safe_open(path, "pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise IntegrityError(
            str(path), f"is not readable safetensors ({error})", "Restore it from a backup."
        ) from error


def fill(model: nn.Module, weights: Mapping[str, Tensor], path: Path) -> None:
    """Put weights into a model of the same sizes.

    Raises:
        IntegrityError: names or shapes differ from the model's, or numbers are not finite.
    """
    for name, value in weights.items():
        if value.is_floating_point() and not value.isfinite().all():
            raise IntegrityError(
                str(path), f"holds numbers in {name} that are not finite", "Take weights of before that."
            )
    try:
        model.load_state_dict(dict(weights))
    except RuntimeError as error:
        first = str(error).strip().splitlines()[1:2] or [str(error)]
        raise IntegrityError(
            str(path),
            f"does not fit the sizes said beside it ({first[0].strip()})",
            "Restore both from a backup.",
        ) from error
