"""The verb `export-model`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from manifests import cli
from manifests.cli.ranges import COUNT_OR_NONE, SHARE, Ranges


@dataclass(frozen=True, kw_only=True)
class Export:
    """Make a model to sample from, of the checkpoint of a run that was stopped, or of an earlier step.

    Example: rushes export-model RUN --step 20000 --out RUN/model-20000
    """

    ranges: ClassVar[Ranges] = {"step": COUNT_OR_NONE, "ema": SHARE}

    run_folder: Annotated[Path, tyro.conf.Positional]
    """Run folder of `fit`."""
    step: int | None = None
    """Of which step; the newest if left out."""
    ema: float | None = None
    """Decay of the average to take; the run's first if left out."""
    out: Path | None = None
    """Folder to write; RUN/model if left out."""
    half: bool = False
    """Write bfloat16: half the size."""
    vae: str = ""
    """Where its VAE lies now, as a folder or a name under weights/; as at ingest if left out."""
    average_with: Annotated[tuple[str, ...], tyro.conf.arg(metavar="MODEL ...")] = ()
    """Models with whose weights these are averaged: what this run began from, and what that began from."""
    overwrite: bool = False
    """Replace a model that exists."""

    def run(self) -> int:
        from trainer.state.export import NEW_WEIGHTS, export_checkpoint, is_unfinished

        out = self.out or self.run_folder / "model"
        cli.check_new(out / "model.safetensors", is_overwriting=self.overwrite or is_unfinished(out))
        cli.check_own(out, {"model.safetensors", "model.json", NEW_WEIGHTS})
        path = export_checkpoint(
            self.run_folder,
            self.step,
            self.ema,
            out,
            is_half=self.half,
            vae=self.vae,
            average_with=self.average_with,
        )
        cli.say(f"export: from {path}")
        print(out)
        return cli.DONE
