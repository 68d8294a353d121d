"""Verbs that show rows of a dataset's tables: `ls`, `show`, `query`."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import tyro

from manifests import cli
from manifests.cli.ranges import COUNT_OR_NONE, Ranges
from manifests.errors import UsageError
from manifests.layout import Dataset
from manifests.sql import queries
from manifests.tables import records, scans
from manifests.verbs.commands import Folder
from manifests.views import MADE_BY, View

MOST_VALUES = 5_000_000
"""Of an answer that is printed: each takes some hundred bytes on the way."""
_WRITTEN_BY = MADE_BY | {"clips": "preview", "hashes": "preview", "captions": "caption", "text": "text"}
_WRITTEN_BY |= {"latents": "latent"}


@dataclass(frozen=True, kw_only=True)
class Ls:
    """List rows of a table.

    Example: rushes ls DATASET clips --limit 5
    """

    ranges: ClassVar[Ranges] = {"limit": COUNT_OR_NONE}

    dataset: Folder
    """Dataset folder or address."""
    table: Annotated[str, tyro.conf.Positional] = "clips"
    """Table name."""
    limit: int = 20
    """Rows to print; 0 for all."""
    wide: bool = False
    """Show a terminal all columns, not the first eight."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        dataset = Dataset(self.dataset)
        rows, count = scans.looking(dataset, lambda tables: tables.first(self.table, self.limit))
        show(rows, self.table, self.json, self.wide)
        cli.say(f"{count} rows")
        return cli.DONE


def show(rows: pa.Table, title: str, as_json: bool, is_wide: bool) -> None:
    """Print rows as a table or as JSON; columns of one name are told apart by a number."""
    rows = rows.rename_columns(distinct(rows.schema.names))
    if rows.num_rows * rows.num_columns > MOST_VALUES:
        raise UsageError(
            title,
            f"has {rows.num_rows:,} rows, more than are printed",
            "Give it a LIMIT or count; `rushes export --to lance` writes whole tables.",
        )
    if as_json:
        cli.print_json(rows.to_pylist())
    else:
        cli.print_table(title, rows.schema.names, [list(row.values()) for row in rows.to_pylist()], is_wide)


def distinct(names: Sequence[str]) -> list[str]:
    """The names, each once: a second `a` becomes `a_1`."""
    found: list[str] = []
    for name in names:
        free = (f"{name}_{number}" if number else name for number in itertools.count())
        found.append(next(new for new in free if new not in found and (new == name or new not in names)))
    return found


@dataclass(frozen=True, kw_only=True)
class Show:
    """Everything known about one clip, as JSON.

    Example: rushes show DATASET CLIP_ID
    """

    dataset: Folder
    """Dataset folder or address."""
    clip: Annotated[str, tyro.conf.Positional]
    """Clip id, or the beginning of one."""

    def run(self) -> int:
        if not self.clip:
            raise UsageError("a clip id of no letters", "names every clip", "List clips with `rushes ls`.")
        dataset = Dataset(self.dataset)
        with scans.one_moment(dataset):
            cli.print_json(self._found(dataset))
        return cli.DONE

    def _found(self, dataset: Dataset) -> dict:
        begins = pc.starts_with(pc.field("clip_id"), self.clip)
        clips = scans.table(dataset, "clips", where=begins).to_pylist()
        if not clips:
            raise UsageError(f"clip {self.clip}", f"is not in {self.dataset}", "List clips with `rushes ls`.")
        found: dict = {"clips": clips}
        for name in ("captions", "text", "latents", "scores", "verdicts", "duplicates", "hashes", "map"):
            found[name] = scans.table(dataset, name, where=begins).to_pylist()
        of_it = pc.starts_with(pc.field("item_id"), self.clip)
        for name in ("drops", "failures"):
            found[name] = scans.table(dataset, name, where=of_it).to_pylist()
        sources, own = scans.newest_sources(dataset), {row["source_id"] or "" for row in clips}
        found["sources"] = sources.filter(
            pc.is_in(sources["source_id"], pa.array(sorted(own), pa.string()))
        ).to_pylist()
        members = []
        places = {(column, row["shard"]) for column in dataset.columns() for row in clips}
        for column, shard in sorted(places):
            if not dataset.is_committed(column, shard):
                continue
            path, index = records.members_of_shard(dataset, column, shard)
            members += [
                {"column": str(column), "tar": path, **member.as_row()}
                for member in index
                if member.key.startswith(self.clip)
            ]
        return found | {"members": members}


@dataclass(frozen=True, kw_only=True)
class Query:
    """Read-only SQL (DuckDB) over the tables.

    Tables have the rows of all versions of a column; with a view, those of its own versions alone.

    Examples:
      rushes query DATASET "select camera, count(*) from clips group by 1"
      rushes query DATASET --view default "select count(*) from duplicates where not is_kept"
    """

    dataset: Folder
    """Dataset folder or address."""
    sql: Annotated[str, tyro.conf.Positional]
    """The query."""
    view: str = ""
    """Ask this view's versions of columns; all versions where none is named."""
    wide: bool = False
    """Show a terminal all columns, not the first eight."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        dataset = Dataset(self.dataset)
        columns = View.load(dataset, self.view).columns if self.view else None
        if columns is None and (several := _with_several_versions(dataset, queries.tables_asked(self.sql))):
            cli.say(f"query: rows of several versions are added up: {several}; --view NAME asks one of each")
        show(queries.sql(dataset, self.sql, columns), "query", self.json, self.wide)
        return cli.DONE


def _with_several_versions(dataset: Dataset, tables: Collection[str]) -> str:
    """Columns of which several versions write to one of some tables, in words."""
    count = Counter(column.name for column in dataset.columns())
    names = sorted({_WRITTEN_BY[table] for table in tables if table in _WRITTEN_BY})
    return ", ".join(f"{count[name]} of {name}" for name in names if count[name] > 1)
