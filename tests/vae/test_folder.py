"""A VAE is named by its folder, or by the name of one under weights/."""

from __future__ import annotations

import tomllib

import pytest

from learning.committed import WEIGHTS
from manifests.errors import UsageError
from vae.checkpoint import load_vae
from vae.folder import DEFAULT_WEIGHTS, vae_folder, weights_digest


@pytest.mark.parametrize("folder", sorted(WEIGHTS.glob("vae-*")), ids=lambda folder: folder.name)
def test_committed_weights_load_by_name_wherever_one_stands(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_vae(folder.name).fingerprint == weights_digest(folder) == weights_digest(folder.name)


def test_nothing_is_the_default_and_a_folder_here_goes_before_a_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert vae_folder("") == DEFAULT_WEIGHTS
    (tmp_path / DEFAULT_WEIGHTS.name).mkdir()
    with pytest.raises(UsageError, match=f"{DEFAULT_WEIGHTS.name}: holds no VAE"):
        load_vae(DEFAULT_WEIGHTS.name)


def test_a_name_that_is_nowhere_is_an_error():
    with pytest.raises(UsageError, match="nowhere: holds no VAE"):
        load_vae("nowhere")


def test_a_wheel_carries_the_weights():
    root = WEIGHTS.parent
    told = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert "weights" in told["packages"]["find"]["include"]
    carried = {path for pattern in told["package-data"]["weights"] for path in WEIGHTS.glob(pattern)}
    assert carried == {path for path in WEIGHTS.glob("*/*") if path.is_file()}
