"""After a takedown nothing of a source is left anywhere in the dataset, and the rest is as it was."""

from __future__ import annotations

import fcntl
import html
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from manifests import cli, snapshots
from manifests.cli.frame import main
from manifests.errors import UsageError
from manifests.exporting.webdataset import export_webdataset
from manifests.layout import Column, Dataset
from manifests.runs.elsewhere import note_training, noted_trainings
from manifests.schemas import to_table
from manifests.store import storage
from manifests.tables import planned, records, scans
from manifests.verify import verify
from manifests.views import View
from manifests.writing.commit import parquet_bytes
from manifests.writing.compact import commit_version
from manifests.writing.removing import pending, remove, token, tokens
from manifests.writing.withdrawn import withdraw
from pipeline.config import PlanConfig
from pipeline.footage.listing import list_sources
from pipeline.footage.sources import source_row
from pipeline.plan import make_plan
from tests.conftest import ingest_here
from tests.manifests.writing.test_compact import everything


def holders(dataset: Dataset, words: list[str]) -> list[str]:
    """Files in which one of the words stands; Parquet is read, its pages are compressed."""
    found = []
    for path in sorted(Path(dataset.uri).rglob("*")):
        if not path.is_file():
            continue
        data = path.read_bytes()
        if path.suffix == ".parquet":
            data += str(pq.read_table(path).to_pylist()).encode()
            data += str(pq.read_schema(path).metadata).encode()
        if any(word.encode() in data for word in words):
            found.append(str(path.relative_to(dataset.uri)))
    return found


def a_source(dataset: Dataset) -> tuple[str, str]:
    """The source of a clip that stands for a group of near-duplicates, or of any clip."""
    kept = [row for row in scans.table(dataset, "duplicates").to_pylist() if row["is_kept"]]
    clip = (kept or scans.table(dataset, "clips").to_pylist())[0]["clip_id"]
    source_id = clip.partition("-")[0]
    rows = scans.table(dataset, "sources").to_pylist()
    return source_id, next(row["uri"] for row in rows if row["source_id"] == source_id)


def rest_of(found: dict, source_id: str) -> dict:
    """Members' bytes and rows that are not of the source, without what says where they lie."""
    rest = {}
    for key, rows in found.items():
        if len(key) == 3:
            rest[key] = [row for row in rows if source_id not in str(row)]
        elif isinstance(key[1], int):
            rest[key] = [
                (member["name"], member["crc32"])
                for member in rows["members"]
                if not member["name"].startswith(source_id)
            ]
    return rest


@pytest.mark.parametrize(("is_named", "rows_at_once"), [(False, 4096), (True, 3)])
def test_nothing_of_it_is_left_and_the_rest_is_as_it_was(copy, tmp_path, monkeypatch, is_named, rows_at_once):
    monkeypatch.setattr("manifests.tables.streams._ROWS_AT_ONCE", rows_at_once)
    source_id, uri = a_source(copy)
    run = Path(copy.uri, "training", "tiny")
    run.mkdir(parents=True)
    clip = next(row for row in scans.table(copy, "clips").to_pylist() if row["source_id"] == source_id)
    (run / "consumed.jsonl").write_text(json.dumps({"samples": [[clip["clip_id"], 0]]}) + "\n")
    if is_named:
        assert cli.main(arguments=["snapshot", "spring", copy.uri]) == cli.DONE
    before, in_plan = everything(copy), planned.segments(copy).num_rows
    assert len(holders(copy, [source_id, uri])) > 8 and Path(copy.uri, "keys").exists()
    done = remove(copy, {source_id: uri}, "licence ended")
    assert done.num_clips and done.num_members and done.tars and done.runs == ["tiny"]
    assert holders(copy, [source_id, uri]) == []
    assert verify(copy, deep=True).problems == []
    after = everything(copy)
    dedup = next(str(column) for column in copy.columns() if column.name == "dedup")
    mine, theirs = rest_of(after, source_id), rest_of(before, source_id)
    assert {key: rows for key, rows in mine.items() if key[0] != dedup} == {
        key: rows for key, rows in theirs.items() if key[0] != dedup
    }
    assert planned.segments(copy).num_rows < in_plan
    for shard in planned.shards(copy):
        segments, sources = planned.rows_of_shard(copy, shard, 0)
        assert {row["source_id"] for row in segments} == set(sources)
    kept = View.load(copy).kept(copy)
    assert kept and not any(name.startswith(source_id) for name in kept)
    tars, _ = export_webdataset(copy, View.load(copy), tmp_path / "out")
    assert not any(source_id.encode() in path.read_bytes() for path in tars)
    if is_named:
        spring = Dataset(f"{copy.uri}@spring")
        assert everything(spring) == after


def test_what_it_stood_for_comes_back(copy):
    clips = scans.table(copy, "clips").to_pylist()
    by_source = {row["source_id"]: row for row in clips}
    films = [row for row in by_source.values() if row["kind"] == "video"]
    kept, *others = sorted(films, key=lambda row: row["end_s"] - row["start_s"])[-3:]
    # the longest stands for what is left: a part does not stand for the whole, however near it was
    far, near = sorted(others, key=lambda row: (row["end_s"] - row["start_s"], row["clip_id"]))
    assert far["end_s"] - far["start_s"] < near["end_s"] - near["start_s"]
    shards = sorted({row["shard"] for row in clips})
    column = Column("dedup", "made")
    rows = [
        {"clip_id": row["clip_id"], "shard": row["shard"], "group_id": kept["clip_id"]}
        | {"is_kept": row is kept, "distance": distance}
        for row, distance in ((kept, 0.0), (far, 0.1), (near, 0.15))
    ]
    drops = [
        {"stage": "dedup", "shard": row["shard"], "item_id": f"{row['clip_id']} of {kept['clip_id']}"}
        | {"reason": "near_duplicate", "source_id": row["source_id"]}
        for row in (near, far)
    ]
    made = [
        {"column": "dedup", "fingerprint": "made", "shard": shard, "generation": 0, "members": []}
        | {"num_in": 5, "num_kept": 5 - sum(row["shard"] == shard for row in drops)}
        | {"num_dropped": sum(row["shard"] == shard for row in drops), "num_failed": 0, "parts": []}
        for shard in shards
    ]
    tables = {"shards": made, "duplicates": rows, "drops": drops}
    commit_version(copy, column, {name: to_table(name, found) for name, found in tables.items()})
    assert verify(copy).problems == []

    remove(copy, {kept["source_id"]: kept["uri"]})
    now = {row["clip_id"]: row for row in scans.table(copy, "duplicates", column).to_pylist()}
    assert {name: (row["group_id"], row["is_kept"]) for name, row in now.items()} == {
        near["clip_id"]: (near["clip_id"], True),
        far["clip_id"]: (near["clip_id"], False),
    }
    items = scans.table(copy, "drops", column)["item_id"].to_pylist()
    assert items == [f"{far['clip_id']} of {near['clip_id']}"]
    assert [row["distance"] for row in (now[near["clip_id"]], now[far["clip_id"]])] == [0.0, None]
    remove(copy, {near["source_id"]: near["uri"]})
    assert scans.table(copy, "duplicates", column).num_rows == 0
    assert scans.table(copy, "drops", column).num_rows == 0
    assert verify(copy, deep=True).problems == []


@pytest.mark.parametrize("dies_at", [1, 4, 9, 14, 20, 26, 30, 32, 36])
def test_one_that_died_is_gone_on_with(copy, monkeypatch, dies_at):
    source_id, uri = a_source(copy)
    run = Path(copy.uri, "training", "tiny")
    run.mkdir(parents=True)
    (run / "consumed.jsonl").write_text(f'"{source_id}-00000000"\n')
    count, real, real_delete = 0, os.replace, storage.delete_files

    def step():
        nonlocal count
        count += 1
        if count == dies_at:
            raise KeyboardInterrupt

    def replacing(source, target):
        step()
        real(source, target)

    def deleting(filesystem, paths):
        step()
        real_delete(filesystem, paths)

    monkeypatch.setattr(storage.os, "replace", replacing)
    monkeypatch.setattr(storage, "delete_files", deleting)
    died = False
    try:
        remove(copy, {source_id: uri}, "licence ended")
    except KeyboardInterrupt:
        died = True
    monkeypatch.setattr(storage.os, "replace", real)
    monkeypatch.undo()
    assert died
    if pending(copy):
        assert not any(name.startswith(source_id) for name in View.load(copy).kept(copy))
        assert cli.main(arguments=["compact", copy.uri]) == cli.DONE
    else:
        remove(copy, {source_id: uri}, "licence ended")
    assert holders(copy, [source_id, uri]) == []
    assert tokens(copy) == {token(source_id)} and not pending(copy)
    [told] = json.loads(Path(copy.uri, "removed", "done.json").read_text())["removed"]
    assert told["reason"] == "licence ended" and told["read_by"] == ["tiny"]
    assert verify(copy, deep=True).problems == []


def test_accounts_of_a_named_snapshot_are_the_same_where_one_died(copy, tmp_path, monkeypatch):
    source_id, uri = a_source(copy)
    shards = copy.committed_shards(next(column for column in copy.columns() if column.name == "preview"))
    counts = Counter(row["shard"] for row in scans.table(copy, "clips").to_pylist())
    made = [
        {"column": "dedup", "fingerprint": "made", "shard": shard, "generation": 0, "members": []}
        | {"num_in": counts[shard], "num_kept": counts[shard], "num_dropped": 0, "num_failed": 0, "parts": []}
        for shard in shards
    ]
    commit_version(copy, Column("dedup", "made"), {"shards": to_table("shards", made)})
    assert cli.main(arguments=["snapshot", "first", copy.uri]) == cli.DONE
    other = Dataset(shutil.copytree(copy.uri, tmp_path / "other").as_posix())

    def accounts(dataset):
        rows = scans.table(Dataset(dataset.uri, at="first"), "shards", Column("dedup", "made")).to_pylist()
        return [(row["shard"], row["num_in"], row["num_kept"]) for row in rows]

    remove(copy, {source_id: uri})

    write = storage.write_bytes

    def dies(filesystem, path, data):
        if path == snapshots.named_path(other.root, "first"):  # which comes after the newest
            raise KeyboardInterrupt
        write(filesystem, path, data)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(storage, "write_bytes", dies)
        remove(other, {source_id: uri})
    told = verify(Dataset(other.uri)).problems
    assert len(told) == 1 and "takedown of 1 sources has not ended" in told[0]
    newest = Dataset(other.uri).snapshot.number
    remove(Dataset(other.uri), {source_id: uri})
    assert accounts(other) == accounts(copy)
    assert Dataset(other.uri).snapshot.number == newest, "nothing was left to do in it"


def test_one_that_dies_in_its_last_step_is_told_once(copy, monkeypatch):
    source_id, uri = a_source(copy)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        deleted = storage.delete_files

        def dies(filesystem, paths):
            if any(path.endswith("pending.json") for path in paths):
                raise KeyboardInterrupt
            deleted(filesystem, paths)

        patch.setattr(storage, "delete_files", dies)
        remove(copy, {source_id: uri})
    remove(copy, {})
    assert len(json.loads(Path(copy.uri, "removed", "done.json").read_text())["removed"]) == 1


def test_parts_of_attempts_that_died_and_of_commits_taken_back_go_too(copy):
    source_id, uri = a_source(copy)
    for column in copy.columns():
        if column.name in ("preview", "caption"):
            shard = copy.committed_shards(column)[0]
            record = records.record_of(copy, column, shard)
            if column.name == "caption":
                path = Path(copy.record_path(column, shard))
                data = path.read_bytes()
                withdraw(copy, column, [shard])
                with pytest.raises(UsageError, match="took back"):  # captions of others would go with it
                    remove(copy, {source_id: uri})
                path.write_bytes(data)  # made again
            part = Path(records.part_of(copy, record, "captions" if column.name == "caption" else "clips"))
            part.with_name(f"{shard:06d}-0badcafe.parquet").write_bytes(part.read_bytes())
            tar = next(Path(copy.uri, "columns", str(column)).glob("*.tar"), None)
            if tar:
                tar.with_name(f"{shard:06d}-0badcafe.tar").write_bytes(tar.read_bytes())
    remove(copy, {source_id: uri})
    assert holders(copy, [source_id, uri]) == []


def test_all_addresses_and_spellings_of_it_go_and_no_others(copy, films, tmp_path):
    from pipeline.config import PlanConfig
    from pipeline.footage.sources import list_sources, source_row
    from pipeline.plan import make_plan

    source_id, uri = a_source(copy)
    twin = tmp_path / "twin & co.mkv"
    twin.write_bytes(Path(uri).read_bytes())
    make_plan(copy, list_sources([str(twin)]), PlanConfig(), lambda files: [source_row(one) for one in files])
    run = Path(copy.uri, "runs", "r1")
    run.mkdir(parents=True)
    other = f"{source_id}0a1b2c3d {uri}.old.mp4"
    words = [source_id, uri, str(twin), html.escape(str(twin))]
    (run / "run.json").write_text(json.dumps({"command": words, "other": other}))
    (run / "page.log").write_text(f"<a href='{html.escape(str(twin))}'>{source_id}-00000000</a> {other}")
    images = Path(copy.uri, "training", "tiny", "samples")
    images.mkdir(parents=True)
    (images / f"{source_id}-00000000.png").write_bytes(b"\x89PNG")
    (images / "step-00000002.png").write_bytes(b"a sheet of several clips")
    (images / "0123456789abcdef-00000000.webm").write_bytes(b"of another clip alone")
    board = images.parent / "tensorboard"
    board.mkdir()
    (board / "events.out.tfevents.1.host").write_bytes(b"\x00sheets, as PNG")
    (images.parent / "consumed.jsonl").write_text(json.dumps({"samples": [[f"{source_id}-00000000", 0]]}))
    other_run = Path(copy.uri, "training", "other", "tensorboard")
    other_run.mkdir(parents=True)
    (other_run / "events.out.tfevents.1.host").write_bytes(b"has read of others")
    remove(copy, {source_id: str(twin)})
    left = (run / "run.json").read_text() + (run / "page.log").read_text()
    assert left.count(other) == 2
    rest = left.replace(other, "")
    assert source_id not in rest and uri not in rest and "twin" not in rest
    assert [path.name for path in images.iterdir()] == ["0123456789abcdef-00000000.webm"]
    assert not list(board.iterdir()) and list(other_run.iterdir())


def test_accounts_are_those_of_what_is_left(copy):
    source_id, uri = a_source(copy)
    remove(copy, {source_id: uri})
    for column in copy.columns():
        for shard in copy.committed_shards(column):
            record = records.record_of(copy, column, shard)
            for part in record["parts"]:
                rows = records.rows_of_shard(copy, part["table"], column, shard)
                assert part["rows"] == len(rows), (column, part)
            clips = next(one for one in copy.columns() if one.name == "preview")
            if column.name != "preview":
                assert record["num_in"] == len(records.rows_of_shard(copy, "clips", clips, shard)), column


def test_a_shard_that_loses_all_its_sources_is_not_filled_again(copy, films, tmp_path):
    from pipeline.config import PlanConfig
    from pipeline.footage.sources import list_sources, source_row
    from pipeline.plan import make_plan

    last = max(planned.shards(copy))
    _, sources = planned.rows_of_shard(copy, last, 0)
    remove(copy, {key: row["uri"] for key, row in sources.items()})
    assert verify(copy, deep=True).problems == []
    new = tmp_path / "new.mkv"
    new.write_bytes(Path(next(iter(sources.values()))["uri"]).read_bytes() + b"more")
    make_plan(copy, list_sources([str(new)]), PlanConfig(), lambda files: [source_row(one) for one in files])
    assert max(planned.shards(copy)) > last
    assert verify(copy).problems == []


def test_shards_that_lost_all_their_sources_are_counted_nowhere(copy, capsys):
    shard = planned.segments(copy).to_pylist()[0]["shard"]
    sources = {row["source_id"] for row in planned.segments(copy).to_pylist() if row["shard"] == shard}
    words = [word for source in sorted(sources) for word in ("--source", source)]
    assert main(arguments=["remove", copy.uri, *words, "--reason", "asked"]) == cli.DONE
    capsys.readouterr()
    assert main(arguments=["status", copy.uri, "--json"]) == cli.DONE
    told = json.loads(capsys.readouterr().out)
    assert set(told["columns"].values()) == {told["num_shards"]}


def test_while_it_is_pending_nothing_of_it_is_taken_in(copy, monkeypatch, tmp_path):
    from pipeline.config import PlanConfig
    from pipeline.footage.sources import list_sources, source_row
    from pipeline.plan import make_plan

    source_id, uri = a_source(copy)

    def dying(dataset):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("manifests.writing.removing.compact", dying)
        with pytest.raises(KeyboardInterrupt):
            remove(copy, {source_id: uri})
    twin = tmp_path / "twin.mkv"
    twin.write_bytes(Path(uri).read_bytes())
    rows = make_plan(
        copy, list_sources([str(twin)]), PlanConfig(), lambda files: [source_row(one) for one in files]
    )
    assert [row["reason"] for row in rows] == ["removed"]


def test_the_verb_and_what_it_refuses(copy, capsys):
    source_id, uri = a_source(copy)
    assert cli.main(arguments=["remove", copy.uri, "--source", "nosuch"]) == cli.USAGE
    assert cli.main(arguments=["remove", copy.uri]) == cli.USAGE
    capsys.readouterr()
    assert cli.main(arguments=["remove", copy.uri, "--source", uri, "--dry-run"]) == cli.DONE
    assert source_id in capsys.readouterr().out and holders(copy, [source_id])
    assert cli.main(arguments=["remove", copy.uri, "--source", source_id, "mistyped"]) == cli.USAGE
    assert "--source mistyped: names no source" in capsys.readouterr().err and holders(copy, [source_id])
    where = f"source_id = '{source_id}'"
    assert cli.main(arguments=["remove", copy.uri, "--where", where, "--json"]) == cli.DONE
    assert json.loads(capsys.readouterr().out)["clips"] > 0
    assert holders(copy, [source_id, uri]) == []


def a_source_at(dataset: Dataset, uri: str) -> str:
    """A source, which the plan has at that address now."""
    source_id, _ = a_source(dataset)
    [path] = {planned.part(dataset, "sources", number) for number in dataset.generations()}
    rows = pq.read_table(path).to_pylist()
    for row in rows:
        row["uri"] = uri if row["source_id"] == source_id else row["uri"]
    Path(path).write_bytes(parquet_bytes(to_table("sources", rows)))
    return source_id


def test_an_address_with_its_key_names_what_the_plan_has_with_the_key_sealed(copy, capsys):
    source_id = a_source_at(copy, "https://host/a.mp4?v=2&rushes-sealed=Qk0=")
    for word in ("https://user:pw@host/a.mp4?v=3", "https://user:pw@other/a.mp4?v=2"):
        assert cli.main(arguments=["remove", copy.uri, "--source", word, "--dry-run"]) == cli.USAGE
    told = capsys.readouterr()
    assert "pw" not in told.out + told.err
    word = "https://user:pw@host/a.mp4?v=2"
    assert cli.main(arguments=["remove", copy.uri, "--source", word, "--dry-run"]) == cli.DONE
    assert source_id in capsys.readouterr().out


def test_an_address_whose_whole_query_is_sealed_is_not_guessed(copy, capsys):
    source_id = a_source_at(copy, "https://host/a.tar?rushes-sealed=Qk0=#m.mp4")
    asked = ["remove", copy.uri, "--dry-run", "--source"]
    assert cli.main(arguments=[*asked, "https://host/a.tar?id=1&token=A#m.mp4"]) == cli.USAGE
    told = capsys.readouterr()
    assert source_id in told.err and "token=A" not in told.err
    assert cli.main(arguments=[*asked, "https://host/a.tar?id=1&token=A#other.mp4"]) == cli.USAGE
    assert source_id not in capsys.readouterr().err


def test_nothing_is_taken_down_while_a_training_reads(copy, tmp_path, capsys):
    source_id, _ = a_source(copy)
    for folder in (Path(copy.path("training", "small")), tmp_path / "elsewhere"):
        folder.mkdir(parents=True)
        (folder / "consumed.jsonl").write_text("{}\n")
        with open(folder / ".lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            given = ["remove", copy.uri, "--source", source_id, "--runs", str(folder)]
            assert cli.main(arguments=given) == cli.USAGE
        assert "runs now" in capsys.readouterr().err and holders(copy, [source_id])
    assert cli.main(arguments=["remove", copy.uri, "--source", source_id]) == cli.DONE


def test_trainings_outside_of_the_dataset_are_known(copy, tmp_path, capsys):
    """One that runs there holds a takedown up, one that has read of the source is named, and one on another
    machine is.
    """
    source_id, _ = a_source(copy)
    out, asked = tmp_path / "runs" / "one", ["remove", copy.uri, "--source", source_id]
    out.mkdir(parents=True)
    assert note_training(copy, out) and note_training(copy, out)
    assert [noted.folder for noted in noted_trainings(copy)].count(out) == 1
    (out / "consumed.jsonl").write_text(f'{{"samples": ["{source_id}-00000000"]}}\n')
    far = Path(copy.path("training", "elsewhere-0000000000000000.json"))
    far.write_text('{"folder": "/nowhere/run", "host": "node9"}')
    (far.parent / "elsewhere-1.json").write_text("no JSON")
    (tmp_path / "other").mkdir()  # another machine's run lies in a folder of this name, too
    other = json.dumps({"folder": str(tmp_path / "other"), "host": "node8"})
    (far.parent / f"elsewhere-{'1' * 32}.json").write_text(other)
    with open(out / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert cli.main(arguments=asked) == cli.USAGE
    assert f"{out}: is a training that runs now" in capsys.readouterr().err and holders(copy, [source_id])
    assert cli.main(arguments=asked) == cli.DONE
    said = capsys.readouterr().err
    assert f"training {out} had read of it" in said and "/nowhere/run of node9" in said
    assert f"{tmp_path / 'other'} of node8 cannot be looked into" in said
    assert verify(copy).problems == []


def test_it_is_not_taken_in_again(copy):
    from pipeline.config import PlanConfig
    from pipeline.footage.sources import list_sources, source_row
    from pipeline.plan import make_plan

    source_id, uri = a_source(copy)
    remove(copy, {source_id: uri})
    rows = make_plan(
        copy, list_sources([uri]), PlanConfig(), lambda files: [source_row(file) for file in files]
    )
    assert [(row["status"], row["reason"]) for row in rows] == [("dropped", "removed")]
    assert holders(copy, [source_id]) == []
    assert verify(copy).problems == []


def test_where_it_had_failed_before_nothing_of_it_is_left_either(films, tmp_path):
    """What failed has another id: of its address, or of other bytes, which other files may have too."""
    late, list_file = tmp_path / "late.mp4", tmp_path / "list.jsonl"
    said = {"url": str(late), "caption": "SECRETALT the minister", "licence": "L-SECRET", "name": "Jane Roe"}
    others = [{"url": str(path), "caption": "fine"} for path in sorted(films.glob("*.mp4"))[:2]]
    page, twin = tmp_path / "page.mp4", tmp_path / "twin.mp4"
    for path in (page, twin):
        path.write_text("<html>404</html>")
    others += [{"url": str(page), "caption": "SECRETALT too"}, {"url": str(twin), "caption": "fine"}]
    list_file.write_text("".join(json.dumps(row) + "\n" for row in (said, *others)))
    dataset = ingest_here(list_file, tmp_path / "ds")
    tried = [row for row in scans.table(dataset, "sources").to_pylist() if row["status"] == "failed"]
    [failed] = [row for row in tried if row["uri"] == str(late)]
    assert len({row["source_id"] for row in tried}) == 2 and len(tried) == 3
    shutil.copy(sorted(films.glob("*.mp4"))[2], page)
    shutil.copy(sorted(films.glob("*.mp4"))[3], late)
    rows = make_plan(dataset, list_sources([str(list_file)]), PlanConfig(), _rows, retries_failed=True)
    [kept] = [row for row in rows if row["uri"] == str(late)]
    assert kept["status"] == "kept" and kept["source_id"] != failed["source_id"]
    [mended] = [row for row in rows if row["uri"] == str(page)]
    remove(dataset, {row["source_id"]: row["uri"] for row in (kept, mended)})
    words = [kept["source_id"], failed["source_id"], str(late), str(page)]
    words += ["SECRETALT", "L-SECRET", "Jane Roe"]
    assert holders(dataset, words) == []
    left = scans.table(dataset, "sources").to_pylist()
    assert {row["alt"] for row in left} == {"fine"}
    assert {row["uri"] for row in left if row["status"] == "failed"} == {str(twin)}
    assert {row["uri"] for row in scans.table(dataset, "failures").to_pylist()} == {str(twin)}
    assert verify(dataset, deep=True).problems == []


def _rows(files):
    return [source_row(file) for file in files]
