"""JSON in files, read so that a damaged one gives an error that names it."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pyarrow import fs

from manifests.errors import IntegrityError
from manifests.store import storage

RESTORE = "Restore it from a backup."


def parse_json(data: bytes | str, where: str, next_step: str = RESTORE) -> Any:
    """The value of a JSON text.

    Args:
        where: the file, for the error.
        next_step: what the user can do about a damaged one.

    Raises:
        IntegrityError: it is no JSON, or no UTF-8.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:  # also of decoding
        what = "is empty" if not data.strip() else f"is not readable JSON ({error})"
        raise IntegrityError(where, what, next_step) from error


def parse_object(
    data: bytes | str, where: str, next_step: str = RESTORE, keys: Collection[str] = ()
) -> dict[str, Any]:
    """The value of a JSON text that holds an object with these keys.

    Raises:
        IntegrityError: it holds anything else, or lacks a key.
    """
    value = parse_json(data, where, next_step)
    if not isinstance(value, dict):
        raise IntegrityError(where, f"holds {type(value).__name__}, not an object", next_step)
    if missing := [key for key in keys if key not in value]:
        raise IntegrityError(where, f"lacks {', '.join(missing)}", next_step)
    return value


def parse_lines(
    data: bytes | str, where: str, next_step: str = RESTORE, keys: Collection[str] = ()
) -> list[dict[str, Any]]:
    """The objects of JSON lines; an unfinished last line, of a writer at work, is left out.

    Raises:
        IntegrityError: a line is no object with these keys; the error has its number.
    """
    lines = (data.decode(errors="replace") if isinstance(data, bytes) else data).split("\n")[:-1]
    return [
        parse_object(line, f"{where} line {number}", next_step, keys)
        for number, line in enumerate(lines, 1)
        if line
    ]


def read_object(
    filesystem: fs.FileSystem, path: str, next_step: str = RESTORE, keys: Collection[str] = ()
) -> dict[str, Any]:
    """The object with these keys in a JSON file of a dataset.

    Raises:
        IntegrityError: it holds none.
        OSError: it cannot be read.
    """
    return parse_object(storage.read_bytes(filesystem, path), path, next_step, keys)


def read_local_object(path: Path, next_step: str = RESTORE, keys: Collection[str] = ()) -> dict[str, Any]:
    """The object with these keys in a JSON file on this machine.

    Raises:
        IntegrityError: it holds none.
        OSError: it cannot be read.
    """
    return parse_object(path.read_bytes(), str(path), next_step, keys)
