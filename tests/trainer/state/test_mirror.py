"""Copies of checkpoints on an object store: a run whose folder is gone goes on; a cut copy is none."""

import dataclasses
import json
import shutil

import pytest
import torch

from manifests.errors import IntegrityError
from tests.trainer.run.test_fit import TEST, consumed, losses
from trainer.run.fit import fit
from trainer.state import checkpoint_files, mirror
from trainer.state.checkpoint_files import damage, list_checkpoints, read_state
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
    assert steps == {"step-00000008", "step-00000012"}, "the newest two are kept"
    assert "run/step-00000012/state.json" in keys and "run/step-00000012/run/config.json" in keys


@pytest.fixture
def copied(dataset, tmp_path):
    """(run folder, folder of the copies) of a run of four steps."""
    fit(dataset, "default", settings(4, str(tmp_path / "copies")), tmp_path / "run")
    return tmp_path / "run", tmp_path / "copies"


def test_a_copy_without_its_state_is_none(copied, tmp_path):
    run, copies = copied
    (copies / "step-00000009").mkdir()
    shutil.copy(copies / "step-00000004" / "state.json", copies / "step-00000009" / "state.json.part")
    found = Mirror(str(copies), run, 2, ALONE)
    assert found.complete() == ["step-00000004"]
    found.restore(tmp_path / "new")
    [path] = list_checkpoints(tmp_path / "new")
    assert read_state(path).step == 4 and not damage(path, ALONE)


def test_what_lies_here_and_is_newer_stays(copied):
    run, copies = copied
    before = {path: path.stat().st_mtime_ns for path in (run / "checkpoints").rglob("*")}
    Mirror(str(copies), run, 2, ALONE).restore(run / "checkpoints")
    assert {path: path.stat().st_mtime_ns for path in (run / "checkpoints").rglob("*")} == before


def test_a_copy_that_lacks_a_file_is_named(copied, tmp_path):
    run, copies = copied
    next((copies / "step-00000004").glob("*.safetensors")).unlink()
    with pytest.raises(IntegrityError, match="lacks"):
        Mirror(str(copies), run, 2, ALONE).restore(tmp_path / "new")


def test_a_copy_that_fails_is_told_and_the_run_goes_on(dataset, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(mirror, "say", said.append)

    def refused(*_):
        raise OSError("no space left")

    monkeypatch.setattr(mirror.storage, "copy_in", refused)
    assert fit(dataset, "default", settings(4, str(tmp_path / "copies")), tmp_path / "run") == 4
    assert any("not copied" in line and "no space left" in line for line in said)
    assert not Mirror(str(tmp_path / "copies"), tmp_path / "run", 2, ALONE).complete()


def test_checksums_are_taken_while_writing(dataset, tmp_path, monkeypatch):
    real, read = checkpoint_files._checked, []
    monkeypatch.setattr(checkpoint_files, "_checked", lambda path: read.append(path) or real(path))
    fit(dataset, "default", dataclasses.replace(TEST, steps=4, cooldown=0.0), tmp_path / "run")
    [path] = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert not read, "nothing is read back"
    files = json.loads((path / "state.json").read_text())["files"]
    assert files and all(list(real(path / name)) == sums for name, sums in files.items())
