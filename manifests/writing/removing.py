"""Takedown: a source goes, with its clips, captions, latents and every row that names it.

First a note of what is to go (`removed/pending.json`): from then on views leave it out. Then the tables are
compacted, every merged file and every tar that has something of it is written anew without it, and one new
snapshot names the new files; only then are the old ones removed. What died midway is gone on with by the next
`rushes remove` or `rushes compact`. In the end the dataset keeps a hash of the source's id, so that it is not
taken in again, and nothing else of it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import fs

from manifests import snapshots
from manifests.errors import UsageError
from manifests.layout import Column, Dataset
from manifests.snapshots import Merged, Snapshot
from manifests.store import storage
from manifests.store.json_files import read_object
from manifests.tables import scans
from manifests.writing.commit import SupersededError, sweep
from manifests.writing.compact import clean, compact, named_snapshots, tars_of
from manifests.writing.rewriting import Removed, rewrite_version
from manifests.writing.scrubbing import replaced, scrub_plan, scrub_texts, trainings_with
from manifests.writing.withdrawn import unfinished


def token(source_id: str) -> str:
    """What stands for a source that was removed: nothing leads back from it to the id."""
    return "removed-" + hashlib.sha256(source_id.encode()).hexdigest()[:16]


def _pending(dataset: Dataset) -> str:
    return dataset.path("removed", "pending.json")


def _done(dataset: Dataset) -> str:
    return dataset.path("removed", "done.json")


def _note_of(dataset: Dataset, path: str, key: str) -> dict[str, Any]:
    """A note, with an empty `key` where there is none."""
    there = storage.exists(dataset.filesystem, path)
    return read_object(dataset.filesystem, path, keys=(key,)) if there else {key: {}}


def pending(dataset: Dataset) -> dict[str, list[str]]:
    """Sources that are to go and their addresses: a takedown that has not ended."""
    return dict(_note_of(dataset, _pending(dataset), "sources")["sources"])


def tokens(dataset: Dataset) -> set[str]:
    """Tokens of all sources that were removed."""
    return {row["token"] for row in _note_of(dataset, _done(dataset), "removed")["removed"]}


def gone(dataset: Dataset) -> set[str]:
    """Tokens of all sources that were removed, or are to go."""
    return tokens(dataset) | {token(source_id) for source_id in pending(dataset)}


def check_none_went(dataset: Dataset, before: set[str]) -> None:
    """
    Args:
        before: what `gone` was when something that copies of the dataset began.

    Raises:
        UsageError: sources were taken down since: what was copied may hold them.
    """
    if gone(dataset) - before:
        raise UsageError(
            dataset.address,
            "had sources taken down while it was exported, and what was written may hold them",
            "Give the same command again: it writes all anew.",
        )


def takedowns(dataset: Dataset) -> list[dict[str, Any]]:
    """Those that ended, the newest first: `removed_s`, `reason`, `num_sources`, and `read_by` (trainings)."""
    found: dict[tuple[float, str], dict[str, Any]] = {}
    for row in _note_of(dataset, _done(dataset), "removed")["removed"]:
        key = row["removed_s"], row["reason"]
        one = found.setdefault(key, {"removed_s": key[0], "reason": key[1], "num_sources": 0})
        one["num_sources"] += 1
        one["read_by"] = row["read_by"]
    return [one for _, one in sorted(found.items(), reverse=True)]


def remove(
    dataset: Dataset, sources: Mapping[str, str], reason: str = "", read_by: Sequence[str] = ()
) -> Removed:
    """Take sources down, and those of a takedown that has not ended.

    Args:
        sources: their ids, and an address of each; all that the plan knows are looked up.
        reason: kept with their tokens.
        read_by: trainings elsewhere that had read of them, kept too.

    Raises:
        SupersededError: another has published a snapshot at the same time.
        UsageError: a retry has taken commits back and not made them again.
    """
    if unfinished(dataset):
        raise UsageError(
            dataset.uri,
            "has what `rushes retry` or `withdraw` took back and no ingest has made again: it would be lost",
            "Run `rushes retry` or `rushes ingest` with the same settings to its end, then this again.",
        )
    before = _note_of(dataset, _pending(dataset), "sources")
    ids = sorted({*sources, *before["sources"]})
    done = Removed(ids)
    if not ids:
        return done
    where = pc.field("source_id").isin(pa.array(ids))
    known = scans.table(dataset, "sources", None, ["source_id", "uri"], where).to_pylist()
    named = {key: set(before["sources"].get(key, ())) | {sources.get(key, "")} - {""} for key in ids}
    for row in known:
        named[row["source_id"]].add(row["uri"])
    words = {word: token(key) for key, uris in named.items() for word in (key, *uris)}
    done.runs = sorted({*read_by, *before.get("read_by", ()), *trainings_with(dataset, words)})
    note = {
        "sources": {key: sorted(uris) for key, uris in named.items()},
        "reason": reason or before.get("reason", ""),
        "read_by": done.runs,
    }
    storage.write_bytes(dataset.filesystem, _pending(dataset), json.dumps(note).encode())
    compact(dataset)
    storage.delete_files(dataset.filesystem, [info.path for info in _left_by_searches(dataset)])
    if storage.is_local(dataset.filesystem):
        shutil.rmtree(dataset.path("keys"), ignore_errors=True)
    _rewrite_tables(dataset, done, words)
    scrub_plan(dataset, set(ids), set(words))
    scrub_texts(dataset, words, set(done.runs))
    rows = list(_note_of(dataset, _done(dataset), "removed")["removed"])
    own = {"reason": note["reason"], "removed_s": round(time.time(), 3), "read_by": done.runs}
    there = {row["token"] for row in rows}  # it died just after this was written
    rows += [{"token": token(key), **own} for key in ids if token(key) not in there]
    storage.write_bytes(dataset.filesystem, _done(dataset), json.dumps({"removed": rows}, indent=1).encode())
    storage.delete_files(dataset.filesystem, [_pending(dataset)])
    if storage.is_local(dataset.filesystem):
        for name in ("columns", "tables", "snapshots", "plan", "views", "removed"):  # no run's, no lease's
            for folder in {path.parent for path in Path(dataset.path(name)).rglob(".*.tmp")}:
                sweep(folder, quiet_s=-1.0)
    return done


def _rewrite_tables(dataset: Dataset, done: Removed, words: Mapping[str, str]) -> None:
    """Files, tars and snapshots without the sources; then the old ones go."""
    filesystem, root = dataset.filesystem, dataset.root
    ids, newest = set(done.sources), dataset.snapshot
    names = {name: snapshots.named(filesystem, root, name) for name in snapshots.names(filesystem, root)}
    files: dict[str, Merged | None] = {}
    for snapshot in [newest, *(found for found, _ in names.values())]:
        for column in snapshot.columns:
            rewrite_version(dataset, snapshot, Column.parse(column), ids, files, done)
    if any(files[one.path] != one for one in newest.files()):
        after = _with_files(newest, files, newest.number + 1)
        if not snapshots.publish(filesystem, root, after):
            raise SupersededError(f"snapshot {after.number}")
        dataset.refresh()
    for name, (found, said) in names.items():
        more = {key: said[key] for key in said.keys() - {"number", "columns", "sha256"}}
        more["views"] = json.loads(replaced(json.dumps(more.get("views", {})), words))
        data = snapshots.to_bytes(_with_files(found, files, found.number), **more)
        storage.write_bytes(filesystem, snapshots.named_path(root, name), data)
    clean(dataset, keeps_previous=False)
    _remove_small(dataset)
    named = tars_of(dataset, [dataset.snapshot, *named_snapshots(dataset)])
    tars = storage.list_files(filesystem, dataset.path("columns"), ".tar")
    # the old ones, and those of attempts that died
    storage.delete_files(filesystem, [info.path for info in tars if dataset.relative(info.path) not in named])


def _left_by_searches(dataset: Dataset) -> list[fs.FileInfo]:
    """From these the next search for near-duplicates would go on; without them it looks at all clips."""
    return storage.list_files(dataset.filesystem, dataset.path("keys"), "")


def _remove_small(dataset: Dataset) -> None:
    """Remove parts of attempts that died and of commits taken back: all that counts was merged."""
    gone = []
    for table in storage.list_folders(dataset.filesystem, dataset.path("tables")):
        for name in storage.list_folders(dataset.filesystem, dataset.path("tables", table)):
            if "@" not in name:
                continue
            infos = storage.list_files(dataset.filesystem, dataset.path("tables", table, name), ".parquet")
            gone += [info.path for info in infos if not info.base_name.startswith("merged-")]
    storage.delete_files(dataset.filesystem, gone)


def _with_files(snapshot: Snapshot, files: dict[str, Merged | None], number: int) -> Snapshot:
    columns = {}
    for column, version in snapshot.columns.items():
        tables = {
            name: tuple(new for one in found if (new := files[one.path]) is not None)
            for name, found in version.tables.items()
        }
        columns[column] = replace(version, tables={name: found for name, found in tables.items() if found})
    return Snapshot(number, columns)
