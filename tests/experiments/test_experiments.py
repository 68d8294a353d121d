"""Experiments: what their arms read, how they differ, and that each script runs to its report."""

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from experiments.arms import Arm, Budget, RasterDiT, trained
from experiments.films import ASKED, TRAINED, Draw, clips, drawn, questions
from trainer.config import ModelConfig
from trainer.model.dit import DiT
from vae.checkpoint import load_vae
from world.film import SIZES_PX

SCRIPTS = sorted(
    path.stem
    for path in (Path(__file__).parents[2] / "experiments").glob("*.py")
    if "__main__" in path.read_text()
)


def test_what_is_asked_for_was_not_trained_on():
    draw = Draw(count=30, scale=0.3, stills=0.5)
    train = {case.shot.seed for case in drawn(draw, TRAINED, SIZES_PX)}
    asked = questions(draw)
    assert len(asked) == 60 and not train & {case.shot.seed for case in asked}
    seen = {(case.canvas.width_px, case.canvas.height_px) for case in asked if case.is_seen}
    unseen = {(case.canvas.width_px, case.canvas.height_px) for case in asked if not case.is_seen}
    assert not seen & unseen


def test_square_crops_are_the_middle_and_keep_the_caption(tmp_path):
    vae, draw = load_vae("vae-tiny-2"), Draw(count=6, scale=0.3, stills=0.5)
    whole, cut = (
        clips(Draw(6, 0.3, 0.5, is_cropped=cropped), TRAINED, SIZES_PX, vae, tmp_path)
        for cropped in (False, True)
    )
    for one, other, case in zip(whole, cut, drawn(draw, TRAINED, SIZES_PX), strict=True):
        side = min(case.canvas.width_px, case.canvas.height_px)
        assert (one.row["width_px"], one.row["height_px"]) == (case.canvas.width_px, case.canvas.height_px)
        assert (other.row["width_px"], other.row["height_px"]) == (side, side)
        assert all(torch.equal(one.texts[kind], other.texts[kind]) for kind in ("dense", "alt"))
        assert one.latent[0].shape[1:] == (one.row["latent_t"], one.row["latent_h"], one.row["latent_w"])


def test_encoded_films_are_read_again(tmp_path):
    vae, draw = load_vae("vae-tiny-2"), Draw(count=3, scale=0.2, stills=1.0)
    first = clips(draw, ASKED, SIZES_PX, vae, tmp_path)
    [kept] = tmp_path.iterdir()
    written = kept.stat().st_mtime_ns
    again = clips(draw, ASKED, SIZES_PX, vae, tmp_path)
    assert kept.stat().st_mtime_ns == written
    assert all(torch.equal(a.latent[0], b.latent[0]) for a, b in zip(first, again, strict=True))


def test_raster_order_knows_the_place_in_the_sequence_alone():
    torch.manual_seed(0)
    config = ModelConfig(width=64, depth=1, num_heads=1)
    plain, raster = DiT(config), RasterDiT(config)
    torch.nn.init.normal_(plain.head.weight)
    raster.load_state_dict(plain.state_dict())
    x, sigma, known = torch.randn(8, 64), torch.full((8,), 0.5), torch.zeros(8)
    cu, text, text_cu = torch.tensor([0, 5, 8]), torch.randn(4, 128), torch.tensor([0, 2, 4])
    torch.nn.init.normal_(plain.modulation.bias)
    raster.load_state_dict(plain.state_dict())
    coords = torch.rand(8, 4) + 1
    moved = coords * torch.tensor([1.0, 3.0, 0.5, 1.0])

    def said(model, where):
        return model(x, sigma, known, where, cu, text, text_cu)

    assert not torch.allclose(said(plain, coords), said(plain, moved), atol=1e-4)
    assert torch.equal(said(raster, coords), said(raster, moved))


def test_a_trained_arm_is_read_again_and_one_of_another_kind_is_not(tmp_path):
    budget = Budget(
        films=8, stills=1.0, scale=0.2, steps=2, tokens=128, width=64, depth=1, compile=False, work=tmp_path
    )
    first = trained(Arm("one"), budget)
    again = trained(Arm("the same by another name"), budget)
    other = trained(Arm("one", captions="alt"), budget)
    values = [
        torch.cat([part.flatten() for part in model.dit.parameters()]) for model in (first, again, other)
    ]
    assert torch.equal(values[0], values[1]) and not torch.equal(values[0], values[2])


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Where experiments share films and arms."""
    return tmp_path_factory.mktemp("work")


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [SCRIPTS[0], *(pytest.param(name, marks=pytest.mark.long) for name in SCRIPTS[1:])]
)
def test_each_script_ends_with_its_table_and_plot(name, work, tmp_path, monkeypatch, capsys):
    sizes = "--films 12 --scale 0.3 --steps 16 --tokens 256 --width 64 --depth 1 --prompts 4 --no-compile"
    monkeypatch.setattr(sys, "argv", [name, *sizes.split(), "--work", str(work), "--out", str(tmp_path)])
    runpy.run_module(f"experiments.{name}", run_name="__main__")
    [path] = tmp_path.glob("experiment-*.json")
    found = json.loads(path.read_text())["found"]
    assert len(found) >= 2 and path.with_suffix(".png").exists()
    scores = [value for own in found.values() for value in own.values() if isinstance(value, dict)]
    assert all(0 <= score["value"] <= 1 for score in scores if score["count"])
    assert "background" in capsys.readouterr().out
