import pytest
import torch
from torch import nn

from learning.processes import join
from learning.state import NAME, load_state, save_state
from manifests.errors import UsageError


def made(seed):
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-2)


def steps(model, optimizer, first, count):
    for number in range(first, first + count):
        torch.manual_seed(number)
        model(torch.randn(16, 4)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def test_a_training_taken_up_is_bit_equal_to_one_that_never_stopped(tmp_path):
    whole, optimizer = made(0)
    steps(whole, optimizer, 0, 5)
    average = {name: value.clone() * 2 for name, value in whole.state_dict().items()}
    save_state(tmp_path, {"model": (whole, optimizer)}, average, "digest", step=5, seconds=0.1 + 0.2)
    steps(whole, optimizer, 5, 4)
    other, second = made(1)
    taken = {name: torch.zeros_like(value) for name, value in other.state_dict().items()}
    assert load_state(tmp_path, {"model": (other, second)}, taken, "digest") == {
        "step": 5.0,
        "seconds": 0.1 + 0.2,
    }
    assert all(torch.equal(taken[name], value) for name, value in average.items())
    steps(other, second, 5, 4)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in other.state_dict().items())


def test_a_state_of_other_settings_is_refused_and_none_is_none(tmp_path):
    model, optimizer = made(0)
    assert load_state(tmp_path, {"model": (model, optimizer)}, {}, "a") is None
    save_state(tmp_path, {"model": (model, optimizer)}, {}, "a", step=1)
    with pytest.raises(UsageError, match="other settings"):
        load_state(tmp_path, {"model": (model, optimizer)}, {}, "b")
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_alone_there_is_one_process():
    rank, size, device = join()
    assert (rank, size) == (0, 1)
    assert device.type in {"cpu", "cuda"}
