"""Copies of checkpoints on an object store: a run whose folder is gone goes on; a cut copy is none."""

import dataclasses
import json
import shutil
import threading

import pytest
import torch

from manifests.errors import UsageError
from manifests.store import storage
from tests.trainer.run.test_fit import TEST, consumed, losses
from trainer.run.fit import fit
from trainer.run.going_back import GoingBack
from trainer.state import checkpoint_files, mirror
from trainer.state.checkpoint_files import damage, is_trusted, list_checkpoints, read_state, trust
from trainer.state.mirror import Mirror
from trainer.state.parallel import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"))


def settings(steps, address, **more):
    return dataclasses.replace(TEST, steps=steps, cooldown=0.0, checkpoints=address, **more)


def test_a_run_whose_folder_is_gone_goes_on_from_the_bucket_as_if_nothing_had_happened(
    dataset, bucket, tmp_path
):
    address, client = bucket
    plain = tmp_path / "plain"
    fit(dataset, "default", dataclasses.replace(TEST, steps=12, cooldown=0.0), plain)
    fit(dataset, "default", settings(7, address("run"), is_async_saving=True), tmp_path / "here")
    shutil.rmtree(tmp_path / "here")
    fit(dataset, "default", settings(12, address("run")), tmp_path / "there")
    assert losses(tmp_path / "there") == losses(plain)
    assert consumed(tmp_path / "there") == consumed(plain)
    name = "model/model.safetensors"
    assert (tmp_path / "there" / name).read_bytes() == (plain / name).read_bytes()
    keys = [item["Key"] for item in client.list_objects_v2(Bucket="rushes")["Contents"]]
    steps = {key.split("/")[1] for key in keys}
    here = {path.name for path in list_checkpoints(tmp_path / "there" / "checkpoints")}
    assert steps == {"logs", *here} and "step-00000012" in here, "what is deleted here is deleted there"
    assert "run/step-00000012/state.json" in keys and "run/step-00000012/run/config.json" in keys


@pytest.fixture
def copied(dataset, tmp_path):
    """(run folder, folder of the copies) of a run of four steps."""
    fit(dataset, "default", settings(4, str(tmp_path / "copies")), tmp_path / "run")
    return tmp_path / "run", tmp_path / "copies"


def later(checkpoint, step):
    """A copy of a checkpoint as that of another step."""
    copy = checkpoint.with_name(f"step-{step:08d}")
    shutil.copytree(checkpoint, copy)
    stored = json.loads((copy / "state.json").read_text())
    del stored["crc32"]
    (copy / "state.json").write_text(json.dumps(stored | {"state": stored["state"] | {"step": step}}))


def anything(_):
    """No settings to compare."""


def test_a_copy_without_its_state_or_with_a_file_too_few_is_none(copied, tmp_path):
    _, copies = copied
    for number, without in ((9, "state.json"), (8, "*.safetensors")):
        other = copies / f"step-{number:08d}"
        shutil.copytree(copies / "step-00000004", other)
        next(other.glob(without)).unlink()
    found = Mirror(str(copies), tmp_path / "new", ALONE)
    assert found.complete() == ["step-00000004"]
    found.restore(anything)
    [path] = list_checkpoints(tmp_path / "new" / "checkpoints")
    assert read_state(path).step == 4 and not damage(path, ALONE)


def test_what_lies_here_and_is_newer_stays(copied):
    run, copies = copied
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    Mirror(str(copies), run, ALONE).restore(anything)
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*")} == before


def test_logs_are_sent_piece_by_piece_and_again_where_a_resumed_run_wrote_other_bytes(copied, tmp_path):
    run, copies = copied
    [first] = own_pieces(copies)
    log, whole = run / "metrics.jsonl", (run / "metrics.jsonl").read_bytes()
    assert first.name.startswith("000000000000000-") and first.read_bytes() == whole
    own = Mirror(str(copies), run, ALONE)
    for added in (b'{"step": 4}\n', b'{"step": 5}\n'):
        with open(log, "ab") as file:
            file.write(added)
        own.logs.send(log, log.stat().st_size)
    assert [path.read_bytes() for path in own_pieces(copies)] == [
        whole,
        b'{"step": 4}\n',
        b'{"step": 5}\n',
    ]
    # cut back to before what was sent, and grown beyond it: the copy was made some steps after its checkpoint
    other = whole + b'{"step": 4, "time_s": 7}\n{"step": 5, "time_s": 8}\n{"step": 6}\n'
    log.write_bytes(other)
    own.logs.send(log, len(other))
    assert b"".join(path.read_bytes() for path in own_pieces(copies)) == other
    log.write_bytes(b'{"step": 0}\n')
    own.logs.send(log, 12)
    assert b"".join(path.read_bytes() for path in own_pieces(copies)) == b'{"step": 0}\n'


def test_a_log_that_lacks_a_piece_is_told(copied, tmp_path, monkeypatch):
    _, copies = copied
    said = []
    monkeypatch.setattr(mirror, "say", said.append)
    own_pieces(copies)[0].write_bytes(b"something else")
    Mirror(str(copies), tmp_path / "new", ALONE).restore(anything)
    assert (tmp_path / "new" / "metrics.jsonl").read_bytes() == b""
    assert any("metrics.jsonl ends after 0 of" in line for line in said)


def test_a_copy_with_a_damaged_state_is_passed_over_and_told(copied, tmp_path, monkeypatch):
    _, copies = copied
    said = []
    monkeypatch.setattr(mirror, "say", said.append)
    shutil.copytree(copies / "step-00000004", copies / "step-00000008")
    (copies / "step-00000008" / "state.json").write_bytes(b"{")
    Mirror(str(copies), tmp_path / "new", ALONE).restore(anything)
    [path] = list_checkpoints(tmp_path / "new" / "checkpoints")
    assert path.name == "step-00000004" and any("step-00000008 is damaged" in line for line in said)


def test_a_store_that_does_not_answer_ends_every_process_by_name(copied, tmp_path, monkeypatch):
    _, copies = copied

    def refused(*_):
        raise OSError("connection refused")

    monkeypatch.setattr(mirror.storage, "list_folders", refused)
    with pytest.raises(UsageError, match="connection refused"):
        Mirror(str(copies), tmp_path / "new", ALONE).restore(anything)


def own_pieces(copies):
    return sorted((copies / "logs" / "metrics.jsonl").iterdir())


def test_a_checkpoint_that_was_left_does_not_come_back_and_a_trusted_one_stays_trusted(copied, tmp_path):
    run, copies = copied
    folder, own = run / "checkpoints", Mirror(str(copies), run, ALONE)
    later(folder / "step-00000004", 8)
    trust(folder / "step-00000004")
    own.trust(folder / "step-00000004")
    own.begin(folder / "step-00000008")
    own.finish()
    assert own.complete() == ["step-00000004", "step-00000008"]
    GoingBack(dataclasses.replace(TEST), folder, ALONE, {"8": 0}, own)._forget(4)
    assert own.complete() == ["step-00000004"] and not (folder / "step-00000008").exists()
    Mirror(str(copies), tmp_path / "new", ALONE).restore(anything)
    [path] = list_checkpoints(tmp_path / "new" / "checkpoints")
    assert is_trusted(path)


def test_a_checkpoint_that_is_rotated_away_while_it_is_copied_is_copied_whole(copied, tmp_path, monkeypatch):
    run, copies = copied
    folder, own = run / "checkpoints", Mirror(str(copies), run, ALONE)
    later(folder / "step-00000004", 8)
    going, real = threading.Event(), storage.copy_in
    monkeypatch.setattr(mirror.storage, "copy_in", lambda *of: (going.wait(30), real(*of)))
    own.begin(folder / "step-00000008")
    shutil.rmtree(folder / "step-00000008")
    going.set()
    own._pending[0].result(30)
    own.poll()
    assert own.complete() == ["step-00000004", "step-00000008"]
    assert not list(folder.glob(".step-*"))
    Mirror(str(copies), tmp_path / "new", ALONE).restore(anything)
    assert not damage(tmp_path / "new" / "checkpoints" / "step-00000008", ALONE)


def test_a_checkpoint_that_is_left_while_it_is_copied_does_not_appear(copied):
    run, copies = copied
    folder, own = run / "checkpoints", Mirror(str(copies), run, ALONE)
    later(folder / "step-00000004", 8)
    own.begin(folder / "step-00000008")
    GoingBack(dataclasses.replace(TEST), folder, ALONE, {"8": 0}, own)._forget(4)
    own._pending[0].result(30)
    own.poll()
    assert own.complete() == ["step-00000004"]
    assert not [path for path in (copies / "step-00000008").rglob("*") if path.is_file()]


def test_copies_of_another_run_are_refused_before_anything_is_fetched(dataset, copied, tmp_path):
    _, copies = copied
    with pytest.raises(UsageError, match="other settings: seed 0 is now 7"):
        fit(dataset, "default", settings(4, str(copies), seed=7), tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_restore_that_is_cut_leaves_no_half_file(copied, tmp_path, monkeypatch):
    _, copies = copied
    real = storage.os.replace

    def killed(source, target):
        if str(target).endswith("held-out.json"):
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(storage.os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        Mirror(str(copies), tmp_path / "new", ALONE).restore(anything)
    assert not (tmp_path / "new" / "held-out.json").exists()
    monkeypatch.undo()
    Mirror(str(copies), tmp_path / "new", ALONE).restore(anything)
    assert json.loads((tmp_path / "new" / "held-out.json").read_text())


def test_a_copy_that_fails_is_told_and_the_run_goes_on(dataset, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(mirror, "say", said.append)

    def refused(*_):
        raise OSError("no space left")

    monkeypatch.setattr(mirror.storage, "copy_in", refused)
    assert fit(dataset, "default", settings(4, str(tmp_path / "copies")), tmp_path / "run") == 4
    assert any("not copied" in line and "no space left" in line for line in said)
    assert not Mirror(str(tmp_path / "copies"), tmp_path / "run", ALONE).complete()


def test_checksums_are_taken_while_writing(dataset, tmp_path, monkeypatch):
    real, read = checkpoint_files._checked, []
    monkeypatch.setattr(checkpoint_files, "_checked", lambda path: read.append(path) or real(path))
    fit(dataset, "default", dataclasses.replace(TEST, steps=4, cooldown=0.0), tmp_path / "run")
    [path] = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert not read, "nothing is read back"
    files = json.loads((path / "state.json").read_text())["files"]
    assert files and all(list(real(path / name)) == sums for name, sums in files.items())
