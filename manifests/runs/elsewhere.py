"""Trainings that read a dataset and lie outside of it: noted in it, so that a takedown and the dashboard find
them.

A note is `training/elsewhere-<id>.json`, with the run's folder and the machine; the id lies in the folder
too, as another machine may have another run in a folder of that name. A dataset that may not be written gets
none.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import uuid
from dataclasses import dataclass
from pathlib import Path

from manifests.errors import RushesError
from manifests.layout import Dataset
from manifests.store import storage

_BEGINNING, _MARK = "elsewhere-", ".noted"


@dataclass(frozen=True)
class Noted:
    """A run outside of the dataset.

    Attributes:
        id: of the note, and in the run's folder.
        folder: of the run, on its machine.
        host: that machine.
    """

    id: str
    folder: Path
    host: str

    @property
    def is_here(self) -> bool:
        """Whether it can be looked into from here."""
        try:
            return _mark(self.folder)["id"] == self.id and os.access(self.folder, os.R_OK)
        except OSError:
            return False


def note_training(dataset: Dataset, folder: Path) -> bool:
    """Note a run's folder, unless it lies in the dataset. Returns whether a takedown will find it."""
    place = Path(os.path.realpath(folder))
    is_local = storage.is_local(dataset.filesystem)
    if is_local and place.is_relative_to(os.path.realpath(dataset.path("training"))):
        return True
    with contextlib.suppress(OSError, RushesError):
        dataset.check_there()
        told = json.dumps({"folder": str(place), "host": platform.node()}).encode()
        name = f"{_BEGINNING}{_id_of(place)}.json"
        storage.write_bytes(dataset.filesystem, dataset.path("training", name), told)
        return True
    return False


def _id_of(folder: Path) -> str:
    """The id in a run's folder; a new one where there is none, or that of the folder it was copied from."""
    found = _mark(folder)
    if found["folder"] != str(folder) or not re.fullmatch("[0-9a-f]{32}", found["id"]):
        found = {"id": uuid.uuid4().hex, "folder": str(folder)}
        storage.write_local(folder / _MARK, json.dumps(found).encode())
    return found["id"]


def _mark(folder: Path) -> dict[str, str]:
    try:
        told = json.loads((folder / _MARK).read_text())
        return {name: str(told[name]) for name in ("id", "folder")}
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return {"id": "", "folder": ""}


def noted_trainings(dataset: Dataset) -> list[Noted]:
    """Runs that were noted, those that were deleted since too; each folder once, by its newest note."""
    found = dict[str, Noted]()
    files = storage.list_files(dataset.filesystem, dataset.path("training"), ".json", recursive=False)
    for info in sorted(files, key=lambda info: info.mtime_ns or 0):
        if not info.base_name.startswith(_BEGINNING):
            continue
        with contextlib.suppress(ValueError, KeyError, TypeError):  # damaged, or no note
            told = json.loads(storage.read_bytes(dataset.filesystem, info.path))
            name = info.base_name[len(_BEGINNING) : -len(".json")]
            found[f"{told['host']}:{told['folder']}"] = Noted(name, Path(told["folder"]), str(told["host"]))
    return list(found.values())
