"""Weights on disk: a folder with `config.json` and safetensors.

Ours hold sizes and the command, seed, data and scores that made them; published ones are in diffusers' own
layout.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from learning.weights import fill, read_weights, write_weights
from manifests.errors import IntegrityError, UsageError
from manifests.store import storage
from manifests.store.json_files import RESTORE
from vae.folder import DEFAULT_WEIGHTS, read_record, vae_folder, weights_digest
from vae.network.model import CausalVAE, VAEConfig
from vae.protocol import VAE

FORMAT = "causal-vae/1"


def save_vae(model: CausalVAE, folder: Path, record: dict) -> None:
    """Write half-precision weights and their record."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().to(torch.float16) for name, value in model.state_dict().items()}
    write_weights(state, folder / "model.safetensors")
    told = json.dumps({"model": FORMAT, "config": model.config.to_dict(), **record}, indent=2) + "\n"
    storage.write_local(folder / "config.json", told.encode())


def load_vae(folder: Path | str = DEFAULT_WEIGHTS) -> VAE:
    """The VAE in `folder`, ours or one of diffusers, in float32 and evaluation mode.

    Args:
        folder: or the name of a folder under weights/; the default's if empty.

    Raises:
        UsageError: the folder holds no VAE that can be used exactly.
    """
    record = read_record(folder)
    if "_class_name" in record:
        from vae.published.loading import load_published

        return load_published(vae_folder(folder), record)
    return load_own(folder)


def load_own(folder: Path | str = DEFAULT_WEIGHTS) -> CausalVAE:
    """This project's own VAE in `folder`.

    Raises:
        UsageError: it holds something else.
        IntegrityError: its files are damaged.
    """
    record = read_record(folder)
    if record.get("model") != FORMAT:
        raise UsageError(
            str(folder), f"holds a {record.get('model') or record.get('_class_name')}, not a {FORMAT}"
        )
    if not isinstance(record.get("config"), dict):
        raise IntegrityError(str(vae_folder(folder) / "config.json"), "lacks the sizes (`config`)", RESTORE)
    try:
        model = CausalVAE(VAEConfig.from_dict(record["config"]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        where = str(vae_folder(folder) / "config.json")
        raise IntegrityError(where, f"has no sizes that can be read ({error!r})", RESTORE) from error
    path = vae_folder(folder) / "model.safetensors"
    fill(model, {name: value.float() for name, value in read_weights(path).items()}, path)
    model.fingerprint = weights_digest(folder)
    return model.eval().requires_grad_(False)
