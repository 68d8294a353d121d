"""A training command as a Ray Train job: two workers take one global batch."""

import os

import pytest

from tests.captioner.coca.small import losses_of
from tests.e2e.commands import run

OPTIONS = ("--films", 24, "--steps", 2, "--batch", 4, "--threads", 1, "--stage", "base")


@pytest.mark.slow
@pytest.mark.ray
def test_two_ray_workers_train_as_one_process(tmp_path):
    run("train-captioner", tmp_path / "one", *OPTIONS)
    told = run(
        "launch",
        "--workers",
        2,
        "--cpus",
        0.5,
        "--",
        "train-captioner",
        tmp_path / "two",
        *OPTIONS,
    )
    one, two = (losses_of(tmp_path / name / "training" / "base") for name in ("one", "two"))
    assert len(two) == 2
    assert one[0] == pytest.approx(two[0], rel=1e-4)
    assert (tmp_path / "two" / "base.safetensors").exists()
    assert "captioner: stage base" in told.stderr  # what the first worker says comes out here


@pytest.mark.slow
@pytest.mark.ray
def test_what_a_worker_refuses_is_refused_as_at_home(tmp_path):
    told = run(
        "launch",
        "--workers",
        1,
        "--cpus",
        0.5,
        "--",
        "fit",
        "tiny",
        "--data",
        "nosuch",
        "--out",
        "x",
        check=2,
    )
    assert "nosuch" in told.stderr
    assert "goes on from what is there" not in told.stderr


def test_what_is_no_training_command_is_refused_before_ray_starts(tmp_path):
    assert "is no verb that several workers share" in run("launch", "info", check=2).stderr


def test_more_workers_at_least_than_at_most_are_refused_before_ray_starts():
    told = run("launch", "--workers", 2, "--least-workers", 5, "--", "fit", "tiny", "--data", "x", check=2)
    assert "--least-workers 5: is more than --workers" in told.stderr


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(300)
def test_fewer_workers_than_wanted_begin_where_that_is_allowed(tmp_path):
    """Eight workers of one CPU each do not fit this machine; one to eight do."""
    run(
        "launch",
        "--workers",
        max(8, 2 * (os.cpu_count() or 1)),
        "--least-workers",
        1,
        "--",
        "train-captioner",
        tmp_path / "out",
        *OPTIONS,
    )
    assert len((tmp_path / "out" / "training" / "base" / "metrics.jsonl").read_text().splitlines()) == 2
    assert (tmp_path / "out" / "base.safetensors").exists()
