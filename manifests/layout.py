"""Where everything lies in a dataset folder: one class, used by every reader and writer.

dataset.json                          format version
plan/gen-0000.parquet                 segment rows; its metadata names the parts of tables/<table>/plan
columns/<column>@<fp>/000012-<digest>.tar      one tar per shard, named by its bytes
tables/<table>/<column>@<fp>/000012-<digest>.parquet
tables/shards/<column>@<fp>/000012.parquet      the commit record: it names the others
views/<name>.json
runs/<run id>/run.json, events.jsonl
training/<run id>/
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property

from pyarrow import fs

from manifests.errors import IntegrityError, UsageError
from manifests.schemas import FORMAT_VERSION
from manifests.store import storage
from manifests.store.json_files import read_object

_NAME = re.compile(r"^[a-z][a-z0-9_]*$")
_FINGERPRINT = re.compile(r"^[0-9a-z_-]+$")
_NUMBERED = re.compile(r"^(?:gen-)?(\d{4,})(?:-[0-9a-f]{8})?\.parquet$")


@dataclass(frozen=True, order=True)
class Column:
    """One version of one column: its name and fingerprint. Printed and stored as `name@fingerprint`."""

    name: str
    fingerprint: str

    def __post_init__(self) -> None:
        if not _NAME.match(self.name) or not _FINGERPRINT.match(self.fingerprint):
            raise UsageError(
                f"{self.name}@{self.fingerprint}", "is not a column name", "Write it as name@fingerprint."
            )

    def __str__(self) -> str:
        return f"{self.name}@{self.fingerprint}"

    @classmethod
    def parse(cls, text: str) -> Column:
        name, _, found = text.partition("@")
        return cls(name, found)


class Dataset:
    """A dataset folder, local or on an object store. Opening reads `dataset.json`; `create` writes it.

    Raises:
        UsageError: the folder is not a dataset.
        IntegrityError: it was written by another major format version.
    """

    def __init__(self, uri: str) -> None:
        if not uri:
            raise UsageError("an empty address", "names no dataset", "Give its folder or address.")
        self.uri = uri = storage.absolute(uri)
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

    def __getstate__(self) -> dict:
        return {"uri": self.uri, "header": self.header}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)

    @classmethod
    def create(cls, uri: str) -> Dataset:
        """Open the dataset at `uri`, making an empty one if there is none."""
        filesystem, root = storage.resolve(uri)
        header = f"{root}/dataset.json"
        if filesystem.get_file_info(root).type == fs.FileType.File:
            raise UsageError(uri, "is a file, not a folder", "Give a folder for the dataset.")
        if not storage.exists(filesystem, header):
            text = json.dumps({"format": FORMAT_VERSION, "kind": "rushes dataset"}, indent=2)
            storage.write_bytes(filesystem, header, text.encode())
        return cls(uri)

    @classmethod
    def open_if_there(cls, uri: str) -> Dataset | None:
        """The dataset at `uri`, or None where there is none yet."""
        filesystem, root = storage.resolve(uri)
        return cls(uri) if storage.exists(filesystem, f"{root}/dataset.json") else None

    @cached_property
    def _resolved(self) -> tuple[fs.FileSystem, str]:
        return storage.resolve(self.uri)

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
        if not re.match(r"^[A-Za-z0-9_.-]+$", name) or name.startswith("."):
            raise UsageError(name, "is not a view name", "Use letters, digits, '_' and '-'.")
        return self.path("views", f"{name}.json")

    def generations(self) -> list[int]:
        """Numbers of the plan's generations, oldest first."""
        return list(self.parts_in(self.path("plan")))

    def columns(self) -> list[Column]:
        """Every column version of which at least one shard is committed."""
        files = storage.list_files(self.filesystem, self.path("tables", "shards"), ".parquet")
        return sorted({Column.parse(info.path.split("/")[-2]) for info in files})

    def committed_shards(self, column: Column) -> list[int]:
        """Shards of `column` whose commit record is present."""
        return list(self.parts_in(self.path("tables", "shards", str(column))))

    def parts_in(self, folder: str) -> dict[int, list[str]]:
        """Paths of a folder's parts by the number of their shard or generation, in rising order.

        Numbers have as many digits as they need; files of other names are no parts.
        """
        found: dict[int, list[str]] = {}
        for info in storage.list_files(self.filesystem, folder, ".parquet"):
            if name := _NUMBERED.match(info.base_name):
                found.setdefault(int(name[1]), []).append(info.path)
        return dict(sorted(found.items()))

    def is_committed(self, column: Column, shard: int) -> bool:
        return storage.exists(self.filesystem, self.record_path(column, shard))
