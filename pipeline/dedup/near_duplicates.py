"""Near-duplicate clips: candidates by banded hashing, verified by distance, grouped by quality.

Search is locality-sensitive hashing by sampled bits (Indyk and Motwani 1998, Gionis et al. 1999): each of
several tables reads a fixed part of a frame's 64 bits; frames that agree on all of a part share a bucket. The
bits nearest to their threshold are tried both ways on both sides (multi-probe, Lv et al. 2007). All steps map
or reduce: `band_keys` a clip, `bucket_pairs` a bucket, `VideoHash` distance a pair, `group` a set of pairs.

A bucket with more than `BUCKET_CAP` members is a common look, not a copy: its members are put in order of
their bits and each is compared with the next `BUCKET_CAP` // 2 alone. How many buckets and comparisons that
touched is in the report.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from media.measure.videohash import ASPECT_RATIO, ROUGH_MAX, SAME, VideoHash, View, distance
from pipeline.dedup.grouping import Group, Quality, Report, group

TABLES, TABLE_BITS, WEAK_BITS = 12, 16, 2
MAX_BITS_APART = 16
"""Of 64: frames further apart do not propose their clips (in copies the nearest two frames were up to 13
apart)."""
CLIPS_A_TASK, PAIRS_A_TASK = 2000, 5000
BUCKET_CAP = 128
_STRIDES = range(1, 2 * TABLES, 2)
_PARTS = np.array(
    [
        [(stride * (5 * table + 1 + position)) % 64 for position in range(TABLE_BITS)]
        for table, stride in enumerate(_STRIDES)
    ]
)


def band_keys(found: View) -> tuple[np.ndarray, np.ndarray]:
    """Bucket keys of one view of a clip and the frame behind each.

    Returns:
        keys [k] uint32 (table in the high half), each once, rising; frames [k] int64: the first frame that
        has the key. Flat frames give none.
    """
    telling = np.nonzero(~found.is_flat)[0]
    values = found.coefficients[telling]
    if not len(values):
        return np.zeros(0, np.uint32), np.zeros(0, np.int64)
    signs = values > 0
    place = 1 << np.arange(TABLE_BITS, dtype=np.uint32)
    parts = signs[:, _PARTS]
    plain = (parts * place).sum(-1, dtype=np.uint32) | (np.arange(TABLES, dtype=np.uint32) << TABLE_BITS)
    weakest = place[np.argsort(np.abs(values[:, _PARTS]), axis=-1, kind="stable")[..., :WEAK_BITS]]
    keys = [plain]
    for bit in range(WEAK_BITS):
        keys += [key ^ weakest[..., bit] for key in keys]
    stacked = np.stack(keys, -1).reshape(len(values), -1)
    unique, first = np.unique(stacked, return_index=True)
    return unique, telling[first // stacked.shape[1]]


def frame_bits(coefficients: np.ndarray) -> np.ndarray:
    """[n] uint64: the signs of coefficients [n, 64]."""
    return np.ascontiguousarray(np.packbits(coefficients > 0, axis=1)).view(">u8").ravel().astype(np.uint64)


def bucket_pairs(bits: np.ndarray, cap: int = BUCKET_CAP) -> tuple[np.ndarray, int]:
    """Pairs [p, 2] to compare within one bucket of frame bits [n] uint64, and how many the cap skipped."""
    count = len(bits)
    if count <= cap:
        return np.stack(np.triu_indices(count, 1), 1), 0
    order = np.argsort(bits, kind="stable")
    pairs = np.concatenate([np.stack([order[:-step], order[step:]], 1) for step in range(1, cap // 2 + 1)])
    return pairs, count * (count - 1) // 2 - len(pairs)


def _pairs_by_size(
    bits: np.ndarray, starts: np.ndarray, sizes: np.ndarray, report: Report
) -> Iterator[np.ndarray]:
    """Pairs [p, 2] of all buckets, many small ones at a time; a bucket is a run of sorted members."""
    report.largest_bucket = int(sizes.max(initial=0))
    for size in range(2, BUCKET_CAP + 1):
        chosen = starts[sizes == size]
        one, two = np.triu_indices(size, 1)
        step = max(1, (1 << 22) // len(one))
        for begin in range(0, len(chosen), step):
            base = chosen[begin : begin + step, None]
            yield np.stack([(base + one).ravel(), (base + two).ravel()], 1)
    for start, size in zip(starts[sizes > BUCKET_CAP], sizes[sizes > BUCKET_CAP], strict=True):
        pairs, left_out = bucket_pairs(bits[start : start + size])
        report.capped_buckets += 1
        report.comparisons_left_out += left_out
        yield pairs + start


class Frames:
    """The frames of all hashes in a row, n of them.

    Attributes:
        owner: [n] which hash a frame is of.
        values: [n, 64] coefficients.
        log_aspects: [n] logarithm of width over height.
        keys, frames: bucket keys, rising, and the frame of each.
    """

    def __init__(self, hashes: Sequence[VideoHash], part: int, parts: int) -> None:
        views = [view for found in hashes for view in found.views]
        lengths = [len(view.times_s) for view in views]
        begins = np.cumsum([0, *lengths])
        self.num_hashes = len(hashes)
        self.owner = np.repeat(
            np.repeat(np.arange(len(hashes)), [len(found.views) for found in hashes]), lengths
        )
        self.values = np.concatenate([view.coefficients for view in views])
        self.log_aspects = np.repeat(np.log([view.aspect for view in views]), lengths)
        emitted = [band_keys(view) for view in views]
        keys = np.concatenate([pair[0] for pair in emitted])
        frames = np.concatenate([pair[1] + begin for pair, begin in zip(emitted, begins, strict=False)])
        mine = keys % parts == part
        order = np.argsort(keys[mine], kind="stable")
        self.keys, self.frames = keys[mine][order], frames[mine][order]

    def buckets(self) -> tuple[np.ndarray, np.ndarray]:
        """Where each bucket starts among the keys, and how many frames it has."""
        keys = self.keys
        starts = np.nonzero(np.append(True, keys[1:] != keys[:-1]))[0] if len(keys) else np.zeros(0, np.int64)
        return starts, np.diff(np.append(starts, len(keys)))

    def alike(self, pairs: np.ndarray) -> np.ndarray:
        """Codes of the pairs of hashes that have one of these pairs of frames [p, 2] in common."""
        first, second = pairs[:, 0], pairs[:, 1]
        near = np.abs(self.log_aspects[first] - self.log_aspects[second]) <= np.log(ASPECT_RATIO) + 1e-9
        pairs = pairs[near & (self.owner[first] != self.owner[second])]
        found = [np.zeros(0, np.int64)]
        for begin in range(0, len(pairs), 1 << 18):
            some = pairs[begin : begin + (1 << 18)]
            squares = ((self.values[some[:, 0]] - self.values[some[:, 1]]) ** 2).sum(1)
            two = np.sort(self.owner[some[squares <= ROUGH_MAX]], axis=1)
            found.append(np.unique(two[:, 0] * self.num_hashes + two[:, 1]))
        return np.concatenate(found)


def candidate_pairs(
    hashes: Sequence[VideoHash], report: Report | None = None, part: int = 0, parts: int = 1
) -> np.ndarray:
    """Candidate pairs [p, 2] int64, i < j, each once: in one bucket, near in time, alike in aspect.

    With `parts`, only the buckets of that part are looked at: the parts' pairs together, each once, are those
    of the whole.
    """
    report = report if report is not None else Report()
    if not len(hashes):
        return np.zeros((0, 2), np.int64)
    all_frames = Frames(hashes, part, parts)
    report.keys = len(all_frames.keys)
    report.flat_clips = sum(all(view.is_flat.all() for view in found.views) for found in hashes)
    bits = frame_bits(all_frames.values)[all_frames.frames]
    codes = [np.zeros(0, np.int64)]
    for pairs in _pairs_by_size(bits, *all_frames.buckets(), report):
        close = np.bitwise_count(bits[pairs[:, 0]] ^ bits[pairs[:, 1]]) <= MAX_BITS_APART
        codes.append(all_frames.alike(all_frames.frames[pairs[close]]))
    proposed = np.unique(np.concatenate(codes))
    report.candidates = len(proposed)
    return np.stack([proposed // len(hashes), proposed % len(hashes)], 1)


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


Spread = Callable[[Callable[..., Any], list[bytes], list[tuple]], list[Any]]
"""Runs one function over many jobs, with the hashes (as bytes) at hand: `(function, hashes, jobs) ->
results`."""


def in_process(function: Callable[..., Any], hashes: list[bytes], jobs: list[tuple]) -> list[Any]:
    """The simplest spread: one after the other, here."""
    return [function(hashes, *job) for job in jobs]


def candidates_of(hashes: list[bytes], part: int, parts: int) -> tuple[np.ndarray, Report]:
    """Candidate pairs [p, 2] of one part of the buckets."""
    report = Report()
    return candidate_pairs([VideoHash.from_bytes(data) for data in hashes], report, part, parts), report


def distances_of(hashes: list[bytes], pairs: np.ndarray) -> np.ndarray:
    """Distance of each pair of places [p, 2]."""
    known = {int(place): VideoHash.from_bytes(hashes[int(place)]) for place in np.unique(pairs)}
    return np.array([distance(known[int(one)], known[int(two)]) for one, two in pairs])


def find_groups(
    hashes: Mapping[str, bytes],
    quality: Mapping[str, Quality] | None = None,
    vectors: Mapping[str, np.ndarray] | None = None,
    min_cosine: float = 0.97,
    may_match: Callable[[str, str], bool] = lambda one, two: True,
    spread: Spread = in_process,
) -> tuple[list[Group], Report]:
    """Groups of near-duplicate clips of a set; the order of `hashes` makes no difference.

    Args:
        hashes: clip_id to hash, as bytes.
        quality: see `Quality`.
        vectors: clip_id to unit vector [d] float32; where given, pairs of at least `min_cosine` match too.
        may_match: pairs for which it is false are never compared.
        spread: where the work is done.
    """
    ids = sorted(hashes)
    stored = [hashes[clip_id] for clip_id in ids]
    parts = max(1, math.ceil(len(ids) / CLIPS_A_TASK))
    report, found = Report(clips=len(ids)), [np.zeros((0, 2), np.int64)]
    for pairs, own in spread(candidates_of, stored, [(part, parts) for part in range(parts)]):
        found.append(pairs)
        report.keys, report.flat_clips = report.keys + own.keys, own.flat_clips
        report.capped_buckets, report.comparisons_left_out = (
            report.capped_buckets + own.capped_buckets,
            report.comparisons_left_out + own.comparisons_left_out,
        )
        report.largest_bucket = max(report.largest_bucket, own.largest_bucket)
    proposed = [
        pair for pair in np.unique(np.concatenate(found), axis=0) if may_match(ids[pair[0]], ids[pair[1]])
    ]
    places = np.array(proposed, np.int64).reshape(-1, 2)
    report.candidates = len(places)
    jobs = [(piece,) for piece in np.array_split(places, max(1, math.ceil(len(places) / PAIRS_A_TASK)))]
    gaps = np.concatenate(spread(distances_of, stored, jobs))
    matches = {
        (ids[one], ids[two]): float(gap) for (one, two), gap in zip(places, gaps, strict=True) if gap <= SAME
    }
    for first, second, _ in embedding_pairs(vectors, min_cosine) if vectors else []:
        if may_match(first, second):
            matches.setdefault((first, second), float("nan"))
    report.matches = len(matches)

    def measure(first: str, second: str) -> float:
        if first not in hashes or second not in hashes or not may_match(first, second):
            return float("inf")
        return distance(VideoHash.from_bytes(hashes[first]), VideoHash.from_bytes(hashes[second]))

    return group(matches, quality or {}, measure, report), report
