"""Training: exact to resume, padding out of the loss, latents of unit size from the first step, and a record
of what made the weights.
"""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from learning.loop.gradients import sum_gradients
from manifests import cli
from manifests.errors import UsageError
from vae.checkpoint import load_own, save_vae
from vae.folder import read_record
from vae.grid import pad_to_grid
from vae.measuring.measures import BlockPca, band_errors, bicubic, constant_grid, flicker, measure, through
from vae.network.model import CausalVAE, VAEConfig
from vae.pixels import as_float
from vae.training.clips import Windows, world_clips
from vae.training.losses import haar, ms_ssim, psnr_db, shown_error, ssim
from vae.training.train import (
    TrainConfig,
    first_cells,
    reconstruction_loss,
    share_of,
    train,
)

SMALL = VAEConfig(widths=(8, 12, 16), latent_channels=8)
QUICK = {"budget": 4 * 9 * 32 * 32, "warmup_steps": 4, "save_every": 4}


@pytest.fixture(scope="module")
def clips():
    return world_clips(24, 3, workers=1)


def losses_of(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("adversarial", [0.0, 0.1])
def test_a_killed_training_resumes_to_the_same_losses_and_weights(clips, tmp_path, adversarial):
    config = TrainConfig(steps=12, adversarial=adversarial, adversarial_from=0.3, ms_ssim=0.1, **QUICK)

    class KilledError(Exception):
        pass

    class Dying(Windows):
        def at(self, step, rank=0, processes=1):
            if step == 6:
                raise KilledError
            return super().at(step, rank, processes)

    def run(kind, folder):
        torch.manual_seed(0)
        model = CausalVAE(SMALL)
        train(model, kind(clips, config.budget, 1), config, folder)
        return model.state_dict()

    whole = run(Windows, tmp_path / "whole")
    with pytest.raises(KilledError):
        run(Dying, tmp_path / "killed")
    resumed = run(Windows, tmp_path / "killed")
    assert losses_of(tmp_path / "killed") == losses_of(tmp_path / "whole")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    with pytest.raises(UsageError, match="other data, with other settings or with another number"):
        train(CausalVAE(SMALL), Windows(clips[:-1], config.budget, 1), config, tmp_path / "killed")


def test_training_beats_its_linear_start_and_the_start_is_whitened(clips, tmp_path):
    torch.manual_seed(0)
    model, config = CausalVAE(SMALL), TrainConfig(steps=150, **QUICK)
    model.init_highway(first_cells(model, clips, 4096, 0))
    latents = torch.cat([model.encode(as_float(clip[:, 1:])).mean.flatten(1) for clip in clips], dim=1)
    assert 0.5 < float(latents.std(1).min()) < float(latents.std(1).max()) < 2
    held = [as_float(clip) for clip in world_clips(6, 77, workers=1)]
    before = [psnr_db(model.decode(model.encode(clip)), clip) for clip in held]
    train(model, Windows(clips, config.budget, 1), config, tmp_path)
    after = [psnr_db(model.decode(model.encode(clip)), clip) for clip in held]
    assert sum(after) > sum(before)


def test_windows_repeat_by_step_keep_to_their_budget_and_split_over_processes(clips):
    windows, again = Windows(clips, 2 * 17 * 64 * 64, 5), Windows(clips, 2 * 17 * 64 * 64, 5)
    shapes = set()
    for step in range(40):
        whole = windows.at(step)
        shapes.add(tuple(whole.shape[2:]))
        assert torch.equal(whole, again.at(step))
        assert whole[:, 0].numel() <= 1.35 * windows.budget
        halves = [windows.at(step, rank, 2) for rank in range(2)]
        assert sum(len(half) for half in halves) == len(whole)
        assert torch.equal(
            torch.cat(halves)[:, 0, 0].sum((1, 2)).sort().values, whole[:, 0, 0].sum((1, 2)).sort().values
        )
    assert any(shape[0] == 1 for shape in shapes)
    assert any(shape[1] % 8 for shape in shapes)
    with pytest.raises(UsageError, match="no clip of 32"):
        Windows([torch.zeros(3, 1, 16, 16, dtype=torch.uint8)], 1000, 0).at(0)


def test_padding_is_out_of_the_loss():
    torch.manual_seed(0)
    video = torch.rand(1, 3, 5, 19, 21) * 2 - 1
    made = video + 0.1 * torch.randn_like(video)
    config = TrainConfig(ms_ssim=0.2)
    padded = pad_to_grid(made, (4, 8, 8))
    cut = padded[:, :, 3:8, :19, :21]
    assert torch.equal(reconstruction_loss(cut, video, config), reconstruction_loss(made, video, config))


def test_measures_say_what_they_mean():
    torch.manual_seed(0)
    video = world_clips(1, 9, workers=1)[0]
    x = as_float(video)
    same = measure(lambda clip: clip, x)
    assert same.psnr_db > 90
    assert (same.ssim, same.flicker, same.drift_db) == (pytest.approx(1.0, abs=1e-4), 0.0, 0.0)
    alternating = x + 0.05 * (torch.arange(x.shape[1]) % 2 * 2 - 1)[None, :, None, None]
    steady = x + 0.05
    assert flicker(alternating, x) > 10 * flicker(steady, x)
    blurred = torch.nn.functional.avg_pool2d(x.transpose(0, 1), 3, 1, 1, count_include_pad=False).transpose(
        0, 1
    )
    bands = band_errors(blurred, x)
    assert bands[0] < bands[1] < bands[2]
    assert haar(x[None]).pow(2).sum() == pytest.approx(
        float(x[:, :16, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2].pow(2).sum()), rel=1e-4
    )
    frames = x.transpose(0, 1) / 2 + 0.5
    assert float(ms_ssim(frames, frames)) == pytest.approx(1.0, abs=1e-5)
    assert float(ssim(frames, frames.flip(3))[0].mean()) < 0.9


def test_linear_codes_have_as_many_numbers_and_better_ones_do_better(clips):
    model = CausalVAE(SMALL)
    cells = first_cells(model, clips, 4096, 0)
    few, many = BlockPca(cells, 4, (4, 8, 8)), BlockPca(cells, 32, (4, 8, 8))
    for clip in world_clips(3, 88, workers=1):
        video = as_float(clip)
        assert few(video).shape == video.shape
        assert psnr_db(few(video), video) < psnr_db(many(video), video)
        assert bicubic((4, 8, 8), 16)(video).shape == video.shape


def test_a_grid_shows_on_a_constant_colour(clips):
    model = CausalVAE(SMALL)
    model.init_highway(first_cells(model, clips, 4096, 0))
    smooth = constant_grid(model)
    with torch.no_grad():
        model.linear_out.bias[::2] += 0.2
    assert constant_grid(model) > smooth + 10


def test_the_command_trains_evaluates_encodes_and_decodes(tmp_path, capsys):
    out = tmp_path / "vae"
    arguments = [
        "train-vae",
        str(out),
        "--films",
        "12",
        "--train.steps",
        "6",
        "--train.budget",
        "36864",
        "--model.widths",
        "8",
        "8",
        "8",
        "--threads",
        "1",
    ]
    assert cli.main(arguments=arguments) == cli.DONE
    record = read_record(out)
    assert record["train"]["steps"] == 6
    assert set(record) >= {"command", "data", "held_out", "latent_stats", "seconds"}
    assert "/" not in record["command"].replace("rushes train-vae ", "")
    assert not (out / "training" / "state.safetensors").exists()
    capsys.readouterr()
    picture = tmp_path / "sheet.png"
    assert (
        cli.main(arguments=["eval-vae", str(out), "--films", "4", "--json", "--sheet", str(picture)])
        == cli.DONE
    )
    report = json.loads(capsys.readouterr().out)
    assert set(report["sets"]["film world"]["codes"]) == {"vae", "block PCA", "bicubic"}
    assert report["vaes"]["vae"]["encode_mpx_per_cpu_s"] > 0
    assert picture.read_bytes()[:4] == b"\x89PNG"

    from media.decode.probe import probe
    from media.decode.reader import VideoReader
    from world.film import make_film, write_film

    film = write_film(make_film(3, 0), tmp_path)
    for source, target in (
        (film, "back.mp4"),
        (write_film(make_film(3, 1, is_still=True), tmp_path), "back.png"),
    ):
        latent = tmp_path / f"{target}.safetensors"
        assert cli.main(arguments=["encode", str(source), str(latent), "--weights", str(out)]) == cli.DONE
        assert (
            cli.main(arguments=["decode", str(latent), str(tmp_path / target), "--weights", str(out)])
            == cli.DONE
        )
        before, after = (
            list(VideoReader(probe(str(path)), None).frames()) for path in (source, tmp_path / target)
        )
        assert [frame.rgb.shape for frame in before] == [frame.rgb.shape for frame in after]
    assert cli.main(arguments=["decode", str(latent), str(tmp_path / "x.png")]) == cli.FAILED  # another VAE's
    assert cli.main(arguments=["latent-stats", str(out)]) == cli.DONE


def test_weights_come_back_and_other_settings_are_another_fingerprint(tmp_path):
    torch.manual_seed(0)
    for name, config in (("a", SMALL), ("b", VAEConfig(widths=(8, 12, 16), latent_channels=8, factor_t=8))):
        save_vae(CausalVAE(config), tmp_path / name, {})
    first, second = load_own(tmp_path / "a"), load_own(tmp_path / "b")
    assert first.factors == (4, 8, 8)
    assert second.factors == (8, 8, 8)
    assert first.fingerprint != second.fingerprint
    video = as_float(world_clips(1, 1, workers=1)[0])
    assert first.encode(video).fingerprint == first.fingerprint
    assert through(second)(video).shape == video.shape


def _weighed(rank: int, size: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=size)
    values = torch.arange(7.0)[rank::size]  # of seven windows: three, two and two
    weight = torch.nn.Parameter(torch.ones(()))
    module = torch.nn.ParameterList([weight])
    ((weight * values).mean() * share_of(len(values))).backward()
    sum_gradients(module.parameters(), [])
    (Path(folder) / f"{rank}.json").write_text(json.dumps(float(weight.grad)))
    dist.barrier()  # one that leaves while others still connect may be ended by its own threads
    dist.destroy_process_group()


def test_each_window_counts_alike_however_many_a_process_has(tmp_path):
    mp.spawn(_weighed, (3, str(tmp_path)), nprocs=3)
    found = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(3)]
    assert found == pytest.approx([3.0] * 3), "the mean of all seven"
    assert share_of(5) == 1.0


def test_stills_alone_have_cells_of_equal_frames_and_tiny_ones_are_refused(clips):
    model = CausalVAE(SMALL)
    stills = [clip[:, :1] for clip in clips[:3]]
    cells = first_cells(model, stills, 64, 0).reshape(64, 3, model.factors[0], -1)
    assert torch.equal(cells, cells[:, :, :1].expand_as(cells))
    with pytest.raises(UsageError, match="has no picture of 8 x 8"):
        first_cells(model, [clip[:, :, :4, :4] for clip in clips[:2]], 64, 0)


@pytest.mark.parametrize(
    "words",
    [
        *(
            "lr nan",
            "lr 0",
            "save-every 0",
            "budget -5",
            "ema-decay 2",
            "steps 0",
            "warmup-steps -1",
            "kl -1",
        ),
        *("seed -1", "clip-norm 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_by_name(tmp_path, capsys, words):
    name, value = words.split()
    arguments = ["train-vae", str(tmp_path / "v"), "--films", "1", f"--train.{name}", value]
    assert cli.main(arguments=arguments) == cli.USAGE
    assert f"--train.{name}" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "v").exists()


def test_a_rate_that_does_not_rise_is_a_rate(clips, tmp_path):
    config = TrainConfig(steps=2, budget=4096, warmup_steps=0)
    windows = Windows(clips, config.budget, config.seed)
    train(CausalVAE(VAEConfig(widths=(8, 8, 8))), windows, config, tmp_path)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [0, 1] and all(row["loss"] > 0 for row in rows)


def test_weights_go_into_a_folder_of_their_own(tmp_path, capsys):
    (tmp_path / "film.mp4").write_bytes(b"x")
    assert cli.main(arguments=["train-vae", str(tmp_path), "--films", "1"]) == cli.USAGE
    assert "holds other files (film.mp4)" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"film.mp4"}


def test_blacker_than_black_is_right_where_black_is_wanted_and_wrong_elsewhere():
    video = torch.tensor([-1.0, -1.0, 1.0, 1.0, 0.0, -0.99, 0.99])
    made = torch.tensor([-1.5, -0.5, 1.5, 0.5, -1.5, -1.5, 1.5])
    wanted = torch.tensor([0.0, 0.5, 0.0, -0.5, -1.5, -0.51, 0.51])
    torch.testing.assert_close(shown_error(made, video), wanted)
    black = torch.full((1, 3, 5, 8, 8), -1.0)
    config = TrainConfig(ms_ssim=0.2)
    assert float(reconstruction_loss(black - 0.3, black, config)) == pytest.approx(0, abs=1e-6)
    assert float(reconstruction_loss(black + 0.3, black, config)) > 0.1


def test_a_share_of_the_windows_fades_to_one_colour_and_the_others_stay_as_they_were(clips):
    windows = Windows(clips, 64 * 9 * 32 * 32, 5, faded=0.3)
    flat, faded, black = 0, 0, 0
    for step in range(12):
        batch = windows.at(step)
        assert torch.equal(batch, Windows(clips, 64 * 9 * 32 * 32, 5, faded=0.3).at(step))
        assert batch.abs().max() <= 1
        levels = (batch + 1) * 127.5  # what does not fade is of whole levels of eight bits
        for window, level in zip(batch, levels, strict=True):
            is_flat = bool((window == window[:, :1, :1, :1]).all())
            flat, black = flat + is_flat, black + bool((window == -1).all())
            faded += not is_flat and not torch.allclose(level, level.round(), atol=1e-3)
    total = sum(len(windows.at(step)) for step in range(12))
    assert 0.08 < flat / total < 0.25, (flat, total)
    assert 0.08 < faded / total < 0.25, (faded, total)
    assert black > flat / 4


def test_fades_are_part_of_what_a_training_is_known_by(clips, tmp_path):
    config = TrainConfig(steps=2, **QUICK)
    train(CausalVAE(SMALL), Windows(clips, config.budget, 1), config, tmp_path)
    other = replace(config, faded=0.2)
    with pytest.raises(UsageError, match="with other settings"):
        train(CausalVAE(SMALL), Windows(clips, config.budget, 1, other.faded), other, tmp_path)
