"""Near-duplicate clips: candidates by banded hashing, verified by distance, grouped by quality.

Blocks of clips are read once (`keyed`), tables of keys are searched one by one (`search_table`), pairs are
compared (`distances_of`); each of these is a map, and `group` is what is left for one process. Of the hashes
only those of candidates are ever held together. Clips that an earlier search has seen are not read again:
new ones are looked up in the tables that it left (`known`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from media.measure.videohash import SAME, VideoHash, distance
from pipeline.dedup.embeddings import Vectors, embedding_pairs
from pipeline.dedup.grouping import Group, Quality, Report, group
from pipeline.dedup.kept import Kept
from pipeline.dedup.keys import TABLES, Frames, keyed
from pipeline.dedup.known import Known
from pipeline.dedup.search import Blocks, between, candidates

CLIPS_A_TASK, PAIRS_A_TASK = 2000, 5000
MatchCheck = Callable[[Sequence[str], Sequence[str]], np.ndarray]
Matches = dict[tuple[str, str], float]


class Spread(Protocol):
    """Runs one function over many jobs."""

    def __call__(self, function: Callable[..., Any], jobs: Sequence[tuple], returns: int = 1) -> list[Any]:
        """What each job gives.

        Args:
            returns: how many values each job gives; more than one may come back as something that stands for
                them, and can be given to another job.
        """


def in_process(function: Callable[..., Any], jobs: Sequence[tuple], returns: int = 1) -> list[Any]:
    """The simplest spread: one after the other, here."""
    return [function(*job) for job in jobs]


class Hashes(Protocol):
    """Clips to search for and their hashes, in blocks; a clip's number counts through them all."""

    ids: Sequence[str]
    shards: np.ndarray

    def blocks(self) -> Sequence[tuple]:
        """What tells `read` which clips to read, block by block."""

    @staticmethod
    def read(*block: Any) -> list[bytes]:
        """The hashes of a block's clips, in order; in any process."""

    def some(self, clips: Mapping[str, int]) -> dict[str, bytes]:
        """Hashes of a few clips, new or not, by id; given are their shards."""


def keyed_block(read: Callable[..., list[bytes]], block: tuple) -> list[Any]:
    """Frames of a block, then its keys, table by table."""
    frames, keys = keyed(read(*block))
    return [frames, *keys]


@dataclass(frozen=True)
class Found:
    """What one table proposes: pairs of new clips [p, 2] int64, i < j, each once; and by earlier search
    pairs of frames [p, 2] uint32, a new one and one of its."""

    pairs: np.ndarray
    frames: list[np.ndarray]
    report: Report


def search_table(
    number: int, known: Sequence[Kept], keep: Kept | None, num_blocks: int, *parts: Any
) -> Found:
    """Search one table: frames of all blocks, then their keys of that table."""
    frames, keys = parts[:num_blocks], parts[num_blocks:]
    pairs, report, table = candidates(frames, keys)
    if keep:
        keep.write_table(number, table)
    bits = Blocks(frames).bits if known else np.zeros(0, np.uint64)
    across = [np.unique(between(table, bits, old.table(number), old.bits()), axis=0) for old in known]
    return Found(pairs, across, report)


def alike_in(old: Kept, frames: np.ndarray, *blocks: Frames) -> np.ndarray:
    """Pairs of clips, a new one and one of an earlier search, of which one of these pairs of frames is
    alike."""
    return old.alike(Blocks(blocks), frames[:, 0], frames[:, 1])


def write_frames(keep: Kept, *blocks: Frames) -> None:
    """A task of its own: the frames of all blocks."""
    keep.write_frames(blocks)


def distances_of(hashes: Mapping[str, bytes], pairs: Sequence[tuple[str, str]]) -> np.ndarray:
    """Distance of each pair of clips."""
    known = {clip_id: VideoHash.from_bytes(data) for clip_id, data in hashes.items()}
    return np.array([distance(known[one], known[two]) for one, two in pairs])


@dataclass(frozen=True)
class Candidates:
    """Pairs of clips [p, 2] int64 by number, i < j, each once; names and shards of all clips, new first."""

    pairs: np.ndarray
    clips: pa.Table
    report: Report

    def named(self, shards: dict[str, int]) -> tuple[list[str], list[str]]:
        """The pairs by their clips' ids; what is learnt of the clips' shards goes into `shards`."""
        used, places = np.unique(self.pairs, return_inverse=True)
        rows = self.clips.take(pa.array(used))
        ids = rows["clip_id"].to_pylist()
        shards.update(zip(ids, rows["shard"].to_pylist(), strict=True))
        one, two = places.reshape(-1, 2).T
        return [ids[place] for place in one], [ids[place] for place in two]


def candidate_pairs(
    hashes: Hashes, spread: Spread, known: Known | None = None, keep: Kept | None = None
) -> Candidates:
    """Candidate pairs of new clips, with each other and with those of earlier searches that still count."""
    known = known or Known()
    new = pa.table({"clip_id": pa.array(hashes.ids, pa.string()), "shard": hashes.shards.astype(np.int32)})
    jobs = [(hashes.read, block) for block in hashes.blocks()]
    report = Report(clips=len(hashes.ids))
    if not jobs:
        return Candidates(np.zeros((0, 2), np.int64), new, report)
    parts = spread(keyed_block, jobs, returns=1 + TABLES)
    frames = [own[0] for own in parts]
    old = [one for one in known.chain if one.num_clips]
    fixed = old, keep, len(frames)
    found = spread(
        search_table,
        [(table, *fixed, *frames, *(own[1 + table] for own in parts)) for table in range(TABLES)],
    )
    if keep:
        spread(write_frames, [(keep, *frames)])
    for own in found:
        report.add(own.report)
    pairs, clips = [own.pairs for own in found], [new]
    near = [
        np.unique(np.concatenate([own.frames[place] for own in found]), axis=0) for place in range(len(old))
    ]
    jobs = [(one, own, *frames) for one, own in zip(old, near, strict=True)]
    across = spread(alike_in, jobs) if jobs else []
    counts = dict(zip([one.name for one in known.chain], known.shards, strict=True))
    for one, met in zip(old, across, strict=True):
        rows = one.clips()
        is_there = pc.is_in(rows["shard"], pa.array(sorted(counts[one.name]), pa.int32())).to_numpy()
        pairs.append(met[is_there[met[:, 1]]] + [0, sum(part.num_rows for part in clips)])
        clips.append(rows)
    return Candidates(np.unique(np.concatenate(pairs), axis=0), pa.concat_tables(clips), report)


def find_groups(
    hashes: Hashes,
    quality: Callable[[Sequence[str]], Mapping[str, Quality]] = lambda ids: {},
    vectors: Vectors | None = None,
    min_cosine: float = 0.97,
    may_match: MatchCheck = lambda one, two: np.ones(len(one), bool),
    spread: Spread = in_process,
    known: Known | None = None,
    keep: Kept | None = None,
) -> tuple[list[Group], Matches, Report]:
    """Groups of near-duplicate clips, all pairs that match, and what was done.

    Args:
        hashes: of the clips that no earlier search has seen.
        quality: of some clips, by their ids; see `Quality`.
        vectors: of all clips; where given, pairs of at least `min_cosine` match too.
        may_match: for ids [p] of clips and of others, whether they may be compared at all.
        spread: where the work is done.
        known: what earlier searches found.
        keep: where what this search knows of its clips is written.
    """
    known, shards = known or Known(), dict[str, int]()
    proposed = candidate_pairs(hashes, spread, known, keep)
    report, pairs = proposed.report, _may_match(may_match, *proposed.named(shards))
    report.candidates = len(pairs)
    hash_of = hashes.some({clip_id: shards[clip_id] for pair in pairs for clip_id in pair})
    pieces = [pairs[begin : begin + PAIRS_A_TASK] for begin in range(0, len(pairs), PAIRS_A_TASK)]
    jobs = [({clip_id: hash_of[clip_id] for pair in piece for clip_id in pair}, piece) for piece in pieces]
    gaps = np.concatenate([np.zeros(0), *spread(distances_of, jobs)])
    fresh = {pair: float(gap) for pair, gap in zip(pairs, gaps, strict=True) if gap <= SAME}
    if vectors is not None:
        first, second = embedding_pairs(vectors, min_cosine, None if not known.chain else set(hashes.ids))
        for pair in _may_match(may_match, first, second):
            fresh.setdefault(pair, float("nan"))
    matches = known.matches | fresh
    report.matches = len(matches)
    changed = known.changed.union(*fresh) if fresh else known.changed
    touched = _linked(matches, changed)
    kept = [one for one in known.groups if one.kept not in touched]
    asked = {pair: gap for pair, gap in matches.items() if pair[0] in touched}
    matched = sorted({clip_id for pair in asked for clip_id in pair})
    own = hashes.some(_shards_of(matched, shards, proposed.clips, known))

    def measure(one: str, two: str) -> float:
        if not may_match([one], [two])[0]:
            return float("inf")
        return distance(VideoHash.from_bytes(own[one]), VideoHash.from_bytes(own[two]))

    groups = kept + group(asked, quality(matched), measure)
    return sorted(groups, key=lambda found: found.kept), matches, report


def _may_match(may_match: MatchCheck, one: Sequence[str], two: Sequence[str]) -> list[tuple[str, str]]:
    """The pairs that may match, smaller id first, in order, each once."""
    allowed = may_match(one, two)
    pairs = zip(one, two, strict=True)
    return sorted(
        {(min(pair), max(pair)) for pair, is_allowed in zip(pairs, allowed, strict=True) if is_allowed}
    )


def _linked(matches: Matches, clips: set[str]) -> set[str]:
    """Clips, and all that matches lead to from them."""
    neighbours: dict[str, list[str]] = {}
    for one, two in matches:
        neighbours.setdefault(one, []).append(two)
        neighbours.setdefault(two, []).append(one)
    found, todo = set(clips), list(clips)
    while todo:
        fresh = [clip_id for clip_id in neighbours.get(todo.pop(), ()) if clip_id not in found]
        found.update(fresh)
        todo += fresh
    return found


def _shards_of(
    ids: Sequence[str], shards: Mapping[str, int], clips: pa.Table, known: Known
) -> dict[str, int]:
    """Shards of some clips: most were candidates, others are looked up."""
    found = {clip_id: shards[clip_id] for clip_id in ids if clip_id in shards}
    for rows in (clips, *(one.clips() for one in known.chain)) if len(found) < len(ids) else ():
        wanted = pa.array([clip_id for clip_id in ids if clip_id not in found], pa.string())
        own = rows.filter(pc.is_in(rows["clip_id"], wanted))
        found.update(zip(own["clip_id"].to_pylist(), own["shard"].to_pylist(), strict=True))
    return found
