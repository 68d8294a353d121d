"""Where everything lies in a dataset folder: one class, used by every reader and writer.

dataset.json                          format version
plan/gen-0000.parquet                 segment rows; its metadata names the parts of tables/<table>/plan
columns/<column>@<fp>/000012-<digest>.tar      one tar per shard, named by its bytes
tables/<table>/<column>@<fp>/000012-<digest>.parquet
tables/shards/<column>@<fp>/000012.parquet      the commit record: it names the others
snapshots/000001.json                 merged files of tables: tables/<table>/<column>@<fp>/merged-...parquet
keys/dedup@<fp>/...                   what a search for near-duplicates left for the next
views/<name>.json
runs/<run id>/run.json, events.jsonl
training/<run id>/, elsewhere-<id>.json   runs in it, and where others lie that read it
"""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pyarrow import fs

from manifests import snapshots
from manifests.errors import IntegrityError, UsageError
from manifests.schemas import FORMAT_VERSION
from manifests.store import storage
from manifests.store.json_files import read_object

EXPORT_MARK = ".rushes-export"
SHOWCASE_MARK = ".rushes-showcase"
"""File by which a folder that we exported to is known, so that it is not taken for footage."""
_NAME = re.compile(r"^[a-z][a-z0-9_]*$")
_FINGERPRINT = re.compile(r"^[0-9a-z_-]+$")
_NAMED_BY_BYTES = 3
"""Minor version of the format from which on a new dataset names all parts by their bytes."""
_NUMBERED = re.compile(r"^(?:gen-)?(\d{4,})(?:-[0-9a-f]{8})?\.parquet$")


@dataclass(frozen=True, order=True)
class Column:
    """One version of one column: its name and fingerprint. Printed and stored as `name@fingerprint`."""

    name: str
    fingerprint: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name) or not _FINGERPRINT.fullmatch(self.fingerprint):
            raise UsageError(
                f"{self.name}@{self.fingerprint}", "is not a column name", "Write it as name@fingerprint."
            )

    def __str__(self) -> str:
        return f"{self.name}@{self.fingerprint}"

    @classmethod
    def parse(cls, text: str) -> Column:
        name, _, found = text.partition("@")
        return cls(name, found)


def header_bytes(version: str) -> bytes:
    """What `dataset.json` holds in a version of the format."""
    return json.dumps({"format": version, "kind": "rushes dataset"}, indent=2).encode()


def is_header(text: bytes) -> bool:
    """Whether this is the `dataset.json` of one of our datasets."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return False
    is_kind = isinstance(found, dict) and found.get("kind", "rushes dataset") == "rushes dataset"
    return is_kind and "format" in found


def parted(uri: str) -> tuple[str, str]:
    """An address, and the name of a snapshot where one stands at the end of its path."""
    path, mark, options = uri.partition("?")
    folder, at, name = path.rpartition("@")
    if not at or "/" in name or not name:
        return uri, ""
    filesystem, root = storage.resolve(uri)
    is_folder = storage.exists(filesystem, f"{root}/dataset.json")
    return (uri, "") if is_folder else (f"{folder}{mark}{options}", name)


def _to_write(uri: str) -> str:
    """The address, for a writer.

    Raises:
        UsageError: it is that of a snapshot of a dataset.
    """
    base, name = parted(uri)
    if name:
        filesystem, root = storage.resolve(base)
        if storage.exists(filesystem, f"{root}/dataset.json"):
            raise UsageError(uri, "is a snapshot, which nobody writes to", f"Give {base}.")
    return uri


def check_view_name(name: str) -> None:
    """
    Raises:
        UsageError: no view can have this name.
    """
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,128}", name) or name.startswith("."):
        step = "Use at most 128 letters, digits, '_', '-', and '.' but in front."
        raise UsageError(repr(name), "is not a view name", step)


class Dataset:
    """A dataset folder, local or on an object store. Opening reads `dataset.json`; `create` writes it.

    Args:
        uri: its address; with `@NAME` at the end of its path it is read as that snapshot has it.
        at: name of a snapshot: only what that has is seen, and nothing that came later.

    Raises:
        UsageError: the folder is not a dataset, or has no snapshot of that name.
        IntegrityError: it was written by another major format version.
    """

    def __init__(self, uri: str, at: str = "") -> None:
        if not uri:
            raise UsageError("an empty address", "names no dataset", "Give its folder or address.")
        uri, named_in_it = parted(uri)
        self.uri, self.at = storage.absolute(uri), at or named_in_it
        self._snapshot: snapshots.Snapshot | None = None
        self._generations: list[int] | None = None
        self.named: dict = {}
        """What the file of the named snapshot says, where it is read at one."""
        uri = self.uri
        header = self.path("dataset.json")
        if not storage.exists(self.filesystem, header):
            raise UsageError(
                uri,
                "is not a rushes dataset (no dataset.json)",
                "Make one with `rushes ingest FOOTAGE --out ...`.",
            )
        self.header = read_object(
            self.filesystem, header, f'Write {{"format": "{FORMAT_VERSION}"}} into it if the rest is whole.'
        )
        if str(self.header.get("format", "")).split(".")[0] != FORMAT_VERSION.split(".")[0]:
            raise IntegrityError(
                uri,
                f"has format {self.header.get('format')}, this reader knows {FORMAT_VERSION}",
                "Use a matching version of rushes.",
            )
        if self.at:
            self._snapshot, self.named = snapshots.named(self.filesystem, self.root, self.at)
            self._generations = list(self.named["generations"])

    def check_there(self) -> None:
        """See that a local dataset has not gone since it was opened: what is written would be another one.

        Raises:
            FileNotFoundError: it was moved, deleted, or is no longer mounted.
        """
        if storage.is_local(self.filesystem) and not Path(self.path("dataset.json")).exists():
            raise FileNotFoundError(
                errno.ENOENT, "the dataset is not there any more: moved, deleted or unmounted", self.uri
            )

    def __getstate__(self) -> dict:
        return {"uri": self.uri, "header": self.header, "at": self.at}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state["uri"], state.get("at", ""))  # type: ignore[misc]

    @classmethod
    def create(cls, uri: str) -> Dataset:
        """Open the dataset at `uri`, making an empty one if there is none.

        Raises:
            UsageError: it is a file, or the address of a snapshot.
        """
        uri = _to_write(uri)
        filesystem, root = storage.resolve(uri)
        header = f"{root}/dataset.json"
        if filesystem.get_file_info(root).type == fs.FileType.File:
            raise UsageError(uri, "is a file, not a folder", "Give a folder for the dataset.")
        if not storage.exists(filesystem, header):
            storage.write_bytes(filesystem, header, header_bytes(FORMAT_VERSION))
        return cls(uri)

    @classmethod
    def open_if_there(cls, uri: str) -> Dataset | None:
        """The dataset at `uri`, or None where there is none yet.

        Raises:
            UsageError: it is the address of a snapshot.
        """
        uri = _to_write(uri)
        filesystem, root = storage.resolve(uri)
        return cls(uri) if storage.exists(filesystem, f"{root}/dataset.json") else None

    @property
    def address(self) -> str:
        """As it was given: with the name of the snapshot that it is read at."""
        path, mark, options = self.uri.partition("?")
        return f"{path}@{self.at}{mark}{options}" if self.at else self.uri

    @cached_property
    def _resolved(self) -> tuple[fs.FileSystem, str]:
        return storage.resolve(self.uri)

    @property
    def _names_by_bytes(self) -> bool:
        """Whether no part of it can have a name of an older version; else it must be looked."""
        minor = str(self.header.get("format", "")).partition(".")[2]
        return minor.isdigit() and int(minor) >= _NAMED_BY_BYTES

    @property
    def filesystem(self) -> fs.FileSystem:
        return self._resolved[0]

    @property
    def root(self) -> str:
        return self._resolved[1]

    def path(self, *parts: str) -> str:
        return "/".join([self.root.rstrip("/"), *parts])

    def relative(self, path: str) -> str:
        return path[len(self.root.rstrip("/")) + 1 :]

    def plan_path(self, generation: int) -> str:
        return self.path("plan", f"gen-{generation:04d}.parquet")

    def tar_path(self, column: Column, shard: int, sha256: str) -> str:
        """Where a tar of these bytes lies: two attempts that differ never share a name."""
        return self.path("columns", str(column), f"{shard:06d}-{sha256[:8]}.tar")

    def part_path(self, table: str, column: Column | str, shard: int, sha256: str) -> str:
        """The same of a table's part."""
        return self.path("tables", table, str(column), f"{shard:06d}-{sha256[:8]}.parquet")

    def record_path(self, column: Column, shard: int) -> str:
        """Where the commit record of a shard's column lies."""
        return self.path("tables", "shards", str(column), f"{shard:06d}.parquet")

    def committed_part(self, table: str, column: Column, shard: int, sha256: str) -> str:
        """Where a committed part lies: by its bytes, or by its shard alone as older versions wrote it."""
        path = self.part_path(table, column, shard, sha256)
        if self._names_by_bytes:
            return path
        older = self.path("tables", table, str(column), f"{shard:06d}.parquet")
        is_older = not storage.exists(self.filesystem, path) and storage.exists(self.filesystem, older)
        return older if is_older else path

    def plan_part_path(self, table: str, generation: int, sha256: str = "") -> str:
        """Where a generation of the plan keeps a table of its own: sources, drops, failures.

        Named by its bytes; by the generation alone as older versions wrote it.
        """
        name = f"gen-{generation:04d}" + (f"-{sha256[:8]}" if sha256 else "")
        return self.path("tables", table, "plan", f"{name}.parquet")

    def view_path(self, name: str) -> str:
        check_view_name(name)
        return self.path("views", f"{name}.json")

    @property
    def snapshot(self) -> snapshots.Snapshot:
        """The snapshot last looked at; see `refresh`."""
        if self._snapshot is None:
            self.refresh()
        assert self._snapshot is not None
        return self._snapshot

    def refresh(self) -> None:
        """Look whether there is a newer snapshot."""
        if not self.at:
            self._snapshot = snapshots.latest(self.filesystem, self.root, self._snapshot)

    def generations(self) -> list[int]:
        """Numbers of the plan's generations, oldest first."""
        if self._generations is not None:
            return self._generations
        return list(self._numbered(self.path("plan")))

    def columns(self) -> list[Column]:
        """Every column version of which at least one shard is committed."""
        folder = self.path("tables", "shards")
        found = [] if self.at else storage.list_folders(self.filesystem, folder)
        self.refresh()
        names = {name for name, version in self.snapshot.columns.items() if version.shards}
        names |= {name for name in found if name not in names and self._numbered(f"{folder}/{name}")}
        return sorted(Column.parse(name) for name in names)

    def committed_shards(self, column: Column) -> list[int]:
        """Shards of `column` that are committed, in rising order."""
        loose = self.loose_shards(column)
        merged = list(self.snapshot.version(column).numbers())
        return sorted(merged + loose) if loose else merged

    def loose_shards(self, column: Column) -> list[int]:
        """Of these, the ones whose rows lie in small files of their own."""
        return self.loose_shards_of([column])[column]

    def loose_shards_of(self, columns: Sequence[Column]) -> dict[Column, list[int]]:
        """The same of several columns.

        The files are listed before the snapshot is looked at: what is merged in between is in one of them.
        """
        if self.at:
            return {column: [] for column in columns}
        listed = {
            column: self._numbered(self.path("tables", "shards", str(column)))
            for column in dict.fromkeys(columns)
        }
        self.refresh()
        return {
            column: [number for number in numbers if not self.snapshot.version(column).covers(number)]
            for column, numbers in listed.items()
        }

    def _numbered(self, folder: str) -> list[int]:
        """Numbers of a folder's parts of single shards or generations, rising.

        Numbers have as many digits as they need; files of other names are no such parts.
        """
        infos = storage.list_files(self.filesystem, folder, ".parquet", recursive=False)
        return sorted({int(name[1]) for info in infos if (name := _NUMBERED.match(info.base_name))})

    def covers(self, column: Column, shard: int) -> bool:
        """Whether the snapshot last looked at has a shard's column."""
        return self.snapshot.version(column).covers(shard)

    def is_committed(self, column: Column, shard: int) -> bool:
        if self.covers(column, shard):
            return True
        if not self.at and storage.exists(self.filesystem, self.record_path(column, shard)):
            return True
        self.refresh()
        return self.covers(column, shard)
