"""What belongs to no column: the plan, the header, views, and what was merged or has a name."""

from __future__ import annotations

from collections.abc import Iterator

from manifests import snapshots
from manifests.checking.files import check_alone, check_rows
from manifests.errors import RushesError
from manifests.layout import Dataset, header_bytes
from manifests.schemas import FORMAT_VERSION
from manifests.store import storage
from manifests.tables import planned
from manifests.views import View
from manifests.writing.unnamed import lost_tars


def check_plan(dataset: Dataset, deep: bool) -> Iterator[str]:
    """Every generation and the tables that it names."""
    for generation in dataset.generations():
        if deep:
            yield from check_alone(dataset, "segments", dataset.plan_path(generation))
        try:
            digests = planned.digests(dataset, generation)
        except RushesError as error:
            yield str(error)
            continue
        for name, digest in sorted(digests.items()):
            path = dataset.plan_part_path(name, generation, digest)
            if not storage.exists(dataset.filesystem, path):
                yield f"{path}: is missing"
            elif deep and storage.sha256_of(dataset.filesystem, path) != digest:
                yield f"{path}: bytes have changed (sha256)"


def check_header(dataset: Dataset) -> Iterator[str]:
    """`dataset.json` is as a version up to this one writes it."""
    path = dataset.path("dataset.json")
    newest = int(FORMAT_VERSION.partition(".")[2])
    minor = str(dataset.header.get("format", "")).partition(".")[2]
    if minor not in {str(number) for number in range(newest + 1)}:
        yield f"{path}: has format {dataset.header.get('format')}, this version knows up to {FORMAT_VERSION}"
        return
    is_by_hand = dataset.header.keys() == {"format"}
    written = header_bytes(str(dataset.header["format"]))
    if not is_by_hand and storage.read_bytes(dataset.filesystem, path) != written:
        yield f"{path}: bytes have changed; it should be {written.decode()!r}"


def check_views(dataset: Dataset) -> Iterator[str]:
    """Every view can be read."""
    for name in View.names(dataset):
        try:
            View.load(dataset, name)
        except RushesError as error:
            yield str(error)


def check_merged(dataset: Dataset, deep: bool) -> Iterator[str]:
    """The merged files of the snapshot, and the named snapshots."""
    checked = set[str]()
    for snapshot in [dataset.snapshot, *named_ones(dataset)]:
        if isinstance(snapshot, str):
            yield snapshot
            continue
        for merged in snapshot.files():
            path = dataset.path(*merged.path.split("/"))
            if path in checked:
                continue
            checked.add(path)
            info = dataset.filesystem.get_file_info(path)
            if not info.is_file:
                yield f"{path}: is missing"
            elif info.size != merged.size_bytes:
                yield f"{path}: has {info.size} bytes, {merged.size_bytes} were committed"
            elif deep and storage.sha256_of(dataset.filesystem, path) != merged.sha256:
                yield f"{path}: bytes have changed (sha256)"
            else:
                yield from check_rows(dataset, path, merged.rows)
        if snapshot is not dataset.snapshot:
            yield from lost_tars(dataset, snapshot)


def named_ones(dataset: Dataset) -> Iterator[snapshots.Snapshot | str]:
    """Named snapshots, or what is wrong with one."""
    for name in snapshots.names(dataset.filesystem, dataset.root):
        try:
            yield snapshots.named(dataset.filesystem, dataset.root, name)[0]
        except RushesError as error:
            yield str(error)
