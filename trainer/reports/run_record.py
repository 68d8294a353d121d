"""`run.json` of a training: what it read, the commands that ran it, and when each began and ended."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import time
from pathlib import Path
from typing import Any

from manifests.store import storage
from manifests.store.json_files import read_local_object
from manifests.text import shown_json

RECORD = "run.json"
_PACKAGES = ("rushes", "torch", "numpy", "pyarrow", "webdataset")


class RunRecord:
    """The record of a run folder; each time that the run goes on is a session of it.

    Args:
        origin: dataset, view and columns that it reads.
    """

    def __init__(self, folder: Path, origin: dict[str, Any], step: int, processes: int) -> None:
        self._path = folder / RECORD
        before = read_local_object(self._path) if self._path.exists() else {}
        self._record = {**before, **origin}
        versions = {name: importlib.metadata.version(name) for name in _PACKAGES if _is_there(name)}
        self._session: dict[str, Any] = {
            "command": sys.argv,
            "versions": versions,
            "processes": processes,
            "started_s": time.time(),
            "ended_s": None,
            "from_step": step,
            "to_step": None,
        }
        self._record["sessions"] = [*before.get("sessions", []), self._session]
        self._write()

    def end(self, step: int) -> None:
        """The session ends, after so many steps of the run."""
        self._session |= {"ended_s": time.time(), "to_step": step}
        self._write()

    def _write(self) -> None:
        storage.write_local(self._path, json.dumps(shown_json(self._record), indent=2, default=str).encode())


def _is_there(name: str) -> bool:
    try:
        importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True
