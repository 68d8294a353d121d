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
                f"--window {self.length} and --overlap {self.overlap}",
                "do not move on",
                "The overlap is at least 1 and less than the length.",
            )

    @property
    def most(self) -> int:
        """Latents that are seen at once, where a window leads to what is given behind it."""
        return self.length + self.length // 2

    @property
    def closing(self) -> int:
        """Latents at either end of the window that closes a loop which are there already.

        At most half of it: two ends that were made apart meet over many new latents, or there is a seam.
        """
        return min(self.overlap, max(1, self.length // 4))

    def shares(self, latents: int, is_loop: bool = False) -> list[int]:
        """How many new latents each window makes."""
        if latents <= self.length:
            return [latents]
        last = max(1, self.length - 2 * self.closing) if is_loop else 0
        found, rest = [min(self.length, latents - last)], max(0, latents - last - self.length)
        step = self.length - self.overlap
        found += [step] * (rest // step) + ([rest % step] if rest % step else [])
        return found + ([last] if last else [])

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
    at, head, last = 0, torch.empty(0), torch.empty(0)
    shares = windows.shares(total, request.is_loop)
    for number, share in enumerate(shares):
        is_closing = request.is_loop and number == len(shares) - 1  # a loop ends before its first latents
        before = last[:, -windows.closing :] if is_closing else last
        known = before.shape[1] if number else 0
        made = kept.get(number) if kept else None
        if made is None or made.shape[1] != share:  # of a version that shared them out otherwise
            ahead = (
                head.shape[1]
                if is_closing
                else _kept_ahead(request, at + share, windows.most - windows.length)
            )
            count = known + share + ahead
            part = _part(model, request, at - known, count, number)
            part = _given(part, before, 0) if number else part
            part = _given(part, head, known + share) if is_closing else part
            assert part.start is not None
            if not part.start.level[known : known + share].any():  # all of it is given
                made = part.start.latent[:, known : known + share]
            else:
                made = generate(model, [part], how)[0][:, known : known + share]
            if kept:
                kept.put(number, made)
        head = made[:, : windows.closing] if number == 0 else head
        last = (
            torch.cat([last, made], dim=1)[:, -windows.overlap :] if number else made[:, -windows.overlap :]
        )
        at += share
        yield made


def _kept_ahead(request: Request, begin: int, most: int) -> int:
    """Latents from `begin` on that a window has to see beyond its own, up to the last one that is kept.

    Without them a window would end just before what is given, and nothing that is made would lead to it.
    """
    if request.start is None:
        return 0
    kept = (request.start.level[begin : begin + most] == 0).flatten(1).all(1).nonzero()
    return int(kept[-1]) + 1 if len(kept) else 0


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
