"""Arrays that one process of a node computes once, and that all processes of the node map into memory."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from learning import processes
from manifests.errors import RushesError

Arrays = dict[str, np.ndarray]
_PREFIX = "rushes-shared-"
_LEFT_S = 24 * 3600.0
_ALIGNED = 64


def _sweep() -> None:
    """Remove what processes that were killed have left, when nobody can be mapping it any more."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(FileNotFoundError):  # another has removed it
            found = path.lstat()
            if found.st_uid == os.getuid() and time.time() - found.st_mtime > _LEFT_S:
                shutil.rmtree(path, ignore_errors=True)


def _give_back() -> None:
    """Return what was freed to the system: what tables took while they were read is many times what stays."""
    pa.default_memory_pool().release_unused()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc's


def _write(path: Path, arrays: Arrays) -> list[list[Any]]:
    """Write arrays one behind the other. Returns [name, offset, dtype, shape] of each."""
    places = list[list[Any]]()
    with open(path, "wb") as file:
        for name, value in arrays.items():
            file.write(bytes(-file.tell() % _ALIGNED))
            places.append([name, file.tell(), value.dtype.str, list(value.shape)])
            file.write(np.ascontiguousarray(value).data)
    return places


def _mapped(path: Path, places: list[list[Any]], mode: Literal["r", "c"]) -> Arrays:
    """Views of one mapping: each mapping would hold a file open, and thousands may not be."""
    if not path.stat().st_size:
        return {name: np.zeros(shape, dtype) for name, _, dtype, shape in places}
    whole, found = np.memmap(path, np.uint8, mode), dict[str, np.ndarray]()
    for name, offset, dtype, shape in places:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        found[name] = whole[offset : offset + size].view(dtype).reshape(shape)
    return found


def shared(
    name: str, make: Callable[[], tuple[Arrays, dict[str, Any]]], mode: Literal["r", "c"] = "r"
) -> tuple[Arrays, dict[str, Any]]:
    """Arrays that one process of each node makes and all of it map, and what else it says of them.

    The files are gone from their folder as soon as all have mapped them. A process that is alone keeps what
    it made. Every process must call.

    Args:
        name: of what is made, for errors.
        mode: r: nothing may be written into the arrays; c: what a process writes it alone sees.

    Raises:
        RushesError: another process could not make them; it says why.
    """
    if processes.alone():
        return make()
    folder, error = None, None
    if processes.leads_node():
        try:
            arrays, told = make()
            _sweep()
            folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
            places = _write(folder / "arrays", arrays)
            (folder / "told.json").write_text(json.dumps([places, told]))
            del arrays
            _give_back()
        except BaseException as caught:  # noqa: BLE001 - the others must hear of it before it goes on
            error = caught
    try:
        found = processes.exchanged((processes.node(), str(folder) if folder else "", error is not None))
        if error:
            raise error
        if any(is_failed for _, _, is_failed in found):
            raise RushesError(name, "could not be made", "The process that tried says why.")
        own = Path(next(path for node, path, _ in found if node == processes.node() and path))
        mapped, error = dict[str, np.ndarray](), None
        try:
            places, told = json.loads((own / "told.json").read_text())
            mapped = _mapped(own / "arrays", places, mode)
        except Exception as caught:  # noqa: BLE001 - the others must not wait for this one
            error = caught
        failed = processes.exchanged(error is not None)
        if error:
            raise error
        if any(failed):
            raise RushesError(name, "could not be mapped", "The process that tried says why.")
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)
    return mapped, told
