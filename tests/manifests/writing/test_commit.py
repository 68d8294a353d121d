import os
from pathlib import Path

import pytest

from manifests.layout import Column, Dataset
from manifests.store import storage
from manifests.tables import planned, records, scans
from manifests.verify import verify
from manifests.writing.commit import Account, ShardCommit, SupersededError, commit_generation
from manifests.writing.withdrawn import Withdrawn, forget, withdraw

COLUMN = Column("preview", "abc123")


def rows_of(clip="a", shard=0):
    return {"clips": [{"clip_id": clip, "shard": shard, "segment_id": "s"}], "drops": [], "failures": []}


def commit_one(dataset, text="x", clip="a", shard=0):
    with ShardCommit(dataset, COLUMN, shard, 0) as commit:
        commit.add(f"{clip}.clip.json", text.encode())
        commit.commit(rows_of(clip, shard), Account(1, 1, 0, 0))


def tree(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()
    }


def test_nothing_is_committed_where_a_dataset_was(tmp_path):
    dataset = Dataset.create(str(tmp_path / "ds"))
    with (
        pytest.raises(FileNotFoundError, match="not there any more"),
        ShardCommit(dataset, COLUMN, 0, 0) as commit,
    ):
        commit.add("a.clip.json", b"x")
        (tmp_path / "ds").rename(tmp_path / "moved")
        commit.commit(rows_of(), Account(1, 1, 0, 0))
    assert not (tmp_path / "ds").exists()


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
    count = 0

    def dying(real):
        def write(source, target):
            nonlocal count
            if count == dies_at:
                raise KeyboardInterrupt
            count += 1
            real(source, target)

        return write

    for name in ("replace", "link"):
        monkeypatch.setattr(storage.os, name, dying(getattr(os, name)))
    died = False
    try:
        commit_one(broken)
    except KeyboardInterrupt:
        died = True
    monkeypatch.undo()
    assert died == (dies_at < 3)  # tar, clips, shards; tables without rows have no file
    if died:
        assert not broken.is_committed(COLUMN, 0)
        assert scans.table(broken, "clips").num_rows == 0  # uncommitted parts are not seen
        commit_one(broken)
    finished = {name: data for name, data in tree(tmp_path / "broken").items() if not name.endswith(".tmp")}
    assert finished == tree(tmp_path / "whole")


def test_of_two_commits_the_second_loses_and_leaves_nothing(tmp_path):
    dataset = Dataset.create(str(tmp_path))
    commit_one(dataset, "one")
    before = tree(tmp_path)
    with pytest.raises(SupersededError):
        commit_one(dataset, "two", clip="b")
    assert tree(tmp_path) == before
    commit_again = pytest.raises(SupersededError)  # the same bytes: nothing of the first may go with them
    with commit_again:
        commit_one(dataset, "one")
    assert tree(tmp_path) == before and verify(dataset, deep=True).is_sound


def test_a_writer_that_comes_late_spoils_nothing(tmp_path):
    dataset = Dataset.create(str(tmp_path))
    with ShardCommit(dataset, COLUMN, 0, 0) as late:
        late.add("z.clip.json", b"began first")
        commit_one(dataset, "came first")
        before = {name: data for name, data in tree(tmp_path).items() if not name.endswith(".tmp")}
        with pytest.raises(SupersededError):
            late.commit(rows_of("z"), Account(1, 1, 0, 0))
    assert tree(tmp_path) == before and verify(dataset, deep=True).is_sound
    [row] = scans.table(dataset, "clips", COLUMN).to_pylist()
    assert row["clip_id"] == "a"


def test_the_tar_that_another_is_writing_is_not_swept_and_one_that_nobody_writes_is(tmp_path):
    dataset = Dataset.create(str(tmp_path))
    folder = tmp_path / "columns" / str(COLUMN)
    folder.mkdir(parents=True)
    old = folder / ".000003.tar.0badcafe.tmp"
    old.write_bytes(b"half")
    os.utime(old, (1, 1))
    with ShardCommit(dataset, COLUMN, 0, 0) as first:
        first.add("a.clip.json", b"x")
        [being_written] = folder.glob(".000000.*.tmp")
        os.utime(being_written, (1, 1))  # for hours already
        with ShardCommit(dataset, COLUMN, 0, 0) as second:
            second.add("a.clip.json", b"y")
        first.commit(rows_of(), Account(1, 1, 0, 0))
    assert not old.exists() and verify(dataset, deep=True).is_sound


def test_files_of_an_attempt_that_died_are_never_read(tmp_path):
    """A part that no record names lies beside the committed one."""
    dataset = Dataset.create(str(tmp_path))
    commit_one(dataset)
    other = Dataset.create(str(tmp_path / "other"))
    commit_one(other, clip="b")
    for path in (tmp_path / "other").rglob("*.parquet"):
        if "shards" not in path.parts:
            target = tmp_path / path.relative_to(tmp_path / "other")
            target.write_bytes(path.read_bytes())
    assert [row["clip_id"] for row in scans.table(dataset, "clips", COLUMN).to_pylist()] == ["a"]
    assert [row["clip_id"] for row in records.rows_of_shard(dataset, "clips", COLUMN, 0)] == ["a"]


def test_a_commit_that_is_taken_back_is_gone_and_can_be_made_again(tmp_path):
    dataset = Dataset.create(str(tmp_path))
    commit_one(dataset)
    before = tree(tmp_path)
    withdraw(dataset, COLUMN, [0])
    assert not dataset.is_committed(COLUMN, 0) and scans.table(dataset, "clips").num_rows == 0
    forget(dataset, [COLUMN])  # not before it is made again
    held = Withdrawn(dataset, COLUMN, 0)
    assert [row["clip_id"] for row in held.rows("clips")] == ["a"]
    assert [name for name, _ in held.members("a")] == [row["name"] for row in held.record["members"]]
    commit_one(dataset)
    forget(dataset, [COLUMN])
    assert tree(tmp_path) == before and not Withdrawn(dataset, COLUMN, 0)


def test_what_was_taken_back_goes_once_other_bytes_stand_in_its_place(tmp_path):
    dataset = Dataset.create(str(tmp_path / "one"))
    commit_one(dataset)
    withdraw(dataset, COLUMN, [0])
    commit_one(dataset, clip="b")
    assert [row["clip_id"] for row in scans.table(dataset, "clips").to_pylist()] == ["b"]
    forget(dataset, [COLUMN])
    only = Dataset.create(str(tmp_path / "two"))
    commit_one(only, clip="b")
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


@pytest.mark.parametrize("name", ["runs/withdrawn", "tables/clips"])
def test_a_damaged_commit_that_was_taken_back_holds_nobody_up(tmp_path, name):
    dataset = Dataset.create(str(tmp_path))
    commit_one(dataset)
    withdraw(dataset, COLUMN, [0])
    [path] = (tmp_path / name).rglob("*.parquet")
    path.write_bytes(path.read_bytes()[:40])
    held = Withdrawn(dataset, COLUMN, 0)
    assert not held and held.rows("clips") == [] and held.members("a") == []
    commit_one(dataset)
    forget(dataset, [COLUMN])
    assert dataset.is_committed(COLUMN, 0) and not list((tmp_path / "runs").rglob("*.parquet"))


def test_numbers_may_have_more_digits_than_names_have_zeros(tmp_path):
    dataset = Dataset.create(str(tmp_path))
    for shard in (1_000_007, 999_999, 7):
        commit_one(dataset, clip=f"c{shard}", shard=shard)
    assert dataset.committed_shards(COLUMN) == [7, 999_999, 1_000_007]
    assert [row["shard"] for row in scans.table(dataset, "clips", COLUMN).to_pylist()] == [
        7,
        999_999,
        1_000_007,
    ]
    for generation in (10_000, 9_999):
        source = {"source_id": f"g{generation}", "uri": "u", "status": "failed", "reason": "x"}
        commit_generation(dataset, generation, [], {"sources": [source], "drops": [], "failures": []})
    assert dataset.generations() == [9_999, 10_000]
    found = [row["source_id"] for row in scans.table(dataset, "sources").to_pylist()]
    assert found == ["g9999", "g10000"]  # a retry comes later


def test_of_two_generations_of_one_number_one_is_made_whole(tmp_path):
    dataset = Dataset.create(str(tmp_path))

    def tables(name):
        source = {"source_id": name, "uri": name, "status": "kept", "reason": ""}
        return {"sources": [source], "drops": [], "failures": []}

    commit_generation(dataset, 0, [{"segment_id": "a-s0000", "source_id": "a", "shard": 0}], tables("a"))
    with pytest.raises(SupersededError):
        commit_generation(dataset, 0, [{"segment_id": "b-s0000", "source_id": "b", "shard": 0}], tables("b"))
    assert scans.table(dataset, "sources")["source_id"].to_pylist() == ["a"]
    assert planned.segments(dataset)["source_id"].to_pylist() == ["a"]
