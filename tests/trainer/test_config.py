"""Settings: what makes no sense is refused by name, every one can be set, and what a resumed run has changed
is told.
"""

import dataclasses
import json

import pytest

from learning.loop.step_log import cut_rows
from manifests.errors import IntegrityError, UsageError
from tests.e2e.commands import run
from trainer.config import FitConfig, FlowConfig, ModelConfig, StageConfig, check_begun
from trainer.config_files import changes_between, load_config, load_stages, save_config, with_settings
from trainer.presets import preset

NAN = float("nan")


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (FitConfig, {"lr": NAN}),
        (FitConfig, {"lr": -1.0}),
        (FitConfig, {"ema_decay": 2.0}),
        (FitConfig, {"ema_more": (0.9, 3.0)}),
        (FitConfig, {"attention_cost": -1.0}),
        (FitConfig, {"shard_size": -1}),
        (FitConfig, {"roll_back_after": -1}),
        (FitConfig, {"spike_factor": -2.0}),
        (FitConfig, {"held_out": 5.0}),
        (FitConfig, {"mix": {"a": -1.0}}),
        (FitConfig, {"image_share": 2.0}),
        (FitConfig, {"tokens": 0}),
        (FlowConfig, {"text_dropout": 1.1}),
        (FlowConfig, {"condition": {"none": 0.0}}),
        (FlowConfig, {"condition": {"some": 1.0}}),
        (ModelConfig, {"width": 50, "num_heads": 3}),
        (ModelConfig, {"patch": (0, 2, 2)}),
        (StageConfig, {"image_share": 2.0}),
        (StageConfig, {"max_s": -1.0}),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(kind, values):
    name = next(iter(values))
    with pytest.raises(UsageError) as refused:
        kind(**values)
    assert name.split("_")[0] in str(refused.value)


@pytest.mark.parametrize(
    "values",
    [
        {"spike_factor": 0.5},
        {"ema_more": (0.99999995, 0.99999996)},
        {"ema_decay": 0.9, "ema_more": (0.9,)},
    ],
)
def test_what_older_runs_may_have_is_refused_where_a_run_is_begun(tmp_path, values):
    config = FitConfig(**values)
    save_config(config, tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == config
    with pytest.raises(UsageError, match=r"spike-factor|ema-decay"):
        check_begun(config)
    check_begun(FitConfig())


def test_every_setting_can_be_set_by_its_name_or_in_a_file(tmp_path):
    (tmp_path / "own.json").write_text(
        json.dumps({"clip_norm": 0.5, "flow": {"text_dropout": 0.3}, "captions": {"short": 1.0}})
    )
    found = with_settings(
        preset("tiny"),
        tmp_path / "own.json",
        ["model.patch=[2,2,2]", "flow.condition.none=0.5", "seed=7", 'captions={"dense": 1}', "wandb=mine"],
    )
    assert (
        found.clip_norm,
        found.flow.text_dropout,
        found.model.patch,
        found.seed,
        found.captions,
        found.wandb,
    ) == (
        0.5,
        0.3,
        (2, 2, 2),
        7,
        {"dense": 1},
        "mine",
    )
    assert found.flow.condition["none"] == 0.5
    assert found.flow.condition["first"] == FlowConfig().condition["first"]


@pytest.mark.parametrize(
    "text",
    [
        *("lr", "nothing=1", "model.nothing=1", "seed.x=1", "steps=many", "bf16.on=1"),
        *(
            "optimizer=adamx",
            "schedule=foo",
            "noise=moon",
            "long_clips=a",
            "oversize=b",
            "checkpoint_keeps=3",
        ),
        *(
            "model.text=xx",
            "flow.path=zz",
            "model.patch=2",
            "model.patch=[1,2]",
            "ema_more=0.5",
            "ema_more=[true]",
        ),
        *("stages=5", "init_fresh=3", "flow.condition=3", 'flow.condition.none="a"', "captions=3", "mix=3"),
        *("model.text_width=99", "model.latent_channels=32"),
        *("captions=[1]", "model=3", "flow=[]", 'image_share="a"', 'captions={"dense": "much"}'),
    ],
)
def test_what_cannot_be_set_is_named(text):
    with pytest.raises(UsageError) as refused:
        with_settings(preset("tiny"), None, [text])
    assert text.split("=")[0].split(".")[0] in str(refused.value), refused.value


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "{}", '[{"steps": "10"}]', '[{"min_fps": "a"}]', "[3]", '[{"stops": 1}]']
)
def test_files_of_stages_that_cannot_be_read_are_named(tmp_path, text):
    (tmp_path / "stages.json").write_text(text)
    with pytest.raises(UsageError, match=r"stages\.json"):
        load_stages(tmp_path / "stages.json")


def test_an_emptied_config_is_named(tmp_path):
    (tmp_path / "config.json").write_text("")
    with pytest.raises(IntegrityError, match=r"config\.json"):
        load_config(tmp_path / "config.json")
    with pytest.raises(UsageError, match="holds no run"):
        load_config(tmp_path / "nosuch" / "config.json")


def test_what_differs_between_two_runs_is_listed(tmp_path):
    before = preset("tiny")
    now = dataclasses.replace(before, lr=1e-5, flow=dataclasses.replace(before.flow, shift_max=3.0))
    assert changes_between(before, now) == {"flow.shift_max": (0.0, 3.0), "lr": (1.5e-3, 1e-5)}
    save_config(now, tmp_path / "config.json")
    assert changes_between(load_config(tmp_path / "config.json"), now) == {}


def test_the_command_line_refuses_nonsense_without_a_traceback(tmp_path):
    for arguments in (["--lr", "nan"], ["--threads", "0"], ["--set", "nothing=1"], ["--cache-gb", "-1"]):
        said = run("fit", "tiny", "--data", tmp_path, *arguments, check=2).stderr
        assert "Traceback" not in said
        assert arguments[0].removeprefix("--") in said


def test_cutting_a_log_leaves_what_comes_before_as_it_is(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text("".join(f'{{"step": {step}, "loss": 1.0}}\n' for step in range(6)) + '{"step": 6, "lo')
    before = path.read_bytes()
    cut_rows(path, 9)
    assert path.read_bytes() == before[: before.rindex(b"\n") + 1]
    cut_rows(path, 4)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 2, 3]
    cut_rows(tmp_path / "none.jsonl", 0)
