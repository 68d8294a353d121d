"""A grown VAE says all that it said, and with its new channels something of what it had left wrong; a loss of
round trips makes what is encoded again and again drift less.
"""

import pytest
import torch

from manifests import cli
from manifests.errors import UsageError
from vae.checkpoint import load_own
from vae.folder import read_record
from vae.measuring.measures import measure, through
from vae.network.model import CausalVAE, VAEConfig
from vae.pixels import as_float
from vae.training.clips import Windows, world_clips
from vae.training.growth import with_channels
from vae.training.train import TrainConfig, train

SMALL = VAEConfig(widths=(8, 12, 16), latent_channels=6)


@pytest.fixture(scope="module")
def clips():
    return world_clips(16, 3, workers=1)


@pytest.fixture(scope="module")
def trained(clips, tmp_path_factory):
    torch.manual_seed(0)
    model = CausalVAE(SMALL)
    config = TrainConfig(steps=40, budget=4 * 9 * 32 * 32, warmup_steps=4)
    train(model, Windows(clips, config.budget, 1), config, tmp_path_factory.mktemp("trained"))
    return model


def test_a_grown_vae_keeps_its_channels_and_leaves_less_wrong(clips, trained):
    grown = with_channels(trained, 10, clips, 0)
    errors = {"before": 0.0, "after": 0.0}
    for clip in clips:
        video = as_float(clip)
        before, after = trained.encode(video), grown.encode(video)
        torch.testing.assert_close(after.mean[:6], before.mean, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(after.logvar[:6], before.logvar, atol=1e-5, rtol=1e-5)
        silent = after.mean.clone()
        silent[6:] = 0
        same = grown.decode_groups(silent[None])
        torch.testing.assert_close(same, trained.decode_groups(before.mean[None]), atol=1e-4, rtol=1e-4)
        errors["before"] += float((trained.decode(before) - video).square().mean())
        errors["after"] += float((grown.decode(after) - video).square().mean())
    assert errors["after"] < 0.85 * errors["before"]
    spread = torch.cat([grown.encode(as_float(clip)).mean[6:].flatten(1) for clip in clips], dim=1).std(1)
    assert 0.3 < float(spread.min()) < float(spread.max()) < 3
    with pytest.raises(UsageError, match="no more than 6"):
        with_channels(trained, 6, clips, 0)


def test_a_loss_of_round_trips_lessens_drift(clips, tmp_path):
    drifts, films = {}, [as_float(clip) for clip in clips[:6]]
    for weight in (0.0, 4.0):
        model = load_own("vae-tiny-2")
        config = TrainConfig(
            steps=24, budget=4 * 9 * 32 * 32, lr=3e-4, warmup_steps=4, ema_decay=0.9, round_trip=weight
        )
        train(model, Windows(clips, config.budget, 1), config, tmp_path / str(weight), is_fresh=False)
        drifts[weight] = sum(measure(through(model), film).drift_db for film in films) / len(films)
    assert drifts[4.0] < drifts[0.0] - 0.05


def test_the_command_grows_weights_and_refuses_what_they_cannot_grow_to(tmp_path, capsys):
    words = ["train-vae", str(tmp_path / "v"), "--films", "8", "--init", "vae-tiny", "--train.steps", "1"]
    words += ["--train.budget", "9216", "--threads", "1"]
    for sizes in (
        ["--model.latent-channels", "8"],
        ["--model.latent-channels", "20", "--model.num-blocks", "2"],
    ):
        assert cli.main(arguments=words + sizes) == 2
        assert "more than its 16 --model.latent-channels" in capsys.readouterr().err
        assert not (tmp_path / "v").exists()
    assert cli.main(arguments=[*words, "--model.latent-channels", "20"]) == cli.DONE
    record = read_record(tmp_path / "v")
    assert record["config"]["latent_channels"] == 20
    assert record["began_as"]["command"]
    assert record["held_out"]["film world"]["psnr_db"] > 29
