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


class Commits:
    """All commits of a dataset, looked up again and again, worked out anew where something has changed."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._seen: tuple[set[Commit], int] | None = None
        self._all: set[Commit] = set()

    def look(self) -> set[Commit]:
        """Those that the snapshot lists, and what a listing of small files shows.

        The set is the same object as before where it is the same set.
        """
        small = _small(self._dataset)
        self._dataset.refresh()  # after the listing: what is merged in between is in one of them
        seen = small, self._dataset.snapshot.number
        if seen != self._seen:
            self._all, self._seen = _all(self._dataset, small), seen
        return self._all


def committed(dataset: Dataset) -> set[Commit]:
    """All commits of a dataset."""
    return Commits(dataset).look()


def _small(dataset: Dataset) -> set[Commit]:
    small = set()
    folders = [] if dataset.at else [dataset.path("tables", "shards"), dataset.path("plan")]
    for folder in folders:
        for info in storage.list_files(dataset.filesystem, folder, ".parquet"):
            if name := _NUMBER.match(info.base_name):
                of = info.path.split("/")[-2]  # `name@fingerprint`, or `plan`
                small.add(Commit(of, int(name[1]), f"{info.size}-{info.mtime_ns}"))
    return small


def _all(dataset: Dataset, small: set[Commit]) -> set[Commit]:
    snapshot = dataset.snapshot
    found = {one for one in small if one.is_plan or not snapshot.version(one.version).covers(one.number)}
    if dataset.at:
        found |= {Commit(PLAN, number, dataset.at) for number in dataset.generations()}
    for version, merged in snapshot.columns.items():
        for file in merged.tables.get("shards", ()):
            covered = range(file.first, file.last + 1)
            found |= {Commit(version, shard, file.stamp) for shard in covered if merged.covers(shard)}
    return found
