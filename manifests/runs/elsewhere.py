"""Trainings that read a dataset and lie outside of it: noted in it, so that a takedown and the dashboard find
them.

A note is `training/elsewhere-<hash>.json`, with the run's folder and the machine. A dataset that may not be
written gets none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from manifests.layout import Dataset
from manifests.store import storage

_BEGINNING = "elsewhere-"


@dataclass(frozen=True)
class Noted:
    """A run outside of the dataset.

    Attributes:
        folder: of the run, on its machine.
        host: that machine.
    """

    folder: Path
    host: str

    @property
    def is_here(self) -> bool:
        """Whether the folder can be looked into from here."""
        return self.folder.is_dir()


def note_training(dataset: Dataset, folder: Path) -> bool:
    """Note a run's folder, unless it lies in the dataset. Returns whether a takedown will find it."""
    place, host = os.path.abspath(folder), platform.node()
    if storage.is_local(dataset.filesystem) and Path(place).is_relative_to(dataset.path("training")):
        return True
    name = f"{_BEGINNING}{hashlib.sha256(f'{host}:{place}'.encode()).hexdigest()[:16]}.json"
    data = json.dumps({"folder": place, "host": host}).encode()
    with contextlib.suppress(OSError):
        storage.write_bytes(dataset.filesystem, dataset.path("training", name), data)
        return True
    return False


def noted_trainings(dataset: Dataset) -> list[Noted]:
    """Runs that were noted, those that were deleted since too."""
    found = []
    for info in storage.list_files(dataset.filesystem, dataset.path("training"), ".json", recursive=False):
        if not info.base_name.startswith(_BEGINNING):
            continue
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads(storage.read_bytes(dataset.filesystem, info.path))
            found.append(Noted(Path(told["folder"]), str(told["host"])))
    return found
