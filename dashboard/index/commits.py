"""What is committed in a dataset, from a listing alone: the unit by which an index follows it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from manifests.layout import Dataset
from manifests.store import storage

_NUMBER = re.compile(r"^(?:gen-)?(\d{4,})\.parquet$")
PLAN = "plan"


@dataclass(frozen=True, order=True)
class Commit:
    """A shard of a column version, or a generation of the plan.

    Attributes:
        version: `name@fingerprint`, or `plan`.
        number: of the shard, or of the generation.
        stamp: changes where the commit was taken back and made again.
    """

    version: str
    number: int
    stamp: str

    @property
    def is_plan(self) -> bool:
        return self.version == PLAN


def committed(dataset: Dataset) -> set[Commit]:
    """All commits of a dataset; one listing of its records and one of its plan."""
    found = set()
    for folder, version in ((dataset.path("tables", "shards"), None), (dataset.path("plan"), PLAN)):
        for info in storage.list_files(dataset.filesystem, folder, ".parquet"):
            if name := _NUMBER.match(info.base_name):
                stamp = f"{info.size}-{info.mtime_ns}"
                found.add(Commit(version or info.path.split("/")[-2], int(name[1]), stamp))
    return found
