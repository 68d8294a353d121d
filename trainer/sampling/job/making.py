"""From scenes and prompts to files: texts embedded, what is given encoded once, samples packed and decoded.

Shape legend: T frames, t latents, L text tokens, Dt text width.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from manifests import cli
from trainer.sampling.blending import blended
from trainer.sampling.canvas import Canvas
from trainer.sampling.conditions import Start, encode, place
from trainer.sampling.decoding import result
from trainer.sampling.draft import Prompt, Request, Sampling
from trainer.sampling.features import Clip, Scene
from trainer.sampling.generate import generate
from trainer.sampling.job.kept_windows import KeptWindows
from trainer.sampling.job.output import Output
from trainer.sampling.trained import TrainedModel
from trainer.sampling.windows import Windows, windowed
from vae.protocol import VAE


@dataclass(frozen=True, kw_only=True)
class Words:
    """What tells one sample of a scene from another: its texts as the model reads them, and its seed."""

    prompts: tuple[str, ...]
    negative: str = ""
    from_prompt: str | None = None
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Item:
    """One sample of a job, and where it goes."""

    words: Words
    output: Output
    record: Mapping[str, Any]


class Maker:
    """Makes samples of one scene.

    Args:
        clips: the two videos of a blend; else empty.
        batch_tokens: about how many tokens the model reads at once; more samples are packed into fewer calls.
    """

    def __init__(
        self,
        model: TrainedModel,
        vae: VAE,
        scene: Scene,
        clips: Sequence[Clip] = (),
        *,
        how: Sampling,
        windows: Windows,
        batch_tokens: int = 16384,
    ) -> None:
        self.model, self.vae, self.scene, self.how, self.windows = model, vae, scene, how, windows
        self.start = _start(model, vae, scene, clips)
        self.weights = tuple(_of_latents(weight, scene.canvas, model) for weight in scene.prompt_weights)
        size = scene.canvas.latent_size(model.factors)
        tokens = 3 * model.num_tokens(size)  # branches of guidance, at most
        self.is_long = size[0] > windows.length
        self.at_once = 1 if self.is_long else max(1, batch_tokens // tokens)

    def make(self, items: Sequence[Item]) -> None:
        """Make and write samples, and say how far it is."""
        began, canvas = time.monotonic(), self.scene.canvas
        size = f"{canvas.num_frames} frames of {canvas.width_px} x {canvas.height_px}"
        latents = canvas.latent_size(self.model.factors)[0]
        shares = self.windows.shares(latents, self.scene.is_loop)
        of_each = f", {len(shares)} windows each" if self.is_long else ""
        cli.say(f"sample: {len(items)} of {size}{of_each}")
        for first in range(0, len(items), self.at_once):
            part = items[first : first + self.at_once]
            kept = [KeptWindows(item.output.path, item.record) if self.is_long else None for item in part]
            samples = self.samples([item.words for item in part], kept)
            for item, frames, windows in zip(part, samples, kept, strict=True):
                self._write(item, frames)
                if windows:
                    windows.forget()
            done = first + len(part)
            left = (time.monotonic() - began) / done * (len(items) - done)
            if len(items) > 1:
                cli.say(f"sample: {done} of {len(items)}" + (f", about {left:.0f} s left" if left else ""))

    def samples(
        self, words: Sequence[Words], kept: Sequence[KeptWindows | None] = ()
    ) -> Iterator[Iterator[np.ndarray]]:
        """The frames [H, W, 3] uint8 of the result for each of some words, to be taken in order.

        Args:
            kept: for each, the windows of a long sample that are made already.
        """
        requests = [self.request(own) for own in words]
        if self.is_long:
            latents = (
                windowed(self.model, request, self.how, self.windows, own)
                for request, own in zip(requests, kept or [None] * len(requests), strict=True)
            )
        else:
            latents = (iter([own]) for own in generate(self.model, requests, self.how))
        return (result(self.scene, own, self.vae) for own in latents)

    def request(self, words: Words) -> Request:
        """A sample as the sampler takes it."""
        weights, source = self.weights or (None,), words.from_prompt
        texts = words.prompts if len(words.prompts) == len(weights) else words.prompts[:1] * len(weights)
        *targets, negative, before = self.model.embed([*texts, words.negative, source or ""])
        return Request(
            canvas=self.scene.canvas,
            prompts=tuple(Prompt(text, weight) for text, weight in zip(targets, weights, strict=True)),
            negative=negative,
            start=self.start,
            is_loop=self.scene.is_loop,
            edited_from=None if source is None else Prompt(before),
            seed=words.seed,
        )

    def _write(self, item: Item, frames: Iterator[np.ndarray]) -> None:
        began = time.monotonic()
        item.output.write(frames, self.scene.num_frames, self.scene.canvas.fps, item.record)
        cli.say(f"{item.output.path}: written in {time.monotonic() - began:.1f} s")


def _start(model: TrainedModel, vae: VAE, scene: Scene, clips: Sequence[Clip]) -> Start | None:
    if not clips:
        return place(scene.canvas, scene.conditions, vae)
    first, second = clips
    count = scene.canvas.num_frames
    mixed = blended(model, encode(first.frames[-count:], vae), encode(second.frames[:count], vae))
    ends = place(scene.canvas, scene.conditions, vae)
    assert ends is not None
    return replace(mixed, level=mixed.level.minimum(ends.level))


def _of_latents(weight: Tensor, canvas: Canvas, model: TrainedModel) -> Tensor:
    """Weights [t] of latents from those of frames [T]."""
    factor_t = model.factors[0]
    spans = [canvas.frames_of(index, factor_t) for index in range(canvas.latent_size(model.factors)[0])]
    return weight.new_tensor([weight[span.start : span.stop].mean() for span in spans])
