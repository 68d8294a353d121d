"""A search that goes on from an earlier one finds what a search of everything finds."""

from __future__ import annotations

import random

import numpy as np
import pyarrow as pa
import pytest

from manifests.layout import Dataset
from pipeline.dedup import known as known_of
from pipeline.dedup import near_duplicates
from pipeline.dedup.grouping import Quality
from pipeline.dedup.kept import Kept
from pipeline.dedup.known import Known, keep, recall
from pipeline.dedup.near_duplicates import find_groups
from tests.pipeline.dedup.test_near_duplicates import Held, copies


@pytest.fixture(scope="module")
def pool() -> dict[str, bytes]:
    return {name: data for seed in range(10) for name, data in copies(seed)}


def quality(ids):
    return {name: Quality(100 + sum(name.encode()) % 7, 2.2) for name in ids}


class Footage:
    """A dataset of shards whose clips come, change and go; searched again each time."""

    def __init__(self, folder, pool: dict[str, bytes]) -> None:
        self.dataset, self.pool = Dataset.create(str(folder)), pool
        self.count = 0

    def search(self, shards: dict[int, list[str]], digest: str = "") -> tuple[list, Known, int]:
        digests = {shard: ",".join(names) + digest for shard, names in shards.items()}
        before = recall(self.dataset, "settings", digests)
        new = sorted(digests.keys() - set().union(*before.shards))
        hashes = Held({name: self.pool[name] for shard in new for name in shards[shard]}, self.pool)
        shard_of = {name: shard for shard, names in shards.items() for name in names}
        hashes.shards = np.array([shard_of[name] for name in hashes.ids], np.int32)
        self.count += 1
        kept = Kept(self.dataset, f"search-{self.count}")
        groups, matches, _ = find_groups(hashes, quality, known=before, keep=kept)
        clips = pa.table({"clip_id": pa.array(hashes.ids, pa.string()), "shard": hashes.shards})
        keep(kept, "settings", before, {shard: digests[shard] for shard in new}, clips, matches, groups)
        return groups, before, len(hashes.ids)

    def whole(self, shards: dict[int, list[str]]) -> list:
        names = {name for own in shards.values() for name in own}
        return find_groups(Held({name: self.pool[name] for name in names}), quality)[0]


@pytest.mark.parametrize("seed", range(8))
def test_steps_find_what_a_search_of_everything_finds(pool, tmp_path, monkeypatch, seed) -> None:
    """Shards come, go, and come with other clips, over and over."""
    monkeypatch.setattr(known_of, "MAX_SHARE", 100.0)
    monkeypatch.setattr(near_duplicates, "CLIPS_A_TASK", 13)
    footage, names, chance = Footage(tmp_path / "ds", pool), sorted(pool), random.Random(seed)
    chance.shuffle(names)
    shards = {number: names[number * 6 : number * 6 + 6] for number in range(len(names) // 6)}
    there = {shard: shards[shard] for shard in list(shards)[: len(shards) // 2]}
    assert footage.search(there)[0] == footage.whole(there)
    for step in range(4):
        for shard in chance.sample(sorted(shards), chance.randint(0, 4)):
            if shard in there and chance.random() < 0.5:
                del there[shard]
            else:
                there[shard] = shards[shard][: chance.randint(1, 6)]
        groups, before, _ = footage.search(there, " anew" if step == 3 else "")
        assert len(before.chain) == step + 1 and groups == footage.whole(there)


def test_only_new_clips_are_read_and_little_is_kept_twice(pool, tmp_path) -> None:
    footage, names = Footage(tmp_path / "ds", pool), sorted(pool)
    shards = {number: names[number * 5 : number * 5 + 5] for number in range(len(names) // 5)}
    first = {shard: shards[shard] for shard in list(shards)[:-1]}
    assert footage.search(first)[2] == len(names) // 5 * 5 - 5
    groups, before, count = footage.search(shards)
    assert count == 5 and len(before.chain) == 1 and groups == footage.whole(shards)
    groups, before, count = footage.search(shards)
    assert count == 0 and len(before.chain) == 2 and groups == footage.whole(shards)


def test_after_many_changes_all_is_searched_again(pool, tmp_path) -> None:
    footage, names = Footage(tmp_path / "ds", pool), sorted(pool)
    shards = {0: names[:30]}
    footage.search(shards)
    shards[1] = names[30:50]
    assert len(footage.search(shards)[1].chain) == 1
    shards[2] = names[50:]
    groups, before, count = footage.search(shards)
    assert not before.chain and count == len(names) and groups == footage.whole(shards)
    assert known_of._notes(footage.dataset).keys() == {"search-3"}  # the others' folders are gone


@pytest.mark.parametrize("file", ["matches.parquet", "shards.parquet", "run.json"])
def test_what_is_damaged_costs_a_search_and_nothing_else(pool, tmp_path, file) -> None:
    footage, names = Footage(tmp_path / "ds", pool), sorted(pool)
    footage.search({0: names})
    path = tmp_path / "ds" / "keys" / "search-1" / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    groups, before, count = footage.search({0: names})
    assert not before.chain and count == len(names) and groups == footage.whole({0: names})


def test_other_settings_do_not_meet(pool, tmp_path) -> None:
    footage = Footage(tmp_path / "ds", pool)
    footage.search({0: sorted(pool)})
    digests = {0: ",".join(sorted(pool))}
    assert recall(footage.dataset, "settings", digests).chain
    assert not recall(footage.dataset, "others", digests).chain
