"""A grown VAE says all that it said, and with its new channels something of what it had left wrong; a loss of
round trips makes what is encoded again and again drift less.
"""

import pytest
import torch

from manifests import cli
from manifests.errors import UsageError
from vae.checkpoint import load_own, save_vae
from vae.folder import read_record
from vae.measuring.measures import measure, through
from vae.network.model import CausalVAE, VAEConfig
from vae.pixels import as_float
from vae.training.clips import Windows, world_clips
from vae.training.growth import with_channels
from vae.training.train import TrainConfig, reconstruct, reconstruction_loss, second_round, train

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
    for channels, words in ((6, "no more than 6"), (6 + 769, "768 numbers of a cell")):
        with pytest.raises(UsageError, match=words):
            with_channels(trained, channels, clips, 0)
    black = with_channels(trained, 8, [torch.zeros(3, 5, 32, 32, dtype=torch.uint8)], 0)
    assert all(value.isfinite().all() for value in black.parameters())


def test_what_a_second_round_changes_can_be_unlearnt(clips):
    """Descent on the loss of round trips alone, on what is measured."""
    model, film = load_own("vae-tiny-2"), as_float(clips[0])[None, :, :9, :48, :48]
    drifts = [measure(through(model), film[0]).drift_db]
    optimizer = torch.optim.Adam(model.requires_grad_(True).parameters(), 1e-4)
    for _ in range(16):
        made, _, _ = reconstruct(model, film, torch.Generator().manual_seed(0))
        reconstruction_loss(second_round(model, made), made, TrainConfig()).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.requires_grad_(False)
    drifts.append(measure(through(model), film[0]).drift_db)
    assert drifts[1] < 0.8 * drifts[0]


def test_the_loss_of_round_trips_is_part_of_what_is_trained(clips, trained, tmp_path):
    found = {}
    for weight in (0.0, 2.0):
        model = CausalVAE(SMALL)
        model.load_state_dict(trained.state_dict())
        config = TrainConfig(steps=2, budget=9216, warmup_steps=0, round_trip=weight)
        train(model, Windows(clips, config.budget, 1), config, tmp_path / str(weight), is_fresh=False)
        found[weight] = model.dec_out.conv.weight.clone()
    assert not torch.equal(found[0.0], found[2.0])


def test_the_command_grows_weights_and_refuses_what_they_cannot_grow_to(trained, tmp_path, capsys):
    save_vae(trained, tmp_path / "small", {"command": "rushes train-vae small"})
    words = ["train-vae", str(tmp_path / "v"), "--films", "8", "--init", str(tmp_path / "small")]
    words += ["--train.steps", "1", "--train.budget", "9216", "--threads", "1"]
    fewer, other = (
        ["--model.latent-channels", "4"],
        ["--model.latent-channels", "8", "--model.num-blocks", "2"],
    )
    for sizes in (fewer, other):
        assert cli.main(arguments=words + sizes) == cli.USAGE
        assert "more than its 6 --model.latent-channels" in capsys.readouterr().err
        assert not (tmp_path / "v").exists()
    assert cli.main(arguments=[*words, "--model.latent-channels", "8"]) == cli.DONE
    record = read_record(tmp_path / "v")
    assert record["config"] == {**SMALL.to_dict(), "latent_channels": 8, "widths": list(SMALL.widths)}
    assert record["began_as"] == {"command": "rushes train-vae small"}
