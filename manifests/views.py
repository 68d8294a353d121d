"""Views: which versions of which columns, and which clips, a training run reads.

A view is a small JSON file: column versions and a SQL predicate over the `clips` table. It copies nothing; a
changed threshold is a changed view and recomputes nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from manifests.errors import IntegrityError, UsageError
from manifests.fingerprint import canonical_json
from manifests.layout import Column, Dataset
from manifests.sql import predicates, queries
from manifests.store import storage
from manifests.store.json_files import read_object
from manifests.writing.removing import pending

MADE_BY = {"duplicates": "dedup", "scores": "score", "verdicts": "verdict", "embeddings": "embed"}
MADE_BY |= {"map": "map"}
"""Columns that a view may lack, by the table that each writes: without it the table would be empty."""


@dataclass(frozen=True, kw_only=True)
class View:
    """Column versions by column name, and a predicate over `clips`."""

    columns: dict[str, Column] = field(default_factory=dict)
    where: str = "true"

    def to_json(self) -> str:
        return json.dumps(
            {
                "columns": {name: str(column) for name, column in sorted(self.columns.items())},
                "where": self.where,
            },
            indent=2,
        )

    @property
    def digest(self) -> str:
        """Names what the view reads; a resumed run compares it."""
        return hashlib.sha256(canonical_json(json.loads(self.to_json())).encode()).hexdigest()[:16]

    @classmethod
    def load(cls, dataset: Dataset, name: str = "default") -> View:
        """The view of a name.

        Raises:
            UsageError: there is none.
            IntegrityError: its file is damaged.
        """
        path = dataset.view_path(name)
        step = "Restore it, or delete it and run `rushes ingest` again, which makes the default view."
        if dataset.at and name in dataset.named.get("views", {}):
            stored = dataset.named["views"][name]
        elif not dataset.at and storage.exists(dataset.filesystem, path):
            stored = read_object(dataset.filesystem, path, step, ("columns", "where"))
        else:
            found = ", ".join(cls.names(dataset)) or f"none in {dataset.address}; an ingest makes one"
            raise UsageError(f"view {name}", "does not exist", f"Views here: {found}.")
        columns, where = stored["columns"], stored["where"]
        if not isinstance(columns, dict) or not isinstance(where, str):
            raise IntegrityError(path, "has other than an object in `columns`, or than text in `where`", step)
        return cls(columns={key: Column.parse(str(value)) for key, value in columns.items()}, where=where)

    @staticmethod
    def names(dataset: Dataset) -> list[str]:
        """Of the views that there are; of a snapshot, those that there were."""
        if dataset.at:
            return sorted(dataset.named.get("views", {}))
        files = storage.list_files(dataset.filesystem, dataset.path("views"), ".json")
        return [info.base_name.removesuffix(".json") for info in files]

    def save(self, dataset: Dataset, name: str = "default") -> None:
        storage.write_bytes(dataset.filesystem, dataset.view_path(name), self.to_json().encode())

    def column(self, name: str) -> Column:
        if name not in self.columns:
            raise UsageError(
                f"view column {name}", "is not in the view", f"It has: {', '.join(self.columns) or 'none'}."
            )
        return self.columns[name]

    def clips(self, dataset: Dataset, fields: Sequence[str] | None = None) -> pa.Table:
        """Rows of `clips` that the predicate keeps, in (shard, clip) order.

        Args:
            fields: only these; a million clips in full are some gigabytes.
        """
        asked = "*" if fields is None else ", ".join(f'"{name}"' for name in fields)
        gone = ", ".join(f"'{name}'" for name in sorted(pending(dataset)) if name.isalnum())
        predicates.check_predicate(self.where, "view predicate")
        where = f"({self.where}\n)" + (f" AND source_id NOT IN ({gone})" if gone else "")
        query = f"SELECT {asked} FROM clips WHERE {where} ORDER BY shard, clip_id"
        self.column("preview")
        missing = {table: column for table, column in MADE_BY.items() if column not in self.columns}
        whose = f"view predicate {self.where!r}"
        for table in sorted(queries.tables_asked(query) & set(missing)):
            raise UsageError(
                whose,
                f"asks the table {table}, and the view has no column {missing[table]}",
                f"Add {missing[table]} to its columns, see `rushes status DATASET`, or change the predicate.",
            )
        return queries.sql(dataset, query, self.columns, missing, whose=whose)

    def empty(self) -> UsageError:
        """What to raise where an export would write nothing."""
        whose = f"view predicate {self.where!r}"
        return UsageError(whose, "keeps no clip", "Export another view, or change it.")

    def kept(self, dataset: Dataset) -> set[str]:
        """Ids of the clips that the predicate keeps."""
        return set(self.clips(dataset, ["clip_id"])["clip_id"].to_pylist())
