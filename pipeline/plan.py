"""Plan: which segments of which sources belong to which shard.

Written once; new footage appends a generation.

A source row comes in and leaves as kept, dropped (exact duplicate, no media file) or failed. Kept sources are
cut into segments, and a seeded shuffle deals the segments to shards of about equal seconds.
"""

from __future__ import annotations

import hashlib
import heapq
import math
import os
import posixpath
from collections.abc import Callable, Collection, Container, Mapping, Sequence

import numpy as np

from manifests.cli import say
from manifests.errors import UsageError
from manifests.layout import Dataset
from manifests.tables import planned, scans
from manifests.writing.commit import SupersededError, commit_generation
from manifests.writing.removing import pending, token, tokens
from media.bytes.access import is_local
from media.bytes.sealed import unsealed
from media.decode.seeking import is_seekable
from media.errors import MediaError, shown
from pipeline.config import PlanConfig
from pipeline.footage.sources import Found, change_since, id_of_address, planned_name, same_bytes

IMAGE_COST_S = 0.5  # an image weighs as much as this many seconds of video when shards are dealt

Probing = Callable[[list[Found]], list[dict]]


def _spellings(uri: str) -> set[str]:
    """An address, and as it was written down before keys were sealed."""
    try:
        return {uri, unsealed(uri)}
    except MediaError:
        return {uri}


_TOLD = ("alt", "timed_captions_json", "metadata_json", "licence", "origin")
"""What lists and sidecars say of a source."""


def _mark_removed(rows: list[dict], gone: set[str]) -> None:
    """Drop every source that was taken down; its id is not written down again.

    One that could not be read then was known by its address alone.
    """
    for row in rows if gone else ():
        names = [token(row["source_id"]), *(token(id_of_address(uri)) for uri in _spellings(row["uri"]))]
        if name := next((name for name in names if name in gone), None):
            row.update(status="dropped", reason="removed", detail="was taken down", source_id=name)
            row.update(dict.fromkeys(_TOLD))


def _mark_duplicates(rows: list[dict], known: dict[str, str]) -> None:
    """Drop every source whose bytes are those of an earlier one.

    What is told of the dropped one alone holds of the other as well.

    `known` maps source ids to the first uri that had them.
    """
    kept = dict[str, dict]()
    for row in rows:
        if row["status"] != "kept":
            continue
        first = known.setdefault(row["source_id"], row["uri"])
        if first == row["uri"]:
            kept[first] = row
            continue
        if not same_bytes(first, row["uri"]):  # large files that differ only between the samples of their ids
            row["source_id"] += hashlib.sha256(row["uri"].encode()).hexdigest()[:8]
            known[row["source_id"]] = row["uri"]
        else:
            row |= {"status": "dropped", "reason": "exact_duplicate", "detail": f"same bytes as {first}"}
            if first in kept:
                _take_over(kept[first], row)


def _take_over(kept: dict, dropped: dict) -> None:
    """What a copy says of the same bytes. Where both say something the first word holds."""
    for name in _TOLD:
        said, other = kept.get(name), dropped.get(name)
        if not said and other:
            kept[name] = other
        elif name == "licence" and other and said != other and "another licence" not in kept["detail"]:
            remark = f"a copy of it has another licence: {dropped['uri']}"
            kept["detail"] = "; ".join(part for part in (kept["detail"], remark) if part)


def segments_of(row: dict, segment_s: float) -> list[dict]:
    """Cut a source into segments of `segment_s`; the last takes what is left.

    An image is one segment of no length.

    A source that can only be read from its beginning is one segment: each further one would read all before
    it again.
    """
    is_one = row["kind"] == "image" or not is_seekable(row["container"], row.get("decoder_reasons") or ())
    count = 1 if is_one else max(1, math.ceil(row["duration_s"] / segment_s - 1e-6))
    bounds = [index * segment_s for index in range(count)] + [row["duration_s"]]
    return [
        {
            "segment_id": f"{row['source_id']}-s{index:04d}",
            "source_id": row["source_id"],
            "uri": row["uri"],
            "start_s": bounds[index],
            "end_s": bounds[index + 1],
            "kind": row["kind"],
        }
        for index in range(count)
    ]


def deal(segments: list[dict], shard_s: float, seed: int, first_shard: int) -> list[dict]:
    """Give each segment a shard: seeded shuffle, then each to the lightest shard so far.

    Within a shard, source order.
    """
    costs = [max(segment["end_s"] - segment["start_s"], IMAGE_COST_S) for segment in segments]
    loads = [(0.0, shard) for shard in range(max(1, round(sum(costs) / shard_s)))]
    for index in np.random.default_rng(seed).permutation(len(segments)).tolist():
        load, lightest = loads[0]
        heapq.heapreplace(loads, (load + costs[index], lightest))
        segments[index]["shard"] = first_shard + lightest
    return sorted(segments, key=lambda row: (row["shard"], row["uri"], row["start_s"]))


def _by_shard(rows: list[dict], dealt: list[dict]) -> list[dict]:
    """Source rows in the order of the shards that read them first, so that a shard's lie together.

    Each segment is told the row of its source.
    """
    first: dict[str, int] = {}
    for segment in dealt:
        first.setdefault(segment["source_id"], segment["shard"])
    is_kept = [row["status"] == "kept" for row in rows]
    last = max(first.values(), default=0) + 1
    order = sorted(
        range(len(rows)),
        key=lambda place: (first[rows[place]["source_id"]] if is_kept[place] else last, rows[place]["uri"]),
    )
    rows = [rows[place] for place in order]
    places = {row["source_id"]: place for place, row in enumerate(rows) if row["status"] == "kept"}
    for segment in dealt:
        segment["source_row"] = places[segment["source_id"]]
    return rows


def _known(dataset: Dataset) -> tuple[dict[str, dict], dict[str, str], int, set[str]]:
    """Source rows by uri, uris of kept ones by id, the first free shard, and uris that only failed."""
    fields = ["uri", "size_bytes", "modified", "source_id", "status"]
    rows = scans.table(dataset, "sources", None, fields).to_pylist()
    numbers = set(planned.shards(dataset))
    for column in dataset.columns():  # a takedown may have left a shard without a segment
        numbers.update(dataset.committed_shards(column))
    last = max(numbers, default=-1)
    known = {planned_name(row["uri"]): row for row in rows}
    settled = {planned_name(row["uri"]) for row in rows if row["status"] != "failed"}
    kept = {row["source_id"]: row["uri"] for row in rows if row["status"] == "kept"}
    return known, kept, last + 1, set(known) - settled


def _opened(uri: str) -> dict:
    """The row that takes the place of a failed container's."""
    detail = "can be read now; what is in it are sources of their own"
    told = {"source_id": id_of_address(uri), "uri": uri, "status": "dropped"}
    return told | {"reason": "opened", "detail": detail}


def _has_changed(found: Found, row: dict) -> bool:
    """Whether a known file is another now, as far as that can be told without a request to a store."""
    if row["size_bytes"] is None:
        return False
    if is_local(found.uri):
        try:
            return bool(change_since(row))
        except MediaError:
            return False
    return found.size_bytes not in {None, row["size_bytes"]}


def _first(files: list[Found], known: Collection[str], limit: int, roots: Sequence[str] = ()) -> list[Found]:
    """So many of the files, those that are planned first: going on is going on with the same ones.

    Planned files of the same folders, or below the same roots, that are there no more were among the first
    all the same.
    """
    names = {planned_name(found.uri) for found in files}
    folders = {posixpath.dirname(name) for name in names}
    above = tuple(os.path.abspath(os.path.expanduser(root)) + "/" for root in roots if "://" not in root)
    others = (
        name
        for name in known
        if name not in names and (posixpath.dirname(name) in folders or name.startswith(above))
    )
    num_gone = sum(is_local(name) and not os.path.lexists(name) for name in others)
    return sorted(files, key=lambda found: planned_name(found.uri) not in known)[: max(0, limit - num_gone)]


def make_plan(
    dataset: Dataset,
    files: list[Found],
    config: PlanConfig,
    probing: Probing,
    retries_failed: bool = False,
    opened: Sequence[str] = (),
    roots: Sequence[str] = (),
) -> list[dict]:
    """Append a generation for the files the plan does not know yet.

    Returns its source rows; an empty list if there is nothing new.

    Of two writers at once one succeeds: a generation is made only where there is none of its number.

    Args:
        retries_failed: take files that failed before for new ones.
        opened: addresses that failed before and can be looked into now: what is in them is among the files.
    """
    if config.limit < 0:
        raise UsageError(f"limit {config.limit}", "is less than nothing", "Give 0 for all files.")
    known, known_ids, first_shard, failed = _known(dataset)
    known = {uri: row for uri, row in known.items() if not (retries_failed and uri in failed)}
    files = _first(files, known, config.limit, roots) if config.limit else files
    _tell_changed(files, known)
    new = [found for found in files if planned_name(found.uri) not in known]
    if not new and not opened:
        return []
    rows = sorted([*probing(new), *map(_opened, opened)], key=lambda row: row["uri"])
    gone = tokens(dataset) | {token(source_id) for source_id in pending(dataset)}
    _mark_removed(rows, gone)
    _mark_duplicates(rows, known_ids)
    _mark_removed(rows, gone)  # of which an id was lengthened
    if retries_failed and all(row["status"] == "failed" and row["uri"] in failed for row in rows):
        return rows  # nothing is better than before
    segments = [
        segment for row in rows if row["status"] == "kept" for segment in segments_of(row, config.segment_s)
    ]
    generation = max(dataset.generations(), default=-1) + 1
    dealt = [
        {"generation": generation, **segment}
        for segment in deal(segments, config.shard_s, config.seed + generation, first_shard)
    ]

    rows = _by_shard(rows, dealt)
    try:
        commit_generation(dataset, generation, dealt, _accounts(rows, failed))
    except SupersededError as error:
        raise UsageError(
            dataset.uri,
            f"was planned by another writer at the same time ({error.subject})",
            "Run the same command again: what that one took is known then.",
        ) from error
    return rows


def _tell_changed(files: list[Found], known: Mapping[str, dict]) -> None:
    for found in files:
        if (row := known.get(planned_name(found.uri))) and _has_changed(found, row):
            say(
                f"plan: {shown(found.uri)} has changed since it was planned; the dataset keeps what it has. "
                "Give it another name to ingest it anew."
            )


def _accounts(rows: list[dict], failed: Container[str]) -> dict[str, list[dict]]:
    """Rows of the tables that say what became of each file.

    Args:
        rows: of the sources of a generation.
        failed: addresses that failed before.
    """
    tables: dict[str, list[dict]] = {"sources": rows, "drops": [], "failures": []}
    for row in rows:
        origin = {"stage": "plan", "item_id": row["source_id"], "source_id": row["source_id"]}
        if row["status"] == "dropped":
            tables["drops"].append({**origin, "uri": row["uri"], "reason": row["reason"]})
        elif row["status"] == "failed":
            tables["failures"].append(
                {
                    **origin,
                    "uri": row["uri"],
                    "error": row["reason"],
                    "cause": row["detail"],
                    "attempt": 2 if row["uri"] in failed else 1,
                }
            )
    return tables
