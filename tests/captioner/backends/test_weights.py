"""A model's name in a column means the same weights for ever."""

import os

import pytest
from huggingface_hub import constants

from captioner.backends import weights
from captioner.backends.weights import folder_digest, weights_of
from manifests.errors import UsageError


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_byte_in_the_middle_of_large_weights_changes_the_digest_and_each_file_is_read_once(
    tmp_path, monkeypatch
):
    folder = tmp_path / "model"
    (folder / "deep").mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "deep" / "model.safetensors").write_bytes(bytes(5 << 20))
    before = folder_digest(folder)
    assert folder_digest(folder) == before
    real, read = weights.file_sha256, []

    def counted(path):
        read.append(path)
        return real(path)

    monkeypatch.setattr(weights, "file_sha256", counted)
    assert folder_digest(folder) == before and read == []
    data = bytearray(5 << 20)
    data[3 << 20] = 1
    (folder / "deep" / "model.safetensors").write_bytes(data)
    assert folder_digest(folder) != before and read == [folder / "deep" / "model.safetensors"]


def test_a_damaged_or_unwritable_cache_holds_nobody_up(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    before = folder_digest(tmp_path / "file")
    (tmp_path / "cache" / "rushes" / "digests.json").write_text("[")
    assert folder_digest(tmp_path / "file") == before
    monkeypatch.setenv("XDG_CACHE_HOME", os.devnull)
    assert folder_digest(tmp_path / "file") == before


def test_a_hub_id_means_the_revision_that_is_given_or_the_one_that_is_here(tmp_path, monkeypatch):
    assert (
        weights_of("org/model@abc").revision == "abc" and weights_of("org/model@abc").label == "org/model@abc"
    )
    snapshot = tmp_path / "hub" / "models--org--model" / "snapshots" / "f00d"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text("{}")
    (tmp_path / "hub" / "models--org--model" / "refs").mkdir()
    (tmp_path / "hub" / "models--org--model" / "refs" / "main").write_text("f00d")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert weights_of("org/model").label == "org/model@f00d"
    with pytest.raises(UsageError, match="org/other@REVISION"):
        weights_of("org/other")
