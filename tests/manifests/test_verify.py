import json
import shutil
from pathlib import Path

import pytest

from manifests.cli import DONE, INTEGRITY, USAGE, main
from manifests.layout import Dataset
from manifests.tables import records
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


def test_cheap_verify_finds_a_cut_tail_and_a_missing_file(copy):
    tar = sorted(copy.rglob("*.tar"))[0]
    data = tar.read_bytes()
    tar.write_bytes(data[:-1])
    assert any(tar.name in problem for problem in verify(Dataset(str(copy))).problems)
    tar.unlink()
    assert any("missing" in problem for problem in verify(Dataset(str(copy))).problems)


def test_a_compaction_meanwhile_is_no_damage(copy, monkeypatch):
    from manifests import verify as module
    from manifests.writing.compact import compact

    real, done = module._check_parts, []

    def parts(dataset, record, deep):
        if not done:
            done.append(compact(Dataset(str(copy))))
        return real(dataset, record, deep)

    monkeypatch.setattr(module, "_check_parts", parts)
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
