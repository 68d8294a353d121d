"""Paths that the verbs are given."""

from __future__ import annotations

import contextlib
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
    named = {line: _name_below(line, folder) for line in lines if line}
    wrong = [line for line, name in named.items() if name is None and not line.startswith("#")]
    if wrong:
        raise UsageError(
            str(path),
            f"names {len(wrong)} files that are not in {folder}, such as {wrong[0]}",
            "Name them as they lie below it.",
        )
    return {name for name in named.values() if name is not None}


def _name_below(line: str, folder: Path) -> str | None:
    """How a file is named below a folder, links as they are; None where there is none."""
    here = Path(os.path.abspath(folder))
    file = Path(os.path.abspath(here / line))  # a whole path stays as it is
    with contextlib.suppress(OSError, ValueError):
        if not file.is_relative_to(here):
            file = here / (file.parent.resolve() / file.name).relative_to(here.resolve())
        return name_in(file, here) if file.is_file() else None
    return None
