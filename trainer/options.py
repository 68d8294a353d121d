"""Options that the verbs about a run share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from trainer.config import FitConfig
from trainer.config_files import load_stages, measured_settings, with_settings
from trainer.presets import PRESETS, preset

Preset = Literal["tiny", "small", "base", "large", "xl", "3b", "14b"]

_SETTINGS = {
    "bf16": "is_bf16",
    "compile": "is_compiled",
    "checkpointing": "is_checkpointed",
    "half_stream": "is_half_stream",
    "tensorboard": "is_tensorboard",
    "async_saving": "is_async_saving",
    "text": "model.text",
    "path": "flow.path",
}
"""Options whose setting has another name."""


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
    measured: Path | None = None
    """File that `rushes measure` wrote on such a device: what packs are balanced by, and from which length a
    sample has a kernel to itself."""
    attention_cost: float | None = None
    """Cost of attention per pair of tokens, where a token costs 1; as measured, or by operations."""
    ema_decay: float | None = None
    """Of the averaged weights."""
    held_out: float | None = None
    """Share of clips kept for validation."""
    mix: dict[str, float] | None = None
    """Views to read instead, and how often an epoch shows each clip of them: default 1 curated 2."""
    balance: str | None = None
    """Columns of clips whose values are shown equally often (camera), or a query that gives clip_id and
    weight."""
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

    def base(self) -> FitConfig:
        """The settings to begin with: those of the preset."""
        return preset(self.preset)

    def config(self) -> FitConfig:
        """The base, then the settings file, then these options, then `--set`: the later one counts.

        Raises:
            UsageError: a setting does not exist or has a value that it cannot have.
        """
        found = with_settings(self.base(), self.settings, ())
        given = {
            setting: getattr(self, name)
            for name, setting in settings_of(type(self)).items()
            if getattr(self, name) is not None
        }
        if self.measured:
            given = measured_settings(self.measured, self.preset) | given
        if self.stages:
            given["stages"] = load_stages(self.stages)
        text, path = given.pop("model.text", found.model.text), given.pop("flow.path", found.flow.path)
        model, flow = replace(found.model, text=text), replace(found.flow, path=path)
        return with_settings(replace(found, model=model, flow=flow, **given), None, self.set)

    @classmethod
    def defaults_shown(cls, words: Sequence[str]) -> dict[str, str]:
        """What the preset on the command line gives, by option, for the help."""
        name = next((word for word in words if word in PRESETS), "tiny")
        found = preset(name)
        shown = {}
        for option, setting in settings_of(cls).items():
            part, _, last = setting.rpartition(".")
            value = getattr(getattr(found, part) if part else found, last)
            shown[option] = f"{name}: {'none' if value in ('', (), {}, None) else value}"
        return shown


def settings_of(options: type) -> dict[str, str]:
    """The setting that each option of a verb sets, by the option's name; dotted where it lies deeper."""
    known = {item.name for item in fields(FitConfig)} - {"preset", "stages"}
    named = {item.name: _SETTINGS.get(item.name, item.name) for item in fields(options)}
    return {name: setting for name, setting in named.items() if setting in known or "." in setting}
