"""Frames of a source's clips at the encoding rate: each source read once, in order."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from media.apart.reader import Reader
from media.decode.container.timeline import HOLES, LOST_FRAMES
from media.decode.facts import Probe
from media.decode.geometry import slot_of
from media.decode.gpu.nvdec import NAME as NVDEC
from media.decode.gpu.nvdec import is_fit
from media.decode.reader import EPSILON_S, Frame
from media.errors import MediaError
from pipeline.footage.sources import check_unchanged

SPARSE_SHARE = 0.3  # below it, jumping to the clips costs less than reading past them


class ClipRouter:
    """Frames of each of a source's clips, which are in order and apart.

    Where the clips are a small part of a source, decord jumps to each. Else the source is read once, in
    order, and its parts handed out: that is faster than jumping, and memory stays small.

    Args:
        on_gpu: a GPU decodes what is read in order, where it can and nothing is known to be damaged.
    """

    def __init__(
        self, facts: Probe, max_pixels: int | None, clips: list[dict], *, on_gpu: bool = False
    ) -> None:
        self.clips = clips
        span_s = clips[-1]["end_s"] - clips[0]["start_s"]
        is_sparse = sum(clip["end_s"] - clip["start_s"] for clip in clips) < SPARSE_SHARE * span_s
        decoder = facts.decoder if is_sparse or facts.decoder == "pillow" else "pyav"
        if on_gpu and decoder == "pyav" and is_fit(facts) and not _is_hurt(facts, clips):
            decoder = NVDEC
        self.reader = Reader(facts, max_pixels, decoder)
        # a still is read whole, whichever decoder reads it
        self._jumps = decoder not in ("pyav", NVDEC) or clips[0]["kind"] == "image"
        self._stream: Iterator[Frame] | None = None
        self._ahead: Frame | None = None
        self.problem: MediaError | None = None

    def _advance(self) -> None:
        """Fetch the next frame.

        An error ends the stream; it concerns the clips that lack frames for it, not the one that is complete.
        """
        assert self._stream is not None
        self._ahead = None
        try:
            self._ahead = next(self._stream, None)
        except MediaError as error:
            self.problem = error

    def frames(self, clip: dict) -> Iterator[Frame]:
        """Frames of one clip. Ask for the clips in order."""
        if self._jumps:
            yield from (
                self.reader.frames()
                if clip["kind"] == "image"
                else self.reader.frames(clip["start_s"], clip["end_s"])
            )
            return
        if self._stream is None:
            self._stream = self.reader.frames(self.clips[0]["start_s"], self.clips[-1]["end_s"])
            self._advance()
        while self._ahead is not None and self._ahead.time_s < clip["end_s"] - EPSILON_S:
            frame = self._ahead
            if frame.time_s >= clip["start_s"] - EPSILON_S:
                yield frame
            self._advance()


def _is_hurt(facts: Probe, clips: list[dict]) -> bool:
    """Whether curation saw damage, of which each decoder makes something else."""
    is_known = {LOST_FRAMES, HOLES} & set(facts.decoder_reasons)
    return bool(is_known) or any(clip["num_damaged_frames"] for clip in clips)


class Picked:
    """The frames of a clip that are encoded: existing ones, at most `max_fps` a second.

    Counts what it sees; `check` says whether all came, of the file that was curated.
    """

    def __init__(self, clip: dict, source: dict, frames: Iterator[Frame], max_fps: float | None) -> None:
        self.clip, self._source, self._frames, self._max_fps = clip, source, frames, max_fps
        self.num_seen, self.num_kept, self.last_s, self.size = 0, 0, 0.0, (0, 0)

    def __iter__(self) -> Iterator[np.ndarray]:
        slot = -1
        for frame in self._frames:
            self.num_seen += 1
            if self._max_fps is not None:
                current = slot_of(frame.time_s - self.clip["start_s"], self._max_fps)
                if current <= slot:
                    continue
                slot = current
            self.size, self.last_s, self.num_kept = frame.rgb.shape[:2], frame.time_s, self.num_kept + 1
            yield frame.rgb

    def check(self) -> None:
        """Raises: MediaError: the file is another, or gave other frames of the clip than curation saw."""
        check_unchanged(self._source)
        if self.num_seen != self.clip["num_frames"]:
            raise MediaError(
                "frame_count_differs",
                f"{self.clip['uri']} gave {self.num_seen} frames of clip {self.clip['clip_id']}, curation "
                f"saw {self.clip['num_frames']}",
            )

    @property
    def fps(self) -> float:
        """Rate of the kept frames."""
        span = self.last_s - self.clip["start_s"]
        return (self.num_kept - 1) / span if self.num_kept > 1 and span > 0 else 0.0
