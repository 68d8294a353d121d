"""Verbs that look at a dataset as a whole: `info`, `status`, `verify`, `export`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import pyarrow.compute as pc
import tyro

from manifests import cli, snapshots
from manifests.checking.found import note
from manifests.cli.ranges import COUNT_OR_NONE, Ranges
from manifests.errors import UsageError
from manifests.exporting.lakehouse import export_tables
from manifests.exporting.webdataset import check_outside, export_webdataset, is_own, is_unfinished
from manifests.layout import Column, Dataset
from manifests.reasons import DROPS, FAILURES, Reason
from manifests.runs.events import read_events, run_ids, told
from manifests.runs.rates import StageRate, rates
from manifests.tables import planned, scans
from manifests.verify import verify
from manifests.views import View
from manifests.writing import lease
from manifests.writing.withdrawn import unfinished

Folder = Annotated[str, tyro.conf.Positional]


_COUNTS = ("shards", "in", "kept", "dropped", "failed", "tar_bytes")
_SUMS = ("num_in", "num_kept", "num_dropped", "num_failed", "tar_bytes")


def column_rows(dataset: Dataset) -> list[dict[str, Any]]:
    """For each column version: its shards, what happened to its items, and the bytes of its tars."""
    found = []
    for name, rows in scans.by_column(dataset, "shards", _SUMS).items():
        sums = {key.removeprefix("num_"): pc.sum(rows[key]).as_py() or 0 for key in _SUMS}
        found.append({"column": name, "shards": rows.num_rows} | sums)
    return found


def word_rows(dataset: Dataset, table: str, field: str) -> list[dict[str, Any]]:
    """How often each column version gave each word of a table (`drops` or `failures`)."""
    counts = [
        (name, item["values"], item["counts"])
        for name, rows in scans.by_column(dataset, table, [field]).items()
        for item in pc.value_counts(rows[field]).to_pylist()
    ]
    return [{"column": name, field: word, "count": count} for name, word, count in sorted(counts)]


@dataclass(frozen=True, kw_only=True)
class Info:
    """What a dataset holds: sources, columns, and what was left out or lost, with what to do about it.

    Example: rushes info DATASET
    """

    dataset: Folder
    """Dataset folder or address."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        dataset = Dataset(self.dataset)
        with scans.one_moment(dataset):
            statuses = pc.value_counts(scans.newest_sources(dataset, ["status"])["status"])
            columns = column_rows(dataset)
            drops, failures = word_rows(dataset, "drops", "reason"), word_rows(dataset, "failures", "error")
        sources = {item["values"]: item["counts"] for item in statuses.to_pylist()}
        if self.json:
            cli.print_json({"sources": sources, "columns": columns, "drops": drops, "failures": failures})
            return cli.DONE
        cli.print_table("sources", ["status", "count"], [list(item) for item in sorted(sources.items())])
        cli.print_table("columns", ["column", *_COUNTS], [list(row.values()) for row in columns])
        for title, rows, meanings in (("drops", drops, DROPS), ("failures", failures, FAILURES)):
            if rows:
                header = [*rows[0], "what happened", "what to do"]
                cli.print_table(title, header, [[*row.values(), *_explained(row, meanings)] for row in rows])
        return cli.DONE


def _explained(row: dict[str, Any], meanings: Mapping[str, Reason]) -> tuple[str, str]:
    word = list(row.values())[1]
    for known in (meanings, DROPS, FAILURES):  # listing drops files by words that are failures of a probe
        if reason := known.get(word):
            return reason.meaning, reason.next_step
    if str(row.get("column", "")).startswith("score@"):
        return "A scorer raised this Python exception.", "See `cause` in `rushes ls DATASET failures`; retry."
    return "A Python exception, or a word of another version.", "See `cause` in `rushes ls DATASET failures`."


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


@dataclass(frozen=True, kw_only=True)
class Verify:
    """Check that every committed byte is there and every item accounted for. Exit code 4 if not.

    What is found of each shard is kept in runs/verify-*.jsonl, where the dashboard sees it.

    Example: rushes verify --deep DATASET
    """

    dataset: Folder
    """Dataset folder or address."""
    deep: bool = False
    """Also hash every file and check every tar member."""

    def run(self) -> int:
        dataset = Dataset(self.dataset)
        report = verify(dataset, self.deep)
        try:
            note(dataset, report)
        except OSError as error:  # of a dataset that may only be read: what was found is printed all the same
            cli.say(f"verify: the dashboard will not know of it, it cannot be kept in the dataset ({error})")
        for problem in report.problems:
            cli.print_line(problem)
        verdict = "sound" if report.is_sound else _counted(len(report.problems), "problem")
        print(
            f"{verdict}: {report.num_shards} shard columns, {report.num_members} members, "
            f"{report.num_bytes / 1e6:.1f} MB{', every byte hashed' if self.deep else ''}"
        )
        if taken_back := unfinished(dataset):
            cli.say(
                f"verify: {_counted(len(taken_back), 'shard column')} taken back by `rushes retry` and not "
                "made again yet: give that command, or the ingest, again"
            )
        if report.num_unnamed:
            cli.say(
                f"verify: {_counted(report.num_unnamed, 'tar')} ({report.unnamed_bytes / 1e6:.1f} MB) that "
                "no record names: of attempts that died, or of commits whose records are lost"
            )
        return cli.DONE if report.is_sound else cli.INTEGRITY


@dataclass(frozen=True, kw_only=True)
class Export:
    """Join the columns of a view into plain WebDataset tars, or write its tables as Lance or Iceberg.

    Examples:
      rushes export DATASET --to webdataset --out TARS
      rushes export DATASET --to lance --out TABLES
    """

    dataset: Folder
    """Dataset folder or address."""
    out: Path
    """Folder for the tars or tables."""
    to: Literal["webdataset", "lance", "iceberg"] = "webdataset"
    """Format. lance and iceberg: tables alone, with where each clip's bytes lie in the dataset's own tars."""
    view: str = "default"
    """View to export."""
    overwrite: bool = False
    """Replace what exists; tars of shards that the view no longer has are removed."""

    def run(self) -> int:
        dataset = Dataset(self.dataset)
        view = View.load(dataset, self.view)
        check_outside(self.out)
        cli.writable(self.out)
        if self.to != "webdataset":
            counts = export_tables(dataset, view, self.out, self.to, self.overwrite)
            cli.print_table(
                f"{self.to} tables in {self.out}", ["table", "rows"], list(map(list, counts.items()))
            )
            return cli.DONE
        before = sorted(self.out.glob("*.tar"))
        if before and not self.overwrite and not is_unfinished(self.out, dataset, view):
            raise UsageError(str(before[0]), "exists", "Name another folder, or add --overwrite.")
        snapshot = snapshots.latest(dataset.filesystem, dataset.root).number
        try:
            written, num_lacking = export_webdataset(dataset, view, self.out)
        except FileNotFoundError as error:
            if snapshots.latest(dataset.filesystem, dataset.root).number == snapshot:
                raise
            raise UsageError(
                dataset.address,
                f"was changed by a takedown or a compaction while it was exported ({error})",
                "Give the same command again: it goes on from what is there.",
            ) from error
        if num_lacking:
            cli.say(f"export: {num_lacking} clips of the view lack a latent or a text, and are left out")
        for path in before:
            if path in written:
                continue
            is_ours = is_own(path)  # of an earlier export: clips that the view no longer has
            if is_ours:
                path.unlink()
            cli.say(
                f"{path}: {'removed, the view has no such shard' if is_ours else 'is not of this export'}"
            )
        for path in written:
            cli.print_line(str(path))
        return cli.DONE


def _speed(rate: StageRate) -> list:
    """A row of `rushes status`; shares are of the actors' time in the steady state, where there was one."""
    shares = (rate.busy, rate.input_wait, rate.hand_wait)
    told = [f"{share:.0%}" if rate.steady_s else "-" for share in shares]
    speed = [round(value, 2) for value in (rate.items_per_s, rate.footage_per_s, rate.cpu_s, rate.gpu_s)]
    return [rate.stage, rate.jobs, rate.actors, *speed, *told]


@dataclass(frozen=True, kw_only=True)
class Status:
    """What is committed and missing, how fast and busy the last run's stages were, and its last events.

    Example: rushes status DATASET
    """

    ranges: ClassVar[Ranges] = {"events": COUNT_OR_NONE}

    dataset: Folder
    """Dataset folder or address."""
    events: int = 10
    """Last events of the last run to print; 0 for none."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        dataset = Dataset(self.dataset)
        shards = planned.shards(dataset)
        columns: dict[Column, int] = {
            column: len(set(dataset.committed_shards(column)) & set(shards)) for column in dataset.columns()
        }
        runs = run_ids(dataset)
        all_events = told(read_events(dataset, runs[-1])) if runs else []
        events = all_events[max(0, len(all_events) - self.events) :]
        holder, _ = lease.read(dataset)
        ago_s = lease.heard_s(dataset, asks_store=False)
        writer = ""
        if holder and holder.renewed_s and not (holder.is_gone(ago_s) and holder.is_here):
            writer = holder.name
        speeds = rates(all_events)
        if self.json:
            cli.print_json(
                {
                    "num_shards": len(shards),
                    "columns": {str(key): value for key, value in columns.items()},
                    "runs": runs,
                    "writer": writer,
                    "writer_heard_s": round(max(0.0, ago_s), 1) if writer else None,
                    "rates": [asdict(rate) for rate in speeds],
                    "events": events,
                }
            )
            return cli.DONE
        cli.print_table(
            "columns",
            ["column", "committed", "of"],
            [[str(column), count, len(shards)] for column, count in columns.items()],
        )
        if speeds:
            cli.print_table(
                "stages of the last run",
                [*("stage", "shards", "at once", "clips/s", "footage s/s", "CPU s", "GPU s", "busy")]
                + ["waits for input", "waits to be handed one"],
                [_speed(rate) for rate in speeds],
            )
        cli.print_table(
            "last events",
            ["time_s", "stage", "shard", "event", "text"],
            [[row["time_s"], row["stage"], row["shard"], row["event"], row["text"]] for row in events],
        )
        doubt = ", which is perhaps gone" if holder and holder.is_gone(ago_s) else ""
        heard = f", last heard of {max(0.0, ago_s):.0f} s ago by this machine's clock{doubt}"
        cli.say(f"being written by {writer}{heard}" if writer else "nobody is writing")
        return cli.DONE
