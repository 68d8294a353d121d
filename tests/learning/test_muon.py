"""Muon in fp32: updates are nearly orthogonal, those of torch's own to its rounding, and attention's
projections are taken apart.
"""

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.tensor import Shard, distribute_tensor

from learning.muon import Muon, orthogonal


@pytest.mark.parametrize("shape", [(16, 64), (8, 40), (40, 8)])
def test_singular_values_come_near_one(shape):
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonal(torch.randn(5, *shape)))
    assert values.min() > 0.6
    assert values.max() < 1.3


def test_steps_are_those_of_torchs_muon_up_to_its_rounding():
    torch.manual_seed(0)
    ours, theirs = (
        torch.nn.Parameter(value) for value in torch.randn(24, 32).repeat(2, 1, 1).clone().unbind()
    )
    optimizers = (
        Muon([ours], 1e-2, 0.1),
        torch.optim.Muon([theirs], lr=1e-2, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    begin = ours.detach().clone()
    for _ in range(4):
        gradient = torch.randn(24, 32)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert (ours - theirs).norm() < 0.03 * (ours - begin).norm()


def test_the_three_projections_of_an_attention_are_three_matrices():
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.zeros(48, 16))
    weight.grad = torch.randn(48, 16)
    Muon([weight], 1.0).step()
    for part in weight.detach().split(16):
        values = torch.linalg.svdvals(
            part / (0.2 * 16**0.5)
        )  # of a random square matrix the least may be too small to come up in five steps
        assert 0.6 < values[:-2].min() < values.max() < 1.3


def _steps(rank: int, size: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store{size}", rank=rank, world_size=size)
    torch.manual_seed(0)
    weights = [torch.randn(shape) for shape in ((8, 16), (8, 16), (8, 16), (24, 8), (5, 5))]
    optimizer = Muon(weights, 1e-2, 0.1, processes=(rank, size))
    for step in range(3):
        for index, weight in enumerate(weights):
            weight.grad = (
                torch.randn(weight.shape, generator=torch.Generator().manual_seed(10 * step + index))
                if step + index
                else None
            )
        optimizer.step()
    torch.save(weights, f"{folder}/{size}-{rank}.pt")
    dist.barrier()  # one that leaves while others still connect may be ended by its own threads
    dist.destroy_process_group()


def test_processes_that_share_the_matrices_take_the_steps_of_one(tmp_path):
    for size in (1, 3):
        mp.spawn(_steps, (size, str(tmp_path)), nprocs=size)
    alone = torch.load(tmp_path / "1-0.pt", weights_only=True)
    for rank in range(3):
        shared = torch.load(tmp_path / f"3-{rank}.pt", weights_only=True)
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(alone, shared, strict=True))


SHAPES = {"a": (8, 16), "b": (24, 8), "c": (5, 6), "d": (2, 9), "e": (12, 4)}
"""Five processes have rows of `a` and `c` unequally, and not all have some of `d`."""


def _gradient(name: str, step: int) -> torch.Tensor:
    return torch.randn(SHAPES[name], generator=torch.Generator().manual_seed(100 * step + ord(name)))


def _weights() -> torch.nn.ParameterDict:
    torch.manual_seed(0)
    return torch.nn.ParameterDict(
        {name: torch.nn.Parameter(torch.randn(shape)) for name, shape in SHAPES.items()}
    )


def _muon(weights: torch.nn.ParameterDict) -> Muon:
    groups = [{"params": [weights["a"], weights["b"]]}, {"params": [weights["c"], weights["d"]]}]
    return Muon([*groups, {"params": [weights["e"]], "parts": 2}], 1e-2, 0.1)


def _sharded(rank: int, size: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    mesh, weights, exchanged = dist.init_device_mesh("cpu", (size,)), _weights(), []
    for name, value in list(weights.items()):
        weights[name] = torch.nn.Parameter(distribute_tensor(value.detach(), mesh, [Shard(0)]))
    optimizer, real = _muon(weights), dist.all_to_all_single
    dist.all_to_all_single = lambda *own, **named: exchanged.append(1) or real(*own, **named)
    for step in range(3):
        for name, value in weights.items():
            value.grad = distribute_tensor(_gradient(name, step), mesh, [Shard(0)])
        optimizer.step()
    whole = {name: value.full_tensor().detach() for name, value in weights.items()}
    torch.save((whole, len(exchanged)), f"{folder}/{rank}.pt")
    dist.barrier()  # one that leaves while others still connect may be ended by its own threads
    dist.destroy_process_group()


def test_sharded_matrices_take_the_steps_of_whole_ones_in_two_exchanges_a_bucket(tmp_path):
    mp.spawn(_sharded, (5, str(tmp_path)), nprocs=5)
    weights = _weights()
    optimizer = _muon(weights)
    for step in range(3):
        for name, value in weights.items():
            value.grad = _gradient(name, step)
        optimizer.step()
    for rank in range(5):
        found, exchanged = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name, value in found.items():
            assert torch.allclose(value, weights[name].detach(), atol=1e-5), name
        assert exchanged == 3 * 3 * 2, "three steps of three groups of one bucket each, there and back"
