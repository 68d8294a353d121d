"""Beginning a run from a trained model: its sizes, its normalisation of latents, its weights.

What does not fit is refused by name, unless the run is told to begin it anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from learning.weights import read_weights
from manifests.cli import say
from manifests.errors import UsageError
from manifests.store.json_files import read_local_object
from trainer.config import FitConfig
from trainer.data.catalogue.catalog import Catalog
from trainer.sampling.trained import RECORD, model_folder, sizes_in
from trainer.state.adapters import is_adapter
from trainer.state.parallel import clean_name

TOLERANCE = 0.35
"""How far latent statistics may lie from those of the model, in standard deviations: other footage of the
same VAE differs by less, most others by more. It decides only where the digests of weights are not known."""


def record_of(init: str) -> dict:
    """What the model that a run begins from says of itself.

    Raises:
        UsageError: there is no such model.
    """
    path = model_folder(Path(init)) / RECORD
    record = read_local_object(
        path, keys=("model", "flow", "latent_mean", "latent_std", "text_encoder", "vae")
    )
    sizes_in(record, path)
    return record


def sizes_of(init: str, config: FitConfig) -> FitConfig:
    """The settings with the sizes and the objective of the model that a run begins from."""
    record = record_of(init)
    model, flow = sizes_in(record, Path(init))
    return replace(config, model=model, flow=flow, init=init)


def normalised_as(catalog: Catalog, record: Mapping[str, Any], whose: str) -> Catalog:
    """The catalogue with the statistics by which the latents of a model were normalised.

    Args:
        record: what the model says of itself.
        whose: the model, for an error.

    Raises:
        UsageError: the latents are of another VAE.
    """
    mean, std = (torch.tensor(record[name]) for name in ("latent_mean", "latent_std"))
    own_mean, own_std = torch.tensor(catalog.mean), torch.tensor(catalog.std)
    encoder = record.get("vae") or "vae-tiny"
    if len(mean) != len(own_mean):
        raise UsageError(
            whose,
            f"reads latents of {len(mean)} channels, the dataset has {len(own_mean)}",
            f"Encode the dataset by the model's VAE: rushes ingest ... --encode.vae {encoder}.",
        )
    its = record.get("vae_digest", "")
    if its and its == catalog.vae:
        return replace(catalog, mean=record["latent_mean"], std=record["latent_std"])
    if its and catalog.vae:
        raise UsageError(
            whose,
            "was trained on latents of another VAE",
            f"Encode the dataset by the model's: rushes ingest ... --encode.vae {encoder}.",
        )
    apart = torch.maximum((own_mean - mean).abs() / std, (own_std / std).log().abs())
    if float(apart.median()) > TOLERANCE:
        raise UsageError(
            whose,
            "was trained on other latents: channels lie "
            f"{float(apart.median()):.2f} standard deviations apart",
            f"Encode the dataset by the model's VAE ({encoder}).",
        )
    return replace(catalog, mean=record["latent_mean"], std=record["latent_std"])


_OF_PATCHES = {"embed", "head"}
"""Weights that hold what patches look like."""


def check_alike(config: FitConfig, init: str) -> None:
    """Refuse a run whose objective, or way to read text, patches and positions, is not that of the weights it
    begins from: such weights fit by their shapes, and mean something else.

    Raises:
        UsageError: it is another.
    """
    record = record_of(init)
    model, flow = sizes_in(record, Path(init))
    told: list[tuple[str, object, object]] = [
        ("was trained on the path", flow.path, config.flow.path),
        ("reads text by", model.text, config.model.text),
        ("has so many heads:", model.num_heads, config.model.num_heads),
    ]
    if model.rope_theta != config.model.rope_theta:  # as for longer videos
        say(f"--init {init}: has rope_theta {model.rope_theta:g}, this run {config.model.rope_theta:g}")
    if not set(config.init_fresh) >= _OF_PATCHES:
        told.append(("has patches of", model.patch, config.model.patch))
    for what, its, own in told:
        if its != own:
            raise UsageError(
                f"--init {init}",
                f"{what} {its}, this run by {own}: its weights do not fit",
                "Use its own.",
            )


@torch.no_grad()
def begin_from(models: Sequence[nn.Module], init: str, fresh: Sequence[str] = ()) -> list[str]:
    """Fill models, sharded or not, with the weights of a trained one. Every process must call.

    Args:
        fresh: beginnings of the names of weights that keep their first values.

    Returns:
        The names of those that do.

    Raises:
        UsageError: weights are missing, of other shapes or without a place here, and not among `fresh`.
    """
    path = model_folder(Path(init)) / "model.safetensors"
    stored = read_weights(path)
    names = [*stored, *(clean_name(name) for model in models for name, _ in model.named_parameters())]
    if unknown := [part for part in fresh if not any(_is_in(name, part) for name in names)]:
        modules = sorted({name.split(".")[0] for name in names})
        raise UsageError(f"--init-fresh {unknown[0]}", "names no weights", f"There are {', '.join(modules)}.")
    skipped: set[str] = set()
    for model in models:
        own = {clean_name(name): value for name, value in model.named_parameters()}
        own = {name: value for name, value in own.items() if not is_adapter(name)}
        skipped = {name for name in own if any(_is_in(name, part) for part in fresh)}
        _check(init, own, stored, fresh)
        for name, value in own.items():
            if name not in skipped:
                _fill(value, stored[name])
    return sorted(skipped)


def _is_in(name: str, part: str) -> bool:
    return name == part or name.startswith(f"{part}.")


def _check(
    init: str, own: Mapping[str, nn.Parameter], stored: Mapping[str, Tensor], fresh: Sequence[str]
) -> None:
    skipped = {name for name in own if any(_is_in(name, part) for part in fresh)}
    wrong = [
        f"{name} {tuple(stored[name].shape) if name in stored else 'missing'}, here {tuple(value.shape)}"
        for name, value in own.items()
        if name not in skipped and (name not in stored or stored[name].shape != value.shape)
    ]
    if wrong:
        modules = sorted({text.split(" ")[0].split(".")[0] for text in wrong})
        more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        raise UsageError(
            f"--init {init}",
            f"does not fit this run: {'; '.join(wrong[:3])}{more}",
            f"To begin those anew: --init-fresh {' '.join(modules)}.",
        )
    if left := sorted(
        name for name in set(stored) - set(own) if not any(_is_in(name, part) for part in fresh)
    ):
        raise UsageError(
            f"--init {init}",
            f"holds {len(left)} weights that have no place in this run, such as {left[0]}: it is deeper",
            "Leave the model's sizes out: they are taken from it.",
        )


def _fill(value: nn.Parameter, whole: Tensor) -> None:
    if isinstance(value, DTensor):
        own = value.to_local()
        full = whole.to(own.device, own.dtype)
        part = distribute_tensor(full, value.device_mesh, value.placements, src_data_rank=None)
        own.copy_(part.to_local())
    else:
        value.copy_(whole)
