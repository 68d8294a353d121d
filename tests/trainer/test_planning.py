"""Figures of a small run on a slow device are not rounded away."""

import json

import pytest

from manifests import cli


def test_hours_of_a_small_run_are_those_of_its_work(dataset, capsys):
    words = ["plan-training", "tiny", "--data", dataset.uri, "--gpus", "1", "--tflops", "0.0001", "--json"]
    assert cli.main(arguments=words) == cli.DONE
    told = json.loads(capsys.readouterr().out)
    gflop = told["pflops_per_epoch"] * 1e6
    assert 0 < gflop < 1e5
    assert told["hours_per_epoch"] == pytest.approx(gflop / 0.1 / 3600, rel=1e-3)
