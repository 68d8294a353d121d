"""The captioner protocol: clips as preview frames and measured facts in, captions with provenance out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

KINDS = ("short", "dense", "structured", "alt")


@dataclass(frozen=True, kw_only=True)
class ClipFrames:
    """A clip as a captioner sees it.

    frames: preview pictures [H, W, 3] uint8; times_s: their times in the source; facts: the clip's row of measurements.
    """

    clip_id: str
    frames: Sequence[np.ndarray]
    times_s: Sequence[float]
    facts: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Caption:
    """One caption of one clip, with all that is needed to make it again."""

    kind: str
    """short | dense | structured | alt"""
    text: str
    source: str
    """ground_truth, alt, or the name of the backend that wrote it"""
    fields: dict[str, str] = field(default_factory=dict)
    backend: str = ""
    model: str = ""
    prompt_version: str = ""
    seed: int | None = None


class Captioner(Protocol):
    """A backend that captions batches of clips. It must be safe to call again on the same clips."""

    name: str
    version: str
    num_cpus: float
    num_gpus: float

    def setup(self) -> None:
        """Load weights; called once in the process that captions."""

    def caption(self, clips: Sequence[ClipFrames]) -> list[list[Caption]]:
        """For each clip, its captions."""
