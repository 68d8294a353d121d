"""What a measured file says, and what a run takes of it."""

import json

import pytest
import torch

from manifests.errors import IntegrityError, UsageError
from trainer.config import ModelConfig
from trainer.config_files import measured_settings
from trainer.presets import preset
from trainer.reports.measured import KernelTime, crossover, kernel_times, measure
from trainer.verbs.fit import Fit
from trainer.verbs.plan import Measure


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([(256, 1.0, 5.0), (1024, 2.0, 2.5), (4096, 4.0, 3.0), (16384, 9.0, 5.0)], 4096),
        ([(256, 1.0, 0.5), (1024, 2.0, 2.5), (4096, 4.0, 3.0)], 4096),  # faster for all that are longer
        ([(256, 1.0, 0.5), (1024, 2.0, 1.5)], 256),
        ([(256, 1.0, 1.0), (1024, 2.0, 2.0)], 0),
        ([], 0),
    ],
)
def test_the_crossover_is_where_a_kernel_alone_wins_from(times, expected):
    assert crossover([KernelTime(*own, torchs=1.0) for own in times]) == expected


def test_a_cpu_has_one_kernel_and_a_cost():
    assert kernel_times(2, 8, torch.device("cpu"), 1024) == []
    found = measure(
        preset("tiny", model=ModelConfig(width=64, depth=1, num_heads=2)), torch.device("cpu"), 256
    )
    assert found.device == "cpu" and found.attention_cost > 0 and found.long_documents == 0


def test_a_run_takes_what_was_measured_and_options_go_before_it(tmp_path, capsys, monkeypatch):
    path = tmp_path / "device.json"
    monkeypatch.setattr("trainer.presets.PRESETS", {"tiny": small})
    assert Measure(preset="tiny", tokens=256, out=path).run() == 0
    said = json.loads(path.read_text())
    assert json.loads(capsys.readouterr().out) == said
    with pytest.raises(UsageError, match="exists"):
        Measure(preset="tiny", tokens=256, out=path).run()
    config = Fit(preset="tiny", dry_run=True, measured=path).config()
    assert config.attention_cost == said["attention_cost"] and config.long_documents == 0
    assert Fit(preset="tiny", dry_run=True, measured=path, attention_cost=0.5).config().attention_cost == 0.5


def small():
    return preset_of_tests


preset_of_tests = preset("tiny", model=ModelConfig(width=64, depth=1, num_heads=2))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", IntegrityError),
        ("{}", UsageError),
        ('{"attention_cost": "x", "long_documents": 1, "preset": "tiny"}', UsageError),
        ('{"attention_cost": -1.0, "long_documents": 1, "preset": "tiny"}', UsageError),
        ('{"attention_cost": 1.0, "long_documents": 1, "preset": "xl"}', UsageError),
    ],
)
def test_what_is_no_measurement_of_the_preset_is_refused(tmp_path, text, error):
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(error):
        measured_settings(path, "tiny")
