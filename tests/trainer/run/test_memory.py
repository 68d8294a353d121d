"""The estimate of memory against what is counted, and every preset against a card of 80 GB."""

import dataclasses

import pytest
import torch

from manifests.errors import UsageError
from trainer.config import ModelConfig
from trainer.model import dit
from trainer.model.dit import DiT
from trainer.presets import PRESETS, preset
from trainer.reports import memory
from trainer.reports.memory import BLOCK_BYTES, GIB, check_fits, needs
from trainer.state.optimizers import make_optimizers
from trainer.verbs.fit import Fit


class Kernel(torch.autograd.Function):
    """What an attention kernel of a GPU keeps for its backward pass: queries, keys, values and its output."""

    @staticmethod
    def forward(ctx, q, k, v):
        out = q + 0 * (k.sum() + v.sum())
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx, *_):
        raise NotImplementedError


def kept_bytes(config, tokens, is_bf16):
    """Bytes that a forward pass keeps for the backward one, weights left out."""
    model = DiT(config)
    weights = {value.untyped_storage().data_ptr() for value in model.parameters()}
    held = {}

    def note(value):
        storage = value.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = value, storage.nbytes()
        return value

    cu, words = torch.tensor([0, tokens]), torch.tensor([0, 4])
    inputs = torch.randn(tokens, 64), torch.full((tokens,), 0.5), torch.zeros(tokens), torch.rand(tokens, 4)
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda value: value),
        torch.autocast("cpu", torch.bfloat16, enabled=is_bf16),
    ):
        model(*inputs, cu, torch.randn(4, 128), words)
    return sum(size for _, size in held.values())


@pytest.mark.parametrize("is_bf16", [True, False])
def test_a_block_keeps_what_the_estimate_says(monkeypatch, is_bf16):
    monkeypatch.setattr(dit, "attend", lambda q, k, v, of: Kernel.apply(q.to(v.dtype), k.to(v.dtype), v))
    width, tokens = 256, 2048
    one, two = (
        kept_bytes(ModelConfig(width=width, depth=depth, num_heads=2), tokens, is_bf16) for depth in (1, 2)
    )
    told = BLOCK_BYTES[False] * (1 if is_bf16 else memory.SINGLE_FACTOR)
    assert (two - one) / tokens / width == pytest.approx(told, rel=0.1)


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_weights_gradients_averages_and_optimizer_are_counted_exactly(optimizer):
    config = preset(
        "tiny", model=ModelConfig(width=64, depth=2, num_heads=2), optimizer=optimizer, ema_more=(0.9,)
    )
    model = DiT(config.model)
    optimizers = make_optimizers(model, config)
    for value in model.parameters():
        value.grad = torch.zeros_like(value)
    for one in optimizers:
        one.step()
    held = sum(
        item.nbytes
        for one in optimizers
        for state in one.state.values()
        for item in state.values()
        if torch.is_tensor(item) and item.ndim
    )
    weights = sum(value.nbytes for value in model.parameters())
    parts = needs(config).parts
    assert (parts["weights"], parts["gradients"], parts["averages"]) == (weights, weights, 2 * weights)
    assert parts["optimizer"] == pytest.approx(held, rel=1e-3)
    assert needs(config, 4).parts["weights"] == weights / 4


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_fits_as_it_is(name):
    config = PRESETS[name]()
    found = check_fits(config, 8 if name == "14b" else 1, 79 * GIB)
    with torch.device("meta"):
        model = DiT(config.model)
    assert found.parameters == sum(value.numel() for value in model.parameters())
    assert name == "tiny" or (config.model.width // config.model.num_heads == 128 and config.is_bf16)
    horizon = 1 / (1 - config.ema_decay)
    assert name == "tiny" or 0.01 <= horizon / config.steps <= 0.03, "about two hundredths of the run"


def test_what_cannot_fit_is_refused_with_what_would():
    with pytest.raises(
        UsageError, match=r"needs about \d+ GiB of each device, which has 79.*--tokens \d+"
    ) as said:
        check_fits(preset("3b", tokens=65536), 1, 79 * GIB)
    fitting = int(str(said.value).split("--tokens ")[1].split(",")[0])
    check_fits(preset("3b", tokens=fitting), 1, 79 * GIB)
    with pytest.raises(UsageError, match="more devices than 1"):
        check_fits(preset("14b"), 1, 79 * GIB)
    with pytest.raises(UsageError, match="--checkpointing True"):
        check_fits(preset("xl", is_checkpointed=False), 1, 79 * GIB)


def test_a_dry_run_tells_and_reads_nothing(capsys):
    assert Fit(preset="xl", dry_run=True).run() == 0
    said = capsys.readouterr().out
    for word in ("weights", "activations", "in all", "parameters", "hours"):
        assert word in said
    with pytest.raises(UsageError):
        Fit(preset="3b", dry_run=True, tokens=1 << 17).run()


def test_gains_biases_offsets_and_the_null_text_do_not_decay():
    config = preset("tiny", model=ModelConfig(width=64, depth=1, num_heads=2), weight_decay=0.5)
    model = DiT(config.model)
    [adam] = make_optimizers(model, config)
    decays = {id(value): group["weight_decay"] for group in adam.param_groups for value in group["params"]}
    assert len(decays) == len(list(model.parameters()))
    for name, value in model.named_parameters():
        is_matrix = value.ndim > 1 and not name.endswith("offset")
        assert decays[id(value)] == (0.5 if is_matrix else 0.0), name


def test_muon_takes_fused_layers_apart():
    config = dataclasses.replace(
        preset("tiny"),
        model=ModelConfig(width=64, depth=1, num_heads=2),
        optimizer="muon",
        lr=1.0,
        weight_decay=0.0,
    )
    torch.manual_seed(0)
    model = DiT(config.model)
    muon, _ = make_optimizers(model, config)
    qkv, kv, up = (getattr(model.blocks[0], name).weight for name in ("qkv", "cross_kv", "up"))
    before = {id(value): value.detach().clone() for value in (qkv, kv, up)}
    for value in model.parameters():
        value.grad = torch.randn_like(value)
    qkv.grad[:128] *= 1e-3  # queries and keys have small gradients: their updates must not be small
    muon.step()
    for value, parts in ((qkv, 3), (kv, 2), (up, 2)):
        moved = [part.pow(2).mean().sqrt() for part in (value - before[id(value)]).chunk(parts)]
        assert max(moved) / min(moved) < 1.05
