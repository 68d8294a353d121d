"""The exported model: averaged weights in safetensors and all that sampling needs to know, in JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from manifests import storage
from manifests.errors import UsageError
from trainer.catalog import Catalog
from trainer.checkpoint_files import list_checkpoints
from trainer.checkpoints import load_part
from trainer.config import FitConfig, FlowConfig, ModelConfig
from trainer.config_files import load_config
from trainer.dit import DiT
from trainer.patches import FACTORS

FORMAT = "rushes-dit/1"
RECORD = "model.json"


def save_record(run: Path, config: FitConfig, catalog: Catalog, made_by: dict) -> None:
    """Write into the run folder all that sampling needs besides weights: latent statistics, shift rule, and in `made_by` the columns, the text encoder and the VAE."""
    record = {
        "format": FORMAT,
        "model": asdict(config.model),
        "flow": asdict(config.flow),
        "factors": list(catalog.factors),
        "latent_mean": catalog.mean,
        "latent_std": catalog.std,
        **made_by,
    }
    storage.write_local(run / RECORD, (json.dumps(record, indent=2) + "\n").encode())


def save_model(folder: Path, weights: dict[str, Tensor], run: Path) -> None:
    """Write a model for sampling, with the run's record. It appears whole: the record, by which it is known, comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / ".model.safetensors.tmp"
    save_file({name: value.detach().cpu().contiguous() for name, value in weights.items()}, temporary)
    temporary.replace(folder / "model.safetensors")
    storage.write_local(folder / RECORD, (run / RECORD).read_bytes())


def export_checkpoint(run: Path, step: int | None, decay: float | None, out: Path) -> Path:
    """Make a model of a run's checkpoint, on one process whatever the number that wrote it. Returns the checkpoint.

    Args:
        step: the newest checkpoint if None.
        decay: of which average; the run's first if None.

    Raises:
        UsageError: there is no such checkpoint or average.
    """
    config = load_config(run / "config.json")
    found = {int(path.name.removeprefix("step-")): path for path in list_checkpoints(run / "checkpoints")}
    if not found or (step is not None and step not in found):
        raise UsageError(str(run), f"has no checkpoint{'' if step is None else f' of step {step}'}", f"It has those of steps {sorted(found)}.")
    path = found[max(found) if step is None else step]
    decay = config.ema_decay if decay is None else decay
    if decay not in (config.ema_decay, *config.ema_more):
        raise UsageError(
            "--ema", f"{decay:g} is no average of this run", f"It keeps {', '.join(f'{own:g}' for own in (config.ema_decay, *config.ema_more))}."
        )
    weights = load_part(path, f"ema{decay:g}", DiT(config.model).state_dict())
    save_model(out, weights, run)
    return path


class TrainedModel:
    """A model ready to sample with."""

    def __init__(self, dit: DiT, flow: FlowConfig, mean: Tensor, std: Tensor, record: dict) -> None:
        self.dit, self.flow, self.mean, self.std, self.record = dit, flow, mean, std, record
        self.factors: tuple[int, int, int] = tuple(record.get("factors", FACTORS))  # type: ignore[assignment]


def load_model(run: Path, device: str = "cpu") -> TrainedModel:
    """The exported model of a run folder, or of a model folder itself.

    Raises:
        UsageError: there is none.
    """
    folder = run / "model" if (run / "model" / "model.safetensors").exists() else run
    if not (folder / "model.safetensors").exists() or not (folder / RECORD).exists():
        raise UsageError(
            str(run), "holds no exported model", "Train one with `python -m trainer fit`; `python -m trainer export` makes one of a checkpoint."
        )
    record = json.loads((folder / RECORD).read_text())
    if record.get("format") != FORMAT:
        raise UsageError(str(folder), f"has format {record.get('format')}, this sampler knows {FORMAT}")
    dit = DiT(ModelConfig(**record["model"] | {"patch": tuple(record["model"]["patch"])}))
    dit.load_state_dict(load_file(folder / "model.safetensors"))
    dit.to(device).eval().requires_grad_(False)
    mean, std = torch.tensor(record["latent_mean"]), torch.tensor(record["latent_std"]).clamp_min(1e-4)
    return TrainedModel(dit, FlowConfig(**record["flow"]), mean, std, record)
