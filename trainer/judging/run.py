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
from trainer.judging.frechet import distance, features
from trainer.judging.i3d import I3D
from trainer.sampling.conditions import encode
from trainer.sampling.decoding import to_frames
from trainer.sampling.draft import Prompt, Request, Sampling
from trainer.sampling.generate import generate
from trainer.sampling.trained import TrainedModel
from vae.protocol import VAE

Answers = dict[str, list[Answer]]
"""By what was read: samples, round trips, true renders."""


@dataclass(frozen=True)
class Judged:
    """What was asked, read and seen."""

    cases: Sequence[Case]
    films: list[Tensor]  # samples [T, H, W, 3] uint8
    renders: list[Tensor]
    answers: Answers
    frechet: float


def judge(
    model: TrainedModel, vae: VAE, questions: Sequence[Case], how: Sampling, batch_tokens: int, seed: int = 0
) -> Judged:
    """Sample every question and read what is seen."""
    films, renders = list[Tensor](), [case.render() for case in questions]
    answers: Answers = {"samples": [], "round trips": [], "true renders": []}
    for number, (case, latent) in enumerate(
        zip(questions, _latents(model, questions, how, batch_tokens, seed), strict=True)
    ):
        films.append(to_frames(vae, latent, case.canvas))
        trip = to_frames(vae, encode(renders[number], vae), case.canvas)
        for name, frames in (
            ("samples", films[-1]),
            ("round trips", trip),
            ("true renders", renders[number]),
        ):
            answers[name].append(answer(case, frames))
        if (number + 1) % 20 == 0:
            cli.say(f"evaluate: {number + 1} of {len(questions)} samples read")
    return Judged(questions, films, renders, answers, distance(features(films), features(renders)))


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
    for request in requests:
        t, h, w = request.canvas.latent_size(model.factors)
        own = 2 * t * h * w // (model.patch[0] * model.patch[1] * model.patch[2])
        if pack and total + own > batch_tokens:
            yield from generate(model, pack, how)
            pack, total = [], 0
        pack.append(request)
        total += own
    yield from generate(model, pack, how)


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
    return {"prompts": len(judged.cases), "accuracy": found, FRECHET: judged.frechet}


def fvd(network: I3D, judged: Judged) -> dict[str, Any]:
    """FVD between samples and renders, and over how many of each.

    Raises:
        UsageError: fewer than two of them are long enough.
    """
    samples, renders = i3d.features(network, judged.films), i3d.features(network, judged.renders)
    if min(len(samples), len(renders)) < 2:
        raise UsageError(
            "--fvd", f"needs two samples of {i3d.NUM_FRAMES} frames or more", "Ask for more with --prompts."
        )
    return {"fvd": distance(samples, renders), "fvd_films": len(samples)}


def finite(value: Any) -> Any:
    """JSON without NaN: None where nothing was counted."""
    if isinstance(value, dict):
        return {key: finite(part) for key, part in value.items()}
    if isinstance(value, float) and not torch.tensor(value).isfinite():
        return None
    return value
