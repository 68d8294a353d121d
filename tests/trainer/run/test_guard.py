"""A run that blows up goes back to where it was calm, each time further, and can be saved by a lower rate."""

import dataclasses
import json
import math

import pytest
import torch

from manifests.errors import RushesError
from trainer.config import ModelConfig
from trainer.presets import preset
from trainer.run import guard as guards
from trainer.run import loop
from trainer.run.fit import fit
from trainer.run.going_back import GoingBack
from trainer.run.guard import CALM_STEPS, LEAST, MOST_IN_A_ROW, MOST_RETURNS, Guard
from trainer.state.checkpoint_files import TrainState, appear, is_trusted, list_checkpoints, temporary_folder
from trainer.state.parallel import Ranks


def calm(guard, steps=LEAST, loss=1.0, norm=0.5):
    for _ in range(steps):
        assert not guard.refuses(loss, norm)
    return guard


def test_a_loss_or_a_gradient_far_above_normal_is_refused_and_forgotten():
    guard = calm(Guard(4.0, 20.0, TrainState(0, "")))
    assert not guard.refuses(3.9, 0.5)
    assert "over 4 times the usual 1.0000" in guard.refuses(4.1, 0.5)
    assert "gradient's norm 11" in guard.refuses(1.0, 11.0)
    assert not guard.refuses(1.0, 9.0)
    for bad in (math.inf, math.nan):
        assert "not finite" in guard.refuses(bad, 0.5) and "not finite" in guard.refuses(1.0, bad)
    assert guard.num_skipped == 6 and 4.1 not in guard.recent


def test_a_run_that_climbs_does_not_get_used_to_it():
    guard, loss = calm(Guard(4.0, 0.0, TrainState(0, ""))), 1.0
    for _ in range(200):
        loss *= 1.01
        if guard.refuses(loss, 0.5):
            break
    assert 4.0 < loss < 4.1


def test_from_the_second_step_on_a_run_that_explodes_is_refused():
    guard = Guard(4.0, 20.0, TrainState(0, ""))
    assert not guard.refuses(2.0, 0.3)
    assert not guard.refuses(8.0, 30.0), "early losses vary"
    assert guard.refuses(3e17, 0.3)


def test_one_easy_pack_at_first_is_not_what_is_usual():
    guard = Guard(4.0, 20.0, TrainState(0, ""))
    assert not guard.refuses(0.3, 0.5)
    calm(guard, 100, loss=1.5)
    assert guard.usual == 1.5 and not guard.num_skipped


def test_zero_takes_all_that_is_finite():
    guard = calm(Guard(0.0, 0.0, TrainState(0, "")))
    assert not guard.refuses(1e9, 1e9) and guard.refuses(math.inf, 1.0)


def test_what_a_guard_remembers_is_in_the_state():
    guard = calm(Guard(4.0, 20.0, TrainState(0, "")), CALM_STEPS + 3)
    guard.refuses(9.0, 0.5)
    again = Guard(4.0, 20.0, TrainState(**json.loads(json.dumps(dataclasses.asdict(guard.state())))))
    same = {name: value for name, value in vars(guard).items() if name != "_begun"}
    assert {name: value for name, value in vars(again).items() if name != "_begun"} == same


def test_it_gives_up_where_going_back_does_not_help():
    guard = calm(Guard(4.0, 20.0, TrainState(0, "")))
    with pytest.raises(RushesError, match="steps in a row were skipped"):
        for _ in range(MOST_IN_A_ROW):
            guard.refuses(9.0, 0.5)
    for _ in range(MOST_RETURNS):
        guard.went_back()
        calm(guard, 1)
    with pytest.raises(RushesError, match=r"was never calm after it.*lower --lr"):
        guard.went_back()
    calm(guard, CALM_STEPS)
    guard.went_back()


def test_a_run_of_before_that_remembers_no_gradients_goes_on():
    guard = Guard(4.0, 20.0, TrainState(9, "", recent=[0.5] * 64))
    assert not guard.refuses(0.5, 100.0), "nothing is known of gradients yet"
    for _ in range(LEAST):
        guard.refuses(0.5, 0.0)
    assert not guard.refuses(0.5, 1.0), "gradients of zero are no measure"


def test_what_may_become_trusted_is_not_rotated_away(tmp_path):
    """A checkpoint every five steps, of which two are kept, and sixteen calm steps make one trusted."""
    ranks = Ranks(0, 1, torch.device("cpu"))
    back = GoingBack(CALM, tmp_path, ranks, {})
    for step in range(1, 200):
        back.step(is_refused=False)
        if step % 5 == 0:
            temporary_folder(tmp_path, step).mkdir(parents=True)
            appear(tmp_path, TrainState(step, ""), 2, ranks, {})
            back.saved(step)
    paths = list_checkpoints(tmp_path)
    trusted = [int(path.name[5:]) for path in paths if is_trusted(path)]
    assert len(paths) <= 4 and trusted and max(trusted) >= 170
    assert len(back.calm) <= 4


CALM = dataclasses.replace(
    preset("tiny"),
    model=ModelConfig(width=48, depth=2, num_heads=2),
    tokens=256,
    held_out=0.15,
    is_tensorboard=False,
    cooldown=0.0,
    warmup_steps=1,
    lr=1e-3,
    save_every=4,
    roll_back_after=2,
    keep=1,
)


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_rate_that_blows_the_run_up_ends_it_and_a_lower_one_saves_it(
    dataset, tmp_path, monkeypatch, capsys
):
    """Calm up to step 12; then steps that spoil the weights, of which one is saved before it shows."""
    monkeypatch.setattr(guards, "CALM_STEPS", 4)
    monkeypatch.setattr(guards, "LEAST", 4)
    fit(dataset, "default", dataclasses.replace(CALM, steps=12), tmp_path)
    folder = tmp_path / "checkpoints"
    assert [path.name for path in list_checkpoints(folder)] == ["step-00000008", "step-00000012"]
    assert [is_trusted(path) for path in list_checkpoints(folder)] == [True, False], (
        "keep=1, and the calm one"
    )
    wild = dataclasses.replace(CALM, steps=200, lr=1000.0, schedule="constant", save_every=1)
    with pytest.raises(RushesError, match="lower --lr"):
        fit(dataset, "default", wild, tmp_path)
    said = capsys.readouterr().err
    assert "those of step-00000008 again" in said
    assert is_trusted(folder / "step-00000008")
    capsys.readouterr()
    fit(dataset, "default", dataclasses.replace(CALM, steps=60), tmp_path)
    assert losses(tmp_path)[-1] < 3 * min(losses(tmp_path)[:12])
    assert (tmp_path / "model").exists()


def test_a_run_that_blows_up_at_once_begins_anew_and_ends_by_name(dataset, tmp_path, capsys):
    wild = dataclasses.replace(CALM, steps=60, lr=1000.0)
    with pytest.raises(RushesError, match="lower --lr"):
        fit(dataset, "default", wild, tmp_path)
    assert "those of the beginning: no checkpoint is trusted" in capsys.readouterr().err
    fit(dataset, "default", dataclasses.replace(CALM, steps=20), tmp_path)
    assert max(losses(tmp_path)[-8:]) < 10


def test_a_last_step_that_is_refused_does_not_cost_the_model(dataset, tmp_path, monkeypatch, capsys):
    real, steps = loop.train_step, iter(range(100))

    def spiking(model, packs, config, ranks, stop):
        result, step = real(model, packs, config, ranks, stop), next(steps)
        if step == 9 and result is not None:
            result.loss *= 1000
        return result

    monkeypatch.setattr(loop, "train_step", spiking)
    fit(dataset, "default", dataclasses.replace(CALM, steps=10), tmp_path)
    assert "weights are as they are: no checkpoint is trusted" in capsys.readouterr().err
    made = (tmp_path / "model" / "model.safetensors").read_bytes()
    rows = [json.loads(line) for line in (tmp_path / "validation.jsonl").read_text().splitlines()]
    assert {**rows[-1], "step": 0} != {**rows[0], "step": 0}, "it is not the beginning again"
    fit(dataset, "default", dataclasses.replace(CALM, steps=10), tmp_path)
    assert (tmp_path / "model" / "model.safetensors").read_bytes() == made


def test_a_run_that_begins_anew_may_have_high_losses_again(dataset, tmp_path, monkeypatch):
    real, steps = loop.train_step, iter(range(200))

    def spiking(model, packs, config, ranks, stop):
        result, step = real(model, packs, config, ranks, stop), next(steps)
        if result is not None:
            result.loss = 1e6 if 8 <= step < 10 else result.loss if step >= 10 else 0.01
        return result

    monkeypatch.setattr(loop, "train_step", spiking)
    fit(dataset, "default", dataclasses.replace(CALM, steps=30, save_every=100), tmp_path)
    assert losses(tmp_path)[-1] > 0.1
