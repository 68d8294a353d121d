"""An exported model is the one before or the new one: never weights beside the record of others."""

from __future__ import annotations

import json

import pytest
import torch

from learning.weights import read_weights
from trainer.sampling.trained import RECORD
from trainer.state import export
from trainer.state.export import NEW_WEIGHTS, save_model


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
