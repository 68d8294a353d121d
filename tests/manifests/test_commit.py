import os
from pathlib import Path

import pytest

from manifests import queries
from manifests.commit import Account, ShardCommit
from manifests.layout import Column, Dataset
from manifests.store import storage

COLUMN = Column("preview", "abc123")


def commit_one(dataset, text="x"):
    with ShardCommit(dataset, COLUMN, 0, 0) as commit:
        commit.add("a.clip.json", text.encode())
        rows = {"clips": [{"clip_id": "a", "shard": 0, "segment_id": "s"}], "drops": [], "failures": []}
        commit.commit(rows, Account(1, 1, 0, 0))


def tree(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def test_account_refuses_items_that_vanish():
    with pytest.raises(ValueError, match="unaccounted"):
        Account(3, 1, 1, 0)


def test_two_commits_give_identical_bytes(tmp_path):
    for name in ("one", "two"):
        commit_one(Dataset.create(str(tmp_path / name)))
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


@pytest.mark.parametrize("dies_at", range(7))
def test_a_death_at_any_write_leaves_no_half_shard_and_a_rerun_ends_with_the_same_bytes(
    tmp_path, monkeypatch, dies_at
):
    whole = Dataset.create(str(tmp_path / "whole"))
    commit_one(whole)
    broken = Dataset.create(str(tmp_path / "broken"))
    count, real = 0, os.replace

    def replace(source, target):
        nonlocal count
        if count == dies_at:
            raise KeyboardInterrupt
        count += 1
        real(source, target)

    monkeypatch.setattr(storage.os, "replace", replace)
    died = False
    try:
        commit_one(broken)
    except KeyboardInterrupt:
        died = True
    monkeypatch.undo()
    assert died == (dies_at < 5)  # tar, clips, drops, failures, shards
    if died:
        assert not broken.is_committed(COLUMN, 0)
        assert queries.table(broken, "clips").num_rows == 0  # uncommitted parts are not seen
        commit_one(broken)
    finished = {name: data for name, data in tree(tmp_path / "broken").items() if not name.endswith(".tmp")}
    assert finished == tree(tmp_path / "whole")


def test_a_tar_left_unfinished_by_a_dead_process_is_removed_by_the_next_attempt(tmp_path):
    dataset = Dataset.create(str(tmp_path / "ds"))
    folder = tmp_path / "ds" / "columns" / str(COLUMN)
    folder.mkdir(parents=True)
    (folder / ".000000.tar.deadbeef.tmp").write_bytes(b"half")
    commit_one(dataset)
    assert [path.name for path in folder.iterdir()] == ["000000.tar"]
