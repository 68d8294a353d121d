"""The weights that come with the project: folders under weights/, which lie beside the packages."""

from __future__ import annotations

from pathlib import Path

WEIGHTS = Path(__file__).resolve().parents[1] / "weights"


def folder_of(place: Path | str, default: Path) -> Path:
    """The folder that a path, or the name of one under weights/, stands for; the default where it is empty.

    A folder that is there is meant before one under weights/ of the same name.
    """
    if not str(place):
        return default
    named = among_weights(place)
    return named if named.is_dir() and not Path(place).is_dir() else Path(place)


def among_weights(place: Path | str) -> Path:
    """Where `name`, or `weights/name` as one says it in a checkout, would lie."""
    parts = Path(place).parts
    return WEIGHTS.joinpath(*(parts[1:] if len(parts) > 1 and parts[0] == WEIGHTS.name else parts))
