"""A folder of VAE weights, ours or of diffusers: its record, and the digest of its weights."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from manifests.errors import UsageError
from manifests.store.json_files import read_local_object

DEFAULT_WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "vae-tiny"


def read_record(folder: Path | str) -> dict:
    """The folder's config.json.

    Raises:
        UsageError: it holds none.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        raise UsageError(
            str(folder),
            "holds no VAE (no config.json)",
            "Train one with `rushes train-vae`, or give a folder of a diffusers autoencoder.",
        )
    return read_local_object(path)


def weights_digest(folder: Path | str = DEFAULT_WEIGHTS) -> str:
    """sha256 of the weights and the settings that change latents: part of the latent column's fingerprint.

    Raises:
        UsageError: there are none.
    """
    paths = sorted(Path(folder).glob("*.safetensors"))
    if not paths:
        raise UsageError(str(folder), "holds no VAE (no .safetensors)", "Train one with `rushes train-vae`.")
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
