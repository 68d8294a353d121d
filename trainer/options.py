"""Options that the verbs about a run share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import tyro

from manifests.errors import UsageError
from trainer.config import FitConfig, preset

Preset = Literal["tiny", "small", "base", "large", "xl", "3b", "14b"]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a run; those left out come from the preset."""

    preset: Annotated[Preset, tyro.conf.Positional] = "tiny"
    """Named size."""
    data: str
    """Dataset folder or address."""
    view: str = "default"
    """View to read."""
    tokens: int | None = None
    """Token budget of a pack."""
    packs_per_step: int | None = None
    """Packs of one optimizer step."""
    steps: int | None = None
    """Steps to train."""
    lr: float | None = None
    """Peak learning rate."""
    seed: int | None = None
    """Seed of order, noise and initial weights."""

    ema_decay: float | None = None
    """Of the averaged weights."""
    held_out: float | None = None
    """Share of clips kept for validation."""

    def config(self, **more: Any) -> FitConfig:
        """The preset with these options, and more fields by name."""
        for name in ("tokens", "packs_per_step", "steps"):
            if (given := getattr(self, name)) is not None and given < 1:
                raise UsageError(f"--{name.replace('_', '-')}", f"is {given}", "It must be 1 or more.")
        given = {name: getattr(self, name) for name in ("tokens", "packs_per_step", "steps", "lr", "seed", "ema_decay", "held_out")}
        return preset(self.preset, **given, **more)
