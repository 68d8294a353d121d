"""Samples longer than the model was trained for: windows of latents, each of which begins in the last one.

What is kept from window to window is latents, never pixels that were decoded and encoded again; memory does
not grow with the length.

Shape legend: C t h w a latent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from manifests.errors import UsageError
from trainer.sampling.conditions import Start
from trainer.sampling.draft import Request, Sampling
from trainer.sampling.generate import generate
from trainer.sampling.trained import TrainedModel


@dataclass(frozen=True)
class Windows:
    """How a long sample is made: windows of `length` latents of which `overlap` are those before."""

    length: int = 16
    overlap: int = 4

    def __post_init__(self) -> None:
        if not 1 <= self.overlap < self.length:
            raise UsageError(
                f"windows of {self.length} latents that overlap by {self.overlap}",
                "do not move on",
                "The overlap is at least 1 and less than the length.",
            )

    def count(self, latents: int) -> int:
        """How many windows so many latents take."""
        return 1 + max(0, -(-(latents - self.length) // (self.length - self.overlap)))

    def check_whole(self, latents: int) -> None:
        """Refuse what FlowEdit would need several windows for.

        Raises:
            UsageError: it does not fit one.
        """
        if latents > self.length:
            raise UsageError(
                f"--from-prompt, of a video of {latents} latents",
                f"is longer than a window of {self.length}",
                "Edit a part of it, or widen --window.",
            )


class Kept(Protocol):
    """Windows that were made before, by their number."""

    def get(self, number: int) -> Tensor | None: ...

    def put(self, number: int, latent: Tensor) -> None: ...


def windowed(
    model: TrainedModel, request: Request, how: Sampling, windows: Windows, kept: Kept | None = None
) -> Iterator[Tensor]:
    """The latents [C, n, h, w] of a request one after the other; in one piece where they fit a window.

    Args:
        kept: takes what is made, and gives back what was made when this was stopped.
    """
    total = request.canvas.latent_size(model.factors)[0]
    if total <= windows.length:
        yield from generate(model, [request], how)
        return
    if request.edited_from is not None:
        windows.check_whole(total)
    overlap, at, number = windows.overlap, 0, 0
    head = last = torch.empty(0)
    while at < total:
        begin = max(0, at - overlap) if number else 0
        count = min(windows.length, total - begin)
        made = kept.get(number) if kept else None
        is_closing = request.is_loop and begin + count == total  # a loop ends before its first latents
        if made is None:
            part = _part(model, request, begin, count + (overlap if is_closing else 0), number)
            part = _given(part, last, 0) if number else part
            part = _given(part, head, count) if is_closing else part
            made = generate(model, [part], how)[0][:, at - begin : count]
            if kept:
                kept.put(number, made)
        head = made[:, :overlap] if number == 0 else head
        last = torch.cat([last, made], dim=1)[:, -overlap:] if number else made[:, -overlap:]
        at, number = at + made.shape[1], number + 1
        yield made


def _part(model: TrainedModel, request: Request, begin: int, count: int, number: int) -> Request:
    """The request for `count` latents from `begin` on, with a start of its own."""
    canvas = request.canvas.window(begin, count, model.factors[0])
    size = canvas.latent_size(model.factors)
    blank = Start(latent=torch.zeros(len(model.mean), *size), level=torch.ones(size))
    if request.start is not None:
        there = request.start.window(begin, count)
        blank.latent[:, : there.latent.shape[1]], blank.level[: len(there.level)] = there.latent, there.level
    prompts = tuple(
        replace(prompt, weight=prompt.weight[begin : begin + count]) if prompt.weight is not None else prompt
        for prompt in request.prompts
    )
    seed = request.seed + 1_000_003 * number
    return replace(request, canvas=canvas, start=blank, prompts=prompts, is_loop=False, seed=seed)


def _given(request: Request, latents: Tensor, at: int) -> Request:
    """The request with latents [C, n, h, w] kept from `at` on."""
    assert request.start is not None
    latent, level = request.start.latent.clone(), request.start.level.clone()
    latent[:, at : at + latents.shape[1]], level[at : at + latents.shape[1]] = latents, 0.0
    return replace(request, start=Start(latent=latent, level=level))
