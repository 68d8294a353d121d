"""The options of `rushes sample` that say what is to be made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What is to be made, as the command line says it; None and empty where it says nothing."""

    prompt: str = ""
    """What to show."""
    width: int | None = None
    """Pixels; 128, or as what is given."""
    height: int | None = None
    """Pixels; 96, or as what is given."""
    frames: int | None = None
    """Frames; 25, or 1 for a .png."""
    seconds: float | None = None
    """Length instead of --frames; of a blend, how long it takes."""
    fps: float | None = None
    """Frames per second; 12, or as the video that is given."""
    image: Path | None = None
    """The first frame."""
    last_image: Path | None = None
    """The last frame."""
    keyframe: tuple[str, ...] = ()
    """Pictures at given seconds: 1.5=picture.png."""
    video: Path | None = None
    """Video to extend or to close to a loop."""
    extend_after: float | None = None
    """Seconds to add after --video."""
    extend_before: float | None = None
    """Seconds to add before --video."""
    connect: tuple[Path, ...] = ()
    """Two videos to join by what is made between them."""
    gap: float | None = None
    """Seconds between the two of --connect, or added to a --loop of --video; 1 if left out."""
    loop: bool = False
    """End where it begins; of --video, by frames that are added."""
    edit: Path | None = None
    """Video or image to make anew from a noise level on."""
    strength: float | None = None
    """That noise level: 0 leaves it as it is, 1 makes another; 0.6 if left out, 0.9 with --from-prompt."""
    mask: Path | None = None
    """Picture that is white where --edit is made anew; all else stays (to the pixel in .mkv)."""
    from_prompt: str | None = None
    """What --edit shows now: it moves from there to --prompt and keeps the rest (FlowEdit)."""
    blend: tuple[Path, ...] = ()
    """Two videos of which one becomes the other."""
    to_prompt: str | None = None
    """What the second of --blend shows; --prompt is the first."""
