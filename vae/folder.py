"""A folder of VAE weights, ours or of diffusers: its record, and the digest of its weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from learning.committed import WEIGHTS, folder_of
from manifests.errors import UsageError
from manifests.store.json_files import read_local_object

DEFAULT_WEIGHTS = WEIGHTS / "vae-tiny"


def vae_folder(vae: Path | str) -> Path:
    """The folder that a path, or the name of a folder under weights/, stands for; the default's if empty."""
    return folder_of(vae, DEFAULT_WEIGHTS)


def read_record(folder: Path | str) -> dict:
    """The folder's config.json; `folder` as for `vae_folder`.

    Raises:
        UsageError: it holds none.
    """
    path = vae_folder(folder) / "config.json"
    if not path.exists():
        raise UsageError(
            str(folder),
            "holds no VAE (no config.json)",
            "Train one with `rushes train-vae`, or give a folder of a diffusers autoencoder.",
        )
    return read_local_object(path)


def weights_digest(folder: Path | str = DEFAULT_WEIGHTS) -> str:
    """sha256 of the weights and the settings that change latents: part of the latent column's fingerprint.

    `folder` as for `vae_folder`.

    Raises:
        UsageError: there are none.
    """
    paths = sorted(vae_folder(folder).glob("*.safetensors"))
    if not paths:
        raise UsageError(
            str(vae_folder(folder)), "holds no VAE (no .safetensors)", "Train one with `rushes train-vae`."
        )
    record, seen = read_record(folder), hashlib.sha256()
    settings = record if "_class_name" in record else record["config"]
    seen.update(
        json.dumps(
            {key: value for key, value in settings.items() if not key.startswith("_diffusers")},
            sort_keys=True,
        ).encode()
    )
    for path in paths:
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                seen.update(piece)
    return seen.hexdigest()
