"""Checks of the places a command will write to, made before any work."""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from pathlib import Path

from manifests.errors import UsageError


def writable(folder: Path) -> Path:
    """The folder, made if missing.

    Raises:
        UsageError: it cannot be made or written to.
    """
    _check_folder(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            str(folder), f"cannot be made ({error.strerror})", "Name a folder you may write to."
        ) from error
    return folder


def check_lasting(address: str) -> None:
    """Refuse a place that Ray deletes: a relative path of a submitted job lies in Ray's cache of its files.

    Raises:
        UsageError: it does.
    """
    if "://" in address:
        return
    path = Path(address).expanduser().absolute()
    if {"runtime_resources", "working_dir_files"} <= set(path.parts):
        raise UsageError(
            address,
            f"would lie in Ray's cache of this job's files ({path}), which Ray deletes",
            f"Write it in full: a path on a disk that all nodes share, such as /shared/{path.name}, or "
            f"s3://BUCKET/{path.name}.",
        )


def _check_folder(folder: Path) -> None:
    """Refuse a folder that does not last, or can neither be made nor written to."""
    check_lasting(str(folder))
    _check_no_address(folder)
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UsageError(str(there), "is a file, and a folder is needed", "Name a folder you may write to.")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UsageError(str(there), "may not be written to", "Name a folder you may write to.")


def _check_no_address(path: Path) -> None:
    """Refuse s3://bucket/x, of which a path makes a folder `s3:` here."""
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+:", path.parts[0] if path.parts else ""):
        why = "is an address, and a place on this machine is needed"
        raise UsageError(str(path), why, "Write to one, and copy it there.")


def check_own(folder: Path, names: Collection[str]) -> None:
    """Refuse a folder that holds other things than those of these names and hidden ones.

    Raises:
        UsageError: it does.
    """
    there = sorted(path.name for path in folder.glob("*") if not path.name.startswith("."))
    if foreign := [name for name in there if name not in names]:
        raise UsageError(str(folder), f"holds other files ({foreign[0]})", "Name a folder of its own.")


def with_folder(path: Path) -> Path:
    """The path of a file to write, its folder made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


def check_picture(option: str, path: Path | None, *, is_overwriting: bool = False) -> None:
    """As `check_new` of a picture that an option names.

    Raises:
        UsageError: also where its ending is of no kind of picture that can be written.
    """
    if path and path.suffix.lower() not in _PICTURES:
        raise UsageError(f"{option} {path}", "does not name a picture", "Give a name that ends in .png.")
    check_new(path, is_overwriting=is_overwriting)


def check_new(*paths: Path | None, is_overwriting: bool = False) -> None:
    """Check that files can be written, and that none of them is there already. Nothing is made.

    Args:
        paths: files to be written; None for one that was not asked for.
        is_overwriting: whether the user said that existing files may be replaced (`--overwrite`).

    Raises:
        UsageError: a file exists, is a folder, or lies where one may not write.
    """
    for path in paths:
        if path is None:
            continue
        _check_no_address(path)
        if path.is_dir():
            raise UsageError(str(path), "is a folder", "Name a file.")
        if path.exists() and not is_overwriting:
            raise UsageError(str(path), "exists", "Name another file, or add --overwrite to replace it.")
        _check_folder(path.absolute().parent)
