"""Verbs that keep a dataset in order: `compact`, `snapshot`, `withdraw`."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Annotated, ClassVar

import tyro

from manifests import cli, snapshots
from manifests.cli.ranges import COUNT_OR_NONE, Ranges
from manifests.errors import UsageError
from manifests.layout import Column, Dataset
from manifests.store import storage
from manifests.writing.commit import SupersededError
from manifests.writing.compact import Compacted, compact
from manifests.writing.lease import Lease
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
            dataset.uri, f"was compacted by another at the same time ({error})", "Give the command again."
        ) from error
    if done.num_commits or done.num_removed:
        cli.say(
            f"compact: {done.num_commits} commits into {done.num_written} files of "
            f"{done.size_bytes / 1e6:.1f} MB, {done.num_removed} small files removed, "
            f"{time.monotonic() - begin_s:.1f} s"
        )
    return done


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
            done = compacted(dataset)
        print(f"snapshot {done.number}: {len(list(dataset.snapshot.files()))} files hold all tables")
        return cli.DONE


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
            data = snapshots.to_bytes(
                dataset.snapshot, generations=generations, name=self.name, made_s=round(time.time(), 3)
            )
            if not storage.create_bytes(dataset.filesystem, path, data):
                raise UsageError(
                    f"snapshot {self.name}", "exists, and is never changed", "Choose another name."
                )
        columns = dataset.snapshot.columns
        print(f"{dataset.uri}@{self.name}: {len(columns)} column versions, {len(generations)} generations")
        return cli.DONE


@dataclass(frozen=True, kw_only=True)
class Withdraw:
    """Take the commit of a shard's column back, as where its files are damaged. The next ingest makes it
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
        print(f"{column} shard {self.shard} is taken back; `rushes ingest` makes it again")
        return cli.DONE
