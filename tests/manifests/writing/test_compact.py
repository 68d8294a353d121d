"""Merged files hold what the small ones held, whoever reads, writes or dies in between."""

from __future__ import annotations

import itertools
import os
import pickle
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dashboard.index.commits import committed
from manifests import cli, snapshots
from manifests.errors import IntegrityError, UsageError
from manifests.exporting.webdataset import export_webdataset
from manifests.layout import Column, Dataset
from manifests.schemas import TABLES, to_table
from manifests.store import storage
from manifests.tables import records, scans
from manifests.tables.streams import whole_shards
from manifests.verify import verify
from manifests.views import View
from manifests.writing import compact as compaction
from manifests.writing.commit import Account, ShardCommit, SupersededError, commit_generation
from manifests.writing.compact import clean, commit_version, compact, take_out
from manifests.writing.removing import remove
from manifests.writing.withdrawn import forget, withdraw
from tests.manifests.writing.test_commit import COLUMN, commit_one, tree


def everything(dataset: Dataset) -> dict:
    """All rows of all tables, by shard as they are looked up and by table as they are scanned."""
    found: dict = {}
    for column in dataset.columns():
        for shard in dataset.committed_shards(column):
            record = records.record_of(dataset, column, shard)
            found[str(column), shard] = record
            for part in record["parts"]:
                rows = records.rows_of_shard(dataset, part["table"], column, shard)
                assert len(rows) == part["rows"]
                found[str(column), shard, part["table"]] = rows
        for name in TABLES:
            if name not in ("events", "segments"):
                rows = scans.table(dataset, name, column)
                order = pc.sort_indices(rows["shard"]) if "shard" in rows.schema.names else None
                found[str(column), name] = rows.take(order).to_pylist() if order else rows.to_pylist()
    return found


@pytest.fixture
def narrow(monkeypatch):
    """Merged files of two shards, row groups of three rows."""
    monkeypatch.setattr(compaction, "SHARDS_A_FILE", 2)
    monkeypatch.setattr(compaction, "_ROWS_A_GROUP", {})
    monkeypatch.setattr(compaction, "_OTHER_ROWS", 3)


def small_files(dataset: Dataset) -> list[Path]:
    return [path for path in Path(dataset.uri, "tables").glob("*/*@*/*") if "merged" not in path.name]


def test_rows_are_the_same_and_files_are_few(copy, narrow, tmp_path):
    view = View.load(copy)
    before, tars = everything(copy), tree(Path(copy.uri, "columns"))
    kept, exported = view.kept(copy), export_webdataset(copy, view, tmp_path / "before")
    num_small = len(small_files(copy))
    done = compact(copy)
    assert done.num_commits and done.num_removed == num_small and not small_files(copy)
    for dataset in (copy, Dataset(copy.uri)):
        assert everything(dataset) == before
        assert view.kept(dataset) == kept
    assert tree(Path(copy.uri, "columns")) == tars
    report = verify(copy, deep=True)
    assert report.is_sound, report.problems
    assert len(report.checked) == sum(len(copy.committed_shards(column)) for column in copy.columns())
    again = export_webdataset(copy, view, tmp_path / "after")
    assert [path.read_bytes() for path in again[0]] == [path.read_bytes() for path in exported[0]]
    assert compact(copy).num_commits == 0
    assert copy.snapshot.number == done.number


def test_an_older_reader_and_one_at_work_see_the_same(copy):
    before = everything(copy)
    reader = Dataset(copy.uri)
    assert everything(reader) == before  # has looked: knows of no snapshot with these commits
    compact(Dataset(copy.uri))
    for (name, shard, *table), rows in ((key, value) for key, value in before.items() if len(key) == 3):
        column = next(column for column in reader.columns() if str(column) == name)
        assert records.rows_of_shard(reader, table[0], column, shard) == rows
    assert everything(reader) == before


def test_what_is_committed_later_is_merged_into_what_is_there(tmp_path, narrow):
    one, two = (Dataset.create(str(tmp_path / name)) for name in ("one", "two"))
    for shard in range(7):
        commit_one(one, clip=f"c{shard}", shard=shard)
    compact(one)
    for shard in (6, 3, 0, 5):
        commit_one(two, clip=f"c{shard}", shard=shard)
    compact(two)
    for shard in (4, 1):
        commit_one(two, clip=f"c{shard}", shard=shard)
    compact(two)
    commit_one(two, clip="c2", shard=2)
    assert two.loose_shards(COLUMN) == [2] and two.committed_shards(COLUMN) == list(range(7))
    compact(two)
    assert everything(one) == everything(two)
    merged = [
        {(one.path, one.sha256, one.rows) for one in dataset.snapshot.files()} for dataset in (one, two)
    ]
    assert merged[0] == merged[1]  # whatever the order was
    assert verify(two, deep=True).is_sound
    compact(two)
    clean(two)
    kept = {path.name for path in Path(two.uri, "tables").rglob("*.parquet")}
    assert {Path(file.path).name for file in two.snapshot.files()} <= kept


@pytest.mark.parametrize("dies_at", range(12))
def test_a_death_at_any_step_loses_nothing(tmp_path, monkeypatch, narrow, dies_at):
    dataset = Dataset.create(str(tmp_path / "ds"))
    for shard in range(4):
        commit_one(dataset, clip=f"c{shard}", shard=shard)
    before, count = everything(dataset), 0

    def dying(real):
        def act(*given, **options):
            nonlocal count
            if count == dies_at:
                raise KeyboardInterrupt
            count += 1
            return real(*given, **options)

        return act

    monkeypatch.setattr(storage.os, "replace", dying(os.replace))
    monkeypatch.setattr(storage.os, "link", dying(os.link))
    monkeypatch.setattr(storage, "delete_files", dying(storage.delete_files))
    died = False
    try:
        compact(dataset)
    except KeyboardInterrupt:
        died = True
    monkeypatch.setattr(storage.os, "replace", os.replace)
    monkeypatch.undo()
    assert everything(Dataset(dataset.uri)) == before
    compact(dataset)
    assert everything(dataset) == before and not small_files(dataset)
    assert verify(dataset, deep=True).is_sound
    assert died == (dies_at < 6)  # two files of clips, two of records, the snapshot; the small files go


def test_of_two_that_compact_at_once_one_loses(tmp_path, monkeypatch):
    dataset = Dataset.create(str(tmp_path / "ds"))
    commit_one(dataset)
    real = snapshots.publish

    def beaten(filesystem, root, snapshot):
        assert real(filesystem, root, snapshot)
        return real(filesystem, root, snapshot)

    before = everything(dataset)
    monkeypatch.setattr(snapshots, "publish", beaten)
    with pytest.raises(SupersededError):
        compact(dataset)
    monkeypatch.undo()
    assert everything(dataset) == before


def test_a_writer_that_comes_after_compaction_loses(tmp_path):
    dataset, late = Dataset.create(str(tmp_path / "ds")), Dataset(str(tmp_path / "ds"))
    assert not late.is_committed(COLUMN, 0)
    commit_one(dataset, "first")
    before = everything(dataset)
    compact(dataset)
    files = tree(Path(dataset.uri))
    for text in ("late", "first"):
        with pytest.raises(SupersededError):
            commit_one(late, text, clip="z" if text == "late" else "a")
        assert tree(Path(dataset.uri)) == files
    assert everything(dataset) == everything(late) == before


def test_a_merged_commit_that_is_taken_back_can_be_made_again(tmp_path, narrow):
    dataset = Dataset.create(str(tmp_path / "ds"))
    for shard in range(5):
        commit_one(dataset, clip=f"c{shard}", shard=shard)
    compact(dataset)
    before = everything(dataset)
    withdraw(dataset, COLUMN, [1, 4])
    assert Dataset(dataset.uri).committed_shards(COLUMN) == [0, 2, 3]
    assert scans.table(dataset, "clips")["shard"].to_pylist() == [0, 2, 3]
    assert verify(dataset, deep=True).is_sound
    for shard in (4, 1):
        commit_one(dataset, clip=f"c{shard}", shard=shard)
    forget(dataset, [COLUMN])
    assert everything(dataset) == before
    compact(dataset)
    assert everything(dataset) == before and verify(dataset, deep=True).is_sound
    take_out(dataset, COLUMN, list(range(5)))
    assert dataset.columns() == []


def test_a_named_snapshot_sees_nothing_that_comes_later(copy, capsys):
    assert cli.main(arguments=["snapshot", "spring", copy.uri]) == cli.DONE
    assert cli.main(arguments=["snapshot", "spring", copy.uri]) == cli.DONE, "it may have been stopped"
    spring = everything(copy)
    column = next(column for column in copy.columns() if column.name == "caption")
    shard = copy.committed_shards(column)[0]
    withdraw(copy, column, [shard])
    for _ in range(3):  # files that newer snapshots no longer name
        commit_one(copy, clip="new", shard=900)
        compact(copy)
        withdraw(copy, COLUMN, [900])
    assert everything(copy) != spring
    for named in (Dataset(copy.uri, at="spring"), Dataset(f"{copy.uri}@spring")):
        assert everything(named) == spring and named.address == f"{copy.uri}@spring"
        assert everything(pickle.loads(pickle.dumps(named))) == spring
    assert cli.main(arguments=["snapshot", "spring", copy.uri]) == cli.USAGE
    assert "never changed" in capsys.readouterr().err
    with pytest.raises(UsageError, match="spring"):
        Dataset(copy.uri, at="summer")


def test_what_compactions_left_that_died_is_swept(copy):
    compact(copy)
    merged = next(Path(copy.uri, "tables").rglob("merged-*"))
    old = [merged.with_name(f".{merged.name}.0.tmp"), Path(copy.uri, "snapshots", ".000009.json.0.tmp")]
    new = merged.with_name(f".{merged.name}.1.tmp")
    for path in (*old, new):
        path.write_bytes(b"half")
    for path in old:
        os.utime(path, (1, 1))
    clean(copy)
    assert not any(path.exists() for path in old) and new.exists()


def test_damage_is_named(copy):
    compact(copy)
    for name in ("clips", "shards"):
        broken = Path(copy.uri).with_name(f"broken-{name}")
        shutil.copytree(copy.uri, broken)
        path = next(Path(broken, "tables", name).rglob("merged-*"))
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        assert any(path.name in problem for problem in verify(Dataset(str(broken)), deep=True).problems)
        path.write_bytes(data[:100])
        with pytest.raises(IntegrityError, match=path.name):
            scans.table(Dataset(str(broken)), name)
        path.unlink()
        assert any("is missing" in problem for problem in verify(Dataset(str(broken))).problems)
    number = next(Path(copy.uri, "snapshots").glob("*.json"))
    number.write_text(number.read_text().replace('"rows": ', '"rows": 1'))
    with pytest.raises(IntegrityError, match=number.name):
        Dataset(copy.uri).columns()


def test_the_verbs(copy, capsys):
    before = everything(copy)
    assert cli.main(arguments=["compact", copy.uri]) == cli.DONE
    assert "files hold all tables" in capsys.readouterr().out
    column = next(column for column in copy.columns() if column.name == "latent")
    for _ in range(2):
        code = cli.main(arguments=["withdraw", str(column), "0", "--dataset", copy.uri])
        assert code == (cli.USAGE if _ else cli.DONE)
    after = everything(copy)
    assert before.keys() - after.keys() == {key for key in before if key[:2] == (str(column), 0)}


def test_a_store_is_asked_as_often_for_many_shards_as_for_few(bucket, monkeypatch):
    address, _ = bucket
    asked: list[str] = []
    counts = {}
    for num_shards in (3, 24):
        dataset = Dataset.create(address(f"ds{num_shards}"))
        for shard in range(num_shards):
            commit_one(dataset, clip=f"c{shard:04d}", shard=shard)
        others = {f"other{number}": Column(f"other{number}", "0123456789") for number in range(6)}
        for column in others.values():
            with ShardCommit(dataset, column, 0, 0) as made:
                made.commit({}, Account(0, 0, 0, 0))
        for generation in range(num_shards):  # as of a dataset that is fed each day
            commit_generation(dataset, generation, [], {"sources": []})
        View(columns={"preview": COLUMN} | others).save(dataset)
        compact(dataset)
        with monkeypatch.context() as patch:
            count_requests(patch, asked)
            for name, ask in {
                "view": lambda dataset: View.load(dataset).kept(dataset),
                "shard": lambda dataset: [
                    records.rows_of_shard(dataset, "clips", COLUMN, 1),
                    records.members_of_shard(dataset, COLUMN, 1),
                ],
                "page": lambda dataset: scans.table(dataset, "clips", COLUMN, ["clip_id"]),
                "info": lambda dataset: cli.main(arguments=["info", dataset.uri]),
                "show": lambda dataset: cli.main(arguments=["show", dataset.uri, "c0001"]),
                "query": lambda dataset: cli.main(arguments=["query", dataset.uri, "select 1 from clips"]),
            }.items():
                dataset = Dataset(address(f"ds{num_shards}"))
                asked.clear()
                ask(dataset)
                counts[name, num_shards] = len(asked)
    print(counts)
    for name, most in {"view": 20, "shard": 20, "page": 20, "query": 25}.items():
        assert counts[name, 3] == counts[name, 24] <= most, counts
    for name in ("info", "show"):  # which read what each generation of the plan says of its sources
        assert counts[name, 24] <= 60 + 10 * 24, counts


def count_requests(patch, asked: list[str]) -> None:
    """Note every request that an object store is sent."""
    import obstore

    for name in ("head", "get", "get_range", "list", "list_with_delimiter", "put", "delete"):
        real = getattr(obstore, name)

        def noted(*given, _real=real, _name=name, **options):
            asked.append(_name)
            return _real(*given, **options)

        patch.setattr(obstore, name, noted)


@pytest.mark.parametrize(
    "ask",
    [
        lambda reader: scans.table(reader, "clips", COLUMN).num_rows,
        lambda reader: scans.table(reader, "clips").num_rows,
        lambda reader: len(reader.committed_shards(COLUMN)),
        lambda reader: len(View(columns={"preview": COLUMN}).kept(reader)),
        lambda reader: sum(not commit.is_plan for commit in committed(reader)),
    ],
)
def test_a_reader_during_a_compaction_misses_nothing(tmp_path, monkeypatch, ask):
    dataset = Dataset.create(str(tmp_path / "ds"))
    for shard in range(4):
        commit_one(dataset, clip=f"c{shard}", shard=shard)
    real, done = storage.list_files, []

    def listing(filesystem, folder, *given, **options):
        found = real(filesystem, folder, *given, **options)
        if f"{COLUMN}" in folder + "".join(info.path for info in found) and not done:
            done.append(folder)
            compact(Dataset(dataset.uri))  # between the listing and what is made of it
        return found

    monkeypatch.setattr(storage, "list_files", listing)
    assert ask(Dataset(dataset.uri)) == 4 and done


def test_a_retry_spoils_no_named_snapshot(tmp_path):
    dataset = Dataset.create(str(tmp_path / "ds"))
    commit_one(dataset, "first")
    assert cli.main(arguments=["snapshot", "spring", dataset.uri]) == cli.DONE
    withdraw(dataset, COLUMN, [0])
    commit_one(dataset, "second")
    forget(dataset, [COLUMN])
    for address in (dataset.uri, f"{dataset.uri}@spring"):
        assert verify(Dataset(address), deep=True).problems == []
    tar, _ = records.members_of_shard(Dataset(f"{dataset.uri}@spring"), COLUMN, 0)
    Path(tar).unlink()
    assert any("a named snapshot has it" in problem for problem in verify(dataset).problems)


def test_a_named_snapshot_keeps_its_views(copy):
    View(columns=View.load(copy).columns, where="kind = 'image'").save(copy, "few")
    few = View.load(copy, "few").kept(copy)
    assert cli.main(arguments=["snapshot", "spring", copy.uri]) == cli.DONE
    View(columns=View.load(copy).columns, where="true").save(copy, "few")
    spring = Dataset(f"{copy.uri}@spring")
    assert View.load(spring, "few").kept(spring) == few != View.load(copy, "few").kept(copy)
    assert set(View.names(spring)) == {"default", "few"}


def test_nobody_writes_to_a_snapshot(copy, capsys):
    from pipeline.engine.run import open_for

    assert cli.main(arguments=["snapshot", "spring", copy.uri]) == cli.DONE
    before, at = tree(Path(copy.uri)), f"{copy.uri}@spring"
    column = str(copy.columns()[0])
    for words in (
        ["compact", at],
        ["remove", at, "--where", "true"],
        ["withdraw", column, "0", "--dataset", at],
        ["snapshot", "other", at],
    ):
        assert cli.main(arguments=words) == cli.USAGE, words
        assert "nobody writes to" in capsys.readouterr().err
    with pytest.raises(UsageError, match="nobody writes to"):
        open_for([], at)
    with pytest.raises(UsageError, match="nobody writes to"):
        Dataset.create(at)
    assert tree(Path(copy.uri)) == before and not Path(at).exists()


def test_what_a_dead_compaction_left_does_not_count_again(tmp_path, monkeypatch):
    dataset = Dataset.create(str(tmp_path / "ds"))
    for shard in range(3):
        commit_one(dataset, clip=f"c{shard}", shard=shard)
    with monkeypatch.context() as patch:
        patch.setattr(compaction, "clean", lambda dataset: 0)
        compact(dataset)
    assert small_files(dataset)
    withdraw(dataset, COLUMN, [1])
    assert Dataset(dataset.uri).committed_shards(COLUMN) == [0, 2]


def test_a_version_that_is_about_to_be_published_is_left_alone(tmp_path, monkeypatch):
    dataset, other = Dataset.create(str(tmp_path / "ds")), Dataset(str(tmp_path / "ds"))
    commit_one(dataset)
    compact(dataset)
    real = snapshots.publish

    def late(filesystem, root, snapshot):
        monkeypatch.setattr(snapshots, "publish", real)
        commit_one(other, clip="b", shard=1)
        compact(other)
        return real(filesystem, root, snapshot)

    monkeypatch.setattr(snapshots, "publish", late)
    rows = {"column": "dedup", "fingerprint": "made", "shard": 0, "generation": 0, "members": [], "parts": []}
    account = {"num_in": 1, "num_kept": 1, "num_dropped": 0, "num_failed": 0}
    commit_version(dataset, Column("dedup", "made"), {"shards": to_table("shards", [rows | account])})
    assert dataset.committed_shards(COLUMN) == [0, 1]
    assert verify(Dataset(dataset.uri), deep=True).problems == []


def test_a_part_that_is_damaged_is_named_and_nothing_is_lost(tmp_path):
    dataset = Dataset.create(str(tmp_path / "ds"))
    for shard in range(3):
        commit_one(dataset, clip=f"c{shard}", shard=shard)
    path = Path(records.part_of(dataset, records.record_of(dataset, COLUMN, 1), "clips"))
    data = path.read_bytes()
    path.write_bytes(data[:20])
    with pytest.raises(IntegrityError, match=path.name):
        compact(dataset)
    path.write_bytes(data)
    assert dataset.committed_shards(COLUMN) == [0, 1, 2] and scans.table(dataset, "clips").num_rows == 3


@pytest.mark.parametrize("kind", ["merged", "small", "record"])
@pytest.mark.parametrize("verb", ["compact", "remove"])
def test_one_flipped_bit_is_never_made_a_row(copy, tmp_path, kind, verb):
    """What was damaged is refused, or still told as damage afterwards, or made no difference."""
    if kind == "merged":
        compact(copy)
        commit_one(copy, clip="0000-00000000", shard=901)
    source = scans.table(copy, "sources").to_pylist()[0]
    draw = random.Random(kind + verb)

    def done(uri):
        dataset = Dataset(uri)
        if verb == "compact":
            compact(dataset)
        else:
            remove(dataset, {source["source_id"]: source["uri"]})
        return str(everything(Dataset(uri)))

    def fresh(name):
        return shutil.copytree(copy.uri, tmp_path / name)

    sound = done(str(fresh("sound")))
    tables = Path(copy.uri, "tables")
    files = {
        "merged": sorted(tables.glob("c*/*@*/merged-*")),
        "small": [path for path in small_files(copy) if path.parent.parent.name in ("clips", "captions")],
        "record": [path for path in small_files(copy) if path.parent.parent.name == "shards"],
    }[kind]
    for number in range(12):
        folder, path = fresh(f"{number}"), draw.choice(files).relative_to(copy.uri)
        data = bytearray((folder / path).read_bytes())
        data[draw.randrange(4, len(data) - 8)] ^= 1 << draw.randrange(8)
        (folder / path).write_bytes(data)
        try:
            rows = done(str(folder))
        except (IntegrityError, UsageError, OSError, ValueError):
            continue
        assert rows == sound or verify(Dataset(str(folder)), deep=True).problems, path


def test_a_named_snapshot_of_a_dataset_that_has_grown_is_sound(copy):
    compact(copy)
    assert cli.main(arguments=["snapshot", "first", copy.uri]) == cli.DONE
    rows = {
        "column": "dedup",
        "fingerprint": "made",
        "shard": 0,
        "generation": 0,
        "members": [],
        "parts": [],
    }
    account = {"num_in": 1, "num_kept": 1, "num_dropped": 0, "num_failed": 0}
    commit_version(copy, Column("dedup", "made"), {"shards": to_table("shards", [rows | account])})
    report = verify(Dataset(copy.uri, at="first"))
    assert report.problems == [] and report.num_unnamed == 0


@given(counts=st.lists(st.integers(1, 9), min_size=1, max_size=8), cuts=st.sets(st.integers(1, 60)))
def test_rows_in_whole_shards_are_the_rows_and_end_between_shards(counts, cuts):
    shards = [shard for shard, count in enumerate(counts) for _ in range(count)]
    rows = pa.table({"shard": pa.array(shards, pa.int32()), "place": range(len(shards))})
    bounds = [0, *sorted(cut for cut in cuts if cut < len(shards)), len(shards)]
    found = list(whole_shards(rows[begin:end] for begin, end in itertools.pairwise(bounds)))
    assert pa.concat_tables(found).equals(rows)
    seen = [set(table["shard"].to_pylist()) for table in found]
    assert all(seen) and sum(map(len, seen)) == len(counts)  # none empty, none in two
