"""Runs that begin from a trained model: with its weights, with some of them, or with adapters beside them."""

from __future__ import annotations

import dataclasses
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from manifests import cli
from manifests.cli.frame import main
from manifests.errors import UsageError
from tests.trainer.run.test_fit import TEST
from trainer.config import ModelConfig
from trainer.config_files import load_config
from trainer.run.fit import fit
from trainer.sampling.trained import model_folder
from trainer.state.adapters import adapt
from trainer.state.export import export_checkpoint
from vae.folder import weights_digest


@pytest.fixture(scope="module")
def begun(dataset, tmp_path_factory):
    """A run of four steps to begin others from."""
    out = tmp_path_factory.mktemp("begun")
    fit(dataset, "default", dataclasses.replace(TEST, steps=4, cooldown=0.0), out)
    return out


def weights(run):
    return load_file(run / "model" / "model.safetensors")


def test_a_run_begins_with_the_weights_and_the_statistics_of_a_model(dataset, begun, tmp_path):
    record = json.loads((begun / "model" / "model.json").read_text())
    record["latent_mean"] = [value + 0.01 for value in record["latent_mean"]]
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.json").write_text(json.dumps(record))
    save_file({name: value.bfloat16() for name, value in weights(begun).items()}, other / "model.safetensors")
    config = dataclasses.replace(TEST, steps=1, lr=1e-9, init=str(other))
    fit(dataset, "default", config, tmp_path / "run")
    for name, value in weights(tmp_path / "run").items():
        assert torch.allclose(value, weights(begun)[name].bfloat16().float(), atol=1e-5), name
    made = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    assert made["latent_mean"] == record["latent_mean"]


def test_the_command_takes_the_sizes_of_the_model_and_resumes_without_being_told(dataset, begun, tmp_path):
    words = ["fit", "small", "--data", dataset.uri, "--out", str(tmp_path / "run"), "--tokens", "256"]
    words += ["--set", "is_tensorboard=false", "held_out=0.15"]
    assert main(arguments=[*words, "--steps", "1", "--init", str(begun)]) == cli.DONE
    assert load_config(tmp_path / "run" / "config.json").model.width == TEST.model.width
    assert main(arguments=[*words, "--steps", "2"]) == cli.DONE
    rows = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(row)["step"] for row in rows] == [0, 1]


def test_weights_that_do_not_fit_are_named_and_may_be_begun_anew(dataset, begun, tmp_path):
    model = ModelConfig(width=48, depth=3, num_heads=2)
    config = dataclasses.replace(TEST, steps=1, model=model, init=str(begun))
    with pytest.raises(UsageError, match=r"blocks\.2\..*missing.*--init-fresh blocks"):
        fit(dataset, "default", config, tmp_path / "a")
    fit(dataset, "default", dataclasses.replace(config, init_fresh=("blocks.2",)), tmp_path / "b")
    with pytest.raises(UsageError, match="holds no exported model"):
        fit(dataset, "default", dataclasses.replace(config, init="nosuch"), tmp_path / "c")


def test_weights_that_would_mean_something_else_are_refused(dataset, begun, tmp_path, capsys):
    """They fit by their shapes."""
    own = ModelConfig(width=48, depth=1, num_heads=2)
    config = dataclasses.replace(TEST, steps=1, model=own, init=str(begun))
    with pytest.raises(UsageError, match=r"weights that have no place in this run, such as blocks\.1\."):
        fit(dataset, "default", config, tmp_path / "a")
    words = ["fit", "tiny", "--data", dataset.uri, "--tokens", "256", "--steps", "1", "--init", str(begun)]
    for change in ("model.patch=[1,1,4]", "model.num_heads=1"):
        assert main(arguments=[*words, "--out", str(tmp_path / "b"), "--set", change]) == cli.USAGE, change
    fit(dataset, "default", dataclasses.replace(config, init_fresh=("blocks",)), tmp_path / "d")
    assert main(arguments=[*words, "--out", str(tmp_path / "e"), "--set", "model.rope_theta=7"]) == cli.DONE
    assert "has rope_theta 1000, this run 7" in capsys.readouterr().err
    fresh = ["--init-fresh", "embed", "head", "--set", "model.patch=[1,1,4]"]
    assert main(arguments=[*words, "--out", str(tmp_path / "c"), *fresh]) == cli.DONE


@pytest.mark.parametrize(
    ("change", "digest", "told"),
    [
        (lambda values: [*values, 0.0], "", "channels"),
        (lambda values: [5.0] * 16, "", "deviations"),
        (lambda values: values, "0" * 64, "another VAE.*--encode.vae vae-tiny"),
    ],
)
def test_a_model_of_another_vae_is_refused(dataset, begun, tmp_path, change, digest, told):
    record = json.loads((begun / "model" / "model.json").read_text())
    assert record["vae_digest"] == weights_digest("vae-tiny")
    record |= {"latent_mean": change(record["latent_mean"]), "vae_digest": digest}
    record["latent_std"] = (record["latent_std"] * 2)[: len(record["latent_mean"])]
    record["model"]["latent_channels"] = len(record["latent_mean"])
    (tmp_path / "model.json").write_text(json.dumps(record))
    save_file(weights(begun), tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match=told):
        fit(dataset, "default", dataclasses.replace(TEST, steps=1, init=str(tmp_path)), tmp_path / "run")


def test_adapters_are_trained_alone_and_exported_as_plain_weights(dataset, begun, tmp_path):
    config = dataclasses.replace(TEST, steps=4, init=str(begun), lora_rank=2, lr=1e-2, ema_decay=0.0)
    fit(dataset, "default", config, tmp_path / "run")
    before, after = weights(begun), weights(tmp_path / "run")
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.allclose(before[name], after[name], atol=1e-7)}
    assert changed and all(name.startswith("blocks.") and name.endswith(".weight") for name in changed)
    for name in changed:
        assert int(torch.linalg.matrix_rank((after[name] - before[name]).double(), rtol=1e-3)) <= 2
    export_checkpoint(tmp_path / "run", None, None, tmp_path / "again")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert all(torch.allclose(again[name], value) for name, value in after.items())
    fit(dataset, "default", dataclasses.replace(config, steps=5), tmp_path / "run")  # and resumes


def test_what_begins_anew_is_trained_beside_adapters(dataset, begun, tmp_path):
    config = dataclasses.replace(TEST, steps=3, init=str(begun), lora_rank=2, lr=1e-2, ema_decay=0.0)
    parts = ("text", "blocks.1.up")
    for steps in (1, 3):
        one = dataclasses.replace(config, init_fresh=parts, steps=steps)
        fit(dataset, "default", one, tmp_path / f"{steps}")
    first, later, before = weights(tmp_path / "1"), weights(tmp_path / "3"), weights(begun)
    fresh = [name for name in before if name.startswith(tuple(f"{part}." for part in parts))]
    assert any(name.startswith("blocks.") for name in fresh) and len(fresh) > 2
    assert all(not torch.equal(first[name], later[name]) for name in fresh if before[name].ndim > 1)
    changed = {name for name in before if not torch.allclose(before[name], later[name], atol=1e-7)}
    rest = {name for name in changed if name not in fresh}
    assert rest and all(name.startswith("blocks.") and name.endswith(".weight") for name in rest)


def test_adapters_need_a_model(dataset, tmp_path, capsys):
    words = ["fit", "tiny", "--data", dataset.uri, "--out", str(tmp_path / "run"), "--lora-rank", "4"]
    assert main(arguments=words) == cli.USAGE
    assert "needs --init" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--path", "cosine"), "path linear"),
        (("--text", "joint"), "reads text by cross"),
        (("--init-fresh", "nosuch"), "--init-fresh nosuch"),
    ],
)
def test_weights_of_another_objective_are_refused(dataset, begun, tmp_path, capsys, words, told):
    base = ["fit", "tiny", "--data", dataset.uri, "--out", str(tmp_path / "run"), "--steps", "1"]
    assert main(arguments=[*base, "--tokens", "256", "--init", str(begun), *words]) == cli.USAGE
    assert told in capsys.readouterr().err.strip().splitlines()[-1]


def test_a_run_that_is_begun_needs_its_model_no_more(dataset, begun, tmp_path):
    shutil.copytree(begun, tmp_path / "model")
    words = ["fit", "tiny", "--data", dataset.uri, "--out", str(tmp_path / "run"), "--tokens", "256"]
    words += ["--init", str(tmp_path / "model"), "--steps"]
    assert main(arguments=[*words, "1"]) == cli.DONE
    shutil.rmtree(tmp_path / "model")
    assert main(arguments=[*words, "2"]) == cli.DONE


def test_what_begins_anew_needs_something_to_begin_from(dataset, tmp_path, capsys):
    words = ["fit", "tiny", "--data", dataset.uri, "--out", str(tmp_path / "run"), "--init-fresh", "text"]
    assert main(arguments=words) == cli.USAGE
    assert "--init-fresh: needs --init" in capsys.readouterr().err


def test_weights_of_conditions_may_be_whole_numbers():
    import torch

    from trainer.config import FlowConfig
    from trainer.model.flow import draw_known

    config = FlowConfig(condition={"none": 1, "first": 2})
    given = draw_known(
        (3, 2, 2), torch.arange(3).repeat_interleave(4), config, torch.Generator().manual_seed(1)
    )
    assert given.shape == (12,)


def test_a_beginning_that_is_refused_leaves_the_folder_free(dataset, begun, tmp_path, capsys):
    words = ["fit", "tiny", "--data", dataset.uri, "--out", str(tmp_path / "run"), "--tokens", "256"]
    words += ["--steps", "1", "--init", str(begun)]
    for more in (["--init-fresh", "nosuch"], ["--set", "model.depth=3"], ["--path", "cosine"]):
        assert main(arguments=[*words, *more]) == cli.USAGE
    assert main(arguments=words) == cli.DONE


def test_another_beginning_comes_too_late_for_a_run_that_has_begun(
    dataset, begun, tmp_path, capsys, monkeypatch
):
    words = ["fit", "tiny", "--data", dataset.uri, "--out", str(tmp_path / "run"), "--tokens", "256"]
    assert main(arguments=[*words, "--steps", "1", "--init", str(begun)]) == cli.DONE
    for more in (["--init", "dit-tiny"], ["--init", str(begun), "--init-fresh", "head"]):
        assert main(arguments=[*words, "--steps", "2", *more]) == cli.USAGE
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert "comes too late" in said and " ".join(more[-2:]) in said
    monkeypatch.chdir(begun.parent)
    assert main(arguments=[*words, "--steps", "2", "--init", begun.name]) == cli.DONE, (
        "the same by another path"
    )
    assert load_config(tmp_path / "run" / "config.json").init == str(begun)
    assert main(arguments=[*words, "--steps", "2", "--init", str(model_folder(begun))]) == cli.DONE


def test_a_rank_beyond_the_whole_matrices_is_refused():
    layer = nn.ModuleDict({"blocks": nn.ModuleList([nn.ModuleDict({"qkv": nn.Linear(8, 24)})])})
    with pytest.raises(UsageError, match="more than the 8 of the whole matrices"):
        adapt(layer, 9)
