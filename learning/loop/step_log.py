"""Step logs as JSON lines; on a resume, rows past the checkpoint are cut off."""

from __future__ import annotations

import json
import os
from pathlib import Path


def cut_rows(path: Path, from_step: int) -> None:
    """Drop the rows of steps from `from_step` on, and a half-written last one.

    Rows are in order of steps; those before stay as they are, whatever happens meanwhile.
    """
    if not path.exists():
        return
    end = 0
    with open(path, "rb") as file:
        for line in file:
            if not line.endswith(b"}\n") or json.loads(line)["step"] >= from_step:
                break
            end += len(line)
    if end < path.stat().st_size:
        os.truncate(path, end)


def finite(value: float) -> float | None:
    """A number as JSON may hold it: nothing for what is not finite."""
    return value if value - value == 0 else None
