"""Training the VAE from scratch on any clips, without downloaded weights; exact to resume.

A step's batch is a function of (seed, step), so a checkpoint is weights, averages, optimizer and one integer,
and the same command goes on. One process or several (`torchrun`): each takes its share of the same global
batch.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from learning.loop.gradients import sum_gradients
from learning.loop.schedules import cosine
from learning.loop.training import Training, drive
from learning.processes import exchanged, join, summed
from manifests.cli.ranges import COUNT, COUNT_OR_NONE, NOT_NEGATIVE, SEED, SHARE, Ranges, check_ranges
from manifests.errors import RushesError, UsageError
from vae.grid import pad_to_grid
from vae.network.model import CausalVAE
from vae.pixels import as_float
from vae.training.clips import Windows
from vae.training.discriminator import PatchDiscriminator, fooling_loss, judge_loss
from vae.training.losses import frames_of, haar, kl, ms_ssim, shown_error


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train."""

    steps: int = 6000
    """Steps to train."""
    budget: int = 9 * 32 * 32 * 8
    """Pixels (frames x height x width) of a step, over all processes."""
    lr: float = 1.5e-3
    """Peak learning rate."""
    warmup_steps: int = 50
    """Steps over which the rate rises."""
    weight_decay: float = 1e-4
    """Of AdamW."""
    clip_norm: float = 1.0
    """Largest norm of the gradient."""
    ema_decay: float = 0.999
    """Of the averaged weights, which are saved."""
    l1: float = 1.0
    """Weight of the absolute error."""
    l2: float = 2.0
    """Weight of the squared error."""
    haar: float = 0.3
    """Weight of the error in the coefficients of one level of the 3D Haar transform."""
    flicker: float = 0.5
    """Weight of the error in differences of frames in time."""
    ms_ssim: float = 0.0
    """Weight of 1 - MS-SSIM."""
    kl: float = 1e-5
    """Weight of the divergence from a standard normal."""
    round_trip: float = 0.0
    """Weight of what a second round trip changes of what the first gave, by the same losses: what is encoded
    again and again drifts less. Twice the time a step."""
    faded: float = 0.0
    """Share of the windows that fade to one colour, black above all, or are nothing but that: footage has
    such at its ends and between its parts."""
    adversarial: float = 0.0
    """Weight of the adversarial loss of a 3D PatchGAN; 0: none."""
    adversarial_from: float = 0.7
    """Share of the steps after which it begins."""
    seed: int = 0
    """Of the initial weights, the films and the windows."""
    is_bf16: bool = False
    """Compute in bfloat16."""
    is_checkpointed: bool = False
    """Recompute activations in the backward pass."""
    save_every: int = 500
    """Steps between saves of the state."""

    def __post_init__(self) -> None:
        check_ranges("--train.", self, _RANGES)


_RANGES: Ranges = {
    **dict.fromkeys(("steps", "budget", "save_every"), COUNT),
    "warmup_steps": COUNT_OR_NONE,
    **dict.fromkeys(("lr", "clip_norm"), (0, 1e6, False)),
    **dict.fromkeys(("ema_decay", "adversarial_from", "faded"), SHARE),
    **dict.fromkeys(
        ("weight_decay", "l1", "l2", "haar", "flicker", "ms_ssim", "kl", "round_trip", "adversarial"),
        NOT_NEGATIVE,
    ),
    "seed": SEED,
}


def reconstruct(model: CausalVAE, video: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """(reconstruction, mean, logvar) of a batch [B, 3, T, H, W] through a posterior sample.

    The reconstruction has the real frames and pixels only.
    """
    _, _, t, h, w = video.shape
    mean, logvar = model.encode_groups(pad_to_grid(video, model.factors))
    noise = torch.randn(mean.shape, generator=generator).to(mean)
    skip = model.factors[0] - 1
    return (
        model.decode_groups(mean + noise * (0.5 * logvar).exp())[:, :, skip : skip + t, :h, :w],
        mean,
        logvar,
    )


def reconstruction_loss(made: Tensor, video: Tensor, config: TrainConfig) -> Tensor:
    """Weighted sum of the losses; both [B, 3, T, H, W], padding cut off, video in [-1, 1]."""
    error = shown_error(made, video)
    loss = config.l1 * error.abs().mean() + config.l2 * error.pow(2).mean()
    if config.haar:
        loss = loss + config.haar * haar(error).abs().mean()
    if config.flicker and video.shape[2] > 1:
        loss = loss + config.flicker * error.diff(dim=2).abs().mean()
    if config.ms_ssim:
        loss = loss + config.ms_ssim * (1 - ms_ssim(frames_of(video + error), frames_of(video)))
    return loss


def second_round(model: CausalVAE, made: Tensor) -> Tensor:
    """What was decoded [B, 3, T, H, W], encoded and decoded once more, as in use: without noise."""
    _, _, t, h, w = made.shape
    mean, _ = model.encode_groups(pad_to_grid(made.clamp(-1, 1), model.factors))
    skip = model.factors[0] - 1
    return model.decode_groups(mean)[:, :, skip : skip + t, :h, :w]


def first_cells(model: CausalVAE, clips: list[Tensor], count: int, seed: int) -> Tensor:
    """[count, 3 * f_t * f * f]: cells of pixels from the clips, for the highway.

    Raises:
        UsageError: no clip is as large as a cell.
    """
    generator, found, need = (
        torch.Generator().manual_seed(seed),
        [],
        count // max(1, min(256, len(clips))) + 1,
    )
    for index in torch.randperm(len(clips), generator=generator)[:256].tolist():
        factor_t, f_h, f_w = model.factors
        clip = clips[index][:, 1:]
        if clip.shape[1] < factor_t:  # a still, as a group of equal frames
            clip = clips[index][:, -1:].expand(-1, factor_t, -1, -1)
        whole = [
            side // factor * factor for side, factor in zip(clip.shape[1:], (factor_t, f_h, f_w), strict=True)
        ]
        if min(whole) == 0:
            continue
        cells = model.cells(as_float(clip[:, : whole[0], : whole[1], : whole[2]])[None])[0].flatten(1).t()
        found.append(cells[torch.randperm(len(cells), generator=generator)[:need]])
    if not found:
        raise UsageError("the footage", f"has no picture of {f_h} x {f_w} pixels", "Give larger ones.")
    return torch.cat(found)[:count]


def share_of(num_windows: int) -> float:
    """Share of a step's windows that lie with this process: they are dealt out unequally."""
    return num_windows / summed([float(num_windows)])[0]


class _Step:
    """A step: what it needs, and what it does."""

    def __init__(self, training: Training, model: CausalVAE, windows: Windows, config: TrainConfig) -> None:
        self.training, self.model, self.windows, self.config = training, model, windows, config

    def __call__(self) -> dict[str, float]:
        """Do the step the training is at. Returns what it tells of it, the same on all processes."""
        training, config = self.training, self.config
        number, rank, device = training.step, training.rank, training.device
        warm = min(1, (number + 1) / max(1, config.warmup_steps))
        drive(training.parts, {"model": config.lr * warm * cosine(number / config.steps)})
        video = self.windows.at(number, rank, training.num_processes).to(device)
        seed = ((config.seed * 1_000_003 + number) * 4096 + rank) % (1 << 63)
        with torch.autocast(device.type, torch.bfloat16, enabled=config.is_bf16):
            made, mean, logvar = reconstruct(self.model, video, torch.Generator().manual_seed(seed))
            again = second_round(self.model, made) if config.round_trip else None
        made = made.float()
        loss, share = reconstruction_loss(made, video, config), share_of(len(video))
        told = float(loss.detach()) * share
        if "judge" in training.parts and number >= config.adversarial_from * config.steps:
            loss = loss + config.adversarial * self._judged(video, made, loss, share)
        loss = loss + config.kl * kl(mean.float(), logvar.float())
        if again is not None:
            shown = made.clamp(-1, 1)
            loss = loss + config.round_trip * reconstruction_loss(again.float(), shown, config)
        (loss * share).backward()
        told = sum_gradients(self.model.parameters(), [told])[0]
        norm = float(nn.utils.clip_grad_norm_(self.model.parameters(), config.clip_norm))
        training.take(["model"], norm)
        return {"loss": told}

    def _judged(self, video: Tensor, made: Tensor, loss: Tensor, share: float) -> Tensor:
        """Train the judge, and return what fooling it is worth; its own gradients of that are thrown away."""
        judge, optimizer = self.training.parts["judge"]
        assert isinstance(judge, PatchDiscriminator)
        (judge_loss(judge, video, made) * share).backward()
        sum_gradients(judge.parameters(), [])
        if nn.utils.clip_grad_norm_(judge.parameters(), self.config.clip_norm).isfinite():
            optimizer.step()  # else it would refuse every step from here on
        optimizer.zero_grad(set_to_none=True)
        judge.requires_grad_(False)
        fooling = fooling_loss(judge, made, loss, self.model.dec_out.conv.weight)
        judge.requires_grad_(True)
        return fooling


def train(
    model: CausalVAE, windows: Windows, config: TrainConfig, folder: Path, is_fresh: bool = True
) -> dict:
    """Train in place up to `config.steps`, resuming a run in `folder`; weights end averaged.

    Args:
        is_fresh: begin with principal components; else with the model as it is.

    Returns:
        The record of the run.

    Raises:
        Interrupted: a signal asked to stop; what was done is saved.
        RushesError: the processes hold other clips.
    """
    _, count, device = join()
    if len(set(exchanged(windows.digest()))) > 1:
        raise RushesError(
            "the footage",
            "was not read alike by all processes",
            "See which files were passed over on each node, and give all nodes the same.",
        )
    if is_fresh:
        model.init_highway(first_cells(model, windows.clips, 16384, config.seed))
    model.to(device).train().requires_grad_(True)
    model.checkpoint_blocks(config.is_checkpointed)
    settings = json.dumps(
        [
            _digested(config),
            model.config.to_dict(),
            windows.digest(),
            count,
            "" if is_fresh else model.fingerprint,
        ],
        sort_keys=True,
    )
    digest = hashlib.sha256(settings.encode()).hexdigest()[:16]
    training = Training("vae", folder, _parts(model, config, device), digest, config.ema_decay)
    training.resume()
    training.run(config.steps, config.save_every, _Step(training, model, windows, config), told="loss")
    model.load_state_dict(training.average)
    model.cpu().eval().requires_grad_(False)
    return {"train": asdict(config), "seconds": round(training.seconds), "processes": count}


def _digested(config: TrainConfig) -> dict:
    """The settings that name a training; those that came later only where they are not 0."""
    values = asdict(config) | {"save_every": 0}
    later = {"second_round": values.pop("round_trip"), "faded": values.pop("faded")}
    later |= {"error": "as shown"}  # it was that of pictures as they are made, past black and white
    return values | {name: value for name, value in later.items() if value}


def _parts(
    model: CausalVAE, config: TrainConfig, device: torch.device
) -> dict[str, tuple[nn.Module, torch.optim.Optimizer]]:
    own = torch.optim.AdamW(
        model.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=config.weight_decay
    )
    found: dict[str, tuple[nn.Module, torch.optim.Optimizer]] = {"model": (model, own)}
    if config.adversarial:
        judge = PatchDiscriminator().to(device)
        found["judge"] = (judge, torch.optim.AdamW(judge.parameters(), lr=2e-4, betas=(0.5, 0.9)))
    return found
