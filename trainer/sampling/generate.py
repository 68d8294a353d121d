"""Sampling: canvases of any shape, each with its prompts and conditions, packed into one sequence.

There is one sampler. What Sora showed beside text to video are ways to fill in a request
(`trainer.sampling.features`).

Shape legend: N tokens of a pack, n of a request, P values of a token, C t h w a latent.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from manifests.errors import RushesError
from trainer.data.loader import offsets_of
from trainer.sampling.draft import Draft, Piece, Request, Sampling
from trainer.sampling.solvers import integrate
from trainer.sampling.trained import TrainedModel


@torch.no_grad()
def generate(model: TrainedModel, requests: Sequence[Request], how: Sampling) -> list[Tensor]:
    """Latents [C, t, h, w] in the VAE's units, on the CPU, one for each request.

    Kept cells are bit-equal to those given. Each request gives the same sample alone as in a pack.

    Raises:
        RushesError: the model gives what is not finite.
    """
    drafts = [Draft(model, request, how) for request in requests]
    lengths = [len(draft.x) for draft in drafts]

    def predict(x: Tensor, sigma: Tensor) -> Tensor:
        parts = zip(drafts, x.split(lengths), sigma.split(lengths), strict=True)
        pieces = [draft.pieces(part, level) for draft, part, level in parts]
        found = iter(_run(model, [piece for of_draft in pieces for piece in of_draft]))
        combined = [
            draft.combine({piece.key: next(found) for piece in of_draft})
            for draft, of_draft in zip(drafts, pieces, strict=True)
        ]
        return torch.cat(combined)

    x, plan = torch.cat([draft.x for draft in drafts]), torch.cat([draft.levels for draft in drafts], dim=1)
    done = integrate(predict, x, plan, how.solver, model.flow.path)
    if not bool(done.isfinite().all()):
        raise RushesError(
            str(model.name),
            "gives predictions that are not finite, of which black pictures would be made",
            "Look whether its training blew up; take an earlier checkpoint (`rushes export-model --step`).",
        )
    return [draft.latent(part) for draft, part in zip(drafts, done.split(lengths), strict=True)]


def _run(model: TrainedModel, pieces: Sequence[Piece]) -> list[Tensor]:
    """The model's predictions [n, P] for some sequences, in one pack."""
    x, sigma, known, coords = (
        torch.cat([getattr(piece, name) for piece in pieces]) for name in ("x", "sigma", "known", "coords")
    )
    texts = [piece.text for piece in pieces]
    cu, text_cu = offsets_of(len(piece.x) for piece in pieces), offsets_of(len(text) for text in texts)
    out = model.predict(x, sigma, known, coords, cu, torch.cat(texts), text_cu)
    return list(out.split([len(piece.x) for piece in pieces]))
