"""An evaluation from questions to its report: samples made and read, beside renders and round trips."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manifests import cli
from manifests.errors import UsageError
from trainer.judging import i3d
from trainer.judging.accuracy import Answer, accuracy, answer, chance
from trainer.judging.cases import Case
from trainer.judging.frechet import NAME as FRECHET
from trainer.judging.frechet import Features, distance
from trainer.judging.i3d import I3D
from trainer.sampling.conditions import encode
from trainer.sampling.decoding import to_frames
from trainer.sampling.draft import Prompt, Request, Sampling
from trainer.sampling.generate import generate
from trainer.sampling.trained import TrainedModel
from trainer.sampling.windows import Windows, windowed
from vae.protocol import VAE

Answers = dict[str, list[Answer]]
"""By what was read: samples, round trips, true renders."""


@dataclass(frozen=True)
class Judged:
    """What was asked, read and seen.

    Attributes:
        ends: first and last frame [H, W, 3] uint8 of each render and of its sample.
        fvd: of FVD, and over how many samples; None where it was not asked for.
    """

    cases: Sequence[Case]
    ends: list[tuple[Tensor, Tensor, Tensor, Tensor]]
    answers: Answers
    frechet: float
    fvd: tuple[float, int] | None = None


def check_fvd(questions: Sequence[Case]) -> None:
    """Refuse questions of which FVD cannot be told, before they are sampled.

    Raises:
        UsageError: fewer than two are long enough.
    """
    if sum(case.canvas.num_frames >= i3d.NUM_FRAMES for case in questions) < 2:
        raise UsageError(
            "--fvd", f"needs two samples of {i3d.NUM_FRAMES} frames or more", "Ask for more with --prompts."
        )


def judge(
    model: TrainedModel,
    vae: VAE,
    questions: Sequence[Case],
    how: Sampling,
    batch_tokens: int,
    seed: int = 0,
    network: I3D | None = None,
) -> Judged:
    """Sample every question and read what is seen; no film is held longer than that takes.

    Args:
        network: of FVD, if that is asked for.
    """
    looks, true_looks = Features(), Features()
    logits: tuple[list[Tensor], list[Tensor]] = ([], [])
    ends = list[tuple[Tensor, Tensor, Tensor, Tensor]]()
    answers: Answers = {"samples": [], "round trips": [], "true renders": []}
    for number, (case, latent) in enumerate(
        zip(questions, _latents(model, questions, how, batch_tokens, seed), strict=True)
    ):
        film, render = to_frames(vae, latent, case.canvas), case.render()
        trip = to_frames(vae, encode(render, vae), case.canvas)
        for name, frames in (("samples", film), ("round trips", trip), ("true renders", render)):
            answers[name].append(answer(case, frames))
        looks.add(film)
        true_looks.add(render)
        ends.append((render[0].clone(), render[-1].clone(), film[0].clone(), film[-1].clone()))
        if network is not None:
            for own, frames in zip(logits, (film, render), strict=True):
                own.append(i3d.features(network, [frames]))
        if (number + 1) % 20 == 0:
            cli.say(f"evaluate: {number + 1} of {len(questions)} samples read")
    frechet, fvd = distance(looks.found(), true_looks.found()), None
    if network is not None:
        samples, renders = (torch.cat(own) for own in logits)
        fvd = distance(samples, renders), len(samples)
    return Judged(questions, ends, answers, frechet, fvd)


def _latents(
    model: TrainedModel, questions: Sequence[Case], how: Sampling, batch_tokens: int, seed: int
) -> Iterator[Tensor]:
    """Latents of the questions in order, packed into few calls of the model."""
    texts = model.embed([case.prompt for case in questions])
    requests = [
        Request(canvas=case.canvas, prompts=(Prompt(text),), seed=seed + number)
        for number, (case, text) in enumerate(zip(questions, texts, strict=True))
    ]
    pack: list[Request] = []
    total = 0
    windows = Windows()
    for request in requests:
        size = request.canvas.latent_size(model.factors)
        if size[0] > windows.length:  # as `rushes sample` makes them
            yield from generate(model, pack, how) if pack else ()
            yield torch.cat(list(windowed(model, request, how, windows)), dim=1)
            pack, total = [], 0
            continue
        own = 2 * model.num_tokens(size)
        if pack and total + own > batch_tokens:
            yield from generate(model, pack, how)
            pack, total = [], 0
        pack.append(request)
        total += own
    yield from generate(model, pack, how) if pack else ()


def report(judged: Judged) -> dict[str, Any]:
    """All figures, as JSON has them."""
    groups = {
        "all": [True] * len(judged.cases),
        "seen shapes": [case.is_seen for case in judged.cases],
        "unseen shapes": [not case.is_seen for case in judged.cases],
    }
    found: dict[str, Any] = {}
    for group, is_in in groups.items():
        part = {
            name: [own for own, keep in zip(answers, is_in, strict=True) if keep]
            for name, answers in judged.answers.items()
        }
        scores = {name: accuracy(answers) for name, answers in part.items()}
        scores["chance"] = chance(part["samples"])
        found[group] = {
            name: {attribute: value.to_json() for attribute, value in own.items()}
            for name, own in scores.items()
        }
    rows = [
        {
            "prompt": case.prompt,
            "frames": case.canvas.num_frames,
            "width": case.canvas.width_px,
            "height": case.canvas.height_px,
            "fps": case.canvas.fps,
            "is_seen": case.is_seen,
            "right": own.right,
        }
        for case, own in zip(judged.cases, judged.answers["samples"], strict=True)
    ]
    told = {"prompts": len(judged.cases), "accuracy": found, FRECHET: judged.frechet, "samples": rows}
    return told if judged.fvd is None else told | {"fvd": judged.fvd[0], "fvd_films": judged.fvd[1]}


def finite(value: Any) -> Any:
    """JSON without NaN: None where nothing was counted."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, float) and not torch.tensor(value).isfinite():
        return None
    return value
