"""A trained VAE with more channels: it begins where the smaller one ended.

Growing that keeps the function follows Net2Net (arXiv:1511.05641); the new channels begin as the reduced-rank
regression (Izenman 1975) of what the smaller VAE leaves wrong, so the first step is better than its last.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from manifests.errors import UsageError
from vae.grid import pad_to_grid
from vae.network.layers import bias_of
from vae.network.model import CausalVAE
from vae.pixels import as_float

_CLIPS, _CELLS = 192, 24_576
_SIDE_PX, _FRAMES = 128, 17


@torch.no_grad()
def with_channels(model: CausalVAE, latent_channels: int, clips: list[Tensor], seed: int) -> CausalVAE:
    """`model` with `latent_channels`; the new ones tell what it leaves wrong of clips [3, T, H, W] uint8.

    Raises:
        UsageError: it has as many channels already, or a cell has not as many numbers.
    """
    z, more = model.latent_channels, latent_channels - model.latent_channels
    if more <= 0:
        raise UsageError(f"--model.latent-channels {latent_channels}", f"is no more than {z}, which it has")
    if more > (most := 3 * math.prod(model.factors)):
        raise UsageError(
            f"--model.latent-channels {latent_channels}", f"is more than {z} and the {most} numbers of a cell"
        )
    grown = CausalVAE(replace(model.config, latent_channels=latent_channels))
    state = dict(model.state_dict())
    for name, axis in (
        ("enc_out.weight", 0),
        ("enc_out.bias", 0),
        ("dec_in.conv.weight", 1),
        ("linear_in.weight", 0),
        ("linear_in.bias", 0),
        ("linear_out.weight", 1),
    ):
        state[name] = _widened(state[name], grown.state_dict()[name].shape, axis, z)
    bias = state["enc_out.bias"]
    bias[latent_channels + z :] = -6.0  # a small starting variance, as of a fresh network
    grown.load_state_dict(state)
    read, write, offset = _regression(*_cells(model, clips, seed), more)
    grown.linear_in.weight[z:] = read.view_as(grown.linear_in.weight[z:])
    bias_of(grown.linear_in)[z:] = -(read @ offset)
    grown.linear_out.weight[:, z:] = write.view_as(grown.linear_out.weight[:, z:])
    grown.fingerprint = model.fingerprint
    return grown.eval().requires_grad_(False)


def _widened(old: Tensor, shape: torch.Size, axis: int, z: int) -> Tensor:
    """`old` with zeros for the new channels along an axis that is one or two rows of z channels."""
    new = old.new_zeros(shape)
    rows = old.shape[axis] // z
    wide = shape[axis] // rows
    for row in range(rows):
        new.narrow(axis, row * wide, z).copy_(old.narrow(axis, row * z, z))
    return new


def _cells(model: CausalVAE, clips: list[Tensor], seed: int) -> tuple[Tensor, Tensor]:
    """(cells [N, 3 f_t f f], what the model leaves wrong of them) of the middles of some clips."""
    generator, found = torch.Generator().manual_seed(seed), []
    chosen = torch.randperm(len(clips), generator=generator)[:_CLIPS].tolist()
    for index in chosen:
        h, w = clips[index].shape[2:]
        top, left = max(0, h - _SIDE_PX) // 2, max(0, w - _SIDE_PX) // 2
        part = clips[index][:, :_FRAMES, top : top + _SIDE_PX, left : left + _SIDE_PX]
        video = pad_to_grid(as_float(part)[None], model.factors)
        mean, _ = model.encode_groups(video)
        wrong = video - model.decode_groups(mean)
        pairs = torch.stack([model.cells(each)[0].flatten(1).t() for each in (video, wrong)])
        kept = torch.randperm(pairs.shape[1], generator=generator)[: _CELLS // len(chosen) + 1]
        found.append(pairs[:, kept])
    told, wrong = torch.cat(found, dim=1)
    return told, wrong


def _regression(told: Tensor, wrong: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """(read [rank, D], write [D, rank], mean [D]): wrong ~ write @ read @ (told - mean), each channel of unit
    variance.
    """
    mean = told.mean(0)
    x, y = (told - mean).double(), (wrong - wrong.mean(0)).double()
    spread = x.t() @ x / len(x)
    spread += torch.eye(len(spread), dtype=spread.dtype) * (spread.diagonal().mean() * 1e-4).clamp(min=1e-8)
    root = torch.linalg.cholesky(spread)
    whole = torch.linalg.solve_triangular(root, x.t() @ y / len(x), upper=False).t()  # W times the root
    axes, std, _ = torch.linalg.svd(whole, full_matrices=False)
    axes, std = axes[:, :rank], std[:rank].clamp(min=1e-6)
    read = torch.linalg.solve_triangular(root, (axes.t() @ whole), upper=False, left=False)
    return (read / std[:, None]).float(), (axes * std).float(), mean.float()
