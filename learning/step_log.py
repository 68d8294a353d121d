"""Logs of training runs, one JSON row a step: on a resume, what lies past the checkpoint is cut off, for it will be written again."""

from __future__ import annotations

import json
from pathlib import Path


def cut_rows(path: Path, from_step: int) -> None:
    """Drop the rows of steps from `from_step` on, and a half-written last one."""
    if path.exists():
        lines = [line for line in path.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] < from_step]
        path.write_text("".join(f"{line}\n" for line in lines))
