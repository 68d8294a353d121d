"""Options of `fit` that would have no effect are refused, and no other."""

from __future__ import annotations

import pytest

from manifests import cli
from manifests.cli.frame import main


@pytest.mark.parametrize(
    ("words", "needs"),
    [
        (["--gpus", "4"], "--launch ray"),
        (["--devices", "8"], "--dry-run"),
        (["--tflops", "500"], "--dry-run"),
        (["--cache-gb", "3"], "--cache"),
        (["--least-workers", "1"], "--launch ray"),
        (["--workers", "2"], "--launch processes"),
        (["--dry-run", "--gpus", "8"], "--devices"),
        (["--dry-run", "--cache-gb", "3"], "--cache"),
        (["--launch", "processes", "--gpus", "1"], "--launch ray"),
    ],
)
def test_what_would_do_nothing_is_refused(tmp_path, capsys, words, needs):
    given = ["fit", "tiny", "--data", str(tmp_path / "none"), "--out", str(tmp_path / "run"), *words]
    assert main(arguments=given) == cli.USAGE
    said = capsys.readouterr().err
    assert "has no effect here" in said and needs in said
    assert not (tmp_path / "run").exists()


def test_a_dry_run_counts_with_its_own(tmp_path, capsys):
    given = ["fit", "tiny", "--data", "none", "--out", str(tmp_path / "run"), "--dry-run", "--devices", "2"]
    given += ["--launch", "processes", "--workers", "2"]  # the line that one is about to run
    assert main(arguments=given) == cli.DONE
    assert "2 device" in capsys.readouterr().out
