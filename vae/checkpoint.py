"""Weights on disk: `<folder>/model.safetensors` and `<folder>/config.json` (sizes, and the command, seed, data and scores that made them)."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from manifests.errors import UsageError
from vae.model import CausalVAE, VAEConfig

DEFAULT_WEIGHTS = Path(__file__).resolve().parent.parent / "weights" / "vae-tiny"


def save_vae(model: CausalVAE, folder: Path, record: dict) -> None:
    """Write half-precision weights and their record."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.detach().to(torch.float16).contiguous() for name, value in model.state_dict().items()}
    save_file(state, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model": "causal-vae/1", "config": model.config.to_dict(), **record}, indent=2) + "\n")


def load_vae(folder: Path | str = DEFAULT_WEIGHTS) -> CausalVAE:
    """The model in `folder`, in float32 and evaluation mode.

    Raises:
        UsageError: the folder holds no weights of this project's VAE.
    """
    folder = Path(folder)
    if not (folder / "config.json").exists():
        raise UsageError(str(folder), "holds no VAE (no config.json)", "Train one with `python -m vae train`.")
    record = json.loads((folder / "config.json").read_text())
    if record.get("model") != "causal-vae/1":
        raise UsageError(str(folder), f"holds a {record.get('model')}, not a causal-vae/1")
    settings = record["config"] | {"widths": tuple(record["config"]["widths"])}
    model = CausalVAE(VAEConfig(**settings))
    model.load_state_dict({name: value.float() for name, value in load_file(folder / "model.safetensors").items()})
    return model.eval().requires_grad_(False)


def weights_digest(folder: Path | str = DEFAULT_WEIGHTS) -> str:
    """sha256 of the weights file: part of the latent column's fingerprint.

    Raises:
        UsageError: there is none.
    """
    path = Path(folder) / "model.safetensors"
    if not path.exists():
        raise UsageError(str(folder), "holds no VAE (no model.safetensors)", "Train one with `python -m vae train`.")
    return hashlib.sha256(path.read_bytes()).hexdigest()
