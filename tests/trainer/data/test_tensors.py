import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from manifests.errors import IntegrityError
from trainer.data.tensors import tensors_in


def array(data):
    return np.frombuffer(data, np.uint8).copy()


@given(
    shapes=st.lists(st.lists(st.integers(0, 4), max_size=3), min_size=1, max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.int64]),
)
def test_tensors_are_those_that_were_saved_and_lie_in_the_buffer(shapes, dtype):
    tensors = {f"t{index}": (torch.randn(shape) * 9).to(dtype) for index, shape in enumerate(shapes)}
    data = array(save(tensors))
    found = tensors_in(data, "x")
    assert found.keys() == tensors.keys()
    for name, value in found.items():
        assert value.dtype == dtype
        assert torch.equal(value, tensors[name])
        if value.numel():
            assert data.ctypes.data <= value.data_ptr() < data.ctypes.data + len(data)


def forged(entry, body=16):
    header = json.dumps({"t": entry}).encode()
    return array(len(header).to_bytes(8, "little") + header + b"\0" * body)


@pytest.mark.parametrize(
    "data",
    [
        array(b""),
        array(b"\xff" * 40),
        array((5).to_bytes(8, "little") + b"[]   "),
        forged({"dtype": "F32", "shape": [4], "data_offsets": [0, 32]}),
        forged({"dtype": "F32", "shape": [4], "data_offsets": [8, 24]}),
        forged({"dtype": "F32", "shape": [5], "data_offsets": [0, 16]}),
        forged({"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}),
        forged({"dtype": "F32", "shape": [4], "data_offsets": [-16, 0]}),
        forged({"dtype": "Q7", "shape": [4], "data_offsets": [0, 16]}),
        forged({"shape": [4]}),
    ],
)
def test_bytes_that_lie_are_refused_by_name(data):
    with pytest.raises(IntegrityError, match="shard 7"):
        tensors_in(data, "shard 7")
