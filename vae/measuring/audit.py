"""Auditing latents as they are made: how well a sample of clips comes back, and a picture of each latent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from manifests.fingerprint import draw_of
from media.decode.images import encode_png
from vae.measuring.measures import measure, through
from vae.protocol import VAE

MIN_PSNR_DB, MAX_FLICKER, MAX_DRIFT_DB = 20.0, 2.0, 6.0
"""Beyond these a clip is flagged: it, or the VAE for such footage, should be looked at."""
MOST_PIXELS = 2 << 20
"""Frames x height x width of a clip that are audited: its beginning."""
STRIP_LATENTS, STRIP_GAP = 8, 1


def is_audited(clip_id: str, share: float) -> bool:
    """Whether a clip is in the sample: a function of its id alone."""
    return draw_of(f"audit {clip_id}") < share


@dataclass(frozen=True)
class Audit:
    """Measures of one clip's round trip (see `vae.measuring.measures.Quality`), and what is amiss."""

    audit_psnr_db: float
    audit_ssim: float
    audit_flicker: float
    audit_drift_db: float
    audit_flag: str
    """low_psnr, flicker, drift, several of them with commas, or empty."""


def audit(vae: VAE, video: Tensor) -> Audit:
    """Measure a video [3, T, H, W] in [-1, 1]."""
    found = measure(through(vae), video)
    amiss = {
        "low_psnr": found.psnr_db < MIN_PSNR_DB,
        "flicker": found.flicker > MAX_FLICKER,
        "drift": found.drift_db > MAX_DRIFT_DB,
    }
    psnr, similarity, unsteady, drift = (
        round(value, 4) for value in (found.psnr_db, found.ssim, found.flicker, found.drift_db)
    )
    return Audit(psnr, similarity, unsteady, drift, ",".join(name for name, is_so in amiss.items() if is_so))


def latent_picture(mean: Tensor) -> bytes:
    """PNG of a latent [C, t, h, w]: three principal components as red, green and blue.

    Up to eight latent frames side by side.
    """
    picks = torch.linspace(0, mean.shape[1] - 1, min(STRIP_LATENTS, mean.shape[1])).round().long()
    some = mean.float().cpu()[:, picks].double()
    flat = some.flatten(1).t()
    flat = flat - flat.mean(0)
    _, axes = torch.linalg.eigh(flat.t() @ flat)
    axes = axes.flip(1)[:, :3]
    axes = axes * torch.where(
        axes.gather(0, axes.abs().argmax(0)[None]) < 0, -1.0, 1.0
    )  # a sign that does not depend on the solver
    planes = (flat @ axes).view(*some.shape[1:], -1)
    spread = planes.flatten(0, 2).std(0, correction=0).clamp_min(1e-6)
    pixels = ((planes / spread / 5 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    if pixels.shape[-1] < 3:
        pixels = np.repeat(pixels[..., :1], 3, axis=-1)
    gap = np.full((pixels.shape[1], STRIP_GAP, 3), 255, np.uint8)
    parts = [part for picture in pixels for part in (picture, gap)][:-1]
    return encode_png(np.concatenate(parts, axis=1))
