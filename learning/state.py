"""The state of a training in one safetensors file: modules, averages, optimizers, step, digest.

For models that fit one process; the trainer's sharded checkpoints are in trainer/state/checkpoints.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from learning.weights import read_metadata, read_weights, write_weights
from manifests.errors import UsageError

Parts = Mapping[str, tuple[nn.Module, torch.optim.Optimizer]]
NAME = "state.safetensors"


def save_state(
    folder: Path, parts: Parts, average: Mapping[str, Tensor], digest: str, **numbers: float
) -> None:
    """Write everything under a temporary name, then rename.

    Args:
        parts: modules with their optimizers, by name.
        average: averaged weights by name.
        digest: names the data and the settings; `load_state` refuses another.
        numbers: what else the run must remember, the step among them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"average.{name}": value for name, value in average.items()}
    for part, (module, optimizer) in parts.items():
        tensors |= {f"{part}.{name}": value for name, value in module.state_dict().items()}
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {
                f"{part}-optimizer.{index}.{name}": torch.as_tensor(value) for name, value in state.items()
            }
    plain = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    said = {"digest": digest, **{name: repr(value) for name, value in numbers.items()}}
    write_weights(plain, folder / NAME, said)


def load_state(
    folder: Path, parts: Parts, average: Mapping[str, Tensor], digest: str
) -> dict[str, float] | None:
    """Restore everything in place. Returns the numbers, or None where nothing was saved.

    Raises:
        UsageError: the saved run had other data or settings.
    """
    path = folder / NAME
    if not path.exists():
        return None
    metadata = read_metadata(path)
    if metadata.pop("digest", "") != digest:
        raise UsageError(
            str(folder),
            "was begun on other data, with other settings or with another number of processes",
            "Give those to go on with it, or another folder to begin anew.",
        )
    tensors = read_weights(path)
    for name, value in average.items():
        value.copy_(tensors[f"average.{name}"])
    for part, (module, optimizer) in parts.items():
        module.load_state_dict(
            {name[len(part) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{part}.")}
        )
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(f"{part}-optimizer."):
                _, index, key = name.split(".", 2)
                state.setdefault(int(index), {})[key] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return {name: float(value) for name, value in metadata.items()}
