"""Training the VAE from scratch on any clips, without downloaded weights; exact to resume.

A step's batch is a function of (seed, step), so a checkpoint is weights, averages, optimizer and one integer,
and the same command goes on. One process or several (`torchrun`): each takes its share of the same global
batch.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from learning.finite_steps import FiniteSteps
from learning.processes import join
from learning.state import load_state, save_state
from learning.step_log import cut_rows, finite
from manifests.cli import say
from manifests.cli.ranges import COUNT, COUNT_OR_NONE, NOT_NEGATIVE, SEED, SHARE, Ranges, check_ranges
from manifests.errors import UsageError
from vae.grid import pad_to_grid
from vae.network.model import CausalVAE
from vae.pixels import as_float
from vae.training.clips import Windows
from vae.training.discriminator import PatchDiscriminator, fooling_loss, judge_loss
from vae.training.losses import frames_of, haar, kl, ms_ssim

TELL_EVERY_S = 30.0


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
    **dict.fromkeys(("ema_decay", "adversarial_from"), SHARE),
    **dict.fromkeys(
        ("weight_decay", "l1", "l2", "haar", "flicker", "ms_ssim", "kl", "adversarial"), NOT_NEGATIVE
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
    """Weighted sum of the reconstruction losses; both [B, 3, T, H, W], padding cut off."""
    error = made - video
    loss = config.l1 * error.abs().mean() + config.l2 * error.pow(2).mean()
    if config.haar:
        loss = loss + config.haar * haar(error).abs().mean()
    if config.flicker and video.shape[2] > 1:
        loss = loss + config.flicker * error.diff(dim=2).abs().mean()
    if config.ms_ssim:
        loss = loss + config.ms_ssim * (1 - ms_ssim(frames_of(made), frames_of(video)))
    return loss


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


class Run:
    """The state of a training: model, averages, optimizers, steps done."""

    def __init__(self, model: CausalVAE, config: TrainConfig, folder: Path, digest: str) -> None:
        self.model, self.config, self.folder, self.digest, self.step = model, config, folder, digest, 0
        self.seconds, self._begun_s = 0.0, time.monotonic()
        self.judge = PatchDiscriminator().to(next(model.parameters()).device) if config.adversarial else None
        self.optimizer = torch.optim.AdamW(
            model.parameters(), lr=config.lr, betas=(0.9, 0.95), weight_decay=config.weight_decay
        )
        self.judge_optimizer = (
            torch.optim.AdamW(self.judge.parameters(), lr=2e-4, betas=(0.5, 0.9)) if self.judge else None
        )
        self.average = {name: value.detach().clone() for name, value in model.state_dict().items()}

    def _modules(self) -> dict[str, tuple[nn.Module, torch.optim.Optimizer]]:
        found: dict[str, tuple[nn.Module, torch.optim.Optimizer]] = {"model": (self.model, self.optimizer)}
        if self.judge is not None and self.judge_optimizer is not None:
            found["judge"] = (self.judge, self.judge_optimizer)
        return found

    def save(self) -> None:
        save_state(
            self.folder, self._modules(), self.average, self.digest, step=self.step, seconds=self.spent_s()
        )

    def spent_s(self) -> float:
        """Seconds of training, those before a resume too."""
        return self.seconds + time.monotonic() - self._begun_s

    def load(self) -> bool:
        """Go on where `save` left off, if it did."""
        numbers = load_state(self.folder, self._modules(), self.average, self.digest)
        if numbers:
            self.step, self.seconds = int(numbers["step"]), numbers["seconds"]
        return numbers is not None


def _mean(value: Tensor, count: int) -> float:
    """A number's mean over all processes."""
    if count > 1:
        dist.all_reduce(value)
    return float(value) / count


def _average_gradients(module: nn.Module, count: int) -> None:
    if count > 1:
        for value in module.parameters():
            if value.grad is not None:
                dist.all_reduce(value.grad)
                value.grad /= count


def share_of(num_windows: int, count: int, device: torch.device) -> float:
    """What one process's mean loss counts for where windows are dealt out unequally: 1 on average."""
    if count == 1:
        return 1.0
    total = torch.tensor(float(num_windows), device=device)
    dist.all_reduce(total)
    return num_windows * count / float(total)


def _step(run: Run, windows: Windows, rank: int, count: int, steps: FiniteSteps) -> float:
    config, model, device = run.config, run.model, next(run.model.parameters()).device
    rate = (
        config.lr
        * min(1, (run.step + 1) / max(1, config.warmup_steps))
        * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * run.step / config.steps)))
    )
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    video = windows.at(run.step, rank, count).to(device)
    generator = torch.Generator().manual_seed(
        ((config.seed * 1_000_003 + run.step) * 4096 + rank) % (1 << 63)
    )
    with torch.autocast(device.type, torch.bfloat16, enabled=config.is_bf16):
        made, mean, logvar = reconstruct(model, video, generator)
    made = made.float()
    loss = reconstruction_loss(made, video, config)
    share = share_of(len(video), count, device)
    told = _mean(loss.detach() * share, count)
    if (
        run.judge is not None
        and run.judge_optimizer is not None
        and run.step >= config.adversarial_from * config.steps
    ):
        own = judge_loss(run.judge, video, made) * share
        own.backward()
        _average_gradients(run.judge, count)
        if nn.utils.clip_grad_norm_(run.judge.parameters(), config.clip_norm).isfinite():
            run.judge_optimizer.step()  # else it would refuse every step from here on
        loss = loss + config.adversarial * fooling_loss(run.judge, made, loss, model.dec_out.conv.weight)
        run.judge_optimizer.zero_grad(set_to_none=True)
    ((loss + config.kl * kl(mean.float(), logvar.float())) * share).backward()
    if run.judge_optimizer is not None:
        run.judge_optimizer.zero_grad(set_to_none=True)
    _average_gradients(model, count)
    norm = nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
    if steps.takes(run.step, float(norm)):
        run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    decay = min(config.ema_decay, (1 + run.step) / (10 + run.step))
    with torch.no_grad():
        for name, value in model.state_dict().items():
            run.average[name].lerp_(value, 1 - decay)
    return told


def train(
    model: CausalVAE, windows: Windows, config: TrainConfig, folder: Path, is_fresh: bool = True
) -> dict:
    """Train in place up to `config.steps`, resuming a run in `folder`; weights end averaged.

    Args:
        is_fresh: begin with principal components; else with the model as it is.

    Returns:
        The record of the run.
    """
    rank, count, device = join()
    if is_fresh:
        model.init_highway(first_cells(model, windows.clips, 16384, config.seed))
    model.to(device).train().requires_grad_(True)
    model.checkpoint_blocks(config.is_checkpointed)
    settings = json.dumps(
        [
            {**asdict(config), "save_every": 0},
            model.config.to_dict(),
            windows.digest(),
            count,
            "" if is_fresh else model.fingerprint,
        ],
        sort_keys=True,
    )
    run = Run(model, config, folder, hashlib.sha256(settings.encode()).hexdigest()[:16])
    if run.load() and rank == 0:
        say(f"vae: resumed after step {run.step}")
    begin, told_s, first, steps = time.monotonic(), 0.0, run.step, FiniteSteps("vae", rank == 0)
    folder.mkdir(parents=True, exist_ok=True)
    if rank == 0:
        cut_rows(folder / "metrics.jsonl", run.step)
    with open(folder / "metrics.jsonl", "a", buffering=1) as log:
        while run.step < config.steps:
            loss = _step(run, windows, rank, count, steps)
            run.step += 1
            if rank:
                continue
            log.write(json.dumps({"step": run.step - 1, "loss": finite(loss)}) + "\n")
            elapsed = time.monotonic() - begin
            if elapsed - told_s > TELL_EVERY_S or run.step == config.steps:
                told_s = elapsed
                say(
                    f"vae: step {run.step}/{config.steps} loss {loss:.4f}, "
                    f"{elapsed / (run.step - first) * (config.steps - run.step):.0f} s left"
                )
            if run.step % config.save_every == 0 or run.step == config.steps:
                run.save()
    model.load_state_dict(run.average)
    model.cpu().eval().requires_grad_(False)
    return {"train": asdict(config), "seconds": round(run.spent_s()), "processes": count}
