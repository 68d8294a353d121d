"""Options that the verbs about a run share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from trainer.config import FitConfig, preset
from trainer.config_files import load_stages, with_settings

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

    settings: Path | None = None
    """JSON file with any settings, as in the `config.json` of a run folder; options go before it."""
    set: tuple[str, ...] = ()
    """Any setting by its name there: --set flow.text_dropout=0.2 'captions={"dense": 1}' model.patch=[2,2,2].
    """

    def config(self, **more: Any) -> FitConfig:
        """The preset with these options, and more fields by name; then what `--set` says."""
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
        base = with_settings(preset(self.preset), self.settings, ())
        more |= {"stages": load_stages(self.stages) if self.stages else None, **given}
        found = replace(base, **{key: value for key, value in more.items() if value is not None})
        found = replace(
            found,
            model=replace(found.model, text=self.text or found.model.text),
            flow=replace(found.flow, path=self.path or found.flow.path),
        )
        return with_settings(found, None, self.set)
