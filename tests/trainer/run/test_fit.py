import dataclasses
import errno
import json
import resource
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from learning.loop.run_lock import RunLock
from learning.stopping import ask_to_stop
from manifests import cli
from manifests.errors import IntegrityError, RushesError, UsageError
from manifests.layout import Dataset
from manifests.views import View
from trainer.config import ModelConfig, check_begun
from trainer.config_files import load_config, save_config
from trainer.data.catalogue.catalog import load_catalog
from trainer.data.loader import Loader, PackReader
from trainer.data.packs import EpochPlan
from trainer.model.dit import DiT
from trainer.model.flow import add_noise
from trainer.presets import PRESETS, preset
from trainer.reports import sheets
from trainer.reports.progress import StepProgress
from trainer.run import loop
from trainer.run.fit import fit, plan_stream
from trainer.sampling.canvas import Canvas
from trainer.sampling.conditions import Start
from trainer.sampling.decoding import to_frames
from trainer.sampling.draft import Prompt, Request, Sampling
from trainer.sampling.generate import generate
from trainer.sampling.trained import load_model
from trainer.state.checkpoint_files import HAS_CHECKPOINTS, read_state, sweep
from trainer.state.export import export_checkpoint
from trainer.state.parallel import Ranks
from vae.checkpoint import load_vae
from vae.measuring.stats import merged

TEST = dataclasses.replace(
    preset("tiny"),
    model=ModelConfig(width=48, depth=2, num_heads=2),
    tokens=256,
    save_every=4,
    held_out=0.15,
    is_tensorboard=False,
)


def losses(run: Path):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def consumed(run: Path):
    return [json.loads(line)["samples"] for line in (run / "consumed.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole_run(dataset, tmp_path_factory):
    """Twelve steps without a stop."""
    out = tmp_path_factory.mktemp("run")
    fit(dataset, "default", dataclasses.replace(TEST, steps=12, cooldown=0.0), out)
    return out


def test_a_run_resumed_from_a_checkpoint_is_bit_equal_to_one_that_never_stopped(dataset, whole_run, tmp_path):
    config = dataclasses.replace(TEST, cooldown=0.0)
    fit(dataset, "default", dataclasses.replace(config, steps=7), tmp_path)
    last = sorted((tmp_path / "checkpoints").iterdir())[-1]
    assert last.name == "step-00000007"
    shutil.rmtree(last)  # as if it had died after step 7 with the checkpoint of step 4
    fit(dataset, "default", dataclasses.replace(config, steps=12), tmp_path)
    assert losses(tmp_path) == losses(whole_run)
    assert consumed(tmp_path) == consumed(whole_run)
    [shard] = [
        path.relative_to(whole_run)
        for path in (whole_run / "checkpoints" / "step-00000012").glob("*.safetensors")
    ]
    assert (tmp_path / "model/model.safetensors").read_bytes() == (
        whole_run / "model/model.safetensors"
    ).read_bytes()
    resumed, whole = (
        load_file(tmp_path / shard),
        load_file(whole_run / shard),
    )  # torch writes its tensors in no fixed order
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(value, whole[name]) for name, value in resumed.items())


def test_an_epoch_reads_every_training_sample_once(dataset, whole_run):
    """One that is longer than a pack through several windows, each of its frames once (test_packs.py)."""
    catalog = load_catalog(dataset, [View.load(dataset)], TEST)
    rows = [json.loads(line) for line in (whole_run / "consumed.jsonl").read_text().splitlines()]
    first = sorted(clip for row in rows if row["epoch"] == 0 for clip, _ in row["samples"])
    assert rows[-1]["epoch"] > 0
    table = catalog.table
    is_long = table.latent_t * table.per_frame(TEST.model.patch) > TEST.tokens
    counts = Counter(first)
    assert sorted(counts) == sorted(table.clip_ids)
    assert {clip for clip, count in counts.items() if count > 1} == {
        clip for clip, long in zip(table.clip_ids, is_long, strict=True) if long
    }
    assert not {sample.clip_id for sample in catalog.held_out} & set(first)


def test_a_pack_holds_many_shapes_and_padding_is_out_of_the_loss(dataset):
    catalog = load_catalog(dataset, [View.load(dataset)], TEST)
    config = dataclasses.replace(TEST, tokens=2048)
    pack = PackReader(dataset, catalog, config).read(plan_stream(catalog, config).at(0)[1][0], 0)
    assert len({member.grid for member in pack.members}) >= 4
    noisy = add_noise(pack, config.flow)
    assert noisy.tokens.weight.shape == pack.clean.shape
    assert not noisy.tokens.weight[noisy.tokens.known].any()
    assert (pack.valid < 1).any()
    broken = noisy.tokens.target.clone()
    broken[noisy.tokens.weight == 0] += 1e3  # errors where nothing is real cost nothing
    assert float(noisy.error(broken).sum()) == pytest.approx(0.0, abs=1e-6)


def test_normalised_latents_have_unit_variance(dataset):
    catalog = load_catalog(dataset, [View.load(dataset)], dataclasses.replace(TEST, held_out=0.0))
    reader = PackReader(dataset, catalog, TEST)
    whole = EpochPlan(catalog.table, TEST.tokens)
    values = torch.cat(
        [
            reader._latent(whole.sample(index), torch.Generator()).flatten(1)
            for index in range(len(catalog.table))
        ],
        dim=1,
    )
    assert values.mean(1).abs().max() < 0.25  # the statistics are of all clips, the samples leave one aside
    assert (values.std(1) - 1).abs().max() < 0.1


def test_statistics_merge_as_if_measured_at_once():
    rng = np.random.default_rng(0)
    data = rng.normal(3, 2, (4, 900))
    parts = [
        {
            "count": part.shape[1],
            "mean": part.mean(1).tolist(),
            "m2": ((part - part.mean(1, keepdims=True)) ** 2).sum(1).tolist(),
        }
        for part in np.split(data, [100, 450], 1)
    ]
    found = merged([*parts, {"count": 0, "mean": [], "m2": []}])
    assert np.allclose(found.mean, data.mean(1))
    assert np.allclose(found.std(), data.std(1))


def test_corrupt_samples_are_left_out_named_and_too_many_end_the_run(dataset, tmp_path, capsys):
    shutil.copytree(dataset.uri, tmp_path / "ds")
    copy = Dataset(str(tmp_path / "ds"))
    catalog = load_catalog(copy, [View.load(copy)], TEST)
    victim = catalog.table.clip_ids[0]
    path, member = catalog.latents[victim]
    data = bytearray(Path(path).read_bytes())
    data[member.offset + member.size_bytes // 2] ^= 1
    Path(path).write_bytes(data)
    fit(copy, "default", dataclasses.replace(TEST, steps=12), tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run" / "consumed.jsonl").read_text().splitlines()]
    assert victim not in {clip for row in rows for clip, _ in row["samples"]}
    named = [name for row in rows for name in row.get("corrupt", [])]
    assert set(named) == {victim}
    metrics = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert metrics[-1]["corrupt"] == len(named)
    assert victim in capsys.readouterr().err
    Path(path).write_bytes(b"")
    with pytest.raises(RushesError, match="unreadable"):  # what was counted before the resume counts on
        fit(copy, "default", dataclasses.replace(TEST, steps=60), tmp_path / "run")


def test_what_was_learnt_is_saved_where_the_data_ends_a_run(dataset, tmp_path, monkeypatch):
    """Between two steps the weights are sound; with checkpoints far apart hours would be lost."""
    config, real = dataclasses.replace(TEST, steps=12, save_every=100), Loader.steps_from

    def breaking(self, *given):
        for number, epoch, packs in real(self, *given):
            if number == 7:
                raise RushesError("the store", "is gone", "Bring it back.")
            yield number, epoch, packs

    with monkeypatch.context() as patch:
        patch.setattr(Loader, "steps_from", breaking)
        with pytest.raises(RushesError, match="the store: is gone"):
            fit(dataset, "default", config, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == ["step-00000007"]
    fit(dataset, "default", config, tmp_path / "run")
    fit(dataset, "default", config, tmp_path / "whole")
    assert losses(tmp_path / "run") == losses(tmp_path / "whole")


def test_a_run_none_of_whose_steps_was_taken_has_not_ended_well(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr("trainer.run.guard.Guard._spike", lambda *given: "its loss or gradient is not finite")
    for _ in range(2):  # and the same command again has not either
        with pytest.raises(RushesError, match="all of its 3 steps were skipped"):
            fit(dataset, "default", dataclasses.replace(TEST, steps=3, cooldown=0.0), tmp_path / "run")


@pytest.mark.parametrize("tokens", [0, 2**31, 10**12])
def test_budgets_that_no_counter_holds_are_refused(tokens):
    with pytest.raises(UsageError, match="tokens"):
        dataclasses.replace(TEST, tokens=tokens)


def test_a_step_without_a_loss_is_not_in_the_mean_that_is_shown(capsys):
    with StepProgress(Ranks(0, 1, torch.device("cpu")), 0, 3) as progress:
        for done, loss in enumerate((2.0, float("nan"), 2.0), 1):
            progress.step(done, 0, loss, 10.0)
    assert "3/3 epoch 0 loss 2.0000" in capsys.readouterr().err


def test_a_damaged_caption_of_a_held_out_clip_costs_its_words_and_not_the_run(dataset, tmp_path, capsys):
    shutil.copytree(dataset.uri, tmp_path / "ds")
    copy = Dataset(str(tmp_path / "ds"))
    catalog = load_catalog(copy, [View.load(copy)], TEST)
    for sample in catalog.held_out:
        path, member = catalog.views[0].texts[sample.clip_id]
        data = bytearray(Path(path).read_bytes())
        data[member.offset + member.size_bytes - 3] ^= 1
        Path(path).write_bytes(data)
    fit(copy, "default", dataclasses.replace(TEST, steps=2, sample_every=1), tmp_path / "run")
    said = capsys.readouterr().err
    assert f"{len(catalog.held_out)} of {len(catalog.held_out)} held-out clips cannot be read" in said
    assert "it is sampled without" in said
    assert (tmp_path / "run" / "samples" / "step-00000002.png").exists()


@pytest.mark.parametrize("harm", ["flip", "cut", "lose"])
def test_a_damaged_checkpoint_is_named_set_aside_and_the_one_before_taken(
    dataset, whole_run, tmp_path, capsys, harm
):
    fit(dataset, "default", dataclasses.replace(TEST, cooldown=0.0, steps=9), tmp_path)
    kept = sorted((tmp_path / "checkpoints").glob("step-*"))
    victim = max(kept[-1].glob("*.safetensors"))
    data = bytearray(victim.read_bytes())
    if harm == "lose":
        victim.unlink()
    else:
        data[len(data) // 2] ^= 1
        victim.write_bytes(data if harm == "flip" else data[:-10])
    fit(dataset, "default", dataclasses.replace(TEST, cooldown=0.0, steps=12), tmp_path)
    said = capsys.readouterr().err
    assert victim.name in said
    assert f"resumed after step {int(kept[-2].name[5:])}" in said
    assert losses(tmp_path) == losses(whole_run)
    assert (tmp_path / "checkpoints" / f".{kept[-1].name}.damaged").exists()


def test_a_run_whose_checkpoints_are_all_damaged_does_not_begin_anew(dataset, tmp_path):
    config = dataclasses.replace(TEST, cooldown=0.0, steps=9)
    fit(dataset, "default", config, tmp_path)
    for path in (tmp_path / "checkpoints").glob("step-*/*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    before = (tmp_path / "metrics.jsonl").read_bytes()
    for _ in range(2):  # the first start sets them aside
        with pytest.raises(IntegrityError, match="all checkpoints are damaged"):
            fit(dataset, "default", dataclasses.replace(config, steps=12), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_a_run_whose_checkpoints_are_gone_does_not_begin_anew(dataset, tmp_path):
    config = dataclasses.replace(TEST, cooldown=0.0, steps=9)
    fit(dataset, "default", config, tmp_path)
    (tmp_path / "checkpoints").rename(tmp_path.parent / f"{tmp_path.name}-checkpoints")
    before = (tmp_path / "metrics.jsonl").read_bytes()
    for _ in range(2):
        with pytest.raises(UsageError, match=r"checkpoints.*is gone or empty"):
            fit(dataset, "default", dataclasses.replace(config, steps=12), tmp_path)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
    shutil.rmtree(tmp_path / "checkpoints", ignore_errors=True)
    (tmp_path.parent / f"{tmp_path.name}-checkpoints").rename(tmp_path / "checkpoints")
    (tmp_path / "config.json").rename(tmp_path / "elsewhere.log")
    with pytest.raises(UsageError, match=r"config\.json.*is gone from the folder of a run"):
        fit(dataset, "default", config, tmp_path)


def test_a_run_that_never_wrote_a_checkpoint_begins_anew(dataset, tmp_path):
    """As after a machine that died early, or a run that left those it could not trust."""
    config = dataclasses.replace(TEST, cooldown=0.0, steps=9)
    fit(dataset, "default", config, tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    (tmp_path / HAS_CHECKPOINTS).unlink()
    fit(dataset, "default", config, tmp_path)
    assert len(losses(tmp_path)) == 9


def test_a_checkpoints_state_that_is_not_its_own_is_damage(dataset, tmp_path, capsys):
    config = dataclasses.replace(TEST, cooldown=0.0, steps=9)
    fit(dataset, "default", config, tmp_path)
    state = tmp_path / "checkpoints" / "step-00000009" / "state.json"
    whole = json.loads(state.read_text())
    for name, value in (("step", 8), ("step", "9"), ("usual", 1e9)):
        state.write_text(json.dumps({**whole, "state": {**whole["state"], name: value}}))
        with pytest.raises(IntegrityError, match="not what was written for this step"):
            read_state(state.parent)
    state.write_text(json.dumps({**whole, "state": None}))
    fit(dataset, "default", dataclasses.replace(config, steps=10), tmp_path)
    assert "step-00000009" in capsys.readouterr().err and len(losses(tmp_path)) == 10


def test_a_guard_that_would_refuse_ordinary_steps_is_refused_at_a_resume_too(dataset, tmp_path):
    config = dataclasses.replace(TEST, cooldown=0.0, steps=5)
    fit(dataset, "default", config, tmp_path)
    for name in ("spike_factor", "spike_norm"):
        with pytest.raises(UsageError, match=name.replace("_", "-")):
            fit(dataset, "default", dataclasses.replace(config, steps=6, **{name: 0.5}), tmp_path)
        with pytest.raises(UsageError, match=name.replace("_", "-")):
            check_begun(dataclasses.replace(config, **{name: 0.5}))


@pytest.mark.parametrize("is_async", [False, True])
def test_a_checkpoint_that_cannot_be_written_is_named_and_nothing_is_left_of_it(dataset, tmp_path, is_async):
    config = dataclasses.replace(TEST, cooldown=0.0, steps=9, is_async_saving=is_async)
    fit(dataset, "default", dataclasses.replace(config, steps=5), tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match="checkpoints") as told:
            fit(dataset, "default", config, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert told.value.errno == errno.EFBIG
    assert not list((tmp_path / "checkpoints").glob(".*.tmp"))
    fit(dataset, "default", config, tmp_path)
    assert len(losses(tmp_path)) == 9


def test_a_checkpoint_of_a_later_version_is_refused(dataset, tmp_path):
    config = dataclasses.replace(TEST, cooldown=0.0, steps=5)
    fit(dataset, "default", config, tmp_path)
    for path in (tmp_path / "checkpoints").glob("step-*/state.json"):
        path.write_text('{"state": {"step": 5, "later": 1}, "files": {}}')
    with pytest.raises(UsageError, match="another version"):
        fit(dataset, "default", dataclasses.replace(config, steps=6), tmp_path)


def test_what_a_killed_save_left_is_cleared_and_a_checkpoint_that_gave_way_comes_back(tmp_path):
    for name in (
        ".step-00000004.tmp",
        ".step-00000001.gone",
        ".step-00000003.old",
        ".step-00000002.old",
        "step-00000002",
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "state.json").write_text("{}")
    sweep(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000002", "step-00000003"]


def test_spikes_are_skipped_counted_and_rolled_back_and_a_resume_does_the_same(
    dataset, tmp_path, monkeypatch, capsys
):
    """From step 9 on the loss is far above those before: the guard refuses all, saves nothing meanwhile (step
    10 is due) and goes back to the checkpoint of step 5.
    """
    real = loop.train_step

    steps = iter([*range(16), *range(11), *range(11, 16)])

    def spiking(model, packs, config, ranks, stop):
        result, step = real(model, packs, config, ranks, stop), next(steps)
        if 9 <= step < 13 and result is not None:
            result.loss *= 100
        return result

    monkeypatch.setattr(loop, "train_step", spiking)
    monkeypatch.setattr("trainer.run.guard.LEAST", 4)
    monkeypatch.setattr("trainer.run.guard.CALM_STEPS", 3)
    config = dataclasses.replace(TEST, cooldown=0.0, spike_factor=10.0, roll_back_after=3, save_every=5)
    fit(dataset, "default", dataclasses.replace(config, steps=16), tmp_path / "whole")
    assert "weights and optimizer are those of step-00000005 again" in capsys.readouterr().err
    rows = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    assert [row["skipped"] for row in rows][8:14] == [0, 1, 2, 3, 4, 4]
    assert rows[-1]["rolled_back"] == 1
    fit(dataset, "default", dataclasses.replace(config, steps=11), tmp_path / "parts")
    fit(dataset, "default", dataclasses.replace(config, steps=16), tmp_path / "parts")
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")


def test_a_run_leaves_a_sheet_of_samples_and_tensorboards_files(dataset, tmp_path):
    config = dataclasses.replace(TEST, steps=4, sample_every=2, validate_every=2, is_tensorboard=True)
    fit(dataset, "default", config, tmp_path)
    names = sorted(path.name for path in (tmp_path / "samples").glob("*.png"))
    assert names == ["step-00000002.png", "step-00000004.png"]
    assert np.asarray(Image.open(tmp_path / "samples" / names[0])).std() > 10
    for path in (tmp_path / "samples").glob("step-*/*.json"):
        record = json.loads(path.read_text())
        assert record["step"] in (2, 4) and record["clip_id"] == path.stem
        assert (path.parent / record["file"]).stat().st_size > 100
    assert len(list((tmp_path / "samples").glob("step-*/*.json"))) >= 2
    sessions = json.loads((tmp_path / "run.json").read_text())
    assert sessions["dataset"] == dataset.uri and sessions["columns"]["latent"].startswith("latent@")
    assert [(row["from_step"], row["to_step"]) for row in sessions["sessions"]] == [(0, 4)]
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert all(row["lr"] > 0 for row in rows) and rows[-1]["time_s"] >= rows[0]["time_s"] > 1e9
    assert list((tmp_path / "tensorboard").iterdir())
    rows = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 2, 4]
    fit(dataset, "default", config, tmp_path)  # done already: nothing is trained, nothing written twice
    assert len((tmp_path / "validation.jsonl").read_text().splitlines()) == 3


def test_a_sheet_that_cannot_be_made_ends_no_run(dataset, tmp_path, monkeypatch, capsys):
    config = dataclasses.replace(TEST, steps=1)
    fit(dataset, "default", dataclasses.replace(config, tokens=4, oversize="window"), tmp_path / "small")
    assert "no sheet of samples: no held-out clip fits --tokens" in capsys.readouterr().err

    def out_of_memory(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("trainer.reports.sheets.generate", out_of_memory)
    fit(dataset, "default", config, tmp_path / "large")
    assert "no sheet of samples: OutOfMemoryError" in capsys.readouterr().err
    assert (tmp_path / "large" / "model" / "model.safetensors").exists()


def test_a_stop_is_heeded_between_the_samples_of_a_sheet(dataset, tmp_path, monkeypatch):
    made = []

    def asked(*_):
        made.append(1)
        ask_to_stop("SIGTERM")
        return real(*_)

    real = sheets.generate
    monkeypatch.setattr("trainer.reports.sheets.generate", asked)
    fit(dataset, "default", dataclasses.replace(TEST, steps=1), tmp_path)
    assert len(made) == 1 and not list(tmp_path.glob("samples/*.png"))


def test_more_steps_done_than_asked_for_is_said(dataset, tmp_path, capsys):
    fit(dataset, "default", dataclasses.replace(TEST, steps=3), tmp_path)
    fit(dataset, "default", dataclasses.replace(TEST, steps=2), tmp_path)
    assert "3 steps are done, more than --steps 2: nothing to train" in capsys.readouterr().err
    assert load_config(tmp_path / "config.json").steps == 3 and not (tmp_path / "changes.jsonl").exists()


@pytest.mark.parametrize("name", ["film.mp4", "dataset.json", "notes.json"])
def test_a_run_is_begun_in_a_folder_of_its_own(dataset, tmp_path, name):
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(UsageError, match="Name a folder of its own"):
        fit(dataset, "default", dataclasses.replace(TEST, steps=1), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_after_settings_that_let_no_step_be_taken_others_may_be_tried(dataset, tmp_path):
    (tmp_path / "slurm-1.out").write_text("what a scheduler writes")
    one = dataclasses.replace(TEST, steps=1)
    for refused in ({"tokens": 1}, {"mix": {"default": 0.0}}):
        with pytest.raises(UsageError):
            fit(dataset, "default", dataclasses.replace(one, **refused), tmp_path)
    fit(dataset, "default", one, tmp_path)
    assert load_config(tmp_path / "config.json").tokens == TEST.tokens


def test_a_run_on_a_snapshot_names_it(copy, tmp_path):
    assert cli.main(arguments=["snapshot", "spring", copy.uri]) == cli.DONE
    fit(Dataset(copy.uri, "spring"), "default", dataclasses.replace(TEST, steps=1), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["snapshot"] == "spring"


def sampled(trained, canvas, prompt, steps, seed=0, start=None):
    request = Request(canvas=canvas, prompts=(Prompt(*trained.embed([prompt])),), seed=seed, start=start)
    return generate(trained, [request], Sampling(steps=steps))[0]


@pytest.mark.parametrize("settings", [{"text": "joint"}, {"path": "cosine"}])
def test_single_stream_text_and_v_prediction_train_and_sample(dataset, tmp_path, settings):
    config = dataclasses.replace(TEST, steps=2)
    if "text" in settings:
        config = dataclasses.replace(config, model=dataclasses.replace(config.model, **settings))
    else:
        config = dataclasses.replace(config, flow=dataclasses.replace(config.flow, **settings))
    fit(dataset, "default", config, tmp_path)
    trained = load_model(tmp_path)
    assert settings.items() <= (vars(trained.flow) | vars(trained.dit.config)).items()
    latent = sampled(trained, Canvas(num_frames=5, height_px=40, width_px=56), "a red ball", steps=4)
    assert latent.isfinite().all()


@pytest.mark.slow
def test_compiled_and_recomputed_blocks_train_as_plain_ones(dataset, whole_run, tmp_path):
    config = dataclasses.replace(TEST, steps=4, cooldown=0.0, is_compiled=True, is_checkpointed=True)
    fit(dataset, "default", config, tmp_path)
    assert np.allclose(losses(tmp_path), losses(whole_run)[:4], atol=1e-5)


def test_two_runs_do_not_share_a_folder(tmp_path):
    first = RunLock(tmp_path)
    with pytest.raises(UsageError, match="in use"):
        RunLock(tmp_path, patience_s=0.3)
    first.release()
    RunLock(tmp_path, patience_s=0.3).release()


def test_resuming_with_other_settings_is_refused(dataset, whole_run):
    with pytest.raises(UsageError, match="other settings"):
        fit(dataset, "default", dataclasses.replace(TEST, steps=12, seed=5), whole_run)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds_and_its_config_reloads_strictly(name, tmp_path):
    config = PRESETS[name]()
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in DiT(config.model).parameters()) > 1e6
    save_config(config, tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == config
    text = json.loads((tmp_path / "config.json").read_text()) | {"surprise": 1}
    (tmp_path / "config.json").write_text(json.dumps(text))
    with pytest.raises(UsageError, match="surprise"):
        load_config(tmp_path / "config.json")


@pytest.mark.parametrize(("frames", "height", "width"), [(1, 37, 53), (6, 40, 24), (9, 17, 64)])
def test_samples_have_exactly_the_size_asked_for_and_repeat_by_seed(whole_run, frames, height, width):
    trained, vae = load_model(whole_run), load_vae()
    canvas = Canvas(num_frames=frames, height_px=height, width_px=width, fps=10)
    first, again, other = (sampled(trained, canvas, "a red ball", seed=seed, steps=2) for seed in (3, 3, 4))
    assert to_frames(vae, first, canvas).shape == (frames, height, width, 3)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_given_latents_come_back_bit_equal(whole_run):
    trained = load_model(whole_run)
    canvas = Canvas(num_frames=9, height_px=32, width_px=48, fps=10)
    values, given = torch.randn(16, 3, 4, 6), torch.tensor([True, False, True])
    level = (~given).float()[:, None, None].expand(3, 4, 6)
    out = sampled(trained, canvas, "", steps=3, start=Start(latent=values, level=level))
    assert torch.equal(out[:, given], values[:, given])
    assert not torch.equal(out[:, ~given], values[:, ~given])


@pytest.mark.parametrize(
    "arguments",
    [
        ["--out", "x.png", "--frames", "2"],
        ["--out", "x.webm", "--frames", "1"],
        ["--out", "x.webm", "--width", "0"],
        ["--out", "x.gif"],
    ],
)
def test_sampling_refuses_what_cannot_be(whole_run, arguments):
    assert cli.main(arguments=["sample", str(whole_run), *arguments]) == cli.USAGE


def test_a_model_is_made_of_any_checkpoint_also_of_a_run_that_was_killed(dataset, whole_run, tmp_path):
    shutil.copytree(whole_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "model")
    with pytest.raises(UsageError, match="rushes export-model"):
        load_model(tmp_path / "run")
    export_checkpoint(tmp_path / "run", None, None, tmp_path / "run" / "model")
    made, expected = (load_file(run / "model" / "model.safetensors") for run in (tmp_path / "run", whole_run))
    assert made.keys() == expected.keys()
    assert all(torch.equal(value, expected[name]) for name, value in made.items())
    assert load_model(tmp_path / "run").record == load_model(whole_run).record
    export_checkpoint(tmp_path / "run", 8, None, tmp_path / "early")
    assert load_model(tmp_path / "early").record["vae"] == load_model(whole_run).record["vae"]
    half = {"is_half": True, "vae": "vae-tiny-2"}
    export_checkpoint(tmp_path / "run", None, None, tmp_path / "half", **half)
    smaller = load_model(tmp_path / "half")
    own = {"vae": "vae-tiny-2", "weights": smaller.digest}
    assert smaller.record == load_model(whole_run).record | own
    sizes = [
        (folder / "model.safetensors").stat().st_size for folder in (tmp_path / "half", tmp_path / "early")
    ]
    assert sizes[0] < 0.55 * sizes[1]
    for name, value in smaller.dit.state_dict().items():
        assert torch.allclose(value, expected[name], rtol=1e-2)
    with pytest.raises(UsageError, match="nowhere: holds no VAE"):
        export_checkpoint(tmp_path / "run", None, None, tmp_path / "none", vae="nowhere")
    mean = {"average_with": (str(tmp_path / "early"), str(tmp_path / "run" / "model"))}
    export_checkpoint(tmp_path / "run", None, None, tmp_path / "mean", **mean)
    early, made = (load_file(tmp_path / name / "model.safetensors") for name in ("early", "mean"))
    for name, value in made.items():
        assert torch.allclose(value, (2 * expected[name] + early[name]) / 3, atol=1e-6)
    both = load_model(tmp_path / "mean")
    assert both.record == load_model(whole_run).record | {"weights": both.digest}
    assert both.digest != smaller.digest and both.record["step"] > 8
    with pytest.raises(UsageError, match="is a model with another model"):
        export_checkpoint(tmp_path / "run", None, None, tmp_path / "none", average_with=("dit-tiny",))
    for step, decay, said in ((3, None, "no checkpoint of step 3"), (None, 0.5, "no average")):
        with pytest.raises(UsageError, match=said):
            export_checkpoint(tmp_path / "run", step, decay, tmp_path / "none")


def test_settings_that_decide_nothing_may_change_at_a_resume_and_are_noted(dataset, whole_run, tmp_path):
    shutil.copytree(whole_run, tmp_path / "run")
    fit(dataset, "default", dataclasses.replace(TEST, steps=13, cooldown=0.0, lr=1e-4), tmp_path / "run")
    [row] = [json.loads(line) for line in (tmp_path / "run" / "changes.jsonl").read_text().splitlines()]
    assert row["step"] == 12
    assert row["changes"] == {"lr": [1.5e-3, 1e-4], "steps": [12, 13]}
    with pytest.raises(UsageError, match=r"flow\.text_dropout 0\.1 is now 0\.5"):
        fit(
            dataset,
            "default",
            dataclasses.replace(TEST, flow=dataclasses.replace(TEST.flow, text_dropout=0.5)),
            tmp_path / "run",
        )


def test_a_checkpoint_of_another_version_is_refused_by_name(dataset, whole_run, tmp_path):
    shutil.copytree(whole_run, tmp_path / "run")
    newest = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    (newest / "state.json").write_text('{"step": 12, "digest": "0"}')
    with pytest.raises(UsageError, match="another version"):
        fit(dataset, "default", dataclasses.replace(TEST, steps=13, cooldown=0.0), tmp_path / "run")


def test_an_average_of_decay_nought_is_told_from_the_one_of_a_fraction(dataset, tmp_path):
    """Its name is the beginning of the other's: `ema0.` and `ema0.995.`."""
    config = dataclasses.replace(TEST, steps=2, ema_more=(0.0,), save_every=2)
    fit(dataset, "default", config, tmp_path)
    fit(dataset, "default", dataclasses.replace(config, steps=3), tmp_path)
    assert losses(tmp_path) == losses_of_one_go(dataset, config, tmp_path / "whole")
    raw, averaged = (load_file(tmp_path / name / "model.safetensors") for name in ("model-ema0", "model"))
    assert raw.keys() == averaged.keys() and any(not raw[key].equal(averaged[key]) for key in raw)


def losses_of_one_go(dataset, config, folder):
    fit(dataset, "default", dataclasses.replace(config, steps=3), folder)
    return losses(folder)
