"""Options that the verbs about a run share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from manifests.errors import UsageError
from trainer.config import FitConfig, load_stages, preset

Preset = Literal["tiny", "small", "base", "large", "xl", "3b", "14b"]


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Options of a run; those left out come from the preset."""

    preset: Annotated[Preset, tyro.conf.Positional] = "tiny"
    """Named size."""
    data: str = ""
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
    attention_cost: float | None = None
    """What `trainer measure` found; by operations if left out."""
    ema_decay: float | None = None
    """Of the averaged weights."""
    held_out: float | None = None
    """Share of clips kept for validation."""
    mix: dict[str, float] | None = None
    """Views to read instead, and how often an epoch shows each clip of them: default 1 curated 2."""
    image_share: float | None = None
    """Share of images among the tokens; as they lie in the data if left out."""
    stages: Path | None = None
    """JSON file with stages one after the other: [{"steps": 1000, "max_s": 2, "image_share": 0.5}, {}]."""
    text: Literal["cross", "joint"] | None = None
    """How samples read their text: by cross-attention, or as part of their own sequence."""
    path: Literal["linear", "cosine"] | None = None
    """Rectified flow, or v-prediction on a cosine path."""
    long_clips: Literal["cover", "window"] | None = None
    """A clip too long for a pack: all of it in consecutive windows in every epoch, or one random window."""
    oversize: Literal["refuse", "window"] | None = None
    """A frame that alone has more tokens than the budget: refuse to begin, or show a random part of it."""

    def config(self, **more: Any) -> FitConfig:
        """The preset with these options, and more fields by name."""
        for name in ("tokens", "packs_per_step", "steps"):
            if (given := getattr(self, name)) is not None and given < 1:
                raise UsageError(f"--{name.replace('_', '-')}", f"is {given}", "It must be 1 or more.")
        if self.image_share is not None and not 0 <= self.image_share <= 1:
            raise UsageError("--image-share", f"is {self.image_share}", "It is a share between 0 and 1.")
        if self.mix and min(self.mix.values()) < 0:
            raise UsageError("--mix", f"has a negative weight: {self.mix}")
        names = (
            "tokens",
            "packs_per_step",
            "steps",
            "lr",
            "seed",
            "ema_decay",
            "held_out",
            "mix",
            "image_share",
            "long_clips",
            "oversize",
            "attention_cost",
        )
        given = {name: getattr(self, name) for name in names}
        found = preset(self.preset, **given, stages=load_stages(self.stages) if self.stages else None, **more)
        return replace(
            found, model=replace(found.model, text=self.text or found.model.text), flow=replace(found.flow, path=self.path or found.flow.path)
        )
