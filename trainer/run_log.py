"""What a run tells while it trains: `metrics.jsonl`, `consumed*.jsonl` (which samples each process read at each step), and TensorBoard's files where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from manifests.step_log import cut_rows
from trainer.parallel import Ranks


class RunLog:
    """Rows by step, one a line. On resume, rows past the checkpoint are cut off, also those of processes that are no more."""

    def __init__(self, folder: Path, from_step: int, ranks: Ranks, with_tensorboard: bool = False) -> None:
        if ranks.is_first:
            for path in [folder / "metrics.jsonl", *folder.glob("consumed*.jsonl")]:
                cut_rows(path, from_step)
        ranks.wait()
        name = "consumed.jsonl" if ranks.is_first else f"consumed-{ranks.rank}.jsonl"
        self._consumed = open(folder / name, "a", buffering=1)  # noqa: SIM115 - closed by close()
        self._metrics = open(folder / "metrics.jsonl", "a", buffering=1) if ranks.is_first else None  # noqa: SIM115
        self._board = _board(folder, from_step) if with_tensorboard and ranks.is_first else None

    def consumed(self, row: dict[str, Any]) -> None:
        """The samples this process read at a step."""
        self._consumed.write(json.dumps(row) + "\n")

    def metrics(self, row: dict[str, Any]) -> None:
        """The numbers of a step; on the first process alone."""
        if self._metrics is not None:
            self._metrics.write(json.dumps(row) + "\n")
        if self._board is not None:
            for name, value in row.items():
                if isinstance(value, (int, float)):
                    self._board.add_scalar(name, value, row["step"])

    def close(self) -> None:
        for file in (self._consumed, self._metrics, self._board):
            if file is not None:
                file.close()


def _board(folder: Path, from_step: int) -> Any:
    """TensorBoard's writer, or nothing where the package is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder / "tensorboard"), purge_step=from_step)  # type: ignore[no-untyped-call]
