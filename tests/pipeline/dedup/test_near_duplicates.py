"""The search for near-duplicates: what is found, what is not, and that order, limits and flat clips do as
said.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from media.measure.videohash import SAME, VideoHash, coefficients_of, video_hash
from pipeline.dedup import grouping, search
from pipeline.dedup import near_duplicates as neardup
from pipeline.dedup.embeddings import Vectors, embedding_pairs
from pipeline.dedup.grouping import Group, Quality, Report, group
from pipeline.dedup.near_duplicates import candidate_pairs, find_groups, in_process
from world.film import SIZES_PX
from world.render import render_frame
from world.scene import sample_shot


class Held:
    """Hashes that are in memory, by clip."""

    def __init__(self, hashes: Mapping[str, bytes], others: Mapping[str, bytes] | None = None) -> None:
        self.ids = sorted(hashes)
        self.shards = np.zeros(len(self.ids), np.int32)
        self._hashes = {**(others or {}), **hashes}

    def blocks(self) -> list[tuple]:
        count = math.ceil(len(self.ids) / neardup.CLIPS_A_TASK)
        parts = [
            self.ids[number * neardup.CLIPS_A_TASK : (number + 1) * neardup.CLIPS_A_TASK]
            for number in range(count)
        ]
        return [([self._hashes[clip_id] for clip_id in part],) for part in parts]

    @staticmethod
    def read(*block: Any) -> list[bytes]:
        return list(block[0])

    def some(self, clips: Mapping[str, int]) -> dict[str, bytes]:
        return {clip_id: self._hashes[clip_id] for clip_id in clips}


def copies(seed: int, duration_s: float = 2.2) -> list[tuple[str, bytes]]:
    """A clip and five changed copies of it."""
    shot = sample_shot(seed, 16 / 9, duration_s)
    times = np.arange(0, duration_s, 0.25)
    frames = [render_frame(shot, time, 160, 90) for time in times]
    late = np.arange(0.55, duration_s, 0.25)
    changed = {
        "whole": (frames, times),
        "half": ([cv2.resize(rgb, (80, 45), interpolation=cv2.INTER_AREA) for rgb in frames], times),
        "dark": ([(rgb * 0.85).astype(np.uint8) for rgb in frames], times),
        "noise": (
            [
                np.clip(rgb + np.random.default_rng(seed).normal(0, 6, rgb.shape), 0, 255).astype(np.uint8)
                for rgb in frames
            ],
            times,
        ),
        "bars": ([np.pad(rgb, ((12, 12), (0, 0), (0, 0))) for rgb in frames], times),
        "late": ([render_frame(shot, time, 160, 90) for time in late], late),
    }
    return [
        (f"{seed:04d}-{name}", video_hash(pictures, list(at)).to_bytes())
        for name, (pictures, at) in changed.items()
    ]


@pytest.fixture(scope="module")
def pool() -> dict[str, bytes]:
    return dict(item for seed in range(20) for item in copies(seed))


def test_copies_are_grouped_and_others_are_not(pool: dict[str, bytes]) -> None:
    quality = {clip_id: Quality(14400 if not clip_id.endswith("half") else 3600, 2.2) for clip_id in pool}
    groups, _, report = find_groups(Held(pool), lambda ids: quality)
    for found in groups:
        assert len({clip_id[:4] for clip_id in [found.kept, *found.others]}) == 1
        assert max(found.distances) <= grouping.LOOSE
    assert sum(1 + len(found.others) for found in groups) >= 0.95 * len(pool)
    assert report.clips == len(pool) and report.capped_buckets == 0


def test_the_order_makes_no_difference(pool: dict[str, bytes]) -> None:
    shuffled = list(pool.items())[:60]
    expected = find_groups(Held(dict(shuffled)))
    random.Random(3).shuffle(shuffled)
    assert find_groups(Held(dict(shuffled))) == expected


def test_spreading_the_work_changes_nothing(pool: dict[str, bytes], monkeypatch) -> None:
    whole = find_groups(Held(pool))[0]
    monkeypatch.setattr(neardup, "CLIPS_A_TASK", 17)
    monkeypatch.setattr(neardup, "PAIRS_A_TASK", 40)
    calls = []

    def spread(function, jobs, returns=1):
        calls.append(len(jobs))
        return in_process(function, jobs, returns)

    assert find_groups(Held(pool), spread=spread)[0] == whole
    assert min(calls) > 3


def test_the_best_is_kept() -> None:
    pairs = {("a", "b"): 0.1, ("b", "c"): 0.1, ("a", "c"): 0.1}
    assert group(pairs, {})[0].kept == "a"
    assert group(pairs, {"a": Quality(1, 2), "b": Quality(1, 3), "c": Quality(1, 3)})[0].kept == "b"
    assert group(pairs, {"a": Quality(9), "c": Quality(9, 0, 1.0)})[0].kept == "c"
    nearly = {"a": Quality(9, 10, 100.0), "b": Quality(9, 11, 90.0), "c": Quality(9, 12, 40.0)}
    assert group(pairs, nearly)[0].kept == "b"  # nearly as sharp, and longer; the longest is blurred


def test_a_part_never_stands_for_the_whole() -> None:
    """Eight frames in 1080p, and four such pieces, against 92 frames in 720p."""
    large, long = Quality(1920 * 1080, 8 / 24, 50.0), Quality(1280 * 720, 92 / 24, 40.0)
    assert group({("a", "b"): 0.1}, {"a": large, "b": long}) == [Group("b", ["a"], [0.1])]
    pieces = {(f"p{number}", "whole"): 0.1 for number in range(4)} | {("p0", "p1"): 0.1}
    quality = {f"p{number}": large for number in range(4)} | {"whole": long}
    assert [found.kept for found in group(pieces, quality)] == ["whole"]
    full = Quality(1920 * 1080, 80 / 24, 50.0)  # nearly as long, and larger
    assert group({("a", "b"): 0.1}, {"a": full, "b": long})[0].kept == "a"


def test_unlike_clips_are_not_chained() -> None:
    chain = {("a", "b"): 0.1, ("b", "c"): 0.1, ("c", "d"): 0.1}
    assert group(chain, {}) == [Group("a", ["b"], [0.1]), Group("c", ["d"], [0.1])]
    near = group(chain, {}, lambda first, second: 1.2 * SAME)
    assert near == [
        Group("a", ["b", "c"], [0.1, 1.2 * SAME])
    ]  # c matches b and is near a; d is near but matches no first member


def test_a_large_bucket_is_capped_and_said_so() -> None:
    sizes = np.array([50, 1000, 3])
    assert search.bucket_steps(sizes, cap=100).tolist() == [49, 50, 2]
    crowded, left_out = search.left_out(sizes, cap=100)
    made = sum(min(50, 999 - place) for place in range(1000))
    assert (crowded, left_out) == (1, 1000 * 999 // 2 - made)


def test_a_set_of_one_look_stays_bounded(pool: dict[str, bytes]) -> None:
    data = next(iter(pool.values()))
    same = Held({f"{number:03d}": data for number in range(160)})
    proposed = candidate_pairs(same, in_process)
    pairs, report = proposed.pairs, proposed.report
    assert report.capped_buckets > 0 and report.comparisons_left_out > 0
    assert len(pairs) <= 160 * search.BUCKET_CAP // 2
    assert sum(1 + len(found.others) for found in find_groups(same)[0]) == 160


def test_the_search_is_the_one_that_looks_at_all_pairs(pool: dict[str, bytes], monkeypatch) -> None:
    """Groups from buckets are those from comparing every clip with every other."""
    monkeypatch.setattr(neardup, "CLIPS_A_TASK", 23)
    held = Held(pool)
    found, _, report = find_groups(held)
    every = np.array(list(itertools.combinations(range(len(pool)), 2)))
    clips = pa.table({"clip_id": held.ids, "shard": held.shards})
    all_pairs = neardup.Candidates(every, clips, Report())
    monkeypatch.setattr(neardup, "candidate_pairs", lambda *_: all_pairs)
    assert report.candidates < len(every) / 4
    assert find_groups(held)[0] == found


def test_coefficients_of_many_are_those_of_each(pool: dict[str, bytes]) -> None:
    views = [view for data in pool.values() for view in VideoHash.from_bytes(data).views]
    values, is_flat = coefficients_of(np.concatenate([view.cells for view in views]))
    np.testing.assert_allclose(values, np.concatenate([view.coefficients for view in views]), atol=2e-5)
    assert (is_flat == np.concatenate([view.is_flat for view in views])).all()


def test_nothing_and_flat_clips() -> None:
    assert find_groups(Held({}))[0] == []
    black = video_hash([np.zeros((90, 160, 3), np.uint8)], [0.0]).to_bytes()
    assert find_groups(Held({"a": black, "b": black}))[0] == []


def units(count: int, length: int, seed: int = 1) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=(count, length)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def test_embeddings_are_compared_exactly_and_join_the_groups(pool: dict[str, bytes]) -> None:
    ids, table = [f"{number:03d}" for number in range(60)] + ["copy"], units(60, 16)
    vectors = Vectors(ids, np.concatenate([table, table[7:8]]))
    assert embedding_pairs(vectors, 0.99) == (["007"], ["copy"])
    assert embedding_pairs(vectors, 0.99, {"copy"}) == embedding_pairs(vectors, 0.99, {"007"})
    assert embedding_pairs(vectors, 0.99, {"008"}) == embedding_pairs(vectors, 0.99, set()) == ([], [])
    hashes = list(pool.values())
    two = {"007": hashes[0], "copy": hashes[6]}
    assert find_groups(Held(two))[0] == []
    both = find_groups(Held(two), vectors=Vectors(["007", "copy"], table[[7, 7]]), min_cosine=0.99)
    assert [found.others for found in both[0]] == [["copy"]]


def test_many_embeddings_are_compared_in_cells() -> None:
    """Copies at cosines of .97 and more among vectors that lie in clumps, as pictures of a few kinds do."""
    kinds, chance = units(20, 64), np.random.default_rng(2)
    table = kinds[chance.integers(20, size=4000)] + 0.09 * chance.normal(size=(4000, 64))
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    near = table[:400] + 0.025 * chance.normal(size=(400, 64))
    near /= np.linalg.norm(near, axis=1, keepdims=True)
    ids = [f"{number:04d}" for number in range(4400)]
    vectors = Vectors(ids, np.concatenate([table, near]).astype(np.float32))
    exact = set(zip(*embedding_pairs(vectors, 0.97), strict=True))
    cells = set(zip(*embedding_pairs(vectors, 0.97, all_pairs=0), strict=True))
    assert len(exact) > 300 and cells <= exact and len(cells) >= 0.99 * len(exact)
    new = set(zip(*embedding_pairs(vectors, 0.97, set(ids[4000:]), all_pairs=0), strict=True))
    assert new == {pair for pair in cells if pair[1] >= "4000"}


@pytest.mark.slow
def test_no_false_pair_among_500_shots() -> None:
    rng = np.random.default_rng(11)
    hashes = {}
    for number in range(500):
        width, height = SIZES_PX[int(rng.integers(len(SIZES_PX)))]
        duration = float(rng.uniform(1.2, 3.4))
        shot = sample_shot(int(rng.integers(1 << 31)), width / height, duration)
        times = list(np.arange(0, duration, 0.25))
        hashes[f"{number:03d}"] = video_hash(
            [render_frame(shot, time, width, height) for time in times], times
        ).to_bytes()
    assert find_groups(Held(hashes))[0] == []
