"""Frechet distance between films and renders, over the features of this project's own captioner.

It is not FVD: its numbers compare models of this project, on this world, with one another alone.
Source: Heusel et al. 2017 (arXiv:1706.08500), here with the trace of the root by eigenvalues.
"""

from __future__ import annotations

import torch
from torch import Tensor

from captioner.coca.checkpoint import load_stage
from captioner.coca.folder import DEFAULT_WEIGHTS, read_folder
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


class Features:
    """Features of films as the captioner's contrastive side sees them."""

    def __init__(self) -> None:
        self._folder = read_folder(DEFAULT_WEIGHTS)
        self._model, self._found = load_stage(self._folder, "dense"), list[Tensor]()

    @torch.no_grad()
    def add(self, film: Tensor) -> None:
        """Look at a film [T, H, W, 3] uint8."""
        clip = clip_input(list(film.numpy()), self._folder.config)
        self._found.append(self._model.encode_clip(normalised(clip[None]))[0][0])

    def found(self) -> Tensor:
        """[n, D], in the order in which they were looked at."""
        return torch.stack(self._found)
