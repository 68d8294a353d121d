"""What addresses carry is used, and told to nobody."""

import json
from datetime import timedelta

import pytest

from manifests.cli import output
from manifests.cli.frame import main
from manifests.layout import Dataset
from manifests.runs.events import EventLog, read_events, run_config
from manifests.store import objects, storage
from manifests.text import decoded, shown, split_user, valid
from pipeline.engine.run import print_summary
from pipeline.engine.runner import start_run

SECRETS = ("KEYID", "SECRET", "X-Amz-Signature", "user:pw")
ADDRESSES = (
    "s3://KEYID:SECRET@bucket/a.mp4?region=x",
    "s3://KEYID:SECRET/SEC+RET@bucket/a.mp4",
    "https://host/a.mp4?X-Amz-Signature=abc&X-Amz-Credential=KEYID",
    "http://user:pw@host:8000/v1",
)


def clean(text):
    return not any(secret in text for secret in SECRETS)


@pytest.mark.parametrize("address", ADDRESSES)
def test_messages_tables_and_json_on_the_terminal_hold_no_secret(address, capsys, monkeypatch):
    monkeypatch.setitem(objects.RETRIES, "retry_timeout", timedelta(seconds=1))
    output.say(f"reading {address} now")
    output.print_table("t", ["uri"], [[address]])
    output.print_json({"uri": address, "deep": [{"of": address}]})
    told = capsys.readouterr()
    assert clean(told.out + told.err)
    for text in (told.out, told.err):
        assert "host" in text or "bucket" in text
    assert main(arguments=["info", address]) != 0
    told = capsys.readouterr()
    assert clean(told.out + told.err)


def test_events_and_the_record_of_a_run_hold_no_secret(tmp_path):
    dataset = Dataset.create(str(tmp_path))
    config = {"captioner": {"server": ADDRESSES[-1]}}
    run_id = start_run(dataset, ["rushes", "ingest", *ADDRESSES], config, {}, "embedded")
    log = EventLog(dataset, run_id)
    log.write("shard_failed", f"cannot read {ADDRESSES[1]}", trace=f"at {ADDRESSES[0]}")
    stored = storage.read_bytes(dataset.filesystem, dataset.path("runs", run_id, "run.json")).decode()
    assert clean(stored) and "bucket/a.mp4" in stored
    assert clean(json.dumps(read_events(dataset, run_id)))
    assert run_config(dataset, run_id)["captioner"]["server"] == "http://***@host:8000/v1"


def test_an_at_sign_or_a_colon_of_another_place_is_no_user():
    for text in ("s3://bucket/a@b/c:d.mp4", "https://1234567890123456:443/of/somebody/long@home.mp4"):
        assert shown(text) == text and split_user(text) == ("", text)
    assert split_user("gs://me:a/b@bucket/x@y") == ("me:a/b", "gs://bucket/x@y")


def test_text_without_addresses_is_left_alone():
    for text in ("a ? b @ c", "mail me@host", "what? yes", ""):
        assert shown(text) == text


def test_a_run_records_whole_paths_of_what_its_command_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "it's one.mp4").write_bytes(b"")
    (tmp_path / "preview").mkdir()
    dataset = Dataset.create(str(tmp_path / "ds"))
    words = ["rushes", "ingest", "f/it's one.mp4", "--only", "preview", "s3://b/x.mp4"]
    run_id = start_run(dataset, words, {}, {}, "embedded")
    record = json.loads((tmp_path / "ds" / "runs" / run_id / "run.json").read_text())
    assert record["command"] == [*words[:2], str(tmp_path / words[2]), *words[3:]]


@pytest.mark.parametrize("address", ADDRESSES)
def test_the_last_line_of_an_ingest_holds_no_secret(address, capsys):
    summary = {"dataset": address, "outcome": "done", "seconds": 1.0, "exit_code": 0}
    print_summary(summary | {"funnel": [], "shard_errors": [f"in {address}"]}, is_json=False)
    output.print_line(f"{address}: 3 column versions")
    told = capsys.readouterr()
    assert clean(told.out + told.err) and told.out.count("***@") + told.out.count("...") >= 2


def test_texts_of_other_codings_are_read_and_bytes_are_refused():
    text = "hello there \u00e9"
    for coding in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        assert decoded(text.encode(coding)) == text, coding
    for data in (b"a\0b", b"\x89PNG\0\0\0\rIHDR", b"\xff\xfe\xff"):
        with pytest.raises(UnicodeDecodeError):
            decoded(data)
    assert valid("a\0b") == "ab"
