"""What lies in a dataset and nothing names: of attempts that died, or of what is lost."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator

from pyarrow import fs

from manifests.errors import RushesError
from manifests.layout import Dataset
from manifests.snapshots import Snapshot
from manifests.store import storage
from manifests.tables.parts import read_part


def lost_snapshot(dataset: Dataset) -> Iterator[str]:
    """Column versions whose merged records no snapshot names and that have no others: it had them."""
    named = {merged.path for merged in dataset.snapshot.files()}
    lost, small = Counter[str](), set[str]()
    for info in storage.list_files(dataset.filesystem, dataset.path("tables", "shards"), ".parquet"):
        column = info.path.rsplit("/", 2)[-2]
        if not info.base_name.startswith("merged-"):
            small.add(column)
        elif dataset.relative(info.path) not in named:
            lost[column] += 1
    for column in sorted(lost.keys() - small - dataset.snapshot.columns.keys()):
        yield (
            f"{dataset.path('snapshots')}: none names the {lost[column]} merged files of {column}; restore "
            "the newest snapshot"
        )


def unnamed_tars(dataset: Dataset, named: Collection[str | None], kept: Iterable[Snapshot]) -> list[int]:
    """Sizes in bytes of the tars that no record names.

    Args:
        named: paths of those that records name now, within the dataset.
        kept: named snapshots, whose tars are named too.
    """
    known = set(named)
    for snapshot in kept:
        for version in snapshot.columns.values():
            for merged in version.tables.get("shards", ()):
                with contextlib.suppress(OSError, RushesError):
                    path = dataset.path(*merged.path.split("/"))
                    known.update(read_part(dataset, path, ["tar"])["tar"].to_pylist())
    tars = list[fs.FileInfo]()
    with contextlib.suppress(OSError):  # which the check of the columns tells of
        tars = storage.list_files(dataset.filesystem, dataset.path("columns"), ".tar")
    return [info.size for info in tars if dataset.relative(info.path) not in known]


def lost_tars(dataset: Dataset, snapshot: Snapshot) -> Iterator[str]:
    """That the tars of a named snapshot are there; those that are committed now are looked into elsewhere."""
    try:
        tars = storage.list_files(dataset.filesystem, dataset.path("columns"), ".tar")
    except OSError:  # which the check of the columns tells of
        return
    sizes = {dataset.relative(info.path): info.size for info in tars}
    for version in snapshot.columns.values():
        for merged in version.tables.get("shards", ()):
            path = dataset.path(*merged.path.split("/"))
            try:
                rows = read_part(dataset, path, ["tar", "tar_bytes"])
            except (OSError, RushesError) as error:
                yield f"{path}: cannot be read ({error})"
                continue
            for row in rows.to_pylist():
                if row["tar"] and sizes.get(row["tar"]) != row["tar_bytes"]:
                    tar = dataset.path(*row["tar"].split("/"))
                    yield f"{tar}: is missing or cut, and a named snapshot has it"
