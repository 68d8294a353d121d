"""Steps that are not finite are left out and told, and too many end the training."""

from __future__ import annotations

import pytest

from learning.loop.finite_steps import MOST_IN_A_ROW, FiniteSteps
from manifests.errors import RushesError


def test_some_are_left_out_and_too_many_in_a_row_end_it(capsys):
    steps = FiniteSteps("vae", is_telling=True)
    for number in range(3 * MOST_IN_A_ROW):
        is_bad = number % MOST_IN_A_ROW != 0
        assert steps.takes(number, float("nan") if is_bad else 1.0) != is_bad
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "vae: step 1 is left out, its gradient is not finite" and len(said) == 3
    assert steps.takes(99, 1.0)
    with pytest.raises(RushesError, match=f"{MOST_IN_A_ROW} steps in a row are not finite"):
        for number in range(MOST_IN_A_ROW):
            steps.takes(number, float("inf"))
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_one_of_several_processes_tells(capsys):
    assert not FiniteSteps("vae", is_telling=False).takes(1, float("inf"))
    assert capsys.readouterr().err == ""
