"""The loop that trainings of small models share: a stop saves what was done, a resume loses nothing."""

import errno
import json
import os
import signal

import pytest
import torch
from torch import nn

from learning.loop import run_lock
from learning.loop.training import Training, drive
from learning.stopping import Interrupted, ask_to_stop
from manifests import cli
from manifests.errors import UsageError


def begun(folder, digest="data"):
    torch.manual_seed(0)
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), lr=1e-2)
    return Training("toy", folder, {"model": (layer, optimizer)}, digest, ema_decay=0.9)


def stepping(training, asked_at=None, name=signal.SIGTERM):
    def one():
        if training.step == asked_at:
            os.kill(os.getpid(), name)
        drive(training.parts, {"model": 1e-2 / (1 + training.step)})
        generator = torch.Generator().manual_seed(training.step)
        loss = training.model(torch.randn(4, 3, generator=generator)).square().mean()
        loss.backward()
        training.take(["model"], 1.0)
        return {"loss": float(loss.detach())}

    return one


def rows(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("name", "code"), [(signal.SIGTERM, cli.DONE), (signal.SIGINT, cli.INTERRUPTED)])
def test_a_signal_ends_a_training_after_its_step_and_the_same_command_goes_on(tmp_path, capsys, name, code):
    whole = begun(tmp_path / "whole")
    whole.run(9, 100, stepping(whole), told="loss")
    asked = begun(tmp_path / "asked")
    with pytest.raises(Interrupted) as stopped:
        asked.run(9, 100, stepping(asked, asked_at=4, name=name), told="loss")
    assert stopped.value.code == code
    assert f"toy: {name.name}: saved after step 5; the same command goes on" in capsys.readouterr().err
    assert [row["step"] for row in rows(tmp_path / "asked")] == list(range(5))

    again = begun(tmp_path / "asked")
    again.resume()
    assert again.step == 5
    assert again.seconds >= 0
    again.run(9, 100, stepping(again), told="loss")
    assert rows(tmp_path / "asked") == rows(tmp_path / "whole")
    for key, value in whole.average.items():
        assert torch.equal(value, again.average[key])
        assert torch.equal(whole.model.state_dict()[key], again.model.state_dict()[key])


def test_a_signal_in_the_last_step_is_heard(tmp_path, capsys):
    """What comes after the steps, as the next stage of a captioner, is not begun."""
    training = begun(tmp_path)
    with pytest.raises(Interrupted):
        training.run(5, 100, stepping(training, asked_at=4), told="loss")
    assert "saved after step 5" in capsys.readouterr().err
    again = begun(tmp_path)
    again.resume()
    again.run(5, 100, stepping(again), told="loss")
    assert again.step == 5 and len(rows(tmp_path)) == 5


def test_a_stop_before_the_first_step_leaves_no_state(tmp_path, capsys):
    training = begun(tmp_path)
    steps = stepping(training)

    def never():
        raise AssertionError("no step is due")

    ask_to_stop("SIGTERM")
    with pytest.raises(Interrupted):
        training.run(3, 1, never, told="loss")
    assert not (tmp_path / "state.safetensors").exists()
    assert "stopped before the first step" in capsys.readouterr().err
    training.run(3, 1, steps, told="loss")
    assert training.step == 3


def test_two_trainings_in_one_folder_are_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(run_lock, "PATIENCE_S", 0.3)
    with run_lock.one_at_a_time(tmp_path / "training", "vae"):
        second = run_lock.one_at_a_time(tmp_path / "training", "vae")
        with pytest.raises(UsageError, match="is in use by another run"), second:
            pytest.fail("both are in it")
        assert "vae: " in capsys.readouterr().err
    with run_lock.one_at_a_time(tmp_path / "training", "vae"):
        pass


def test_what_fails_before_it_begins_leaves_no_folder(tmp_path):
    def failing(begins):
        with run_lock.one_at_a_time(tmp_path / "out" / "training", "vae"):
            if begins:
                (tmp_path / "out" / "training" / "metrics.jsonl").touch()
            raise UsageError("--films", "leaves nothing")

    with pytest.raises(UsageError):
        failing(False)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UsageError):
        failing(True)
    assert (tmp_path / "out" / "training" / "metrics.jsonl").exists()


def test_a_disk_that_keeps_no_locks_is_said_and_used(tmp_path, monkeypatch, capsys):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_lock.fcntl, "flock", none)
    with run_lock.one_at_a_time(tmp_path, "vae"):
        assert "lies where nothing can be locked" in capsys.readouterr().err


def test_a_step_whose_gradient_is_not_finite_changes_no_weight(tmp_path):
    training = begun(tmp_path)
    before = {key: value.clone() for key, value in training.model.state_dict().items()}
    training.model(torch.ones(1, 3)).sum().backward()
    training.take(["model"], float("nan"))
    assert all(torch.equal(before[key], value) for key, value in training.model.state_dict().items())
    assert all(value.grad is None for value in training.model.parameters())
