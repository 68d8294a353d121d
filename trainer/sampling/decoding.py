"""From latents to the frames of the result, as they come: decoded, given pixels put back, parts joined.

Shape legend: C t h w a latent, H W pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from manifests.errors import UsageError
from trainer.sampling.canvas import Canvas
from trainer.sampling.conditions import Pasted, pasted
from trainer.sampling.features import Scene
from vae.grid import Extent
from vae.protocol import VAE, Decoding

AT_ONCE = 4
"""Latents decoded in one go."""
LEAD = 4
"""Latents of a loop's end that are decoded before its beginning and dropped: decoders look back."""


def result(scene: Scene, latents: Iterable[Tensor], vae: VAE) -> Iterator[np.ndarray]:
    """The frames [H, W, 3] uint8 of the result; but for loops, in memory constant in their number.

    Args:
        latents: [C, n, h, w] of the canvas one after the other, in the VAE's units.
    """
    if scene.before is not None:
        yield from scene.before.numpy()
    kept: dict[int, list[Pasted]] = {}
    for part in pasted(scene.conditions):
        kept.setdefault(part.frame, []).append(part)
    for index, frame in enumerate(decoded(scene.canvas, latents, vae)):
        if index in scene.keep:
            yield _with(frame, kept.get(index, ())).numpy()
    if scene.after is not None:
        yield from scene.after.numpy()


def _with(frame: Tensor, given: Iterable[Pasted]) -> Tensor:
    """The frame [H, W, 3] with given pixels put back."""
    for part in given:
        frame = part.pixels if part.box is None else torch.where(part.box[..., None], part.pixels, frame)
    return frame


def decoded(canvas: Canvas, latents: Iterable[Tensor], vae: VAE) -> Iterator[Tensor]:
    """The frames [H, W, 3] uint8 of a canvas.

    Raises:
        UsageError: the latents are not of this VAE's shape.
    """
    lead = 0
    if canvas.begins == "group":
        latents = [torch.cat(list(latents), dim=1)]  # a loop: its end is needed first
        before = latents[0][:, -LEAD:]
        latents, lead = [before, *latents], before.shape[1] * vae.factors[0]
    extent = Extent(canvas.num_frames + lead, canvas.height_px, canvas.width_px)
    stream = vae.decode_stream(extent, canvas.begins)
    for pixels in _pieces(canvas, latents, vae, stream):
        for frame in ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(1, 2, 3, 0):
            if lead:
                lead -= 1
            else:
                yield frame


def _pieces(canvas: Canvas, latents: Iterable[Tensor], vae: VAE, stream: Decoding) -> Iterator[Tensor]:
    expected = (vae.latent_channels, *canvas.latent_size(vae.factors)[1:])
    for latent in latents:
        if (latent.shape[0], *latent.shape[2:]) != expected:
            raise UsageError(
                "--vae",
                f"cannot decode latents of {tuple(latent.shape)}: it has {expected[0]} channels",
                "Name the VAE that the training latents were made by.",
            )
        for index in range(0, latent.shape[1], AT_ONCE):
            yield from stream.push(latent[:, index : index + AT_ONCE])
    yield from stream.flush()


def to_frames(vae: VAE, latent: Tensor, canvas: Canvas) -> Tensor:
    """The frames [T, H, W, 3] uint8 of a canvas."""
    return torch.stack(list(decoded(canvas, [latent], vae)))
