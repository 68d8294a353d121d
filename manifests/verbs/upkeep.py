"""Verbs that keep a dataset in order: `compact`, `snapshot`, `withdraw`, `remove`."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import platform
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import pyarrow as pa
import pyarrow.compute as pc
import tyro

from manifests import cli, snapshots
from manifests.cli.ranges import COUNT_OR_NONE, Ranges
from manifests.errors import UsageError
from manifests.layout import Column, Dataset
from manifests.runs.elsewhere import noted_trainings
from manifests.sql import predicates, queries
from manifests.store import storage
from manifests.tables import scans
from manifests.text import may_let_in, spelt, split_user
from manifests.views import View
from manifests.writing.commit import SupersededError
from manifests.writing.compact import Compacted, compact
from manifests.writing.lease import Lease
from manifests.writing.removing import pending, remove
from manifests.writing.withdrawn import withdraw

Folder = Annotated[str, tyro.conf.Positional]


def compacted(dataset: Dataset, least: int = 1) -> Compacted:
    """Compact and say what that did.

    Raises:
        UsageError: another did so at the same time.
    """
    begin_s = time.monotonic()
    try:
        done = compact(dataset, least)
    except SupersededError as error:
        raise UsageError(
            dataset.uri,
            f"was compacted by another at the same time ({error.subject})",
            "Give the command again.",
        ) from error
    if done.num_commits or done.num_removed:
        cli.say(
            f"compact: {done.num_commits} commits into {done.num_written} files of "
            f"{done.size_bytes / 1e6:.1f} MB, {done.num_removed} small files removed, "
            f"{time.monotonic() - begin_s:.1f} s"
        )
    return done


_SHOWN = "samples, tensorboard, held-out.json and consumed*.jsonl"
"""What of a training's folder shows footage or names it."""


@dataclass(frozen=True, kw_only=True)
class Compact:
    """Merge the small files of tables into few large ones, sorted by shard.

    An ingest does so at its end where there are many. Tars are not touched, and rows stay as they are.

    Example: rushes compact DATASET
    """

    dataset: Folder
    """Dataset folder or address."""

    def run(self) -> int:
        dataset = Dataset(self.dataset)
        with Lease(dataset):
            if going := pending(dataset):
                cli.say(f"compact: going on with the takedown of {len(going)} sources")
                remove(dataset, {})
            done = compacted(dataset)
        cli.print_line(f"snapshot {done.number}: {len(list(dataset.snapshot.files()))} files hold all tables")
        return cli.DONE


def _is_same(one: bytes, other: bytes) -> bool:
    """Whether two named snapshots hold the same: a command that was stopped may be given again."""
    first, second = (json.loads(data) for data in (one, other))
    own = {"made_s": 0, "sha256": ""}  # of when it was made
    return first | own == second | own


@dataclass(frozen=True, kw_only=True)
class NameSnapshot:
    """Give a name to all that is committed now. `DATASET@NAME` is then the dataset as it is today, for every
    verb that reads one; a training that is begun with it goes on with it.

    Example: rushes snapshot spring DATASET
    """

    name: Annotated[str, tyro.conf.Positional]
    """Its name."""
    dataset: Folder
    """Dataset folder or address."""

    def run(self) -> int:
        dataset = Dataset(self.dataset)
        path = snapshots.named_path(dataset.root, self.name)
        with Lease(dataset):
            compacted(dataset)
            dataset.refresh()
            generations = dataset.generations()
            views = {name: json.loads(View.load(dataset, name).to_json()) for name in View.names(dataset)}
            more = {"generations": generations, "views": views, "made_s": round(time.time(), 3)}
            data = snapshots.to_bytes(dataset.snapshot, name=self.name, **more)
            is_new = storage.create_bytes(dataset.filesystem, path, data)
            if not is_new and not _is_same(data, storage.read_bytes(dataset.filesystem, path)):
                raise UsageError(
                    f"snapshot {self.name}", "exists, and is never changed", "Choose another name."
                )
        columns, address = dataset.snapshot.columns, Dataset(self.dataset, at=self.name).address
        cli.print_line(f"{address}: {len(columns)} column versions, {len(generations)} generations")
        return cli.DONE


@dataclass(frozen=True, kw_only=True)
class Withdraw:
    """Mark a shard's column as not done, as where its files are damaged. The next ingest makes it
    again.

    Example: rushes withdraw latent@1f2e3d4c5b 12 --dataset DATASET
    """

    ranges: ClassVar[Ranges] = {"shard": COUNT_OR_NONE}

    column: Annotated[str, tyro.conf.Positional]
    """Column version, as `rushes status` shows it."""
    shard: Annotated[int, tyro.conf.Positional]
    """Number of the shard."""
    dataset: str
    """Dataset folder or address."""

    def run(self) -> int:
        dataset, column = Dataset(self.dataset), Column.parse(self.column)
        with Lease(dataset):
            if not dataset.is_committed(column, self.shard):
                raise UsageError(
                    f"{column} shard {self.shard}", "is not committed", "See `rushes status DATASET`."
                )
            withdraw(dataset, column, [self.shard])
        cli.print_line(f"{column} shard {self.shard} is taken back; `rushes ingest` makes it again")
        return cli.DONE


@dataclass(frozen=True, kw_only=True)
class Remove:
    """Take sources down: their clips, captions, texts, latents and every row and text that names them go.

    Tars and tables that hold something of them are written anew, in named snapshots too; near-duplicates that
    they stood for come back. A hash of each id is kept, so that an ingest does not take it in again.
    Trainings that had read of them are listed; what is outside of the dataset (exports, the footage itself)
    is yours to delete.

    Examples:
      rushes remove DATASET --source 3f2a9c0d1e4b5a67
      rushes remove DATASET --where "uri LIKE '%/client-x/%'" --reason "licence ended" --dry-run
    """

    dataset: Folder
    """Dataset folder or address."""
    source: Annotated[tuple[str, ...], tyro.conf.arg(metavar="ID ...")] = ()
    """Sources by their id or address."""
    where: str = ""
    """Sources by a SQL predicate over the table `sources`; with --source: these too."""
    reason: str = ""
    """Kept with the hashes of the ids."""
    runs: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FOLDER ...")] = ()
    """Training folders outside of the dataset that it does not know of, to tell which have read of them."""
    dry_run: bool = False
    """Say what would go and stop."""
    json: bool = False
    """Print JSON."""

    def run(self) -> int:
        dataset = Dataset(self.dataset)
        found = self._found(dataset)
        sources = {row["source_id"]: row["uri"] for row in found}
        if not sources and not pending(dataset):
            raise UsageError(
                self.where or ", ".join(self.source) or "no source",
                "names no source of the dataset",
                "List them with `rushes ls DATASET sources`.",
            )
        if self.dry_run:
            rows = [list(row.values()) for row in found]
            cli.print_table("to remove", ["source", "address", "status"], rows)
            return cli.DONE
        _refuse_while_training(dataset, self.runs)
        noted = noted_trainings(dataset)
        known = [own.folder for own in noted if own.is_here and _has_log(own.folder)]
        folders = (*(path.resolve() for path in self.runs), *known)
        read_by = sorted({str(path) for path in folders if _has_read(path, sources)})
        with Lease(dataset):
            done = remove(dataset, sources, self.reason, read_by)
        try:
            _refuse_while_training(dataset, self.runs)
        except UsageError as error:  # one has begun meanwhile
            cli.say(f"remove: {error}")
        counts = {
            "sources": len(done.sources),
            "clips": done.num_clips,
            "rows": done.num_rows,
            "members": done.num_members,
            "tars": len(done.tars),
        }
        if self.json:
            cli.print_json(counts | {"trained_by": done.runs})
            return cli.DONE
        cli.print_table("removed", list(counts), [list(counts.values())])
        for run in done.runs:
            cli.say(f"remove: training {run} had read of it; its weights stay as they are")
            if Path(run).is_absolute():
                cli.say(f"remove: {run} is outside of the dataset: its {_SHOWN} are yours to delete")
        return cli.DONE

    def _found(self, dataset: Dataset) -> list[dict[str, str]]:
        """Id, address and status of the sources that are meant, with all addresses of the same bytes.

        Raises:
            UsageError: a word names none, or the predicate is none.
        """
        if self.where:
            predicates.check_predicate(self.where, "--where")
        words = [*self.source, *map(spelt, self.source)]
        listed = ", ".join("'" + word.replace("'", "''") + "'" for word in words)
        named = f"source_id IN ({listed}) OR uri IN ({listed})" if listed else "false"
        unknown = set(self.source) - _known(dataset, self.source)
        for word in self.source:
            if rows := _with_key_sealed(dataset, word):
                ids = ", ".join(row["source_id"] for row in rows)
                if may_let_in(word):  # what else its query says is sealed too
                    raise UsageError(word, "is sealed in the plan with its query", f"Give an id, of: {ids}.")
                unknown.discard(word)
                named += " OR source_id IN (" + ", ".join(f"'{row['source_id']}'" for row in rows) + ")"
        if unknown and not pending(dataset):  # one that did not end has some of them behind it
            raise UsageError(
                f"--source {' '.join(sorted(unknown))}",
                "names no source of the dataset; nothing is removed",
                "List them with `rushes ls DATASET sources`.",
            )
        meant = f"SELECT source_id FROM sources WHERE ({named}) OR ({self.where or 'false'}\n)"
        query = (
            "SELECT source_id, uri, status FROM sources WHERE NOT starts_with(source_id, 'removed-') "
            f"AND source_id IN ({meant}) ORDER BY source_id, status = 'kept' DESC, uri"
        )
        whose = f"--where {self.where!r}" if self.where else ""
        found: list[dict[str, str]] = queries.sql(dataset, query, whose=whose).to_pylist()
        return found


def _known(dataset: Dataset, words: Sequence[str]) -> set[str]:
    """Those of the words that are the id or the address of a source."""
    listed = pa.array([*words, *map(spelt, words)], pa.string())
    where = pc.field("source_id").isin(listed) | pc.field("uri").isin(listed)
    rows = scans.table(dataset, "sources", None, ["source_id", "uri"], where) if words else None
    found = set() if rows is None else {*rows["source_id"].to_pylist(), *rows["uri"].to_pylist()}
    return {word for word in words if {word, spelt(word)} & found}


def _with_key_sealed(dataset: Dataset, word: str) -> list[dict]:
    """Sources whose address, without its seal, is the given one without its key."""
    user, bare = split_user(word)
    if not user and not may_let_in(word):
        return []
    before, hash_mark, member = bare.partition("#")
    path, _, query = before.partition("?")
    kept = f"?{query}" if query and not may_let_in(word) else ""
    address = f"{path}{kept}{hash_mark}{member}".replace("'", "''")
    stripped = "regexp_replace(uri, '[?&]rushes-sealed=[^&#]*', '')"
    query = f"SELECT source_id FROM sources WHERE {stripped} = '{address}' AND uri LIKE '%rushes-sealed=%'"
    return queries.sql(dataset, query).to_pylist()


def _refuse_while_training(dataset: Dataset, runs: Sequence[Path]) -> None:
    """A training would go on to read the sources from its caches, and to write down that it did.

    Raises:
        UsageError: one runs now, in the dataset's folder or in a given one.
    """
    inside = Path(dataset.path("training")).glob("*/") if storage.is_local(dataset.filesystem) else ()
    noted = noted_trainings(dataset)
    here = [own for own in noted if own.is_here]
    for own in noted:
        is_gone = own.host == platform.node() and not os.path.lexists(own.folder)
        if own not in here and not is_gone:
            cli.say(
                f"remove: training {own.folder} of {own.host} cannot be looked into from here: see that it "
                f"rests, or delete training/elsewhere-{own.id}.json in the dataset, if it is gone"
            )
    for folder in [*inside, *runs, *(own.folder for own in here)]:
        with contextlib.suppress(FileNotFoundError), open(folder / ".lock", "rb") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise UsageError(
                    str(folder),
                    "is a training that runs now",
                    "Stop it (Ctrl-C saves what it has), give this again, then go on by `fit --new-data`.",
                ) from error


def _has_log(folder: Path) -> bool:
    return any(folder.glob("consumed*.jsonl"))


def _has_read(folder: Path, sources: Collection[str]) -> bool:
    """Whether a training has read a clip of one of the sources."""
    logs = list(folder.glob("consumed*.jsonl"))
    if not logs:
        raise UsageError(str(folder), "holds no log of what a training read", "Give run folders of `fit`.")
    for path in logs:
        with open(path, encoding="utf-8") as lines:
            if any(source in line for line in lines for source in sources):
                return True
    return False
