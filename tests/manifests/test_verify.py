import json
import shutil
from pathlib import Path

import pytest

from manifests.cli import DONE, INTEGRITY, USAGE, main
from manifests.errors import IntegrityError, UsageError
from manifests.layout import Column, Dataset
from manifests.tables import records, scans
from manifests.verify import verify


@pytest.fixture
def copy(dataset, tmp_path) -> Path:
    shutil.copytree(dataset.uri, tmp_path / "copy")
    return tmp_path / "copy"


def test_a_fresh_dataset_is_sound(dataset):
    report = verify(dataset, deep=True)
    assert report.problems == []
    assert report.num_members > 0


def test_deep_verify_finds_a_flipped_bit_in_any_tar_and_any_part(copy):
    files = [
        path
        for path in sorted(copy.rglob("*"))
        if path.suffix in {".tar", ".parquet"} and not {"plan", "shards", "keys"} & set(path.parts)
    ]  # keys are no part of the data: what is damaged there costs the next search time
    assert len(files) > 10
    for path in files:
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
        assert not verify(Dataset(str(copy)), deep=True).is_sound, path
        data[len(data) // 2] ^= 4
        path.write_bytes(data)
    assert verify(Dataset(str(copy)), deep=True).is_sound


def test_a_flipped_bit_of_the_header_is_found(copy):
    """Each is refused as it is opened, or named; but one that makes it an older version's, read as well."""
    path = copy / "dataset.json"
    whole = path.read_bytes()
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 4
        path.write_bytes(data)
        try:
            report = verify(Dataset(str(copy)))
        except (IntegrityError, UsageError):
            continue
        assert any("dataset.json" in problem for problem in report.problems) or b'"1.1"' in data, data
    path.write_text('{"format": "1.5"}')  # as one is told to write it
    assert verify(Dataset(str(copy))).is_sound


def test_cheap_verify_finds_a_cut_tail_and_a_missing_file(copy):
    tar = sorted(copy.rglob("*.tar"))[0]
    data = tar.read_bytes()
    tar.write_bytes(data[:-1])
    assert any(tar.name in problem for problem in verify(Dataset(str(copy))).problems)
    tar.unlink()
    assert any("missing" in problem for problem in verify(Dataset(str(copy))).problems)


def test_a_compaction_meanwhile_is_no_damage(copy, monkeypatch):
    from manifests.checking import columns
    from manifests.writing.compact import compact

    real, done = columns.check_parts, []

    def parts(dataset, record, deep):
        if not done:
            done.append(compact(Dataset(str(copy))))
        return real(dataset, record, deep)

    monkeypatch.setattr(columns, "check_parts", parts)
    found = verify(Dataset(str(copy)), deep=True)
    assert found.is_sound, found.problems
    monkeypatch.undo()
    assert found.num_shards == verify(Dataset(str(copy)), deep=True).num_shards


def test_the_command_line_exits_with_integrity_and_usage_codes(copy, capsys, tmp_path):
    sorted(copy.rglob("*.tar"))[0].unlink()
    assert main(arguments=["verify", str(copy)]) == INTEGRITY
    assert "missing" in capsys.readouterr().out
    assert main(arguments=["info", str(tmp_path)]) == USAGE


def test_what_is_found_of_each_shard_is_kept_for_the_dashboard(copy):
    dataset = Dataset(str(copy))
    column = next(column for column in dataset.columns() if column.name == "latent")
    tar, _ = records.members_of_shard(dataset, column, 0)
    Path(tar).unlink()
    assert main(arguments=["verify", str(copy)]) == INTEGRITY
    path = max(copy.glob("runs/verify-*.jsonl"))
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    bad = [row for row in rows if not row["ok"]]
    assert [(row["column"], row["shard"], row["depth"]) for row in bad] == [(str(column), 0, "cheap")]
    assert "is missing" in bad[0]["problems"][0]
    assert len(rows) == sum(len(dataset.committed_shards(column)) for column in dataset.columns())


def test_lost_records_and_snapshots_are_told(copy, capsys):
    tar = next(copy.rglob("*.tar"))
    (tar.parent / "000999-0123abcd.tar").write_bytes(tar.read_bytes())
    assert main(arguments=["verify", str(copy)]) == DONE
    assert "1 tar (" in (said := capsys.readouterr().err) and "that no record names" in said
    assert main(arguments=["compact", str(copy)]) == DONE
    assert main(arguments=["verify", str(copy)]) == DONE
    for path in (copy / "snapshots").glob("0*.json"):
        path.unlink()
    capsys.readouterr()
    assert main(arguments=["verify", str(copy)]) == INTEGRITY
    assert "none names the" in capsys.readouterr().out


@pytest.mark.parametrize("deep", [False, True])
def test_a_record_in_the_place_of_another_is_named(copy, deep, capsys):
    """Overwritten, exchanged, or a folder where it was; readers refuse it too."""
    folder = next(path for path in (copy / "tables" / "shards").glob("text@*"))
    first, second = sorted(folder.glob("0*.parquet"))[:2]
    data = first.read_bytes(), second.read_bytes()
    column = Column.parse(folder.name)
    for one, other in ((data[1], data[1]), (data[1], data[0])):
        first.write_bytes(one)
        second.write_bytes(other)
        dataset = Dataset(str(copy))
        problems = verify(dataset, deep=deep).problems
        assert any(first.name in problem and "is the record of" in problem for problem in problems)
        with pytest.raises(IntegrityError, match="is the record of"):
            records.rows_of_shard(dataset, "text", column, 0)
        with pytest.raises(IntegrityError, match="is the record of"):
            scans.table(dataset, "text", column)
    second.write_bytes(data[1])
    first.unlink()
    first.mkdir()
    assert any("is a folder" in problem for problem in verify(Dataset(str(copy)), deep=deep).problems)


def test_rows_of_another_shard_are_refused_at_a_lookup(copy):
    folder = next(path for path in (copy / "tables" / "captions").glob("caption@*"))
    first, second = sorted(folder.glob("0*.parquet"))[:2]
    first.write_bytes(second.read_bytes())
    with pytest.raises(IntegrityError, match="rows of other shards"):
        records.rows_of_shard(Dataset(str(copy)), "captions", Column.parse(folder.name), 0)


def test_an_object_of_a_name_that_no_store_of_ours_writes_stops_no_check(dataset, bucket):
    address, client = bucket
    for path in sorted(Path(dataset.uri).rglob("*")):
        if path.is_file():
            key = path.relative_to(dataset.uri).as_posix()
            client.put_object(Bucket="rushes", Key=f"ds/{key}", Body=path.read_bytes())
    stored = Dataset(address("ds"))
    assert verify(stored).is_sound
    tar = next(path for path in (Path(dataset.uri) / "columns").rglob("*.tar"))
    client.put_object(Bucket="rushes", Key=f"ds/columns/{tar.parent.name}//junk.tar", Body=b"x")
    report = verify(Dataset(address("ds")))
    assert report.num_shards and any("remove what does not belong there" in one for one in report.problems)
