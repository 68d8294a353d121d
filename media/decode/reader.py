"""The reader of frames: upright, square pixels, true times, any size, in bounded memory.

Which decoder serves a file was decided by the probe. A decode that goes wrong midway raises `MediaError`
after the frames before it were given out, so a caller keeps what was good and records the rest.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass

import av
import numpy as np

from media.damage.stills import damage_of
from media.decode import images
from media.decode.container.opening import open_container
from media.decode.container.packets import (
    LOOSE,
    TIMES_OF_DECODING,
    packets_of,
    scan_packets,
    video_stream,
)
from media.decode.container.timeline import HOLES, LOST_FRAMES, REPEATED_TIMES, Packets
from media.decode.facts import Probe
from media.decode.gpu import nvdec, trial
from media.decode.passing import EPSILON_S, Clock, Pass
from media.decode.picture import Picture, fitted
from media.decode.seeking import packets_from
from media.decode.video_facts import is_old_444
from media.errors import MediaError, why

_DECORD_BATCH_PIXELS = 16 << 20


@dataclass(frozen=True)
class Frame:
    """One picture: `rgb` [H, W, 3] uint8 as displayed, at `time_s` from the source's first frame."""

    time_s: float
    rgb: np.ndarray
    is_damaged: bool = False


class VideoReader:
    """Frames of a source.

    Args:
        facts: the source's probe.
        max_pixels: cap on width x height, kept by one factor for both axes; None for native size.
        decoder: None for the probe's choice. "pyav" reads a video in order with the reference decoder, which
            alone reports damage: right for a full pass. decord is the faster one for a few ranges of a long
            file. "nvdec" has a GPU decode what this process holds one for (`media.decode.gpu`); damage is
            not reported.
        is_witnessed: of HEVC a second decoder looks for damage that FFmpeg does not report.

    Attributes:
        decoder: the decoder that served the last frame.
        has_losses: packets of the last pass gave no frame, or the decoder complained.
    """

    def __init__(
        self,
        facts: Probe,
        max_pixels: int | None = None,
        decoder: str | None = None,
        is_witnessed: bool = False,
    ) -> None:
        self.facts, self.max_pixels, self.is_witnessed = facts, max_pixels, is_witnessed
        self.decoder = facts.decoder if decoder is None or facts.decoder == "pillow" else decoder
        is_turned = facts.geometry.rotation_deg != 0 or facts.geometry.is_mirrored
        if self.decoder == "decord" and (is_turned or is_old_444(facts.codec, facts.pixel_format)):
            self.decoder = "pyav"  # facts of before these were known say otherwise
        if self.decoder == nvdec.NAME and (nvdec.device.trouble or not nvdec.is_fit(facts)):
            self.decoder = "pyav"
        self.has_losses = False

    def frames(self, start_s: float = 0.0, end_s: float = float("inf")) -> Iterator[Frame]:
        """Frames with `start_s <= time_s < end_s`, in order; for an image, its one frame.

        Where a file changes its size midway, so do the frames.

        Raises:
            MediaError: the file cannot be decoded (further), or lies about its frames.
        """
        if self.decoder == "decord":
            yield from self._decord_then_pyav(start_s, end_s)
        elif self.decoder == nvdec.NAME:
            yield from self._nvdec(start_s, end_s)
        else:
            yield from self._converted(self.pictures(start_s, end_s))

    def _nvdec(self, start_s: float, end_s: float) -> Iterator[Frame]:
        both = trial.SideBySide(
            self.facts,
            lambda begin_s: self._converted(self.pictures(begin_s, end_s)),
            lambda begin_s: self._converted(self._rising(self._pyav(begin_s, end_s, True), begin_s, end_s)),
        )
        for frame in both.frames(start_s):
            self.decoder = both.decoder
            yield frame

    def pictures(self, start_s: float = 0.0, end_s: float = float("inf")) -> Iterator[Picture]:
        """The same frames from the reference decoder, to be converted by the caller as far as it needs them.

        Raises:
            MediaError: as `frames` does.
        """
        decoded = self._pillow if self.facts.decoder == "pillow" else self._pyav
        yield from self._rising(decoded(start_s, end_s), start_s, end_s)

    def _rising(self, pictures: Iterator[Picture], start_s: float, end_s: float) -> Iterator[Picture]:
        last_s = -1.0
        for picture in pictures:
            if picture.time_s >= end_s - EPSILON_S:
                return
            if picture.time_s < start_s - EPSILON_S:
                continue
            if picture.time_s <= last_s:
                raise MediaError(
                    "times_not_rising",
                    f"{self.facts.path}: a frame at {picture.time_s:.4f} s follows one at {last_s:.4f} s",
                )
            last_s = picture.time_s
            yield picture

    def _converted(self, pictures: Iterator[Picture]) -> Iterator[Frame]:
        for picture in pictures:
            yield Frame(
                picture.time_s,
                picture.rgb(*picture.geometry.capped_size_px(self.max_pixels)),
                picture.signs.is_damaged,
            )

    def _pillow(self, start_s: float, end_s: float) -> Iterator[Picture]:
        geometry = self.facts.geometry
        if said := damage_of(self.facts.path, self.facts.container.upper()):
            raise MediaError("image_decode", f"{self.facts.path}: {said}")
        try:
            for time_s, rgb in images.animation_frames(
                self.facts.path, *geometry.display_size_px, self.facts.transfer
            ):
                yield Picture(time_s, rgb, geometry)
                if time_s >= end_s:
                    return
        except (OSError, ValueError, SyntaxError, RuntimeError, IndexError, EOFError) as error:
            raise MediaError("image_decode", f"{self.facts.path}: {why(error)}") from error

    def _pyav(self, start_s: float, end_s: float, on_gpu: bool = False) -> Iterator[Picture]:
        """Decode in order: right on every file, whatever its GOPs and edit lists.

        From the beginning, except in files whose packets show that a seek is exact: there from the keyframe
        before `start_s`.
        """
        facts, seen, is_whole = self.facts, None, True
        try:
            with open_container(facts.path, nvdec.accelerator() if on_gpu else None) as container:
                stream = video_stream(container, facts.path, LOOSE not in facts.decoder_reasons)
                seen = Pass(facts, stream, self._gaps_s(), self._clock(), self.is_witnessed, on_gpu)
                packets = packets_from(container, stream, facts, start_s)
                is_whole = packets is None
                for packet in packets or packets_of(container, stream):
                    frames = seen.decoded(packet)
                    self.has_losses = seen.health.has_losses
                    for frame in frames:
                        told = seen.placed(frame)
                        if told is None:
                            continue
                        if told.time_s >= end_s - EPSILON_S:
                            return
                        if told.time_s >= start_s - EPSILON_S:
                            yield seen.picture(frame, told)
                        seen.health.num_lost = 0
        except av.FFmpegError as error:
            if seen is None or seen.health.num_frames == 0 or not isinstance(error, av.EOFError):
                raise MediaError("decode", f"{facts.path}: {why(error)}") from error
        assert seen is not None
        health = seen.health
        self.has_losses |= health.num_frames < health.num_shown + health.num_timeless
        health.check(facts.path, seen.previous_s, is_whole)

    def _clock(self) -> Clock:
        """That of the file; where packets are not shown at their own times, by the times of them all."""
        facts = self.facts
        if facts.container == "avi" or TIMES_OF_DECODING in facts.decoder_reasons:
            # decode order is all there is: the i-th shown frame has the i-th smallest time
            return Clock(facts, by_number_s=self._scanned().times_s)
        if REPEATED_TIMES in facts.decoder_reasons:
            return Clock(facts, spread_s=self._scanned().times_s)
        return Clock(facts)

    def count(self, start_s: float, end_s: float) -> int:
        """Packets that should each show a frame with `start_s <= time_s < end_s`.

        Raises:
            MediaError, av.FFmpegError: the packets cannot be read.
        """
        found = self._scanned()
        if not len(found.times_s):
            return found.num_packets
        timeless = found.num_packets - len(found.times_s) if start_s <= 0 and end_s == math.inf else 0
        is_inside = (found.times_s >= start_s - EPSILON_S) & (found.times_s < end_s - EPSILON_S)
        return int(is_inside.sum()) + max(0, timeless)

    def _scanned(self) -> Packets:
        """What a pass of its own over the packets sees: raw streams cannot be wound back."""
        with open_container(self.facts.path) as container:
            return scan_packets(container, video_stream(container, self.facts.path))

    def _gaps_s(self) -> list[float]:
        """Times of the frames before which others are missing, where the packets are the only sign of it."""
        is_known = {LOST_FRAMES, HOLES} & set(self.facts.decoder_reasons)
        return self._scanned().missing_s if is_known else []

    def _decord_then_pyav(self, start_s: float, end_s: float) -> Iterator[Frame]:
        """decord, and from where it gives up the reference decoder."""
        try:
            for frame in self._decord(start_s, end_s):
                start_s = frame.time_s + 2 * EPSILON_S
                yield frame
        except MediaError:
            self.decoder = "pyav"
            yield from self._converted(self.pictures(start_s, end_s))

    def _decord(self, start_s: float, end_s: float) -> Iterator[Frame]:
        """Frames by decord, for files that the probe found safe; scaling to the display size is ours."""
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        facts = self.facts
        times_s = self._scanned().times_s
        try:
            video = decord.VideoReader(os.path.abspath(facts.path), ctx=decord.cpu(0), num_threads=1)
            if len(video) != len(times_s):
                raise MediaError(
                    "wrong_count",
                    f"{facts.path}: decord counts {len(video)} frames, the packets {len(times_s)}",
                )
            first = int(np.searchsorted(times_s, start_s - EPSILON_S))
            last = int(np.searchsorted(times_s, end_s - EPSILON_S)) if end_s != float("inf") else len(times_s)
            batch = max(
                1, _DECORD_BATCH_PIXELS // (facts.geometry.stored_width_px * facts.geometry.stored_height_px)
            )
            size = facts.geometry.capped_size_px(self.max_pixels)
            for begin in range(first, last, batch):
                indices = list(range(begin, min(begin + batch, last)))
                for index, rgb in zip(indices, video.get_batch(indices).asnumpy(), strict=True):
                    yield Frame(float(times_s[index]), fitted(rgb, *size))
        except decord.DECORDError as error:
            raise MediaError("decode", f"{facts.path}: {why(error)}") from error
