"""Writing the exported model: averaged weights in safetensors, and in JSON all that sampling needs to know.

`trainer.sampling.trained` reads it.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from learning.weights import write_weights
from manifests.errors import UsageError
from manifests.store import storage
from manifests.store.json_files import read_local_object
from trainer.config import FitConfig
from trainer.config_files import load_config
from trainer.data.catalogue.catalog import Catalog
from trainer.model.dit import DiT
from trainer.sampling.trained import FORMAT, RECORD, chosen_vae
from trainer.state.adapters import adapt, merged
from trainer.state.checkpoint_files import list_checkpoints, step_of
from trainer.state.checkpoints import load_part
from trainer.state.parallel import clean_name
from vae.folder import read_record


def save_record(run: Path, config: FitConfig, catalog: Catalog, made_by: dict) -> None:
    """Write into the run folder all that sampling needs besides weights.

    Latent statistics, the shift rule, and in `made_by` the columns, the text encoder and the VAE.
    """
    record = {
        "format": FORMAT,
        "model": asdict(config.model),
        "flow": asdict(config.flow),
        "factors": list(catalog.factors),
        "latent_mean": catalog.mean,
        "latent_std": catalog.std,
        "vae_digest": catalog.vae,
        **made_by,
    }
    storage.write_local(run / RECORD, (json.dumps(record, indent=2) + "\n").encode())


def save_model(folder: Path, weights: dict[str, Tensor], run: Path, vae: str = "") -> None:
    """Write a model for sampling, with the run's record.

    It appears whole: the record, by which it is known, comes last.

    Args:
        vae: what the record is to name as the VAE; empty: what the run's does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_weights(weights, folder / "model.safetensors")
    record = read_local_object(run / RECORD)
    record["vae"] = vae or record.get("vae", "")
    storage.write_local(folder / RECORD, (json.dumps(record, indent=2) + "\n").encode())


def export_checkpoint(
    run: Path,
    step: int | None,
    decay: float | None,
    out: Path,
    *,
    is_half: bool = False,
    vae: str = "",
) -> Path:
    """Make a model of a run's checkpoint, on one process whatever the number that wrote it.

    Returns the checkpoint.

    Args:
        step: the newest checkpoint if None.
        decay: of which average; the run's first if None.
        is_half: write bfloat16.
        vae: where its VAE lies now, as a folder or a name under weights/; empty: as at ingest.

    Raises:
        UsageError: there is no such checkpoint, average or VAE.
    """
    if vae:
        read_record(vae)
        chosen_vae(read_local_object(run / RECORD), vae)
    config = load_config(run / "config.json")
    found = {step_of(path): path for path in list_checkpoints(run / "checkpoints")}
    if not found or (step is not None and step not in found):
        raise UsageError(
            str(run),
            f"has no checkpoint{'' if step is None else f' of step {step}'}",
            f"It has those of steps {sorted(found)}.",
        )
    path = found[max(found) if step is None else step]
    decay = config.ema_decay if decay is None else decay
    if decay not in (config.ema_decay, *config.ema_more):
        raise UsageError(
            "--ema",
            f"{decay:g} is no average of this run",
            f"It keeps {', '.join(f'{own:g}' for own in (config.ema_decay, *config.ema_more))}.",
        )
    model = DiT(config.model)
    if config.lora_rank:
        adapt(model, config.lora_rank, config.init_fresh)
    weights = load_part(path, f"ema{decay:g}", model.state_dict())
    plain = merged({clean_name(name): value for name, value in weights.items()}, config.lora_rank)
    if is_half:
        plain = {name: value.to(torch.bfloat16) for name, value in plain.items()}
    save_model(out, plain, run, vae)
    return path
