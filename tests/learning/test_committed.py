"""Weights that come with the project are found by name, from wherever one is."""

from pathlib import Path

import pytest

from learning.committed import WEIGHTS, folder_of
from trainer.sampling.trained import model_folder


@pytest.mark.parametrize("name", ["dit-tiny", "weights/dit-tiny"])
def test_a_name_or_the_folder_as_a_checkout_has_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert folder_of(name, WEIGHTS) == WEIGHTS / "dit-tiny"
    assert model_folder(Path(name)) == WEIGHTS / "dit-tiny"
    mine = tmp_path / name
    mine.mkdir(parents=True)
    assert folder_of(name, WEIGHTS) == Path(name), "one's own folder is meant before"
