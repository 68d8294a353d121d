"""An exported model is the one before or the new one: never weights beside the record of others."""

from __future__ import annotations

import json
import shutil
import threading
import time

import pytest
import torch
from safetensors.torch import save_file

from learning.weights import read_weights
from manifests.errors import IntegrityError
from manifests.fingerprint import file_sha256
from trainer.sampling import trained
from trainer.sampling.trained import RECORD, load_model
from trainer.state import export
from trainer.state.export import NEW_WEIGHTS, is_unfinished, save_model


class KilledError(Exception):
    pass


def begun(folder, said):
    folder.mkdir()
    (folder / RECORD).write_text(json.dumps({"said": said, "vae": "its-own"}))
    return folder


def state_of(folder):
    """Which weights and which record lie there; None for what is not there."""
    record = json.loads((folder / RECORD).read_text())["said"] if (folder / RECORD).exists() else None
    weights = folder / "model.safetensors"
    return float(read_weights(weights)["w"][0]) if weights.exists() else None, record


@pytest.mark.parametrize("step", ["write_weights", "replace", "write_local", "none"])
def test_killed_anywhere_weights_are_never_beside_the_record_of_others(tmp_path, monkeypatch, step):
    old, new = begun(tmp_path / "old", "old"), begun(tmp_path / "new", "new")
    out = tmp_path / "model"
    save_model(out, {"w": torch.zeros(2)}, old)
    assert state_of(out) == (0.0, "old")

    def killed(*_):
        raise KilledError

    with monkeypatch.context() as patch:
        if step == "write_weights":
            patch.setattr(export, "write_weights", killed)
        elif step == "replace":
            patch.setattr(export.Path, "replace", killed)
        elif step == "write_local":
            patch.setattr(export.storage, "write_local", killed)
        if step == "none":
            save_model(out, {"w": torch.ones(2)}, new, vae="there")
        else:
            with pytest.raises(KilledError):
                save_model(out, {"w": torch.ones(2)}, new)
    assert state_of(out) in {(0.0, "old"), (0.0, None), (1.0, None), (1.0, "new")}
    if step == "write_weights":
        assert state_of(out) == (0.0, "old")
    save_model(out, {"w": torch.ones(2)}, new, vae="there")
    assert state_of(out) == (1.0, "new") and not (out / NEW_WEIGHTS).exists()
    assert json.loads((out / RECORD).read_text())["vae"] == "there"


def test_a_model_that_was_cut_short_is_written_over_and_one_of_others_is_not(tmp_path):
    run = begun(tmp_path / "run", "own")
    out = tmp_path / "model"
    save_model(out, {"w": torch.zeros(2)}, run, step=7)
    assert json.loads((out / RECORD).read_text())["step"] == 7 and not is_unfinished(out)
    (out / RECORD).unlink()
    assert is_unfinished(out)
    save_file({"w": torch.zeros(2)}, out / "model.safetensors")  # by another program
    assert not is_unfinished(out)


def test_of_two_that_write_at_once_one_waits(tmp_path, monkeypatch):
    run, out, order = begun(tmp_path / "run", "own"), tmp_path / "model", []
    real, is_in = export.write_weights, threading.Event()

    def slow(weights, path):
        order.append(float(weights["w"][0]))
        is_in.set()
        time.sleep(0.3)
        real(weights, path)
        order.append(float(weights["w"][0]))

    monkeypatch.setattr(export, "write_weights", slow)
    first = threading.Thread(target=save_model, args=(out, {"w": torch.zeros(2)}, run))
    first.start()
    is_in.wait(10)
    save_model(out, {"w": torch.ones(2)}, run)
    first.join()
    assert order == [0, 0, 1, 1] and state_of(out) == (1.0, "own")
    assert json.loads((out / RECORD).read_text())["weights"] == file_sha256(out / "model.safetensors")[:16]


def test_weights_of_another_model_than_the_record_tells_of_are_refused(model_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(trained.time, "sleep", lambda _: None)
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    assert load_model(folder).record["weights"] == load_model(folder).digest
    weights = read_weights(folder / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, folder / "model.safetensors")
    with pytest.raises(IntegrityError, match="other weights"):
        load_model(folder)


def test_a_run_that_went_on_since_its_model_was_made_is_told(model_folder, tmp_path, capsys):
    run = tmp_path / "run"
    (run / "checkpoints" / "step-00000007").mkdir(parents=True)
    shutil.copy(model_folder / RECORD, run / RECORD)
    save_model(run / "model", read_weights(model_folder / "model.safetensors"), run, step=7)
    load_model(run)
    assert capsys.readouterr().err == ""
    (run / "checkpoints" / "step-00000040").mkdir()
    load_model(run)
    assert "is of step 7" in (said := capsys.readouterr().err) and "step 40" in said
    load_model(run / "model")  # named by itself: it is what was asked for
    assert capsys.readouterr().err == ""
