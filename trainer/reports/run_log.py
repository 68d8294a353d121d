"""Logs of a run: `metrics.jsonl`, `consumed*.jsonl`, TensorBoard, and Weights & Biases on request."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, TextIO

import numpy as np
from PIL import Image

from learning.loop.step_log import cut_rows, finite
from manifests.errors import UsageError
from trainer.state.parallel import Ranks


class RunLog:
    """Rows by step, one a line.

    On resume, rows past the checkpoint are cut off, also those of processes that are no more.
    """

    def __init__(
        self,
        folder: Path,
        from_step: int,
        ranks: Ranks,
        with_tensorboard: bool = False,
        wandb_project: str = "",
    ) -> None:
        if ranks.is_first:
            for path in [folder / "metrics.jsonl", *folder.glob("consumed*.jsonl")]:
                cut_rows(path, from_step)
            cut_rows(folder / "validation.jsonl", from_step + 1)  # the scores after step n are of step n
        ranks.wait()
        self._folder = folder
        name = "consumed.jsonl" if ranks.is_first else f"consumed-{ranks.rank}.jsonl"
        self._consumed = open(folder / name, "a", buffering=1)  # noqa: SIM115 - closed by close()
        self._metrics: TextIO | None = None
        if ranks.is_first:
            self._metrics = open(folder / "metrics.jsonl", "a", buffering=1)  # noqa: SIM115 - closed by close()
        self._board = _board(folder, from_step) if with_tensorboard and ranks.is_first else None
        self._wandb = _wandb(folder, wandb_project) if wandb_project and ranks.is_first else None

    def consumed(self, row: dict[str, Any]) -> None:
        """The samples this process read at a step."""
        self._consumed.write(json.dumps(row) + "\n")

    def metrics(self, row: dict[str, Any]) -> None:
        """The numbers of a step; on the first process alone."""
        if self._metrics is not None:
            plain = {
                name: finite(value) if isinstance(value, float) else value for name, value in row.items()
            }
            plain["loss_by"] = {name: finite(value) for name, value in row.get("loss_by", {}).items()}
            self._metrics.write(json.dumps(plain, allow_nan=False) + "\n")
        scalars = {name: value for name, value in row.items() if isinstance(value, (int, float))}
        scalars |= {f"loss_by/{name}": value for name, value in row.get("loss_by", {}).items()}
        self._report(scalars, row["step"])

    def validation(self, step: int, scores: dict[str, dict[str, float]]) -> None:
        """The scores of a validation; on the first process alone."""
        if self._metrics is not None:
            cut_rows(
                self._folder / "validation.jsonl", step
            )  # those of this step, from before a resume, are written again
            with open(self._folder / "validation.jsonl", "a", encoding="utf-8") as file:
                file.write(json.dumps({"step": step, "scores": scores}) + "\n")
        self._report(
            {f"validation/{name}/{key}": value for name, own in scores.items() for key, value in own.items()},
            step,
        )

    def sheet(self, step: int, path: Path) -> None:
        """A picture of samples."""
        if self._board is not None:
            self._board.add_image(
                "samples", np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC"
            )

    def _report(self, scalars: dict[str, float], step: int) -> None:
        if self._board is not None:
            for name, value in scalars.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(scalars, step=step)

    def close(self) -> None:
        for file in (self._consumed, self._metrics, self._board):
            if file is not None:
                file.close()
        if self._wandb is not None:
            self._wandb.finish()


def _board(folder: Path, from_step: int) -> Any:
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=from_step)  # type: ignore[no-untyped-call]


def _wandb(folder: Path, project: str) -> Any:
    """A run of Weights & Biases; a resumed training goes on in its own.

    Raises:
        UsageError: the package is not installed.
    """
    try:
        import wandb  # type: ignore[import-not-found]
    except ImportError as error:
        raise UsageError("--wandb", "needs the package wandb", "Install it: pip install wandb.") from error
    return wandb.init(
        project=project,
        dir=str(folder),
        id=hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12],
        resume="allow",
    )
