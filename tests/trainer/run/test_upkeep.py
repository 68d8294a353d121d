"""No garbage is collected amid a step; a trace is written when asked for."""

import dataclasses
import gc
import gzip
import json

import pytest

from manifests.errors import UsageError
from trainer.config import ModelConfig
from trainer.presets import preset
from trainer.run import loop
from trainer.run.fit import fit
from trainer.run.upkeep import quiet_memory, steps_traced

TEST = dataclasses.replace(
    preset("tiny"), model=ModelConfig(width=48, depth=1, num_heads=2), tokens=256, is_tensorboard=False
)


def test_memory_is_quiet_inside_and_as_before_outside():
    with pytest.raises(ZeroDivisionError), quiet_memory():
        assert not gc.isenabled() and gc.get_freeze_count()
        raise ZeroDivisionError
    assert gc.isenabled() and not gc.get_freeze_count()


@pytest.mark.parametrize("text", ["10", "5:5", "7:3", "a:b", "-1:4", ":", "1:2:3"])
def test_steps_that_are_none_are_refused(text):
    with pytest.raises(UsageError, match="names no steps"):
        steps_traced(text)


def test_a_trace_is_written_of_the_steps_asked_for(dataset, tmp_path, monkeypatch, capsys):
    assert list(steps_traced("2:4")) == [2, 3] and not steps_traced("")
    seen, real = [], loop.train_step
    monkeypatch.setattr(loop, "train_step", lambda *own: seen.append(gc.isenabled()) or real(*own))
    fit(dataset, "default", dataclasses.replace(TEST, steps=5, profile="2:4"), tmp_path)
    assert seen == [False] * 5
    assert "trace of steps 2 to 3" in capsys.readouterr().err
    trace = json.loads(gzip.decompress((tmp_path / "profile" / "steps-2-4.json.gz").read_bytes()))
    assert any("mm" in event.get("name", "") for event in trace["traceEvents"])
    assert "Self CPU" in (tmp_path / "profile" / "steps-2-4.txt").read_text()
