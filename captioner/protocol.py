"""The captioner protocol: previews and facts in, captions with provenance, verdict and cost out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from manifests.errors import RushesError

CODE_VERSION = 2
KINDS = ("short", "dense", "structured", "alt", "window")
"""`window`: what was said of a part of a long clip before the parts were merged; kept, never trained on."""


class BudgetSpentError(RushesError):
    """The budget of requests or tokens does not allow another request."""


@dataclass(frozen=True, kw_only=True)
class ClipFrames:
    """A clip as a captioner sees it.

    frames: preview pictures [H, W, 3] uint8 at native aspect; times_s: their times in the source; facts: the
    clip's row of measurements (native size, fps, camera, motion, exposure, palette) and, where known,
    `cuts_s`; context: what was said of the part before, for a part of a longer clip.
    """

    clip_id: str
    frames: Sequence[np.ndarray]
    times_s: Sequence[float]
    facts: dict[str, Any]
    context: str = ""

    @property
    def is_image(self) -> bool:
        return self.facts.get("kind") == "image" or self.facts.get("num_frames") == 1


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """All that is needed to make a caption again. Fields a backend has no use for stay empty."""

    backend: str = ""
    model: str = ""
    weights: str = ""
    """Hash of the weights, where they are at hand."""
    prompt_id: str = ""
    prompt_sha256: str = ""
    sampling: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    frame_indices: tuple[int, ...] = ()
    """Which previews were looked at."""
    frame_times_s: tuple[float, ...] = ()
    code_version: int = CODE_VERSION


@dataclass(frozen=True, kw_only=True)
class Usage:
    """What a caption cost.

    `seconds` goes to the run's events and not into the column, whose bytes depend on its inputs alone.
    """

    prompt_tokens: int = 0
    output_tokens: int = 0
    requests: int = 0
    seconds: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            requests=self.requests + other.requests,
            seconds=self.seconds + other.seconds,
        )


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """The gate's judgement.

    A rejected caption stays in the table with its reasons; the trainer never draws it.
    """

    status: str = "accepted"
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Caption:
    """One caption of one clip."""

    kind: str
    """One of KINDS."""
    text: str
    source: str
    """ground_truth, alt, or the name of the backend that wrote it."""
    fields: dict[str, Any] = field(default_factory=dict)
    """structured: subjects, actions, setting, camera {tag, confidence, source}, shot_type, lighting, style.
    """
    verdict: Verdict = field(default_factory=Verdict)
    provenance: Provenance = field(default_factory=Provenance)
    usage: Usage = field(default_factory=Usage)
    finish_reason: str = ""
    """stop, length (cut off), or empty where nothing is generated."""
    scores: dict[str, float] = field(default_factory=dict)
    """What the backend itself makes of it: mean_logprob, alignment."""
    span_s: tuple[float, float] | None = None
    """kind window: the part of the clip it speaks of."""


class Captioner(Protocol):
    """A backend that captions batches of clips.

    It must be safe to call again on the same clips, and say nothing of one clip that it saw in another.
    """

    name: str
    version: str
    """All that decides its words besides the clips: model, weights, prompt, sampling. Part of the column's
    fingerprint."""
    at_once: int
    """Calls of `caption`, of a clip each, that may be under way at a time in threads; 1: it wants batches."""

    def setup(self) -> None:
        """Load weights; called once in the process that captions."""

    def caption(self, clips: Sequence[ClipFrames], attempt: int = 0) -> list[list[Caption]]:
        """For each clip, its captions.

        A higher `attempt` must sample differently: the first try was rejected.
        """


def with_verdict(caption: Caption, verdict: Verdict) -> Caption:
    return replace(caption, verdict=verdict)
