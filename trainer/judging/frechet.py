"""Frechet distance between films and renders, over the features of this project's own captioner.

It is not FVD: its numbers compare models of this project, on this world, with one another alone.
Source: Heusel et al. 2017 (arXiv:1706.08500), here with the trace of the root by eigenvalues.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from captioner.coca.checkpoint import DEFAULT_WEIGHTS, load_stage, read_folder
from captioner.coca.inputs import clip_input, normalised

NAME = "frechet_captioner_tiny"


def distance(one: Tensor, other: Tensor) -> float:
    """Frechet distance of two sets of features [n, D] taken as Gaussian."""
    mean = (one.mean(0) - other.mean(0)).double()
    first, second = (torch.cov(value.double().T) for value in (one, other))
    # tr sqrt(AB) = sum of the roots of the eigenvalues of sqrt(A) B sqrt(A), which is symmetric
    values, vectors = torch.linalg.eigh(first)
    root = vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
    shared = torch.linalg.eigvalsh(root @ second @ root).clamp_min(0).sqrt().sum()
    return float(mean.pow(2).sum() + first.trace() + second.trace() - 2 * shared)


@torch.no_grad()
def features(films: Sequence[Tensor]) -> Tensor:
    """Features [n, D] of films [T, H, W, 3] uint8, as the captioner's contrastive side sees them."""
    folder = read_folder(DEFAULT_WEIGHTS)
    model = load_stage(folder, "dense")
    found = []
    for film in films:
        clip = clip_input(list(film.numpy()), folder.config)
        found.append(model.encode_clip(normalised(clip[None]))[0][0])
    return torch.stack(found)
