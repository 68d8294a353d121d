"""Paths that the verbs are given."""

from __future__ import annotations

import os
from pathlib import Path

from manifests.errors import UsageError


def check_there(path: Path | None) -> None:
    """Refuse a file or folder that does not exist; None was not given."""
    if path is not None and not path.exists():
        raise UsageError(str(path), "does not exist", "Check the path.")


def name_in(path: Path, folder: Path) -> str:
    """How a list of files names one below a folder."""
    return path.relative_to(folder).as_posix()


def names_in_list(path: Path, folder: Path) -> set[str]:
    """The files below a folder that a list names, a line each, by their names in it or by whole paths.

    Raises:
        UsageError: it names one that is not there: what was to be held out would be trained on.
    """
    lines = [line.strip() for line in path.read_text(encoding="utf-8").splitlines()]
    asked = {line: folder / line for line in lines if line and not line.startswith("#")}  # a whole path stays
    if missing := [line for line, own in asked.items() if not own.is_file() or not _lies_in(own, folder)]:
        raise UsageError(
            str(path),
            f"names {len(missing)} files that are not in {folder}, such as {missing[0]}",
            "Name them as they lie below it.",
        )
    return {name_in(_below(own, folder), folder) for own in asked.values()}


def _lies_in(path: Path, folder: Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _below(path: Path, folder: Path) -> Path:
    """A path as it lies below a folder, however it was written."""
    plain = Path(os.path.normpath(path))
    return plain if plain.is_relative_to(folder) else folder / path.resolve().relative_to(folder.resolve())
