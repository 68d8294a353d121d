"""Whole tables, read lazily: which files hold them now.

A `Tables` is what was committed at one moment: the snapshot's merged files, and the small parts of commits
since. Of a table only what is asked for is read: its fields are projected and predicates pushed down to row
groups.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from manifests.errors import UsageError
from manifests.layout import Column, Dataset
from manifests.schemas import TABLES
from manifests.store.shards import Member
from manifests.tables import planned
from manifests.tables.parts import dataset_of, naming, read_part, read_parts
from manifests.tables.records import check_own, each_record, members_of, part_of

Result = TypeVar("Result")
_TRIES = 5


class Tables:
    """What is committed in a dataset at one moment."""

    def __init__(self, dataset: Dataset) -> None:
        dataset.refresh()
        self.dataset, self.snapshot = dataset, dataset.snapshot
        self._records: dict[Column, pa.Table] = {}
        self._loose: dict[Column, list[int]] = {}
        self._columns: list[Column] | None = None
        self._digests: dict[int, dict[str, str]] | None = None
        """Of the tables of the plan's generations."""
        self._paths: dict[tuple[str, Column | None], list[str]] = {}

    def columns(self) -> list[Column]:
        if self._columns is None:
            self._columns = self.dataset.columns()
            self._check()
        return self._columns

    def loose(self, column: Column) -> list[int]:
        """Shards of a column version that lie in small files of their own."""
        self._list([column])
        return self._loose[column]

    def _list(self, columns: Sequence[Column]) -> None:
        """Look up the small files of some column versions, all at once: a store is asked less often."""
        if missing := [column for column in columns if column not in self._loose]:
            self._loose |= self.dataset.loose_shards_of(missing)
            self._check()

    def _of_plan(self, name: str) -> list[str]:
        """Paths of the parts of a table that the plan's generations name, oldest first."""
        if self._digests is None:
            numbers = self.dataset.generations()
            self._digests = {number: planned.digests(self.dataset, number) for number in numbers}
        return [
            self.dataset.plan_part_path(name, number, digests.get(name, ""))
            for number, digests in self._digests.items()
        ]

    def _check(self) -> None:
        """What was listed goes with the snapshot.

        Raises:
            FileNotFoundError: there is a newer one, which has merged some of it.
        """
        if self.dataset.snapshot.number != self.snapshot.number:
            raise FileNotFoundError(f"{self.dataset.uri}: snapshot {self.snapshot.number} is not the newest")

    def _parts_of_loose(self, name: str, column: Column) -> list[str]:
        paths = [self.dataset.record_path(column, shard) for shard in self.loose(column)]
        if name == "shards" or not paths:
            return paths
        if column not in self._records:
            fields = ["column", "fingerprint", "shard", "parts"]
            self._records[column] = found = read_parts(self.dataset, "shards", paths, fields)
            if found.num_rows == len(paths):
                for record, shard, own in zip(each_record(found), self.loose(column), paths, strict=True):
                    check_own(record, column, shard, own)
        records = self._records[column]
        return [
            path
            for record in each_record(records)
            if any(part["table"] == name for part in record["parts"])
            and (path := part_of(self.dataset, record, name))
        ]

    def paths(self, name: str, column: Column | None = None) -> list[str]:
        """Files with the rows of a table: of one column version, or of all versions and of the plan.

        Raises:
            UsageError: there is no table of that name.
        """
        if (name, column) not in self._paths:
            self._paths[name, column] = self._found(name, column)
        return [*self._paths[name, column]]

    def _found(self, name: str, column: Column | None) -> list[str]:
        if name not in TABLES:
            raise UsageError(name, "is not a table", f"Tables: {', '.join(TABLES)}.")
        if name == "segments":
            return [self.dataset.plan_path(number) for number in self.dataset.generations()]
        found = self._of_plan(name) if column is None and name in planned.NAMES else []
        versions = [column] if column else self.columns()
        self._list(versions)
        for version in versions:
            merged = self.snapshot.version(version).tables.get(name, ())
            found += [self.dataset.path(*one.path.split("/")) for one in merged]
            found += self._parts_of_loose(name, version)
        return found

    def lazy(self, name: str, columns: Sequence[Column] | None = None) -> pads.Dataset:
        """A table of which nothing is read yet: of these column versions and of the plan, or of all."""
        if columns is None or name == "segments":
            return dataset_of(self.dataset, name, self.paths(name))
        found = self._of_plan(name) if name in planned.NAMES else []
        self._list(columns)
        for column in columns:
            found += self.paths(name, column)
        return dataset_of(self.dataset, name, found)

    def table(
        self,
        name: str,
        column: Column | None = None,
        fields: Sequence[str] | None = None,
        where: pc.Expression | None = None,
    ) -> pa.Table:
        return read_parts(self.dataset, name, self.paths(name, column), fields, where)

    def first(self, name: str, limit: int) -> tuple[pa.Table, int]:
        """The first rows of a table (0: all), and how many it has."""
        paths = self.paths(name)
        with naming(self.dataset, paths):
            found = dataset_of(self.dataset, name, paths)
            return (found.head(limit) if limit else found.to_table()), found.count_rows()

    def check(self) -> None:
        """Read every part of every table.

        Raises:
            IntegrityError: one is damaged.
        """
        for name in TABLES:
            for path in self.paths(name) if name != "events" else ():
                read_part(self.dataset, path)

    def by_column(self, name: str, fields: Sequence[str] | None = None) -> Iterator[tuple[str, pa.Table]]:
        """Rows of a table by the name of the column version that wrote them; `plan` for those of the plan."""
        if name in planned.NAMES:
            yield "plan", read_parts(self.dataset, name, self._of_plan(name), fields)
        for column in self.columns():
            yield str(column), self.table(name, column, fields)


_moment: ContextVar[Tables | None] = ContextVar("moment", default=None)


@contextlib.contextmanager
def one_moment(dataset: Dataset) -> Iterator[None]:
    """Inside, questions to the dataset are about one moment: what is committed is listed once.

    For what only reads: what it commits itself meanwhile is not seen.
    """
    token = _moment.set(Tables(dataset))
    try:
        yield
    finally:
        _moment.reset(token)


def now(dataset: Dataset) -> Tables:
    """The tables of this moment: of the one that is held (`one_moment`), where no snapshot came since."""
    held = _moment.get()
    if held is None or held.dataset is not dataset:
        return Tables(dataset)
    if held.snapshot.number != dataset.snapshot.number:
        _moment.set(held := Tables(dataset))
    return held


def look_again(dataset: Dataset) -> None:
    """Leave the moment that is held, if one is: files of it are gone."""
    held = _moment.get()
    if held is not None and held.dataset is dataset:
        _moment.set(Tables(dataset))


def looking(dataset: Dataset, ask: Callable[[Tables], Result]) -> Result:
    """What a question to the tables gives; to a new one where its files were merged in the meantime."""
    if (tables := _moment.get()) is not None and tables.dataset is dataset:
        with contextlib.suppress(FileNotFoundError):
            return ask(tables)
        look_again(dataset)
    for _ in range(_TRIES - 1):
        with contextlib.suppress(FileNotFoundError):
            return ask(Tables(dataset))
    return ask(Tables(dataset))


def newest_sources(dataset: Dataset, fields: Sequence[str] | None = None) -> pa.Table:
    """The last row of each address in `sources`: what a retry found counts, not what it was tried for."""
    wanted = None if fields is None else list(dict.fromkeys([*fields, "uri"]))
    rows = table(dataset, "sources", None, wanted)
    if len(dataset.generations()) < 2:
        return rows
    places = pa.table({"uri": rows["uri"], "row": pa.array(range(rows.num_rows), pa.int64())})
    last = places.group_by("uri").aggregate([("row", "max")])["row_max"]
    return rows.take(last.take(pc.sort_indices(last)))


def table(
    dataset: Dataset,
    name: str,
    column: Column | None = None,
    fields: Sequence[str] | None = None,
    where: pc.Expression | None = None,
) -> pa.Table:
    """The rows of a table: of one column version, or of all versions and of the plan.

    Args:
        fields: only these.
        where: only rows for which it is true.

    Raises:
        UsageError: there is no table of that name.
    """
    return looking(dataset, lambda tables: tables.table(name, column, fields, where))


def members(dataset: Dataset, column: Column) -> dict[int, tuple[str, list[Member]]]:
    """For each committed shard of a column that has a tar: its path and its members, in tar order."""
    rows = table(dataset, "shards", column, ["shard", "tar", "members"])
    return {record["shard"]: members_of(dataset, record) for record in each_record(rows) if record["tar"]}


def by_column(dataset: Dataset, name: str, fields: Sequence[str] | None = None) -> dict[str, pa.Table]:
    """Rows of a table by the name of the column version that wrote them; `plan` for those of the plan.

    Versions of one column are not added up.
    """
    found = looking(dataset, lambda tables: dict(tables.by_column(name, fields)))
    return {column: rows for column, rows in found.items() if rows.num_rows}
