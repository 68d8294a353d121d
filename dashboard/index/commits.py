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
    """All commits of a dataset: those that its snapshot lists, and what a listing of small files shows."""
    dataset.refresh()
    found = set()
    for version, merged in dataset.snapshot.columns.items():
        for file in merged.tables.get("shards", ()):
            covered = range(file.first, file.last + 1)
            found |= {Commit(version, shard, file.stamp) for shard in covered if merged.covers(shard)}
    for folder in (dataset.path("tables", "shards"), dataset.path("plan")):
        for info in storage.list_files(dataset.filesystem, folder, ".parquet"):
            if name := _NUMBER.match(info.base_name):
                number, stamp = int(name[1]), f"{info.size}-{info.mtime_ns}"
                of = info.path.split("/")[-2]  # `name@fingerprint`, or `plan`
                if of == PLAN or not dataset.snapshot.version(of).covers(number):
                    found.add(Commit(of, number, stamp))
    return found
