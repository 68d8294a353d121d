"""How a sample is made, as the JSON beside it says, and whether one that is there was made so."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manifests.errors import UsageError
from trainer.sampling.job.wish import Wish

if TYPE_CHECKING:
    from trainer.sampling.features import Scene

SAMPLER = 2
"""Goes up when the same request gives another sample: what is there of another one is not gone on with."""

_OF_THE_MACHINE = frozenset({"device", "threads", "launch", "workers", "gpus", "batch_tokens", "compile"})
_TOLD_APART = frozenset(
    {
        *("model_folder", "out", "prompt", "prompts", "seeds", "seed"),
        *("overwrite", "from_prompt", "to_prompt", "vae"),
    }
)
"""Options that the record names elsewhere, or that say where a sample lies."""


def settings_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options that make a sample what it is, those that were given or have a usual value."""
    made = {name: _plain(value) for name, value in options.items()}
    return {
        name: value
        for name, value in made.items()
        if name not in _OF_THE_MACHINE | _TOLD_APART
        and value is not None
        and value is not False
        and value != []
    }


def made_of(wish: Wish, scene: Scene) -> dict[str, Any]:
    """What became of what was asked for: of the result, and what was not said."""
    canvas = scene.canvas
    size = {"width": canvas.width_px, "height": canvas.height_px, "fps": canvas.fps}
    told = {name: getattr(wish, name) for name in ("strength", "gap") if getattr(wish, name) is not None}
    return {"frames": scene.num_frames, **size, **told}


def check_same(path: Path, there: Mapping[str, Any], record: Mapping[str, Any]) -> None:
    """Whether the sample that is there was made as this one is to be.

    Raises:
        UsageError: it was made in another way.
    """
    # digests tell model and VAE, whatever they are called now
    there = {"sampler": 1} | dict(there)
    names = (there.keys() | record.keys()) - {"model", "model_step", "vae", "made", "settings"}
    others = _differing(there, record, names)
    both = there.get("settings") or {}, record["settings"]
    if others := others + _differing(*both, both[0].keys() | both[1].keys()):
        raise UsageError(
            str(path),
            f"was made with other settings ({', '.join(others)})",
            "Name another folder, or add --overwrite.",
        )


def _differing(one: Mapping[str, Any], other: Mapping[str, Any], names: Collection[str]) -> list[str]:
    return sorted(name for name in names if one.get(name) != other.get(name))


def _plain(value: Any) -> Any:
    """A setting as JSON has it."""
    if isinstance(value, tuple):
        return [_plain(part) for part in value]
    return str(value) if isinstance(value, Path) else value
