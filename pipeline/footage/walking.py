"""Files below a folder: links followed once, our own outputs left out, and all that is left out said."""

from __future__ import annotations

import contextlib
import functools
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from manifests.cli import say
from manifests.errors import UsageError
from manifests.layout import EXPORT_MARK, SHOWCASE_MARK, is_header
from media.errors import shown
from pipeline.footage.found import Found

HEADER = "dataset.json"
_RUN = ("config.json", "metrics.jsonl", "run.json")
"""Files by which the folder of a training run is known: the first, and one of the others."""


_RUN_FOLDER, _EXPORT, _SHOWCASE = "a training run", "an export of ours", "a showcase of samples"
_WHOLE = (_RUN_FOLDER, _EXPORT, _SHOWCASE)
"""Of these folders all is ours."""
OWN_NAMES = frozenset(
    ("columns", "keys", "plan", "removed", "runs", "snapshots", "tables", "training", "views")
) | {HEADER, "lease.json"}
"""Of what we put into a dataset's folder."""
MOST_HEADER_BYTES = 1 << 20


def own_output(folder: Path) -> str:
    """What of ours a folder is: a dataset or a training run; nothing for any other folder."""
    try:
        header = folder / HEADER
        if header.is_file() and header.stat().st_size <= MOST_HEADER_BYTES:
            is_cut = all((folder / name).is_dir() for name in ("columns", "plan"))
            if is_cut or is_header(header.read_bytes()):
                return "a dataset of ours"
        if (folder / SHOWCASE_MARK).is_file():
            return _SHOWCASE
        if (folder / EXPORT_MARK).is_file():
            return _EXPORT
        is_run = (folder / _RUN[0]).is_file() and any((folder / name).exists() for name in _RUN[1:])
        if is_run and (folder / "checkpoints").is_dir():
            return _RUN_FOLDER
    except OSError:
        return ""
    return ""


_known_output = functools.lru_cache(1024)(own_output)


def inside_own_output(path: Path) -> str:
    """In which folder of ours a path lies, at whatever depth; nothing for any other.

    Of a dataset's folder only what we put there is ours: footage may lie beside it.
    """
    whole = Path(os.path.abspath(path))
    for folder in whole.parents:
        what = _known_output(folder)
        if what and (what in _WHOLE or whole.relative_to(folder).parts[0] in OWN_NAMES):
            return f"in {folder}, {what}"
    return ""


def place_of_ours(path: str) -> str:
    """In which folder of ours a file lies once all links are followed; nothing for any other. For a million
    files: folders are looked at once."""
    with contextlib.suppress(OSError):  # a name that is too long
        path = os.path.realpath(path) if Path(path).is_symlink() else path
    folder, name = os.path.split(os.path.abspath(path))
    if name in OWN_NAMES:
        return inside_own_output(Path(_real_folder(folder)) / name)
    return _place_of_folder(folder)


_real_folder = functools.lru_cache(4096)(os.path.realpath)


@functools.lru_cache(4096)
def _place_of_folder(folder: str) -> str:
    """The same of files in a folder whose names are not those of ours."""
    return inside_own_output(Path(_real_folder(folder)) / "file")


class Walk:
    """The files below a folder.

    Links to folders are followed, each folder once, so that loops end. Dangling links and folders that may
    not be entered are listed as they are: probing them tells why they fail. Names with a leading dot and our
    own outputs are left out, counted in `left`.
    """

    def __init__(self, root: str) -> None:
        self.root, self.left = root, Counter[str]()
        self._seen: set[tuple[int, int]] = set()

    def files(self) -> list[Found]:
        """All of them.

        Raises:
            UsageError: the folder itself is an output of ours.
        """
        if what := own_output(Path(self.root)) or inside_own_output(Path(self.root)):
            raise UsageError(shown(self.root), f"is {what}, not footage", "Name the folder of the footage.")
        found, todo = list[Found](), [self.root]
        while todo:  # folders as deep as one likes
            inside = list(self._inside(todo.pop()))
            found += [Found(path) for path, is_folder in inside if not is_folder]
            todo += [path for path, is_folder in reversed(inside) if is_folder]
        if self.left:
            counts = ", ".join(f"{count} {what}" for what, count in sorted(self.left.items()))
            say(f"{shown(self.root)}: left out: {counts}")
        return found

    def _inside(self, folder: str) -> Iterator[tuple[str, bool]]:
        """What lies in a folder, and whether it is one itself; the folder where it may not be entered."""
        try:
            facts = Path(folder).stat()
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            yield folder, False
            return
        if (facts.st_dev, facts.st_ino) in self._seen:
            self.left["links to folders that are listed already"] += 1
            return
        self._seen.add((facts.st_dev, facts.st_ino))
        for entry in entries:
            if entry.name.startswith("."):
                self.left["hidden names"] += 1
            elif not _is_folder(entry):
                yield entry.path, False
            elif what := own_output(Path(entry.path)) or (
                entry.is_symlink() and inside_own_output(Path(os.path.realpath(entry.path)))
            ):
                self.left[f"folders that are {what}"] += 1
            else:
                yield entry.path, True


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link into a loop of links
        return False
