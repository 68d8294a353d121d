"""Verbs that look into a dataset: `info`, `status`, `verify`, `ls`, `show`, `query`, `export`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
import tyro

from manifests import cli, queries
from manifests.commit import Account
from manifests.errors import UsageError
from manifests.events import read_events, run_ids
from manifests.export import export_webdataset
from manifests.layout import Column, Dataset
from manifests.verify import verify
from manifests.views import View

Folder = Annotated[str, tyro.conf.Positional]


def accounts(dataset: Dataset) -> dict[str, Account]:
    """For each column version: what happened to its items, over all committed shards."""
    found: dict[str, Account] = {}
    for row in queries.table(dataset, "shards").to_pylist():
        name = f"{row['column']}@{row['fingerprint']}"
        found[name] = found.get(name, Account(0, 0, 0, 0)) + Account(
            row["num_in"], row["num_kept"], row["num_dropped"], row["num_failed"]
        )
    return found


@dataclass(frozen=True, kw_only=True)
class Info:
    """What a dataset holds: sources, columns, accounts.

    Example: rushes info DATASET
    """

    dataset: Folder
    """Dataset folder or address."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        dataset = Dataset(self.dataset)
        sources = Counter(queries.table(dataset, "sources")["status"].to_pylist())
        shards = queries.table(dataset, "shards").to_pylist()
        reasons = Counter(
            (name, reason)
            for name, rows in queries.by_column(dataset, "drops").items()
            for reason in rows["reason"].to_pylist()
        )
        errors = Counter(
            (name, error)
            for name, rows in queries.by_column(dataset, "failures").items()
            for error in rows["error"].to_pylist()
        )
        columns = []
        for name, account in accounts(dataset).items():
            own = [row for row in shards if f"{row['column']}@{row['fingerprint']}" == name]
            columns.append(
                [
                    name,
                    len(own),
                    account.num_in,
                    account.num_kept,
                    account.num_dropped,
                    account.num_failed,
                    sum(row["tar_bytes"] or 0 for row in own),
                ]
            )
        header = ["column", "shards", "in", "kept", "dropped", "failed", "tar_bytes"]
        if self.json:
            cli.print_json(
                {
                    "sources": sources,
                    "columns": [dict(zip(header, row, strict=True)) for row in columns],
                    "drops": [
                        {"column": column, "reason": reason, "count": count}
                        for (column, reason), count in reasons.items()
                    ],
                    "failures": [
                        {"column": column, "error": error, "count": count}
                        for (column, error), count in errors.items()
                    ],
                }
            )
            return cli.DONE
        cli.print_table(
            "sources", ["status", "count"], [[key, value] for key, value in sorted(sources.items())]
        )
        cli.print_table("columns", header, columns)
        if reasons:
            cli.print_table(
                "drops",
                ["column", "reason", "count"],
                [[*key, value] for key, value in sorted(reasons.items())],
            )
        if errors:
            cli.print_table(
                "failures",
                ["column", "error", "count"],
                [[*key, value] for key, value in sorted(errors.items())],
            )
        return cli.DONE


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check that every committed byte is there and every item accounted for. Exit code 4 if not.

    Example: rushes verify --deep DATASET
    """

    dataset: Folder
    """Dataset folder or address."""
    deep: bool = False
    """Also hash every file and check every tar member."""

    def run(self) -> int:
        report = verify(Dataset(self.dataset), self.deep)
        for problem in report.problems:
            print(problem)
        verdict = "sound" if report.is_sound else f"{len(report.problems)} problems"
        print(
            f"{verdict}: {report.num_shards} shard columns, {report.num_members} members, "
            f"{report.num_bytes / 1e6:.1f} MB{', every byte hashed' if self.deep else ''}"
        )
        return cli.DONE if report.is_sound else cli.INTEGRITY


@dataclass(frozen=True, kw_only=True)
class Ls:
    """List rows of a table.

    Example: rushes ls DATASET clips --limit 5
    """

    dataset: Folder
    """Dataset folder or address."""
    table: Annotated[str, tyro.conf.Positional] = "clips"
    """Table name."""
    limit: int = 20
    """Rows to print; 0 for all."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        if self.limit < 0:
            raise UsageError("--limit", f"is {self.limit}", "It must be 0 or more.")
        rows = queries.table(Dataset(self.dataset), self.table)
        show(rows.slice(0, self.limit) if self.limit else rows, self.table, self.json)
        cli.say(f"{rows.num_rows} rows")
        return cli.DONE


def show(rows: pa.Table, title: str, as_json: bool) -> None:
    if as_json:
        cli.print_json(rows.to_pylist())
    else:
        cli.print_table(title, rows.schema.names, [list(row.values()) for row in rows.to_pylist()])


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
        dataset = Dataset(self.dataset)
        clips = [
            row for row in queries.table(dataset, "clips").to_pylist() if row["clip_id"].startswith(self.clip)
        ]
        if not clips:
            raise UsageError(f"clip {self.clip}", f"is not in {self.dataset}", "List clips with `rushes ls`.")
        ids = {row["clip_id"] for row in clips}
        found: dict = {"clips": clips}
        for name in ("captions", "text", "latents"):
            found[name] = [row for row in queries.table(dataset, name).to_pylist() if row["clip_id"] in ids]
        members = []
        for column in dataset.columns():
            for path, index in queries.members(dataset, column).values():
                members += [
                    {"column": str(column), "tar": path, **member.as_row()}
                    for member in index
                    if member.key in ids
                ]
        cli.print_json(found | {"members": members})
        return cli.DONE


@dataclass(frozen=True, kw_only=True)
class Query:
    """Read-only SQL (DuckDB) over the tables.

    Example: rushes query DATASET "select camera, count(*) from clips group by 1"
    """

    dataset: Folder
    """Dataset folder or address."""
    sql: Annotated[str, tyro.conf.Positional]
    """The query."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        show(queries.sql(Dataset(self.dataset), self.sql), "query", self.json)
        return cli.DONE


@dataclass(frozen=True, kw_only=True)
class Export:
    """Join the columns of a view into plain WebDataset tars.

    Example: rushes export DATASET --to webdataset --out TARS
    """

    dataset: Folder
    """Dataset folder or address."""
    out: Path
    """Folder for the tars."""
    to: Literal["webdataset"] = "webdataset"
    """Format."""
    view: str = "default"
    """View to export."""
    overwrite: bool = False
    """Replace tars that exist."""

    def run(self) -> int:
        dataset = Dataset(self.dataset)
        view = View.load(dataset, self.view)
        cli.writable(self.out)
        if not self.overwrite and (before := sorted(self.out.glob("*.tar"))):
            raise UsageError(str(before[0]), "exists", "Name another folder, or add --overwrite.")
        for path in export_webdataset(dataset, view, self.out):
            print(path)
        return cli.DONE


@dataclass(frozen=True, kw_only=True)
class Status:
    """What is committed, what is missing, and the last events.

    Example: rushes status DATASET
    """

    dataset: Folder
    """Dataset folder or address."""
    events: int = 10
    """Last events of the last run to print."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        dataset = Dataset(self.dataset)
        shards = {row["shard"] for row in queries.plan(dataset).to_pylist()}
        columns: dict[Column, int] = {
            column: len(dataset.committed_shards(column)) for column in dataset.columns()
        }
        runs = run_ids(dataset)
        events = read_events(dataset, runs[-1])[-self.events :] if runs else []
        if self.json:
            cli.print_json(
                {
                    "num_shards": len(shards),
                    "columns": {str(key): value for key, value in columns.items()},
                    "runs": runs,
                    "events": events,
                }
            )
            return cli.DONE
        cli.print_table(
            "columns",
            ["column", "committed", "of"],
            [[str(column), count, len(shards)] for column, count in columns.items()],
        )
        cli.print_table(
            "last events",
            ["time_s", "stage", "shard", "event", "text"],
            [[row["time_s"], row["stage"], row["shard"], row["event"], row["text"]] for row in events],
        )
        return cli.DONE
