"""Training the VAE from scratch on the CPU in minutes: L1, L2, temporal-difference L1 and a small KL; no downloaded weights.

Windows alternate between short crops (many steps), full windows (long memory) and single frames (images).
"""

from __future__ import annotations

import math
import time

import torch
from torch import Tensor

from manifests.cli import say
from vae.model import CausalVAE, patchify


def psnr_db(a: Tensor, b: Tensor) -> float:
    """Peak signal-to-noise ratio of two videos in [-1, 1]."""
    mse = ((a.float() - b.float()) / 2).pow(2).mean().clamp_min(1e-10)
    return float(-10 * torch.log10(mse))


def as_float(pool: Tensor) -> Tensor:
    return pool.float() / 127.5 - 1


def pad_front(x: Tensor) -> Tensor:
    """[B, 3, T, H, W] with the first frame repeated to a group of its own, and the tail to whole groups."""
    x = torch.cat([x[:, :, :1].expand(-1, -1, 3, -1, -1), x], dim=2)
    tail = -x.shape[2] % 4
    return torch.cat([x, x[:, :, -1:].expand(-1, -1, tail, -1, -1)], dim=2) if tail else x


def loss_of(model: CausalVAE, video: Tensor, generator: torch.Generator) -> Tensor:
    """Training loss of a batch [B, 3, T, H, W] in [-1, 1]; H and W are multiples of 8."""
    num_frames = video.shape[2]
    mean, logvar = model.encode_groups(pad_front(video))
    noise = torch.randn(mean.shape, generator=generator)
    decoded = model.decode_groups(mean + noise * (0.5 * logvar).exp())[:, :, 3 : 3 + num_frames]
    error = decoded - video
    loss = error.abs().mean() + 2.0 * error.pow(2).mean()
    if num_frames > 1:
        loss = loss + 0.5 * error.diff(dim=2).abs().mean()
    kl = 0.5 * (mean.pow(2) + logvar.exp() - 1 - logvar).mean()
    return loss + 1e-5 * kl


@torch.no_grad()
def evaluate(model: CausalVAE, windows: Tensor) -> dict[str, float]:
    """Mean PSNR over held-out windows, as clips and as single frames, and the spread of the latents."""
    clips, images, stds = [], [], []
    for video in as_float(windows):
        latent = model.encode(video)
        clips.append(psnr_db(model.decode(latent), video))
        images.append(psnr_db(model.decode(model.encode(video[:, :1])), video[:, :1]))
        stds.append(latent.mean.std())
    return {
        "psnr_clip_db": round(sum(clips) / len(clips), 3),
        "psnr_image_db": round(sum(images) / len(images), 3),
        "latent_std": round(float(sum(stds) / len(stds)), 3),
    }


def pca_blocks(pool: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """[count, 768] blocks of 4x8x8 pixels from the pool, for the highway."""
    picks = torch.randint(len(pool), (min(256, len(pool)),), generator=generator)
    cells = patchify(as_float(pool[picks][:, :, 1:17]), 4, 8).permute(0, 2, 3, 4, 1).reshape(-1, 768)
    return cells[torch.randperm(len(cells), generator=generator)[:count]]


def train(model: CausalVAE, pool: Tensor, held_out: Tensor, budget_s: float, seed: int, lr: float = 1.5e-3) -> dict:
    """Train in place for `budget_s` seconds of wall clock. Returns the record of the run."""
    generator = torch.Generator().manual_seed(seed)
    model.init_highway(pca_blocks(pool, 16384, generator))
    start_scores = evaluate(model, held_out[:32])
    say(f"vae: highway alone {start_scores}")
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=1e-4)
    average = {name: value.clone() for name, value in model.state_dict().items()}
    begin, step, told_s = time.monotonic(), 0, 0.0
    while (elapsed := time.monotonic() - begin) < budget_s:
        share = elapsed / budget_s
        rate = lr * min(1, (step + 1) / 50) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        for group in optimizer.param_groups:
            group["lr"] = rate
        long = share > 0.7 and step % 2 == 0
        frames, side, batch = (17, 64, 4) if long else (9, 32, 8)
        picks = torch.randint(len(pool), (batch,), generator=generator)
        top, left, start = (int(torch.randint(0, room + 1, (1,), generator=generator)) for room in (64 - side, 64 - side, 17 - frames))
        video = as_float(pool[picks][:, :, start : start + frames, top : top + side, left : left + side])
        for axis in (-1, -2, 2):
            if torch.rand(1, generator=generator) < 0.5:
                video = video.flip(axis)
        if step % 6 == 5:
            video = video[:, :, :1]
        loss = loss_of(model, video, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if torch.isfinite(norm):
            optimizer.step()
        decay = min(0.999, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                average[name].lerp_(value, 1 - decay)
        step += 1
        if elapsed - told_s > 30:
            told_s = elapsed
            say(f"vae: step {step}, {elapsed:.0f} of {budget_s:.0f} s, loss {loss.item():.4f}")
    model.load_state_dict(average)
    return {"steps": step, "seconds": round(budget_s), "seed": seed, "highway_alone": start_scores, "held_out": evaluate(model, held_out)}
