"""Noise drawn where the model is: the same for any number of processes that share a pack."""

import dataclasses

import numpy as np
import pytest
import torch

from trainer.config import FlowConfig
from trainer.data.loader import Member, Pack, offsets_of
from trainer.data.samples import Sample
from trainer.model.flow import add_noise, noised
from trainer.model.sequence import SequenceGroup

GRIDS = [(1, 2, 3), (4, 2, 2), (3, 1, 5)]


def pack(members=(0, 1, 2)):
    grids = [GRIDS[index] for index in members]
    counts = [int(np.prod(grid)) for grid in grids]
    own = [
        Member(Sample(str(index), 0, *GRIDS[index]), GRIDS[index], 100 + index, "dense", False)
        for index in members
    ]
    frame = torch.cat([torch.arange(t).repeat_interleave(h * w) for t, h, w in grids])
    generator = torch.Generator().manual_seed(0)
    return Pack(
        members=own,
        corrupt=[],
        clean=torch.randn(sum(counts), 8, generator=generator),
        valid=torch.ones(sum(counts), 4),
        coords=torch.zeros(sum(counts), 4),
        frame=frame,
        cu=offsets_of(counts),
        text=torch.zeros(len(own), 4),
        text_cu=offsets_of([1] * len(own)),
    )


def on_device(made):
    return made.on(torch.device("cpu"))


@pytest.mark.parametrize("path", ["linear", "cosine"])
def test_noise_of_the_device_has_the_levels_and_the_given_tokens_of_the_hosts(path):
    config = FlowConfig(path=path, condition={"prefix": 1.0})
    host = add_noise(pack(), config, salt=3)
    later = add_noise(pack(), config, salt=3, is_on_device=True)
    device = on_device(later)
    for name in ("sigma", "known", "weight", "coords"):
        assert torch.equal(getattr(host.tokens, name), getattr(device.tokens, name)), name
    assert host.weights == device.weights and device.tokens.target.shape == host.tokens.target.shape
    # the noise itself is another, and follows from clean and target
    clean, sigma = pack().clean, device.tokens.sigma[:, None]
    noise = device.tokens.target + clean if path == "linear" else None
    if noise is not None:
        assert torch.allclose(noised(clean, noise, sigma, path)[0], device.tokens.x, atol=1e-5)
        assert abs(float(noise.std()) - 1) < 0.15
    assert device.noise is None and not torch.equal(device.tokens.target, host.tokens.target)
    assert torch.equal(on_device(later).tokens.x, device.tokens.x)


def test_a_sample_has_its_noise_in_whichever_pack_it_is_and_whoever_holds_it():
    config = dataclasses.replace(FlowConfig(), condition={"none": 1.0})
    whole = on_device(add_noise(pack(), config, salt=5, is_on_device=True)).tokens.target + pack().clean
    alone = pack([1])
    own = on_device(add_noise(alone, config, salt=5, is_on_device=True)).tokens.target + alone.clean
    assert torch.allclose(whole[6:22], own, atol=1e-6)
    shares = []
    for rank in range(4):  # 37 tokens: the last process has padding, which has no noise
        group = SequenceGroup(rank, 4)
        made = add_noise(pack(), config, salt=5, group=group, is_on_device=True)
        shares.append(on_device(made).tokens.target)
    assert torch.allclose(torch.cat(shares)[:37] + pack().clean, whole, atol=1e-6)
    assert not torch.equal(
        whole, on_device(add_noise(pack(), config, salt=6, is_on_device=True)).tokens.target + pack().clean
    )
