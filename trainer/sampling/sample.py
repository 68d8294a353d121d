"""Sampling: a canvas of any size and length, a prompt, and perhaps given latents.

Text-to-image is text-to-video with one frame. Given latent frames stay bit-equal: their noise level is 0 from
start to end.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from captioner.registry import make_text_encoder
from manifests.errors import UsageError
from trainer.data.patches import coordinates, padded, patchify, unpatchify
from trainer.model.flow import pace, shift_of, shifted
from trainer.sampling.trained import TrainedModel
from vae.grid import Extent, Latent, latent_size
from vae.protocol import VAE

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x [N, P], sigma [N]) to velocity [N, P]."""


@dataclass(frozen=True, kw_only=True)
class Canvas:
    """What to make: size in frames and pixels, and frames per second (0 for an image)."""

    num_frames: int
    height_px: int
    width_px: int
    fps: float = 12.0

    @property
    def extent(self) -> Extent:
        return Extent(self.num_frames, self.height_px, self.width_px)


def sigma_grid(steps: int, shift: float) -> Tensor:
    """Noise levels from 1 to 0, [steps + 1], shifted by shape as in training."""
    return shifted(torch.linspace(1, 0, steps + 1), shift)


def integrate(
    velocity: Velocity, x: Tensor, known: Tensor, sigmas: Tensor, solver: str = "heun", pace: float = 1.0
) -> Tensor:
    """Follow the flow from noise to data.

    Args:
        velocity: the model, guidance included.
        x: start [N, P]: noise, and clean values where `known`.
        known: [N] bool, held fixed at sigma 0.
        sigmas: descending levels of the other tokens, ending at 0.
        solver: euler or heun (second order; its last step is an Euler step).
        pace: how far x moves for one unit of sigma along what the model says (`flow.pace`).

    Returns:
        [N, P]; known tokens are bit-equal to their start.
    """
    free = ~known[:, None]
    for now, later in itertools.pairwise(sigmas):
        level = torch.where(known, 0.0, now)
        slope = velocity(x, level)
        step = (later - now) * pace
        ahead = torch.where(free, x + step * slope, x)
        if solver == "heun" and later > 0:
            slope = 0.5 * (slope + velocity(ahead, torch.where(known, 0.0, later)))
            ahead = torch.where(free, x + step * slope, x)
        x = ahead
    return x


@torch.no_grad()
def sample_latent(
    trained: TrainedModel,
    canvas: Canvas,
    prompt: str | Tensor,
    *,
    seed: int = 0,
    steps: int = 24,
    guidance: float = 3.0,
    solver: str = "heun",
    known: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """A latent [C, t, h, w] in the VAE's own units, on the CPU.

    Args:
        prompt: what to show, or its embedding [L, Dt]; empty for anything.
        guidance: weight of classifier-free guidance (Ho and Salimans 2022); 1 turns it off.
        known: given latents: values [C, t, h, w] in the VAE's units, and which latent frames of them are
            given [t] bool.
    """
    dit, patch = trained.dit, trained.dit.config.patch
    device = next(dit.parameters()).device
    size = latent_size(canvas.extent, trained.factors)
    mean, std = trained.mean.view(-1, 1, 1, 1), trained.std.view(-1, 1, 1, 1)
    noise = torch.randn((len(trained.mean), *size), generator=torch.Generator().manual_seed(seed))
    x, grid = patchify(noise, patch)
    coords, frame = coordinates(
        grid, patch, canvas.fps if canvas.num_frames > 1 else 0.0, factor_t=trained.factors[0]
    )
    given = torch.zeros(len(x), dtype=torch.bool)
    if known is not None:
        values, frames = known
        layers = (
            F.pad(frames, (0, -len(frames) % patch[0]), value=True).view(-1, patch[0]).all(1)
        )  # a token is given if all its latents are
        given = layers[frame]
        x = torch.where(given[:, None], patchify(padded((values - mean) / std, patch), patch)[0], x)
    null, wanted = torch.zeros(1, dit.config.text_width), _embedding(trained, prompt)
    texts = [null] if wanted is None else [wanted] if guidance == 1.0 else [wanted, null]
    copies = len(texts)
    text_cu = torch.tensor([0, *(len(text) for text in texts)]).cumsum(0)
    fixed = [
        value.to(device)
        for value in (
            coords.repeat(copies, 1),
            torch.arange(copies + 1) * len(x),
            torch.cat(texts).float(),
            text_cu,
        )
    ]
    x, given = x.to(device), given.to(device)

    def velocity(value: Tensor, sigma: Tensor) -> Tensor:
        out = dit(value.repeat(copies, 1), sigma.repeat(copies), given.repeat(copies), *fixed)
        if copies == 1:
            return out
        cond, uncond = out.chunk(2)
        return uncond + guidance * (cond - uncond)

    sigmas = sigma_grid(steps, shift_of(grid, trained.flow)).to(device)
    done = integrate(velocity, x, given, sigmas, solver, pace(trained.flow.path)).cpu()
    latent = unpatchify(done, grid, patch, size) * std + mean
    if known is not None:
        latent = torch.where(known[1][None, :, None, None], known[0], latent)
    return latent


def _embedding(trained: TrainedModel, prompt: str | Tensor) -> Tensor | None:
    """The text as the model was trained to read it; None for no text."""
    if isinstance(prompt, Tensor):
        return prompt
    if not prompt:
        return None
    encoder = make_text_encoder(trained.record["text_encoder"], trained.record["text_model"])
    encoder.setup()
    return encoder.encode([prompt])[0]


def to_frames(vae: VAE, latent: Tensor, canvas: Canvas) -> Tensor:
    """Decode to frames [T, H, W, 3] uint8 of exactly the canvas.

    Raises:
        UsageError: the latent is not of this VAE's shape.
    """
    if tuple(latent.shape) != (vae.latent_channels, *latent_size(canvas.extent, vae.factors)):
        raise UsageError(
            "--vae",
            f"cannot decode latents of shape {tuple(latent.shape)}",
            "Name the VAE that the training latents were made by.",
        )
    video = vae.decode(Latent(latent, torch.zeros_like(latent), canvas.extent, vae.factors))
    return ((video + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0)
