"""The contrastive loss is of all clips of a step, whatever parts and processes they are dealt to."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from captioner.coca.model import VideoCoCa
from captioner.coca.tokenizer import CaptionTokenizer
from captioner.coca.training.contrast import Pulls, contrastive
from captioner.coca.training.data import Batches, film_examples
from captioner.coca.training.stage import StageConfig, check_batch, train_stage
from captioner.coca.training.stages import tiny_stages
from manifests import cli
from manifests.errors import UsageError
from tests.captioner.coca.small import SMALL, losses_of


@pytest.fixture(scope="module")
def examples():
    return film_examples(24, 3, SMALL, workers=1)


@pytest.fixture(scope="module")
def tokenizer(examples):
    texts = (text for example in examples for texts in example.texts.values() for text in texts)
    return CaptionTokenizer.train(texts, SMALL.vocab_size)


def trained(examples, tokenizer, folder, **settings) -> tuple[list[float], dict[str, torch.Tensor]]:
    """Losses and averaged weights of four steps of one model."""
    config = StageConfig(kind="short", steps=4, batch=8, warmup_steps=1, **settings)
    torch.manual_seed(0)
    model = VideoCoCa(SMALL)
    batches = Batches(examples, "short", config.batch, 0)
    average, _ = train_stage(model, tokenizer, batches, config, folder)
    return losses_of(folder), average


@pytest.mark.parametrize("accumulate", [2, 3, 8])
def test_a_step_in_parts_is_the_step(examples, tokenizer, tmp_path, accumulate):
    """Of eight clips: in parts of four, of unlike numbers, and of one clip each."""
    losses, weights = trained(examples, tokenizer, tmp_path / "whole")
    same_losses, same_weights = trained(examples, tokenizer, tmp_path / "parts", accumulate=accumulate)
    assert same_losses == pytest.approx(losses, rel=1e-4)
    for name, value in weights.items():
        assert torch.allclose(same_weights[name], value, atol=2e-3), name  # AdamW's steps are lr in size


def test_pulls_are_the_gradients_of_the_loss():
    torch.manual_seed(0)
    clips, texts = (F.normalize(torch.randn(6, 4), dim=1).requires_grad_() for _ in range(2))
    log_scale = torch.tensor(2.0, requires_grad=True)
    loss = contrastive(clips, texts, log_scale)
    loss.backward()
    pulls = Pulls.of(clips, texts, log_scale)
    assert pulls.loss == pytest.approx(loss.item())
    for found, leaf in zip(pulls[1:], (clips, texts, log_scale), strict=True):
        assert torch.allclose(found, leaf.grad)


def test_the_loss_is_in_single_precision_whatever_the_rest_is():
    """Scores of like clips lie near 100, half a unit apart in bfloat16."""
    draw = torch.Generator().manual_seed(0)
    near = F.normalize(1 + 0.1 * torch.randn(32, 64, generator=draw), dim=1)
    alone = Pulls.of(near, near.roll(1, 0), torch.tensor(4.6))
    with torch.autocast("cpu", torch.bfloat16):
        assert Pulls.of(near, near.roll(1, 0), torch.tensor(4.6)).loss == alone.loss


def test_a_step_of_one_clip_has_no_contrast_and_is_refused(tmp_path, capsys):
    config = replace(tiny_stages()["base"], batch=1)
    with pytest.raises(UsageError, match="has no other clips"):
        check_batch(config)
    check_batch(replace(config, contrast_weight=0.0))
    words = ["train-captioner", str(tmp_path / "c"), "--films", "8", "--steps", "2", "--stage", "base"]
    assert cli.main(arguments=[*words, "--batch", "1", "--threads", "1"]) == cli.USAGE
    assert "Give a larger --batch" in capsys.readouterr().err
