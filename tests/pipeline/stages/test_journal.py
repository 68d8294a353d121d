"""A death is held against what was in hand at that moment, and against nothing else."""

import json
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from manifests.errors import RushesError
from manifests.layout import Column, Dataset
from manifests.store import storage
from pipeline.stages.journal import MAX_IDLE_DEATHS, Journal, Node

COLUMN = Column("preview", "abc")
DYING = """
import os
from manifests.layout import Column, Dataset
from pipeline.stages.journal import Journal, Node
journal = Journal(Dataset({out!r}), "run", Column("preview", "abc"), 3, Node("here"))
{deed}
os.abort()
"""


def die(dataset, deed):
    code = DYING.format(out=dataset.uri, deed=deed)
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode < 0


def journal(dataset, **options):
    return Journal(dataset, "run", COLUMN, 3, **options)


def test_a_batch_that_died_is_tried_one_by_one_and_one_item_is_poison(tmp_path):
    dataset = Dataset.create(str(tmp_path))
    die(dataset, "journal.item('a', 'b', 'c', limit_s=60).__enter__()")
    found = journal(dataset)
    assert "a, b, c in hand" in found.death
    assert all(found.is_suspect(item) and not found.poison(item) for item in "abc")
    assert not found.is_suspect("d")
    with found.item("a", limit_s=60):
        pass
    die(dataset, "journal.item('b', limit_s=60).__enter__()")
    found = journal(dataset)
    assert [bool(found.poison(item)) for item in "abc"] == [False, True, False]


def test_an_item_held_while_another_is_done_stays_in_hand(tmp_path):
    dataset = Dataset.create(str(tmp_path))
    deed = "journal.item('outer', limit_s=60).__enter__()\nwith journal.item('inner', limit_s=60): pass"
    die(dataset, deed)
    found = journal(dataset)
    assert found.is_suspect("outer") and not found.is_suspect("inner")


def test_an_item_held_twice_dies_once(tmp_path):
    dataset = Dataset.create(str(tmp_path))
    die(dataset, "[journal.item('clip', limit_s=60).__enter__() for _ in range(2)]")
    found = journal(dataset)
    assert found.is_suspect("clip") and not found.poison("clip")


def test_a_lost_node_and_a_death_in_the_commit_are_held_against_no_item(tmp_path):
    dataset = Dataset.create(str(tmp_path))
    for _ in range(3):
        die(dataset, "journal.item('a', limit_s=60).__enter__()")
        found = journal(dataset, node=Node("there", lambda name: name == "here"))
        assert "node was lost" in found.death and not found.is_suspect("a")
        found.close()
    die(dataset, "with journal.item('a', limit_s=60): pass\njournal.rest()")
    found = journal(dataset)
    assert "nothing in hand" in found.death and not found.is_suspect("a")


def test_a_process_that_dies_with_nothing_in_hand_again_and_again_ends_the_shard(tmp_path):
    dataset = Dataset.create(str(tmp_path))
    for _ in range(MAX_IDLE_DEATHS):
        die(dataset, "")
    with pytest.raises(RushesError, match="died 3 times between items"):
        journal(dataset)


def test_on_a_store_an_item_costs_one_write_and_the_commit_one(bucket):
    """And what they say is the same."""
    from manifests.store import storage

    dataset = Dataset.create(bucket[0]("journal"))
    found = journal(dataset)
    writes = []
    real = storage.write_bytes

    def counted(filesystem, path, data):
        writes.append(json.loads(data)["in_hand"])
        real(filesystem, path, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "write_bytes", counted)
        for item in "ab":
            with found.item(item, limit_s=60):
                pass
        found.rest()
        found.rest()
    assert writes == [["a"], ["b"], []]


def test_items_are_held_from_many_threads_and_few_writes_reach_a_store(tmp_path, monkeypatch):
    dataset, writes = Dataset.create(str(tmp_path)), []
    monkeypatch.setattr(storage, "is_local", lambda filesystem: False)

    def slow(filesystem, path, data):
        time.sleep(0.02)
        writes.append(json.loads(data)["in_hand"])

    monkeypatch.setattr(storage, "write_bytes", slow)
    journal = Journal(dataset, "run", COLUMN, 0)

    def work(number):
        with journal.item(f"item-{number}", limit_s=60):
            time.sleep(0.05)

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(64)))
    assert {item for held in writes for item in held} == {f"item-{number}" for number in range(64)}
    assert len(writes) < 64
    with pytest.raises(ValueError, match="broken"), journal.item("bad", limit_s=60):
        raise ValueError("broken")
    journal.rest()
    assert writes[-1] == []
