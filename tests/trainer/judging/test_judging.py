"""What the evaluation says of samples whose answers are known."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from manifests import cli
from manifests.cli.frame import main
from trainer.judging.accuracy import accuracy, answer, chance, score
from trainer.judging.cases import MAX_FPS, cases, world_scale
from trainer.judging.features import FeatureJudge
from trainer.judging.frechet import distance
from trainer.judging.measures import drift, joint_ratio, kept_error, likeness, seam_ratio
from trainer.sampling.draft import Sampling
from trainer.sampling.trained import load_model
from vae.checkpoint import load_vae
from world.film import RATES_FPS, SIZES_PX


def test_half_of_the_questions_have_shapes_that_no_film_has():
    found = cases(200, 1.0)
    seen = [case for case in found if case.is_seen]
    assert len(seen) == 100
    assert all((case.canvas.width_px, case.canvas.height_px) in SIZES_PX for case in seen)
    assert all(
        case.canvas.fps in [rate if rate <= MAX_FPS else rate / 2 for rate in RATES_FPS]
        for case in seen
        if not case.is_still
    )
    others = [case for case in found if not case.is_seen]
    assert not {(case.canvas.width_px, case.canvas.height_px) for case in others} & set(SIZES_PX)
    assert 0.1 < sum(case.is_still for case in found) / 200 < 0.3
    assert len({case.shot.seed for case in found}) == 200
    assert found[:5] == cases(5, 1.0)
    assert found[:5] != cases(5, 1.0, seed=1)


def test_renders_are_right_and_those_of_other_prompts_are_not():
    asked = cases(24, 0.6)
    right = [answer(case, case.render()) for case in asked]
    found, luck = accuracy(right), chance(right)
    assert min(own.value for own in found.values()) > 0.8
    assert luck["colour"].value < 0.5 and luck["background"].value < 0.6
    assert all(own.share > 0.6 for own in right)
    assert found["camera"].count < found["colour"].count == 24


def test_an_interval_of_cases_that_are_all_alike_is_no_certainty():
    few, many = score([True] * 3), score([True] * 200)
    assert few.value == many.value == 1.0 == few.high
    assert 0.3 < few.low < 0.5 and 0.97 < many.low < 0.99
    assert 0 < score([False] * 20).high < 0.2


def test_an_interval_holds_the_mean_and_narrows():
    few, many = score([True, False] * 5), score([True, False] * 500)
    assert few.low < few.value == 0.5 < few.high
    assert many.high - many.low < 0.3 * (few.high - few.low)
    assert np.isnan(score([]).value)


def test_frechet_distance_is_that_of_gaussians():
    generator = torch.Generator().manual_seed(0)
    one = torch.randn(4000, 3, generator=generator)
    assert distance(one, one) == pytest.approx(0, abs=1e-6)
    other = 2 * torch.randn(4000, 3, generator=generator) + torch.tensor([1.0, 0.0, 0.0])
    assert distance(one, other) == pytest.approx(1 + 3 * (2 - 1) ** 2, rel=0.1)


def test_measures_of_films_with_known_joints():
    steady = torch.arange(40)[:, None, None, None].expand(40, 4, 6, 3).to(torch.uint8) * 2
    assert joint_ratio(steady, 20) == pytest.approx(1.0)
    jump = steady.clone()
    jump[20:] += 40
    assert joint_ratio(jump, 20) == pytest.approx(21.0)
    assert joint_ratio(jump, 19) == pytest.approx(1.0)
    assert seam_ratio(steady) == pytest.approx(39.0)
    assert kept_error(jump, steady[20:], 20) == 40
    assert drift(steady, 10.0)["colour"] == pytest.approx(60.0)
    noise = torch.randint(0, 255, (9, 8, 8, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert likeness(noise, noise) == pytest.approx(1.0)
    assert abs(likeness(noise, noise.flip(0))) < 0.2


@pytest.mark.timeout(600)
def test_the_command_reports_accuracies_features_and_sheets(model_folder, tmp_path, capsys):
    words = ["evaluate", str(model_folder), "--prompts", "4", "--scale", "0.3", "--steps", "1"]
    words += ["--solver", "euler", "--guidance", "1", "--minute-s", "3", "--out", str(tmp_path / "out")]
    assert main(arguments=words) == cli.DONE
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["prompts"] == 4 and found["is_whole"] and found["vae_digest"]
    shares = found["accuracy"]["all"]["samples"]["background"]
    own = [row["right"]["background"] for row in found["samples"] if "background" in row["right"]]
    assert shares["value"] == pytest.approx(sum(own) / len(own)) and len(own) == shares["count"]
    assert set(found["accuracy"]) == {"all", "seen shapes", "unseen shapes"}
    assert set(found["accuracy"]["all"]) == {"samples", "round trips", "true renders", "chance"}
    ends = [found["features"][name]["joint_worst"] for name in ("last image", "first and last image")]
    assert all(value > 0 for value in ends)
    assert found["features"]["connect over windows"]["inside_worst"] > 0
    for name in ("image to video", "extend after", "extend before", "connect", "blend"):
        assert found["features"][name]["kept_error"] == 0, name
    assert found["features"]["edit"]["likeness at 0"] == pytest.approx(1.0)
    assert found["features"]["a minute"]["seconds"] == pytest.approx(3.0, rel=0.1)
    assert (tmp_path / "out" / "best.png").exists() and (tmp_path / "out" / "worst.png").exists()
    assert "background" in capsys.readouterr().out
    assert main(arguments=words) == cli.USAGE


def test_the_scale_is_that_of_the_films_a_model_was_trained_on():
    assert world_scale({"made": {"world_scale": 0.6}}) == 0.6
    assert world_scale({}) == world_scale({"made": {}}) == 0.75
    record = json.loads((Path(__file__).parents[3] / "weights/dit-tiny/model.json").read_text())
    assert f"--scale {world_scale(record)}" in record["made"]["commands"][0]


def test_features_are_of_other_clips_with_another_seed(model_folder):
    model = load_model(model_folder, torch.device("cpu"))
    one, same, other = (
        FeatureJudge(model, load_vae("vae-tiny"), Sampling(steps=1), 0.3, seed=seed) for seed in (0, 0, 7)
    )
    assert [case.prompt for case in one.cases] == [case.prompt for case in same.cases]
    assert [case.prompt for case in one.cases] != [case.prompt for case in other.cases]


def test_accuracies_are_kept_where_the_features_fail(model_folder, tmp_path, monkeypatch, capsys):
    def fail(self, minute_s):
        raise RuntimeError("no memory")

    monkeypatch.setattr("trainer.judging.features.FeatureJudge.all", fail)
    words = ["evaluate", str(model_folder), "--prompts", "2", "--scale", "0.3", "--steps", "1"]
    words += ["--solver", "euler", "--guidance", "1", "--out", str(tmp_path / "out")]
    with pytest.raises(RuntimeError):
        main(arguments=words)
    found = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert found["accuracy"]["all"]["samples"]["background"]["count"] == 2 and "features" not in found
    assert not found["is_whole"]
    assert main(arguments=[*words, "--seed", "3"]) == cli.USAGE
    assert "begun with other settings (seed)" in capsys.readouterr().err
    monkeypatch.setattr("trainer.judging.i3d.load", lambda path: object())
    (tmp_path / "i3d.pt").write_bytes(b"weights")
    fvd = ["--fvd", str(tmp_path / "i3d.pt")]
    assert main(arguments=[*words, *fvd]) == cli.USAGE
    assert "begun with other settings (fvd, fvd_weights)" in capsys.readouterr().err
    path = tmp_path / "out" / "evaluation.json"
    path.write_text(json.dumps(found | {"fvd": 1.0, "fvd_weights": "of others"}))
    assert main(arguments=[*words, *fvd]) == cli.USAGE
    assert "begun with other settings (fvd_weights)" in capsys.readouterr().err
    path.write_text(json.dumps(found | {"has_sheets": False}))  # killed in the midst of them
    before = path.read_bytes()
    assert main(arguments=[*words, "--seed", "3"]) == cli.USAGE and path.read_bytes() == before
    (tmp_path / "out" / "best.png").write_bytes(b"half")
    assert main(arguments=[*words, "--no-features"]) == cli.DONE
    assert json.loads(path.read_text()) == found | {"is_whole": True}
    assert (tmp_path / "out" / "best.png").read_bytes().startswith(b"\x89PNG")
    path.write_text(json.dumps(found))
    assert main(arguments=[*words, "--no-features"]) == cli.DONE
    assert json.loads(path.read_text()) == found | {"is_whole": True}
    path.write_text(json.dumps(found))
    monkeypatch.setattr("trainer.judging.features.FeatureJudge.all", lambda *_: {"loop": {"seam": 1.0}})
    monkeypatch.setattr("trainer.judging.run.judge", fail)  # its samples are not made again
    assert main(arguments=words) == cli.DONE
    whole = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert whole == found | {"features": {"loop": {"seam": 1.0}}, "is_whole": True}
