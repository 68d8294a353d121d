"""Footage as people have it: links, names and texts that are not sound, and our own outputs among it."""

import json
import os
from pathlib import Path

import pytest

from manifests.cli.files import check_lasting
from manifests.errors import UsageError
from manifests.layout import Dataset
from manifests.tables import scans
from pipeline.footage.lists import entry_uri
from pipeline.footage.sources import Found, list_sources, source_row
from tests.conftest import ingest_here


def names(found, root):
    return sorted(str(Path(item.uri).relative_to(root)) for item in found)


def write(path, data=b"x"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("what", ["dataset", "run"])
def test_our_own_outputs_are_no_footage(tmp_path, capsys, what):
    write(tmp_path / "a.mp4")
    inside = tmp_path / "deep" / "own"
    if what == "dataset":
        Dataset.create(str(inside))
        write(inside / "columns" / "preview@0" / "000000-00000000.tar")
        write(inside / "training" / "tiny" / "samples" / "step.png")
    else:
        for name in ("config.json", "metrics.jsonl", "checkpoints/step-1/x.safetensors", "samples/step.png"):
            write(inside / name)
    assert names(list_sources([str(tmp_path)]), tmp_path) == ["a.mp4"]
    assert "left out: 1 folders that are" in capsys.readouterr().err
    with pytest.raises(UsageError, match="not footage"):
        list_sources([str(inside)])


def test_a_folder_of_somebody_elses_dataset_json_is_footage(tmp_path):
    write(tmp_path / "dataset.json", b'{"name": "holiday", "kind": "photos"}')
    write(tmp_path / "a.mp4")
    assert "a.mp4" in names(list_sources([str(tmp_path)]), tmp_path)


def test_our_datasets_on_a_store_are_no_footage(bucket):
    address, client = bucket
    for key, body in {
        "f/a.mp4": b"x",
        "f/ds/dataset.json": b'{"format": "1.0", "kind": "rushes dataset"}',
        "f/ds/columns/preview@0/000000.tar": b"x",
        "f/other/dataset.json": b"[]",
        "f/other/b.mp4": b"x",
    }.items():
        client.put_object(Bucket="rushes", Key=key, Body=body)
    found = [item.uri.split("?")[0] for item in list_sources([address("f")])]
    assert found == ["s3://rushes/f/a.mp4", "s3://rushes/f/other/b.mp4", "s3://rushes/f/other/dataset.json"]


def test_links_are_followed_once_and_loops_end(tmp_path, capsys):
    root, elsewhere = tmp_path / "foot", tmp_path / "elsewhere"
    write(root / "a.mp4")
    write(elsewhere / "b.mp4")
    (root / "linked").symlink_to(elsewhere)
    (root / "again").symlink_to(elsewhere)
    (root / "loop").symlink_to(root)
    (root / "gone.mp4").symlink_to(tmp_path / "nothing")
    (root / "self.mp4").symlink_to("self.mp4")
    (root / ".hidden.mp4").write_bytes(b"x")
    found = list_sources([str(root)])
    assert names(found, root) == ["a.mp4", "again/b.mp4", "gone.mp4", "self.mp4"]
    said = capsys.readouterr().err
    assert "1 hidden names" in said and "2 links to folders that are listed already" in said
    rows = {Path(item.uri).name: source_row(item) for item in found}
    assert rows["gone.mp4"]["reason"] == "missing"
    assert rows["self.mp4"]["status"] == "failed"


@pytest.mark.skipif(os.getuid() == 0, reason="root may enter every folder")
def test_a_folder_that_may_not_be_entered_is_a_failure(tmp_path):
    write(tmp_path / "a.mp4")
    locked = write(tmp_path / "locked" / "b.mp4").parent
    locked.chmod(0)
    try:
        found = list_sources([str(tmp_path)])
        assert names(found, tmp_path) == ["a.mp4", "locked"]
        assert source_row(found[1])["status"] == "failed"
    finally:
        locked.chmod(0o755)


def test_names_that_are_too_long_fail_by_themselves(tmp_path):
    write(tmp_path / "a.mp4")
    write(tmp_path / ("b" * 251 + ".mp4"))  # with .json it is longer than a name may be
    (tmp_path / "list.txt").write_text(f"a.mp4\n{'x' * 300}\n{'y/' * 3000}\n")
    assert len(list_sources([str(tmp_path)])) == 3
    found = list_sources([str(tmp_path / "list.txt")])
    rows = [source_row(item) for item in found]
    assert len(rows) == 3 and sum(row["status"] == "failed" for row in rows) == 3
    long = list_sources(["z" * 300])
    assert source_row(long[0])["status"] == "failed"


def test_text_beside_a_file_is_its_alt_text_by_one_rule(tmp_path):
    """Of folders as of tars; in UTF-8 with a mark or UTF-16 too."""
    write(tmp_path / "a.mp4")
    write(tmp_path / "a.txt", "a dog\n".encode("utf-16"))
    write(tmp_path / "b.mp4")
    write(tmp_path / "b.json", b"\xef\xbb\xbf" + json.dumps({"caption": "a cat", "license": "CC0"}).encode())
    write(tmp_path / "c.mp4")
    write(tmp_path / "c.json", b'{"text": "from json"}')
    write(tmp_path / "c.txt", b"from text")
    found = {Path(item.uri).name: item for item in list_sources([str(tmp_path)])}
    assert set(found) == {"a.mp4", "b.mp4", "c.mp4"}
    told = {name: sidecar_of(item) for name, item in found.items()}
    assert told["a.mp4"]["alt"] == "a dog"
    assert told["b.mp4"]["alt"] == "a cat" and json.loads(told["b.mp4"]["metadata_json"]) == {
        "licence": "CC0"
    }
    assert told["c.mp4"]["alt"] == "from json"


def sidecar_of(item: Found) -> dict:
    from pipeline.footage.sidecars import sidecar_fields

    return sidecar_fields(item)


def timed(text, kind="dense", **other):
    return {"start_s": 0, "end_s": 60, "kind": kind, "text": text, **other}


def test_one_bad_caption_takes_no_other_along(tmp_path):
    write(tmp_path / "a.mp4")
    bad = [timed("x", start_s="0"), timed("plain", "structured"), timed("[1]", "structured"), 7]
    good = [timed("a dog"), timed('{"subject": "dog"}', "structured")]
    write(tmp_path / "a.json", json.dumps({"captions": [bad[0], good[0], *bad[1:], good[1]]}).encode())
    [item] = list_sources([str(tmp_path)])
    told = sidecar_of(item)
    assert json.loads(told["timed_captions_json"]) == good
    for words in ("number 1 has no number start_s", "number 3 is structured", "number 5 is a int"):
        assert words in told["detail"]


@pytest.mark.parametrize(
    "sidecar",
    [
        '{"alt": "happy \\ud83d"}',
        '{"captions": [{"start_s": 0, "end_s": 2, "kind": "dense", "text": "happy \\ud83d"}]}',
        '{"captions": [{"start_s": 0, "end_s": 2, "kind": "structured", "text": "subject: dog"}]}',
        '{"tags": ["\\udc00"], "note": {"\\ud83d": "\\ud83d"}}',
    ],
)
def test_half_an_emoji_in_one_sidecar_loses_nothing(films, tmp_path, sidecar):
    footage = tmp_path / "footage"
    footage.mkdir()
    chosen = sorted(path for path in films.iterdir() if path.suffix != ".json")[:2]
    for path in chosen:
        (footage / path.name).symlink_to(path)
    (footage / f"{chosen[1].stem}.json").write_text(sidecar)
    dataset = ingest_here(footage, tmp_path / "ds")
    sources = scans.table(dataset, "sources").to_pylist()
    assert [row["status"] for row in sources] == ["kept", "kept"]
    captions = scans.table(dataset, "captions").to_pylist()
    clips = scans.table(dataset, "clips").num_rows
    assert clips and len({row["clip_id"] for row in captions}) == clips
    if "alt" in sidecar:
        assert "happy \ufffd" in {row["text"] for row in captions}


def test_any_text_can_be_stored():
    from manifests.schemas import to_table

    stored = to_table("failures", [{"cause": "half \ud83d", "error": "x"}])
    assert stored["cause"].to_pylist() == ["half \ufffd"]


@pytest.mark.parametrize(
    ("entry", "address"),
    [
        ("s3://bucket/a.mp4?endpoint_override=evil.example", "s3://bucket/a.mp4"),
        ("s3://key:secret@bucket/a.mp4?region=x", "s3://bucket/a.mp4"),
        ("gs://user@bucket/a b.mp4?x=1", "gs://bucket/a%20b.mp4"),
        ("s3://bucket/a%20b%25.mp4", "s3://bucket/a%20b%25.mp4"),
        ("https://host/a.mp4?signature=x", "https://host/a.mp4?signature=x"),
    ],
)
@pytest.mark.parametrize("where", ["/lists/a.csv", "s3://lists/a.csv", "https://host/a.csv"])
def test_a_list_may_not_choose_who_is_sent_our_credentials(entry, address, where):
    assert entry_uri(entry, where) == address


def test_a_jobs_relative_output_is_refused(tmp_path, monkeypatch):
    cache = tmp_path / "ray" / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0"
    cache.mkdir(parents=True)
    monkeypatch.chdir(cache)
    with pytest.raises(UsageError, match=r"Ray deletes.*s3://BUCKET/DATASET"):
        check_lasting("DATASET")
    check_lasting("s3://bucket/DATASET")
    check_lasting(str(tmp_path / "DATASET"))
