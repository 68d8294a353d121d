"""Weights that cannot be written are an error of the system, by its name, and leave nothing."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from learning.weights import read_weights, write_weights
from manifests.errors import IntegrityError
from manifests.store import storage


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_a_flipped_bit_is_named(tmp_path, dtype):
    """Else it would be rubbish without a word."""
    path = tmp_path / "model.safetensors"
    weights = {"a": torch.arange(60).reshape(3, 4, 5).to(dtype), "b": torch.ones((), dtype=dtype)}
    write_weights(weights | {"none": torch.ones(0, dtype=dtype)}, path, {"kind": "x"})
    found = read_weights(path)
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    data = bytearray(path.read_bytes())
    data[-20] ^= 0x01
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match="does not hold the tensors that were written"):
        read_weights(path)


def test_weights_of_others_have_no_checksum_and_are_read(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    assert read_weights(tmp_path / "model.safetensors")["a"].tolist() == [1, 1]


def test_what_a_killed_writer_left_goes_and_what_a_living_one_writes_stays(tmp_path):
    path, child = tmp_path / "model.safetensors", subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    mine = Path(storage.temporary_name(str(path)))
    gone = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{child.pid}-"))
    others = gone.with_name(gone.name.replace(gone.name.split(".")[-2][:6], "abcdef"))  # of another machine
    for left in (mine, gone, others):
        left.write_bytes(b"half")
    write_weights({"a": torch.ones(3)}, path)
    assert {found.name for found in tmp_path.iterdir()} == {path.name, mine.name, others.name}
