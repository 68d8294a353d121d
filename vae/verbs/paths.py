"""Paths that the verbs are given."""

from __future__ import annotations

from pathlib import Path

from manifests.errors import UsageError


def check_there(path: Path | None) -> None:
    """Refuse a file or folder that does not exist; None was not given."""
    if path is not None and not path.exists():
        raise UsageError(str(path), "does not exist", "Check the path.")


def name_in(path: Path, folder: Path) -> str:
    """How a list of files names one below a folder."""
    return path.relative_to(folder).as_posix()
