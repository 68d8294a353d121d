"""Writing the exported model: averaged weights in safetensors, and in JSON all that sampling needs to know.

`trainer.sampling.trained` reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from learning.weights import is_ours, read_weights, write_weights
from manifests.errors import UsageError
from manifests.fingerprint import file_sha256
from manifests.store import storage
from manifests.store.json_files import read_local_object
from trainer.config import FitConfig
from trainer.config_files import load_config
from trainer.data.catalogue.catalog import Catalog
from trainer.model.dit import DiT
from trainer.sampling.trained import FORMAT, RECORD, chosen_vae, model_folder
from trainer.state.adapters import adapt, merged
from trainer.state.beginning import record_of
from trainer.state.checkpoint_files import list_checkpoints, step_of
from trainer.state.checkpoints import load_part
from trainer.state.parallel import clean_name
from vae.folder import read_record

NEW_WEIGHTS = "model.new.safetensors"
"""Of a model that is being written; what is left of one that was not finished is written over."""


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


def save_model(
    folder: Path, weights: dict[str, Tensor], run: Path, vae: str = "", step: int | None = None
) -> None:
    """Write a model for sampling, with the run's record.

    It appears whole: the record, by which it is known and which knows its weights, comes last. One that was
    there before goes when the weights of the new one are written. Of two that are written at once one waits.

    Args:
        vae: what the record is to name as the VAE; empty: what the run's does.
        step: after which its weights are as they are.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = read_local_object(run / RECORD)
    record["vae"] = vae or record.get("vae", "")
    record.pop("step", None)
    with storage.alone_in(folder):
        write_weights(weights, folder / NEW_WEIGHTS)
        record |= {"weights": file_sha256(folder / NEW_WEIGHTS)[:16]}
        record |= {} if step is None else {"step": step}
        (folder / RECORD).unlink(missing_ok=True)  # it is of other weights
        (folder / NEW_WEIGHTS).replace(folder / "model.safetensors")
        storage.write_local(folder / RECORD, (json.dumps(record, indent=2) + "\n").encode())


def is_unfinished(folder: Path) -> bool:
    """Whether a model was being written there, and is not whole: it may be written over."""
    return not (folder / RECORD).exists() and is_ours(folder / "model.safetensors")


def export_checkpoint(
    run: Path,
    step: int | None,
    decay: float | None,
    out: Path,
    *,
    is_half: bool = False,
    vae: str = "",
    average_with: Sequence[str] = (),
) -> Path:
    """Make a model of a run's checkpoint, on one process whatever the number that wrote it.

    Returns the checkpoint.

    Args:
        step: the newest checkpoint if None.
        decay: of which average; the run's first if None.
        is_half: write bfloat16.
        vae: where its VAE lies now, as a folder or a name under weights/; empty: as at ingest.
        average_with: models, as sampling names them, with whose weights these are averaged.

    Raises:
        UsageError: there is no such checkpoint, average, VAE or model, or a model is of another kind.
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
        plain = _halved(plain)
    if average_with:
        plain = averaged(plain, read_local_object(run / RECORD), average_with)
        plain = _halved(plain) if is_half else plain
    save_model(out, plain, run, vae, step_of(path))
    return path


_OF_ONE_KIND = ("model", "flow", "factors", "latent_mean", "latent_std", "text_encoder", "vae_digest")
"""What models must have in common for the mean of their weights to be one."""


def averaged(
    weights: Mapping[str, Tensor], record: Mapping[str, Any], others: Sequence[str]
) -> dict[str, Tensor]:
    """The mean, in single precision, of a model's weights and those of models that began from one another.

    Models trained on from one another lie in one basin, and their mean beats each (Wortsman et al. 2022,
    arXiv:2203.05482).

    Args:
        record: what the model says of itself.
        others: names of models, as sampling takes them.

    Raises:
        UsageError: one is not there, or is of another kind.
    """
    found = [dict(weights)]
    for name in others:
        its = record_of(name)
        if differing := [key for key in _OF_ONE_KIND if its.get(key) != record.get(key)]:
            raise UsageError(
                f"--average-with {name}",
                f"is a model with another {', '.join(differing)}",
                "Name models that were trained on from one another.",
            )
        found.append(read_weights(model_folder(Path(name)) / "model.safetensors"))
    return {key: sum(own[key].float() for own in found) / len(found) for key in weights}  # type: ignore[misc]


def _halved(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.to(torch.bfloat16) for name, value in weights.items()}
