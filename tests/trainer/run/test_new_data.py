"""A run goes on when its dataset has grown, if told to, from its next epoch on."""

import dataclasses
import json

import pytest

from manifests import cli
from manifests.errors import UsageError
from manifests.layout import Dataset
from manifests.views import View
from trainer.config import ModelConfig
from trainer.data.catalogue.held_out import source_of
from trainer.presets import preset
from trainer.run.fit import fit
from trainer.state.checkpoint_files import list_checkpoints, read_state
from trainer.verbs.fit import Fit

TEST = dataclasses.replace(
    preset("tiny"),
    model=ModelConfig(width=48, depth=1, num_heads=2),
    tokens=256,
    cooldown=0.0,
    save_every=4,
    is_tensorboard=False,
)


def rows(folder, name):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def test_a_grown_dataset_is_said_and_taken_up_on_purpose(copy, tmp_path, capsys):
    whole = View.load(copy)
    half = sorted(whole.clips(copy)["clip_id"].to_pylist())[::2]
    names = ", ".join(f"'{name}'" for name in half)
    dataclasses.replace(whole, where=f"({whole.where}) AND clip_id IN ({names})").save(copy, "growing")
    fit(copy, "growing", dataclasses.replace(TEST, steps=6), tmp_path / "run")
    before = json.loads((tmp_path / "run" / "model.json").read_text())
    epoch = rows(tmp_path / "run", "consumed.jsonl")[-1]["epoch"]
    whole.save(copy, "growing")
    with pytest.raises(UsageError, match=r"the dataset has grown.*Give --new-data"):
        fit(copy, "growing", dataclasses.replace(TEST, steps=12), tmp_path / "run")
    capsys.readouterr()
    fit(copy, "growing", dataclasses.replace(TEST, steps=12), tmp_path / "run", takes_new_data=True)
    assert f"other data than before: epoch {epoch + 1} begins on it at step 6" in capsys.readouterr().err
    consumed = rows(tmp_path / "run", "consumed.jsonl")
    assert [row["step"] for row in consumed] == list(range(12)) and consumed[6]["epoch"] == epoch + 1
    assert {name for row in consumed[:6] for name, _ in row["samples"]} <= set(half)
    assert {name for row in consumed[6:] for name, _ in row["samples"]} - set(half), "new clips are shown"
    [change] = rows(tmp_path / "run", "changes.jsonl")
    assert change["step"] == 6 and change["changes"]["data"][0] != change["changes"]["data"][1]
    after = json.loads((tmp_path / "run" / "model.json").read_text())
    assert (after["latent_mean"], after["latent_std"]) == (before["latent_mean"], before["latent_std"])
    held = json.loads((tmp_path / "run" / "held-out.json").read_text())
    assert held and not {source_of(name) for row in consumed for name, _ in row["samples"]} & set(held)
    mark = read_state(list_checkpoints(tmp_path / "run" / "checkpoints")[-1]).plan_mark
    fit(
        copy, "growing", dataclasses.replace(TEST, steps=14), tmp_path / "run"
    )  # from now on it is this run's data
    assert mark[1] >= epoch + 1 and len(rows(tmp_path / "run", "consumed.jsonl")) == 14
    assert len(rows(tmp_path / "run", "changes.jsonl")) == 2, "the number of steps"


def test_a_run_on_a_named_snapshot_reads_what_it_read_before(copy, tmp_path):
    whole = View.load(copy)
    half = sorted(whole.clips(copy)["clip_id"].to_pylist())[::2]
    names = ", ".join(f"'{name}'" for name in half)
    dataclasses.replace(whole, where=f"({whole.where}) AND clip_id IN ({names})").save(copy, "growing")
    assert cli.main(arguments=["snapshot", "spring", copy.uri]) == cli.DONE
    address = f"{copy.uri}@spring"
    fit(Dataset(address), "growing", dataclasses.replace(TEST, steps=3), tmp_path / "run")
    whole.save(copy, "growing")  # today's view has more
    fit(Dataset(address), "growing", dataclasses.replace(TEST, steps=6), tmp_path / "run")
    consumed = rows(tmp_path / "run", "consumed.jsonl")
    assert len(consumed) == 6 and {name for row in consumed for name, _ in row["samples"]} <= set(half)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["dataset"] == address
    options = Fit(preset="tiny", data=address)
    assert str(options._checked_out()) == f"{copy.uri}/training/tiny"
