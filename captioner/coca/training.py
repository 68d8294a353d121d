"""Training one stage of the captioner: contrastive and language-modelling losses, exact to resume.

loss = caption_weight * cross entropy of the next token + contrast_weight * symmetric InfoNCE of clips and
texts (Yu et al. 2022, section 3.2)
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
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from captioner.coca.data import Batches, Lesson
from captioner.coca.inputs import normalised
from captioner.coca.model import VideoCoCa
from captioner.coca.tokenizer import PAD, Tokens, batch
from learning.finite_steps import FiniteSteps
from learning.muon import Muon
from learning.processes import join
from learning.state import load_state, save_state
from learning.step_log import cut_rows, finite
from manifests.cli import say

TELL_EVERY_S = 20.0


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
    """Clips of a step, over all processes. The contrastive loss tells a clip's text from those of its own
    process and part (`accumulate`) alone."""
    accumulate: int = 1
    """Parts in which a step's clips are run, to save memory; the contrastive loss sees one part at a time."""
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


def words_loss(model: VideoCoCa, clips: Tensor, ids: Tensor) -> Tensor:
    """Cross entropy summed over tokens, by `VideoCoCa.short_logits`. clips [B, T, 3, H, W], ids [B, L]."""
    return F.cross_entropy(
        model.short_logits(clips, ids).float().flatten(0, 1),
        ids[:, 1:].flatten(),
        ignore_index=PAD,
        reduction="sum",
    )


def losses(model: VideoCoCa, clips: Tensor, ids: Tensor) -> tuple[Tensor, Tensor, int]:
    """(sum of token cross entropies, contrastive loss, tokens). clips [B, T, 3, H, W], ids [B, L]."""
    embedding, text_embedding, logits = model(clips, ids)
    targets = ids[:, 1:].clone()
    targets[ids[:, 1:] == PAD] = -100
    token_loss = F.cross_entropy(
        logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"
    )
    with torch.autocast(ids.device.type, enabled=False):  # scores near 100 are half a unit apart in bfloat16
        scale = model.logit_scale.float().exp().clamp(max=100)
        scores = scale * embedding.float() @ text_embedding.float().t()
    own = torch.arange(len(ids), device=ids.device)
    contrast = 0.5 * (F.cross_entropy(scores, own) + F.cross_entropy(scores.t(), own))
    return token_loss, contrast, int((targets != -100).sum())


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
    return (
        peak
        * min(1.0, (step - bounds[part] + 1) / config.warmup_steps)
        * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
    )


class Run:
    """The state of a stage in training: model, averages, optimizers, and how many steps are done."""

    def __init__(self, model: VideoCoCa, config: StageConfig, folder: Path, digest: str) -> None:
        self.model, self.config, self.folder, self.digest = model, config, folder, digest
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
        self.parts: dict[str, tuple[nn.Module, torch.optim.Optimizer]] = {
            "model": (model, torch.optim.AdamW(groups, lr=config.lr, betas=(0.9, 0.98), fused=True))
        }
        if hidden:
            own = [value for value in model.parameters() if id(value) in hidden]
            rank, processes, _ = join()
            self.parts["hidden"] = (
                nn.Module(),
                Muon(own, config.lr, config.weight_decay, processes=(rank, processes)),
            )  # its weights are saved with the model's
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}
        self.step = 0

    def save(self) -> None:
        save_state(self.folder, self.parts, self.average, self.digest, step=self.step)

    def load(self) -> bool:
        """Go on where `save` left off, if it did."""
        numbers = load_state(self.folder, self.parts, self.average, self.digest)
        if numbers:
            self.step = int(numbers["step"])
        return numbers is not None


def run_digest(batches: Batches, config: StageConfig, start: dict[str, Tensor], processes: int = 1) -> str:
    """What a saved run must agree on: data, settings, the weights it began with, and how many processes share
    a step, as each contrasts its own clips alone."""
    settings = [batches.digest, {**asdict(config), "save_every": 0}, *([processes] if processes > 1 else [])]
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
    """
    rank, processes, device = join()
    model.to(device).train().requires_grad_(True)
    digest = run_digest(batches, config, model.state_dict(), processes)
    run = Run(model, config, folder, digest)
    resumed = run.load()
    if resumed and rank == 0:
        say(f"captioner: {config.kind}: resumed after step {run.step}")
    metrics = folder / "metrics.jsonl"
    folder.mkdir(parents=True, exist_ok=True)
    if rank == 0:
        cut_rows(metrics, run.step)
    begin, told_s, first = time.monotonic(), 0.0, run.step
    steps = FiniteSteps(f"captioner: {config.kind}", rank == 0)
    with open(metrics, "a", buffering=1) as log:
        while run.step < config.steps:
            row = _step(run, tokenizer, batches, rank, processes, device, steps)
            run.step += 1
            if rank == 0:
                log.write(
                    json.dumps({"step": run.step - 1, **{name: finite(value) for name, value in row.items()}})
                    + "\n"
                )
                elapsed = time.monotonic() - begin
                if elapsed - told_s > TELL_EVERY_S or run.step == config.steps:
                    told_s = elapsed
                    left_s = elapsed / (run.step - first) * (config.steps - run.step)
                    losses_now = " ".join(f"{name} {row[name]:.3f}" for name in _TOLD if name in row)
                    say(
                        f"captioner: {config.kind}: step {run.step}/{config.steps} {losses_now}, "
                        f"{left_s:.0f} s left"
                    )
                if run.step % config.save_every == 0 or run.step == config.steps:
                    run.save()
    return run.average, {**asdict(config), "seconds": round(time.monotonic() - begin), "processes": processes}


def _summed(model: VideoCoCa, numbers: list[float]) -> list[float]:
    """Sum gradients and numbers over all processes, in place.

    A process that had no row of a small batch adds nothing; weights that no process had use for stay without
    a gradient.
    """
    weights = [value for value in model.parameters() if value.requires_grad]
    told = torch.tensor(
        [*numbers, *(float(value.grad is not None) for value in weights)],
        device=weights[0].device,
        dtype=torch.float64,
    )
    dist.all_reduce(told)
    used = [value for value, count in zip(weights, told[len(numbers) :].tolist(), strict=True) if count]
    flat = torch.cat(
        [(value.grad if value.grad is not None else torch.zeros_like(value)).flatten() for value in used]
    )
    dist.all_reduce(flat)
    for value, piece in zip(used, flat.split([value.numel() for value in used]), strict=True):
        value.grad = piece.view_as(value).clone()
    return [float(number) for number in told[: len(numbers)]]


def _step(
    run: Run,
    tokenizer: Tokens,
    batches: Batches,
    rank: int,
    processes: int,
    device: torch.device,
    steps: FiniteSteps,
) -> dict[str, float]:
    config = run.config
    clips, texts = batches.at(run.step)
    ids = batch(tokenizer, texts, run.model.config.context_length)
    num_tokens = int((ids[:, 1:] != PAD).sum())
    mine = list(range(rank, len(texts), processes))
    parts = [mine[index :: config.accumulate] for index in range(config.accumulate)]
    rate = rate_at(run.step, config)
    for name, (_, optimizer) in run.parts.items():
        for group in optimizer.param_groups:
            group["lr"] = rate * (config.muon_gain if name == "hidden" else 1.0)
    told = [0.0, 0.0, 0.0]
    for part in (part for part in parts if part):
        pixels, tokens = normalised(clips[part]).to(device), ids[part].to(device)
        share = len(part) / len(texts)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.is_bf16):
            loss, parts_told = _loss(run, pixels, tokens, num_tokens, share)
        loss.backward()
        told = [before + now for before, now in zip(told, parts_told, strict=True)]
    if processes > 1:
        told = _summed(run.model, told)
    norm = float(nn.utils.clip_grad_norm_(run.model.parameters(), config.clip_norm))
    is_taken = steps.takes(run.step, norm)
    for _, optimizer in run.parts.values():
        if is_taken:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    decay = min(config.ema_decay, (1 + run.step) / (10 + run.step))
    with torch.no_grad():
        now = run.model.state_dict()
        torch._foreach_lerp_([run.average[name] for name in now], list(now.values()), 1 - decay)
    names = ("words",) if config.lesson(run.step).is_words else ("loss", "contrast")  # what it has computed
    losses_told = {name: told[_TOLD.index(name)] for name in names}
    return {**losses_told, "grad_norm": norm, "lr": rate}


_TOLD = ("loss", "contrast", "words")
"""What `_loss` tells, in its order."""


def _loss(
    run: Run, pixels: Tensor, tokens: Tensor, num_tokens: int, share: float
) -> tuple[Tensor, list[float]]:
    """The loss of one part of a step, and its parts: per token, contrastive, words."""
    config, model = run.config, run.model
    if config.lesson(run.step).is_words:
        words = words_loss(model, pixels, tokens) / num_tokens
        return config.caption_weight * words, [0.0, 0.0, words.item()]
    token_loss, contrast, _ = losses(model, pixels, tokens)
    loss = config.caption_weight * token_loss / num_tokens + config.contrast_weight * contrast * share
    return loss, [token_loss.item() / num_tokens, contrast.item() * share, 0.0]
