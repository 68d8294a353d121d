"""Snapshots: small committed files that list the merged parts of a dataset's tables.

A commit begins as small files of its own (`manifests.writing.commit`). Compaction puts the rows of many
shards into few files, sorted by shard, and publishes a snapshot that names them; then the small files go. So
what is in the snapshot counts, and small files count for the shards that it does not cover. Nobody lists a
store's tables to answer a question.

Snapshots are numbered, made only where there is none of a number, and never changed. A named one is kept for
ever, and the files that it lists with it.
"""

from __future__ import annotations

import hashlib
import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property

from pyarrow import fs

from manifests.errors import IntegrityError, UsageError
from manifests.fingerprint import canonical_json
from manifests.store import storage
from manifests.store.json_files import parse_object

_NUMBERED = re.compile(r"^(\d{6,})\.json$")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


@dataclass(frozen=True)
class Merged:
    """One merged file.

    Attributes:
        path: inside the dataset.
        first, last: shards of its first and last row; other shards' rows lie between in rising order.
        made_ns: when the newest of the commits in it was made, in ns of Unix time.
    """

    path: str
    rows: int
    size_bytes: int
    sha256: str
    first: int
    last: int
    made_ns: int

    @property
    def stamp(self) -> str:
        """Another one where any of its rows may be another."""
        return f"{self.sha256[:8]}-{self.made_ns}"


@dataclass(frozen=True)
class Version:
    """What a snapshot has of a column version: ranges of shards [first, last], merged files by table."""

    shards: tuple[tuple[int, int], ...] = ()
    tables: dict[str, tuple[Merged, ...]] = field(default_factory=dict)

    @cached_property
    def _firsts(self) -> list[int]:
        return [first for first, _ in self.shards]

    def covers(self, shard: int) -> bool:
        place = bisect_right(self._firsts, shard) - 1
        return place >= 0 and shard <= self.shards[place][1]

    def numbers(self) -> Iterator[int]:
        """The shards that it covers, in rising order."""
        for first, last in self.shards:
            yield from range(first, last + 1)

    def files_of(self, table: str, shard: int) -> list[Merged]:
        """Files of a table that may hold rows of a shard."""
        return [found for found in self.tables.get(table, ()) if found.first <= shard <= found.last]


@dataclass(frozen=True)
class Snapshot:
    """The merged parts of a dataset; number 0 has none."""

    number: int = 0
    columns: dict[str, Version] = field(default_factory=dict)

    def version(self, column: object) -> Version:
        return self.columns.get(str(column), Version())

    def files(self) -> Iterator[Merged]:
        for version in self.columns.values():
            for found in version.tables.values():
                yield from found


def ranges(numbers: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Whole numbers as ranges [first, last]."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and number <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(number, found[-1][1]))
        else:
            found.append((number, number))
    return tuple(found)


def _folder(root: str) -> str:
    return f"{root.rstrip('/')}/snapshots"


def _path(root: str, number: int) -> str:
    return f"{_folder(root)}/{number:06d}.json"


def named_path(root: str, name: str) -> str:
    """Where a named snapshot lies.

    Raises:
        UsageError: it is not a name.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(
            name, "is not a name for a snapshot", "Use at most 128 letters, digits, '_', '-' and '.'."
        )
    return f"{_folder(root)}/named/{name}.json"


def _stored(snapshot: Snapshot) -> dict:
    return {
        "number": snapshot.number,
        "columns": {
            name: {
                "shards": [list(pair) for pair in version.shards],
                "tables": {
                    table: [asdict(found) for found in files] for table, files in version.tables.items()
                },
            }
            for name, version in sorted(snapshot.columns.items())
        },
    }


def to_bytes(snapshot: Snapshot, **more: object) -> bytes:
    """A snapshot's file, with a hash of what it says."""
    stored = _stored(snapshot) | more
    return json.dumps(stored | {"sha256": _hash(stored)}, indent=1, sort_keys=True).encode()


def _hash(stored: dict) -> str:
    return hashlib.sha256(canonical_json(stored).encode()).hexdigest()


def from_bytes(data: bytes, path: str) -> tuple[Snapshot, dict]:
    """The snapshot in a file, and all that the file says.

    Raises:
        IntegrityError: it is damaged.
    """
    step = "Restore it from a copy. Its tars are whole; `rushes verify` lists what else is missing."
    stored = parse_object(data, path, step, ("number", "columns", "sha256"))
    if _hash({key: value for key, value in stored.items() if key != "sha256"}) != stored["sha256"]:
        raise IntegrityError(path, "has changed since it was written (sha256)", step)
    columns = {
        name: Version(
            tuple((first, last) for first, last in version["shards"]),
            {table: tuple(Merged(**one) for one in files) for table, files in version["tables"].items()},
        )
        for name, version in stored["columns"].items()
    }
    return Snapshot(stored["number"], columns), stored


def numbers(filesystem: fs.FileSystem, root: str) -> list[int]:
    """Numbers of the snapshots that are there, rising; one listing of a small folder."""
    infos = storage.list_files(filesystem, _folder(root), ".json", recursive=False)
    return sorted(int(name[1]) for info in infos if (name := _NUMBERED.match(info.base_name)))


def latest(filesystem: fs.FileSystem, root: str, known: Snapshot | None = None) -> Snapshot:
    """The newest snapshot; `known` itself where that is it."""
    found = numbers(filesystem, root)
    if not found:
        return Snapshot()
    if known is not None and known.number == found[-1]:
        return known
    path = _path(root, found[-1])
    try:
        return from_bytes(storage.read_bytes(filesystem, path), path)[0]
    except FileNotFoundError:  # superseded twice since the listing
        return latest(filesystem, root, known)


def publish(filesystem: fs.FileSystem, root: str, snapshot: Snapshot) -> bool:
    """Write a snapshot where there is none of its number; whether this call did."""
    return storage.create_bytes(filesystem, _path(root, snapshot.number), to_bytes(snapshot))


def named(filesystem: fs.FileSystem, root: str, name: str) -> tuple[Snapshot, dict]:
    """A named snapshot and all that its file says.

    Raises:
        UsageError: there is none of that name.
    """
    path = named_path(root, name)
    try:
        return from_bytes(storage.read_bytes(filesystem, path), path)
    except FileNotFoundError as error:
        have = ", ".join(names(filesystem, root)) or "none; make one with `rushes snapshot NAME DATASET`"
        raise UsageError(f"snapshot {name}", "does not exist", f"Snapshots here: {have}.") from error


def names(filesystem: fs.FileSystem, root: str) -> list[str]:
    """Of the named snapshots."""
    infos = storage.list_files(filesystem, f"{_folder(root)}/named", ".json", recursive=False)
    return [info.base_name.removesuffix(".json") for info in infos]


def kept(filesystem: fs.FileSystem, root: str, first: int) -> list[Snapshot]:
    """Snapshots whose files must stay: those from a number on, and named ones."""
    found = [
        from_bytes(storage.read_bytes(filesystem, _path(root, number)), _path(root, number))[0]
        for number in numbers(filesystem, root)
        if number >= first
    ]
    return found + [named(filesystem, root, name)[0] for name in names(filesystem, root)]


def forget_older(filesystem: fs.FileSystem, root: str, first: int) -> None:
    """Remove the lists of snapshots before a number."""
    for number in numbers(filesystem, root):
        if number < first:
            filesystem.delete_file(_path(root, number))
