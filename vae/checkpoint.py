"""Weights on disk: a folder with `config.json` and safetensors. Ours hold sizes and the command, seed, data and scores that made them; published ones are in
diffusers' own layout."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from manifests.errors import UsageError
from vae.model import CausalVAE, VAEConfig
from vae.protocol import VAE

DEFAULT_WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "vae-tiny"
FORMAT = "causal-vae/1"


def save_vae(model: CausalVAE, folder: Path, record: dict) -> None:
    """Write half-precision weights and their record."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().to(torch.float16).cpu().contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model": FORMAT, "config": model.config.to_dict(), **record}, indent=2) + "\n")


def read_record(folder: Path | str) -> dict:
    """The folder's config.json.

    Raises:
        UsageError: it holds none.
    """
    path = Path(folder) / "config.json"
    if not path.exists():
        raise UsageError(
            str(folder), "holds no VAE (no config.json)", "Train one with `python -m vae train`, or give a folder of a diffusers autoencoder."
        )
    record: dict = json.loads(path.read_text())
    return record


def load_vae(folder: Path | str = DEFAULT_WEIGHTS) -> VAE:
    """The VAE in `folder`, this project's own or a published one of diffusers, in float32 and evaluation mode.

    Raises:
        UsageError: the folder holds no VAE that can be used exactly.
    """
    record = read_record(folder)
    if "_class_name" in record:
        from vae.published import load_published

        return load_published(Path(folder), record)
    return load_own(folder)


def load_own(folder: Path | str = DEFAULT_WEIGHTS) -> CausalVAE:
    """This project's own VAE in `folder`.

    Raises:
        UsageError: it holds something else.
    """
    record = read_record(folder)
    if record.get("model") != FORMAT:
        raise UsageError(str(folder), f"holds a {record.get('model') or record.get('_class_name')}, not a {FORMAT}")
    model = CausalVAE(VAEConfig.from_dict(record["config"]))
    model.load_state_dict({name: value.float() for name, value in load_file(Path(folder) / "model.safetensors").items()})
    model.fingerprint = weights_digest(folder)
    return model.eval().requires_grad_(False)


def weights_digest(folder: Path | str = DEFAULT_WEIGHTS) -> str:
    """sha256 of the weights and the settings that change latents: part of the latent column's fingerprint.

    Raises:
        UsageError: there are none.
    """
    paths = sorted(Path(folder).glob("*.safetensors"))
    if not paths:
        raise UsageError(str(folder), "holds no VAE (no .safetensors)", "Train one with `python -m vae train`.")
    record, seen = read_record(folder), hashlib.sha256()
    settings = record if "_class_name" in record else record["config"]
    seen.update(json.dumps({key: value for key, value in settings.items() if not key.startswith("_diffusers")}, sort_keys=True).encode())
    for path in paths:
        with open(path, "rb") as file:
            while piece := file.read(1 << 20):
                seen.update(piece)
    return seen.hexdigest()
