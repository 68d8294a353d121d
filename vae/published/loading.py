"""A published VAE from a folder, or from memory."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch

from manifests.errors import IntegrityError, UsageError
from vae.folder import weights_digest
from vae.published.adapter import FAMILIES, Published
from vae.published.wan import PublishedWan


def load_published(folder: Path, record: dict[str, Any]) -> Published:
    """A VAE in diffusers' layout from a local folder.

    Raises:
        UsageError: it is of a class that cannot be used exactly, or was made for other factors than its class
            can do.
        IntegrityError: its weights are not there, damaged, or not finite.
    """
    import diffusers

    name = record["_class_name"]
    if name not in FAMILIES:
        raise UsageError(
            str(folder), f"holds a {name}, for which there is no adapter", f"Known: {', '.join(FAMILIES)}."
        )
    try:
        model = getattr(diffusers, name).from_pretrained(
            folder,
            torch_dtype=torch.float32,
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
        )
    except (OSError, RuntimeError, TypeError, ValueError, KeyError) as error:
        what = f"cannot be loaded: {(str(error).splitlines() or [type(error).__name__])[0]}"
        raise IntegrityError(str(folder), what, "Fetch the whole folder again.") from error
    if wrong := next((key for key, value in model.named_parameters() if not value.isfinite().all()), ""):
        raise IntegrityError(
            str(folder), f"holds numbers in {wrong} that are not finite", "Fetch the whole folder again."
        )
    rule = hashlib.sha256(f"{weights_digest(folder)} {FAMILIES[name].chunk_rule}".encode()).hexdigest()
    made = published(model)
    made.fingerprint = rule
    return made


def published(model: Any) -> Published:
    """The adapter of a model that is in memory."""
    name = type(model).__name__
    if name not in FAMILIES:
        raise UsageError(name, "has no adapter", f"Known: {', '.join(FAMILIES)}.")
    return (PublishedWan if name == "AutoencoderKLWan" else Published)(
        model.eval().requires_grad_(False), FAMILIES[name]
    )
