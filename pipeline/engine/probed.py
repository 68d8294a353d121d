"""What probing has found so far, kept beside the dataset until the plan holds it.

A run that dies while it probes a million files goes on where it was. Nothing else reads this.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from manifests.layout import Dataset
from manifests.store import storage
from manifests.text import valid_json
from media.bytes.access import is_local
from media.errors import MediaError
from pipeline.footage.found import Found
from pipeline.footage.sources import change_since


def _mark(found: Found) -> str:
    """What was said of a file, and when its sidecars were last changed."""
    beside = [Path(name) for name in (found.sidecar, found.caption) if name and is_local(name)]
    times = [path.stat().st_mtime_ns for path in beside if path.exists()]
    return hashlib.sha256(f"{found!r}|{times}".encode("utf-8", "backslashreplace")).hexdigest()[:16]


class Probed:
    """Source rows of files that were probed and are in no plan yet."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self._folder = dataset.path("runs", "probed")

    def keep(self, files: Sequence[Found], rows: Sequence[dict]) -> None:
        """Write the rows of some files down, whole or not at all."""
        lines = [
            json.dumps(valid_json({"mark": _mark(found), "row": row}), default=list)
            for found, row in zip(files, rows, strict=True)
            if row["status"] == "kept"  # others are tried again
        ]
        if lines:
            data = "\n".join(lines).encode()
            name = f"{hashlib.sha256(data).hexdigest()[:16]}.jsonl"
            storage.write_bytes(self.dataset.filesystem, f"{self._folder}/{name}", data)

    def known(self, files: Sequence[Found]) -> tuple[list[dict], list[Found]]:
        """Rows of those that were probed before and are the same, and the files that are left."""
        filesystem, rows = self.dataset.filesystem, {}
        for info in storage.list_files(filesystem, self._folder, ".jsonl"):
            with contextlib.suppress(ValueError, TypeError, KeyError):  # damaged: its files are probed again
                for line in storage.read_bytes(filesystem, info.path).decode().splitlines():
                    item = json.loads(line)
                    rows[item["mark"]] = item["row"]
        found, left = [], []
        for file in files:
            row = rows.get(_mark(file)) if rows else None
            if row is not None and not _differs(file, row):
                found.append(row)
            else:
                left.append(file)
        return found, left

    def clear(self) -> None:
        """Forget them: the plan has them, or there is none to be made."""
        filesystem = self.dataset.filesystem
        for info in storage.list_files(filesystem, self._folder):
            filesystem.delete_file(info.path)


def _differs(file: Found, row: dict) -> bool:
    if not is_local(file.uri):
        return file.size_bytes not in {None, row["size_bytes"]}
    try:
        return bool(change_since(row))
    except MediaError:
        return True
