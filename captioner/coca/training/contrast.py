"""The contrastive loss over all clips of a step, of which each process and each part holds some.

A clip's text is told from the texts of all other clips of the step (CLIP: Radford et al. 2021,
arXiv:2103.00020), and how hard that is depends on how many there are. Embeddings are small, so every process
is given all of them, and computes the loss and its gradient in each; a part then carries back the rows that
are its own (GradCache: Gao et al. 2021, arXiv:2101.06983). A step is the same whole as in parts, and on one
process as on many.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from learning.processes import alone

MAX_SCALE = 100.0  # of scores, as CLIP has it


def contrastive(clips: Tensor, texts: Tensor, log_scale: Tensor) -> Tensor:
    """Symmetric InfoNCE of unit embeddings of clips and texts [N, E], scores exp(log_scale) times cosines."""
    scores = log_scale.exp().clamp(max=MAX_SCALE) * clips @ texts.t()
    own = torch.arange(len(clips), device=clips.device)
    return 0.5 * (F.cross_entropy(scores, own) + F.cross_entropy(scores.t(), own))


class Pulls(NamedTuple):
    """The loss of a step, and its gradients in what it is made of.

    Attributes:
        loss: of all clips of the step.
        clips: [N, E].
        texts: [N, E].
        log_scale: [].
    """

    loss: float
    clips: Tensor
    texts: Tensor
    log_scale: Tensor

    @classmethod
    def of(cls, clips: Tensor, texts: Tensor, log_scale: Tensor) -> Pulls:
        """From embeddings of all clips of a step, in single precision: scores near 100 are half a unit apart
        in bfloat16."""
        leaves = [value.detach().float().requires_grad_() for value in (clips, texts, log_scale)]
        with torch.autocast(clips.device.type, enabled=False):
            loss = contrastive(leaves[0], leaves[1], leaves[2])
        return cls(loss.item(), *torch.autograd.grad(loss, leaves))


def of_all(own: Tensor, rows: list[int], count: int) -> Tensor:
    """What all processes have, [count, ...] in single precision, of `own` [len(rows), ...] at these rows.

    Every process must call; each row is one process's.
    """
    whole = torch.zeros(count, *own.shape[1:], device=own.device)
    whole[rows] = own.detach().float()
    if not alone():
        dist.all_reduce(whole)
    return whole
