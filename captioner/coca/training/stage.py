"""Training one stage of the captioner: contrastive and language-modelling losses, exact to resume.

loss = caption_weight * cross entropy of the next token + contrast_weight * symmetric InfoNCE of clips and
texts (Yu et al. 2022, section 3.2), over all clips of a step (contrast.py).
From scratch another comes first, alone: the next token from the one before and what the stems see at the
places it attends to (`VideoCoCa.short_logits`). A captioner that cannot see yet learns to see from it many
times faster than from the whole model.

What a step sees follows from (seed, step) alone, so a checkpoint is weights, averages, optimizers and one
integer; the same command goes on. One process or
many (`torchrun`): each takes its rows of the same global batch.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.coca.inputs import normalised
from captioner.coca.model import VideoCoCa
from captioner.coca.tokenizer import PAD, Tokens, batch
from captioner.coca.training.contrast import Pulls, of_all
from captioner.coca.training.data import Batches, Lesson
from learning.loop.gradients import sum_gradients
from learning.loop.schedules import cosine
from learning.loop.training import Training, drive
from learning.muon import Muon
from learning.processes import exchanged, join
from manifests.errors import RushesError, UsageError


@dataclass(frozen=True, kw_only=True)
class StageConfig:
    """One stage of training."""

    kind: str
    """Captions it learns: alt, short or dense."""
    steps: int
    look_steps: int = 0
    """Steps at the start in which the stems learn to tell the words of pictures without the layers between.
    Needs a deep stem."""
    watch_steps: int = 0
    """Steps after these in which they learn to tell those of clips."""
    words_lr: float = 1.5e-3
    """Learning rate of those steps."""
    kept: float = 1.0
    """Share of the base's weights that a fork begins with; the rest is new."""
    still_share: float = 0.0
    """Share of the other steps in which clips of the film world are seen as pictures: what things are is
    learnt there, at a third of the cost."""
    batch: int = 32
    """Clips of a step, over all processes. The contrastive loss tells a clip's text from those of all others
    of the step."""
    accumulate: int = 1
    """Parts in which a step's clips are run, to save memory. In more than one, embeddings are computed
    twice: once for the contrastive loss, which takes those of all parts, and once to carry it back."""
    lr: float = 1.5e-3
    muon_gain: float = 0.0
    """Matrices of the transformer blocks learn by Muon at this many times the rate; 0: by AdamW like all
    else."""
    warmup_steps: int = 40
    weight_decay: float = 0.02
    caption_weight: float = 2.0
    contrast_weight: float = 1.0
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    seed: int = 0
    is_bf16: bool = False
    """Autocast to bfloat16 (weights stay fp32)."""
    save_every: int = 200

    def lesson(self, step: int) -> Lesson:
        """How a step sees its clips."""
        if step < self.look_steps:
            return Lesson(True, 1.0)
        return Lesson(True) if step < self.look_steps + self.watch_steps else Lesson(False, self.still_share)


def check_batch(config: StageConfig) -> None:
    """
    Raises:
        UsageError: a step has one clip, whose text the contrastive loss has nothing to tell from.
    """
    if config.contrast_weight and config.batch < 2:
        raise UsageError(
            f"a batch of {config.batch}",
            "has no other clips, from whose texts a clip's own is told",
            "Give a larger --batch.",
        )


def words_loss(model: VideoCoCa, clips: Tensor, ids: Tensor) -> Tensor:
    """Cross entropy summed over tokens, by `VideoCoCa.short_logits`. clips [B, T, 3, H, W], ids [B, L]."""
    return token_loss(model.short_logits(clips, ids), ids)


def token_loss(logits: Tensor, ids: Tensor) -> Tensor:
    """Cross entropy summed over tokens, of logits [B, L - 1, V] of all tokens of ids [B, L] but the first."""
    return F.cross_entropy(
        logits.float().flatten(0, 1), ids[:, 1:].flatten(), ignore_index=PAD, reduction="sum"
    )


def rate_at(step: int, config: StageConfig) -> float:
    """Learning rate: linear warm-up, then a cosine to a fiftieth, anew in each part of a stage."""
    bounds = [
        0,
        config.look_steps,
        config.look_steps + config.watch_steps,
        max(config.steps, config.look_steps + config.watch_steps + 1),
    ]
    part = max(index for index in range(3) if step >= bounds[index])
    share = (step - bounds[part]) / (bounds[part + 1] - bounds[part])
    peak = config.lr if part == 2 else config.words_lr
    return peak * min(1.0, (step - bounds[part] + 1) / config.warmup_steps) * cosine(share)


def make_optimizers(
    model: VideoCoCa, config: StageConfig
) -> dict[str, tuple[nn.Module, torch.optim.Optimizer]]:
    """AdamW for all, or Muon for the blocks' matrices beside it; by the names of a training's parts."""
    hidden = {
        id(value)
        for name, value in model.named_parameters()
        if config.muon_gain and value.ndim == 2 and ("resblocks" in name or "cross_attn" in name)
    }
    matrices = [value for value in model.parameters() if value.ndim >= 2 and id(value) not in hidden]
    others = [value for value in model.parameters() if value.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    found: dict[str, tuple[nn.Module, torch.optim.Optimizer]] = {
        "model": (model, torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), fused=True))
    }
    if hidden:
        own = [value for value in model.parameters() if id(value) in hidden]
        rank, processes, _ = join()
        muon = Muon(own, config.lr, config.weight_decay, processes=(rank, processes))
        found["hidden"] = (nn.Module(), muon)  # its weights are saved with the model's
    return found


def run_digest(batches: Batches, config: StageConfig, start: dict[str, Tensor], processes: int = 1) -> str:
    """What a saved run must agree on: data, settings, the weights it began with, and how many processes share
    a step, whose sums are not the same to the bit."""
    settings = [batches.digest, {**asdict(config), "save_every": 0}, *([processes] if processes > 1 else [])]
    if processes * config.accumulate > 1:
        settings.append("contrast over the step")  # it was over a part
    seen = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for name in sorted(start):
        seen.update(start[name].detach().cpu().numpy().tobytes())
    return seen.hexdigest()[:16]


def train_stage(
    model: VideoCoCa, tokenizer: Tokens, batches: Batches, config: StageConfig, folder: Path
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Train in place up to `config.steps`, from where a run in `folder` stopped.

    Returns:
        The averaged weights, and the record of the run.

    Raises:
        RushesError: the processes hold other examples.
    """
    _, processes, device = join()
    if len(set(exchanged(batches.digest))) > 1:
        raise RushesError(
            "the examples",
            "were not read alike by all processes",
            "See which clips were passed over on each node, and give all nodes the same.",
        )
    model.to(device).train().requires_grad_(True)
    digest = run_digest(batches, config, model.state_dict(), processes)
    name = f"captioner: {config.kind}"
    training = Training(name, folder, make_optimizers(model, config), digest, config.ema_decay)
    training.resume()
    step = _Step(training, model, tokenizer, batches, config)
    training.run(config.steps, config.save_every, step, told="loss contrast words")
    return training.average, {**asdict(config), "seconds": round(training.seconds), "processes": processes}


class _Step:
    """A step: what it needs, and what it does."""

    def __init__(
        self, training: Training, model: VideoCoCa, tokenizer: Tokens, batches: Batches, config: StageConfig
    ) -> None:
        self.training, self.model, self.tokenizer = training, model, tokenizer
        self.batches, self.config = batches, config

    def __call__(self) -> dict[str, float]:
        """Do the step the training is at. Returns what it tells of it, the same on all processes."""
        config, training = self.config, self.training
        clips, texts = self.batches.at(training.step)
        ids = batch(self.tokenizer, texts, self.model.config.context_length)
        num_tokens = int((ids[:, 1:] != PAD).sum())
        mine = list(range(training.rank, len(texts), training.num_processes))
        parts = [mine[index :: config.accumulate] for index in range(config.accumulate)]
        rate = rate_at(training.step, config)
        rates = {"model": rate, "hidden": rate * config.muon_gain}
        drive(training.parts, {name: rates[name] for name in training.parts})
        is_words = config.lesson(training.step).is_words
        learn = self._words if is_words else self._captions_and_contrast
        told = learn(clips, ids, [part for part in parts if part], num_tokens)
        told = sum_gradients(self.model.parameters(), told)
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm))
        training.take(["model", "hidden"], norm)
        names = ("words",) if is_words else ("loss", "contrast")  # what it has computed
        return {**dict(zip(names, told, strict=True)), "grad_norm": norm, "lr": rate}

    def _words(self, clips: np.ndarray, ids: Tensor, parts: list[list[int]], num_tokens: int) -> list[float]:
        """Carry back the loss of words of these parts of a step. Returns [its sum per token]."""
        told = 0.0
        for part in parts:
            pixels, tokens = self._on_device(clips, ids, part)
            with self._precision():
                words = words_loss(self.model, pixels, tokens) / num_tokens
            (self.config.caption_weight * words).backward()
            told += words.item()
        return [told]

    def _captions_and_contrast(
        self, clips: np.ndarray, ids: Tensor, parts: list[list[int]], num_tokens: int
    ) -> list[float]:
        """Carry back both losses of these parts of a step. Returns [loss per token, contrastive loss]."""
        config, training = self.config, self.training
        if not config.contrast_weight:
            return [self._captions(clips, ids, parts, num_tokens), 0.0]
        is_whole = len(parts) == 1  # then what it is computed from is kept until it is carried back
        seen = [self._seen(clips, ids, part) for part in parts] if is_whole else []
        pulls = self._pulls(clips, ids, parts, seen[0][:2] if is_whole else None)
        told = [0.0, pulls.loss if training.rank == 0 else 0.0]  # the same on all processes
        for part in parts:
            embedding, text_embedding, loss = seen[0] if is_whole else self._seen(clips, ids, part)
            torch.autograd.backward(
                [config.caption_weight * loss / num_tokens, embedding, text_embedding],
                [
                    None,
                    config.contrast_weight * pulls.clips[part],
                    config.contrast_weight * pulls.texts[part],
                ],
            )
            told[0] += loss.item() / num_tokens
        if training.rank == 0:  # of all processes, whose gradients are summed
            self.model.logit_scale.backward(config.contrast_weight * pulls.log_scale)
        return told

    def _captions(self, clips: np.ndarray, ids: Tensor, parts: list[list[int]], num_tokens: int) -> float:
        """Carry back the loss of captions alone. Returns its sum per token."""
        told = 0.0
        for part in parts:
            loss = self._seen(clips, ids, part)[2] / num_tokens
            (self.config.caption_weight * loss).backward()
            told += loss.item()
        return told

    def _pulls(
        self, clips: np.ndarray, ids: Tensor, parts: list[list[int]], known: tuple[Tensor, Tensor] | None
    ) -> Pulls:
        """The contrastive loss of the step, of these parts and those of the other processes.

        Args:
            known: embeddings of clips and texts of the one part.
        """
        rows, width = [row for part in parts for row in part], self.model.config.embed_dim
        if known is None:
            with torch.no_grad():
                found = [self._embeddings(clips, ids, part) for part in parts]
            empty = torch.zeros(0, width, device=self.training.device)
            known = (
                torch.cat([empty, *(one for one, _ in found)]),
                torch.cat([empty, *(other for _, other in found)]),
            )
        both = of_all(torch.cat(known, dim=1), rows, len(ids))
        return Pulls.of(both[:, :width], both[:, width:], self.model.logit_scale)

    def _seen(self, clips: np.ndarray, ids: Tensor, part: list[int]) -> tuple[Tensor, Tensor, Tensor]:
        """(clip embeddings [B, E], text embeddings [B, E], sum of token cross entropies) of a part."""
        pixels, tokens = self._on_device(clips, ids, part)
        with self._precision():
            embedding, text_embedding, logits = self.model(pixels, tokens)
        return embedding.float(), text_embedding.float(), token_loss(logits, tokens)

    def _embeddings(self, clips: np.ndarray, ids: Tensor, part: list[int]) -> tuple[Tensor, Tensor]:
        """What the first two of `_seen` are, without the decoder."""
        pixels, tokens = self._on_device(clips, ids, part)
        with self._precision():
            embedding, text_embedding = self.model.embeddings(pixels, tokens)
        return embedding.float(), text_embedding.float()

    def _on_device(self, clips: np.ndarray, ids: Tensor, part: list[int]) -> tuple[Tensor, Tensor]:
        """Pixels [B, T, 3, H, W] and tokens [B, L] of a part."""
        device = self.training.device
        return normalised(clips[part]).to(device), ids[part].to(device)

    def _precision(self) -> torch.autocast:
        return torch.autocast(self.training.device.type, torch.bfloat16, enabled=self.config.is_bf16)
