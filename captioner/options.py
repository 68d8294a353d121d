"""Settings of a captioner backend, the same for all of them; each reads those it has a use for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from manifests.cli.ranges import COUNT, COUNT_OR_NONE, POSITIVE, SEED, SHARE, check_ranges


@dataclass(frozen=True, kw_only=True)
class CaptionerOptions:
    """Which captioner, and how it writes."""

    captioner: str = "measured"
    """Backend: measured (states what was measured), coca (this project's own), transformers (a local VLM),
    openai (a server), given (only what footage came with)."""
    model: str = ""
    """coca: folder of weights, or the name of one under weights/ (empty: captioner-tiny); transformers:
    folder or hub id; openai: the server's name for its model."""
    server: str = ""
    """openai: base address, such as http://127.0.0.1:8000/v1. The key comes from OPENAI_API_KEY alone."""
    prompt: str = "video-2"
    """Name of a prompt in captioner/prompts.py."""
    kinds: tuple[str, ...] = ("short", "dense", "structured")
    """What is written."""
    temperature: float = 0.0
    """0 is greedy; a retry always samples."""
    top_p: float = 0.9
    """Sampling keeps the most likely tokens up to this probability."""
    max_tokens: int = 512
    """Most tokens of one answer."""
    max_frames: int = 16
    """transformers, openai: most frames of a clip that are looked at."""
    frame_pixels: int = 200_704
    """transformers, openai: most pixels of a frame; larger ones are reduced by one factor."""
    seed: int = 0
    """Of the sampling."""
    retries: int = 1
    """How often a rejected caption is written anew, with other sampling."""
    window_s: float = 12.0
    """Longer clips are captioned in windows of about this length, then merged."""
    concurrency: int = 8
    """openai: requests in flight. Does not enter the fingerprint."""
    budget_requests: int = 0
    """openai: most requests of one process; 0 for no limit. Does not enter the fingerprint."""
    budget_tokens: int = 0
    """openai: most tokens of one process, in and out; 0 for no limit. Does not enter the fingerprint."""
    timeout_s: float = 120.0
    """openai: for one request. Does not enter the fingerprint."""
    dtype: str = "auto"
    """transformers: of the weights; auto is what they are stored in."""
    device: Literal["auto", "cpu", "cuda", "spread"] = "auto"
    """transformers: auto takes the GPU that an actor has (--caption-on.num-gpus 1); spread lays one model
    over several (--caption-on.num-gpus 4), and the rest on the processor (needs accelerate)."""
    video_parts: str = "frames"
    """openai: how a video is sent: frames (image parts) or video (a WebM as video_url, for servers that
    decode it)."""

    def __post_init__(self) -> None:
        check_ranges(
            "captioner",
            self,
            {
                "temperature": (0, 100, True),
                "top_p": SHARE,
                **dict.fromkeys(("max_tokens", "max_frames", "frame_pixels", "concurrency"), COUNT),
                **dict.fromkeys(("retries", "budget_requests", "budget_tokens"), COUNT_OR_NONE),
                "seed": SEED,
                **dict.fromkeys(("window_s", "timeout_s"), POSITIVE),
            },
        )
