"""Near-duplicate clips: candidates by banded hashing, verified by distance, grouped by quality.

Blocks of clips are read once (`search.keyed`), tables of keys are searched one by one (`search.candidates`),
pairs are compared (`distances_of`); each of these is a map, and `group` is what is left for one process. Of
the hashes only those of candidates are ever held together.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from media.measure.videohash import SAME, VideoHash, distance
from pipeline.dedup.grouping import Group, Quality, Report, group
from pipeline.dedup.search import TABLES, Frames, Keys, candidates, keyed

CLIPS_A_TASK, PAIRS_A_TASK = 2000, 5000
MatchCheck = Callable[[np.ndarray, np.ndarray], np.ndarray]


def embedding_pairs(
    vectors: Mapping[str, np.ndarray], threshold: float, block: int = 2048
) -> list[tuple[str, str, float]]:
    """All pairs of clips whose unit vectors [d] float32 have a cosine of at least `threshold`.

    Exact, in blocks, ids in order.
    """
    ids = sorted(vectors)
    if not ids:
        return []
    table = np.stack([vectors[clip_id] for clip_id in ids]).astype(np.float32)
    pairs = []
    for top in range(0, len(ids), block):
        for left in range(top, len(ids), block):
            cosines = table[top : top + block] @ table[left : left + block].T
            for row, column in zip(*np.nonzero(cosines >= threshold), strict=True):
                if top + row < left + column:
                    pairs.append((ids[top + row], ids[left + column], float(cosines[row, column])))
    return sorted(pairs)


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
    """Clips and their hashes, in blocks; a clip's number counts through them all."""

    ids: Sequence[str]

    def blocks(self) -> Sequence[tuple]:
        """What tells `read` which clips to read, block by block."""

    @staticmethod
    def read(*block: Any) -> list[bytes]:
        """The hashes of a block's clips, in order; in any process."""

    def some(self, numbers: np.ndarray) -> dict[int, bytes]:
        """Hashes of a few clips, by number."""


class Held:
    """Hashes that are in memory, by clip."""

    def __init__(self, hashes: Mapping[str, bytes]) -> None:
        self.ids = sorted(hashes)
        self._hashes = [hashes[clip_id] for clip_id in self.ids]

    def blocks(self) -> list[tuple]:
        count = math.ceil(len(self.ids) / CLIPS_A_TASK)
        begins = [number * CLIPS_A_TASK for number in range(count)]
        return [(self._hashes[begin : begin + CLIPS_A_TASK],) for begin in begins]

    @staticmethod
    def read(*block: Any) -> list[bytes]:
        return list(block[0])

    def some(self, numbers: np.ndarray) -> dict[int, bytes]:
        return {int(number): self._hashes[number] for number in numbers}


def keyed_block(read: Callable[..., list[bytes]], block: tuple) -> list[Any]:
    """Frames of a block, then its keys, table by table."""
    frames, keys = keyed(read(*block))
    return [frames, *keys]


def candidates_of(num_blocks: int, *parts: Any) -> tuple[np.ndarray, Report]:
    """Candidate pairs of one table: frames of all blocks, then their keys of that table."""
    blocks: Sequence[Frames] = parts[:num_blocks]
    keys: Sequence[Keys] = parts[num_blocks:]
    return candidates(blocks, keys)


def distances_of(hashes: Mapping[int, bytes], pairs: np.ndarray) -> np.ndarray:
    """Distance of each pair of clips [p, 2]."""
    known = {int(place): VideoHash.from_bytes(hashes[int(place)]) for place in np.unique(pairs)}
    return np.array([distance(known[int(one)], known[int(two)]) for one, two in pairs])


def candidate_pairs(hashes: Hashes, spread: Spread) -> tuple[np.ndarray, Report]:
    """Candidate pairs [p, 2] int64 of clips' numbers, i < j, each once, and what was done to find them."""
    jobs = [(hashes.read, block) for block in hashes.blocks()]
    report = Report(clips=len(hashes.ids))
    if not jobs:
        return np.zeros((0, 2), np.int64), report
    parts = spread(keyed_block, jobs, returns=1 + TABLES)
    frames = [own[0] for own in parts]
    tables = [(len(frames), *frames, *(own[1 + table] for own in parts)) for table in range(TABLES)]
    found = [np.zeros((0, 2), np.int64)]
    for pairs, own in spread(candidates_of, tables):
        found.append(pairs)
        report.add(own)
    counts = spread(num_flat, [(one,) for one in frames])
    report.flat_clips = sum(counts)
    return np.unique(np.concatenate(found), axis=0), report


def num_flat(frames: Frames) -> int:
    """Clips of a block in which no frame tells anything."""
    return frames.num_flat


def find_groups(
    hashes: Hashes,
    quality: Callable[[Sequence[str]], Mapping[str, Quality]] = lambda ids: {},
    vectors: Mapping[str, np.ndarray] | None = None,
    min_cosine: float = 0.97,
    may_match: MatchCheck = lambda one, two: np.ones(len(one), bool),
    spread: Spread = in_process,
) -> tuple[list[Group], Report]:
    """Groups of near-duplicate clips.

    Args:
        hashes: of all clips.
        quality: of some clips, by their ids; see `Quality`.
        vectors: clip_id to unit vector [d] float32; where given, pairs of at least `min_cosine` match too.
        may_match: for numbers [p] of clips and of others, whether they may be compared at all.
        spread: where the work is done.
    """
    ids = hashes.ids
    proposed, report = candidate_pairs(hashes, spread)
    places = proposed[may_match(proposed[:, 0], proposed[:, 1])]
    report.candidates = len(places)
    known = hashes.some(np.unique(places))
    pieces = np.array_split(places, max(1, math.ceil(len(places) / PAIRS_A_TASK)))
    jobs = [({int(place): known[int(place)] for place in np.unique(piece)}, piece) for piece in pieces]
    gaps = np.concatenate(spread(distances_of, jobs))
    matches = {
        _ordered(ids[one], ids[two]): float(gap)
        for (one, two), gap in zip(places, gaps, strict=True)
        if gap <= SAME
    }
    numbers = {clip_id: number for number, clip_id in enumerate(ids)} if vectors else {}
    for first, second, _ in embedding_pairs(vectors, min_cosine) if vectors else []:
        pair = np.array([numbers[first]]), np.array([numbers[second]])
        if may_match(*pair)[0]:
            matches.setdefault((first, second), float("nan"))
    report.matches = len(matches)
    matched = sorted({clip_id for pair in matches for clip_id in pair})
    number_of = numbers or _numbers(ids, matched)
    own = hashes.some(np.array(sorted(number_of[clip_id] for clip_id in matched), np.int64))

    def measure(first: str, second: str) -> float:
        one, two = number_of[first], number_of[second]
        if not may_match(np.array([one]), np.array([two]))[0]:
            return float("inf")
        return distance(VideoHash.from_bytes(own[one]), VideoHash.from_bytes(own[two]))

    return group(matches, quality(matched), measure, report), report


def _ordered(one: str, two: str) -> tuple[str, str]:
    return (one, two) if one < two else (two, one)


def _numbers(ids: Sequence[str], wanted: Sequence[str]) -> dict[str, int]:
    """Numbers of some clips."""
    names = set(wanted)
    return {clip_id: number for number, clip_id in enumerate(ids) if clip_id in names}
