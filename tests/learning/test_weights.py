"""Weights that cannot be written are an error of the system, by its name, and leave nothing."""

import errno
import resource

import pytest
import torch

from learning.weights import read_weights, write_weights


def test_a_file_that_may_not_grow_so_far_is_named_and_nothing_is_left(tmp_path):
    path = tmp_path / "model.safetensors"
    write_weights({"a": torch.ones(3)}, path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(OSError, match="model") as told:
            write_weights({"a": torch.ones(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert told.value.errno == errno.EFBIG
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert len(read_weights(path)["a"]) == 3
