"""The reader of frames: upright, square pixels, true times, any size, in bounded memory.

Which decoder serves a file was decided by the probe. A decode that goes wrong midway raises `MediaError`
after the frames before it were given out, so a caller keeps what was good and records the rest.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

import av
import numpy as np
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from media.decode import images
from media.decode.complaints import complaints
from media.decode.container import open_container
from media.decode.deinterlace import deinterlaced
from media.decode.packet_kinds import is_hidden
from media.decode.packets import (
    CLOCK_RESTART,
    LOST_FRAMES,
    TIMES_OF_DECODING,
    least_restart_s,
    scan_packets,
    video_stream,
)
from media.decode.picture import Picture, Scaler, fitted, shown
from media.decode.probe import Probe, is_old_444
from media.decode.seeking import packets_from
from media.decode.witness import PROMPT, decoder_of
from media.errors import MediaError

EPSILON_S = 1e-4  # presentation times closer than this are one instant
MISSING_SHARE = 0.02
"""A decoder that loses more of a file's frames than this without an error is not believed."""
_DECORD_BATCH_PIXELS = 16 << 20
_FORGOTTEN_S = 10.0  # a packet whose frame has not come by then gave none


@dataclass(frozen=True)
class Frame:
    """One picture: `rgb` [H, W, 3] uint8 as displayed, at `time_s` from the source's first frame."""

    time_s: float
    rgb: np.ndarray
    is_damaged: bool = False


def _seconds(pts: int | None, time_base: object) -> float:
    return round(float((pts or 0) * (time_base or 0)), 6)  # type: ignore[operator]


class Health:
    """What a decoder lost on the way, packet by packet.

    Damage of a packet is damage of the frames that were decoded after it up to the next keyframe, in the
    order of decoding: frames come later and in another order, and a keyframe that has arrived may still be
    waiting.

    Attributes:
        num_lost: packets that could not be decoded since the last frame.
        num_lost_in_all: the same since the start.
        num_shown: packets that should each show a frame.
        num_frames: frames that came.
    """

    def __init__(self, codec: str = "", decoder: VideoCodecContext | None = None) -> None:
        """Args: codec: FFmpeg's name of it. decoder: the stream's own where it is not given."""
        self.codec, self._decoder = codec, decoder
        self.num_lost = self.num_lost_in_all = self.num_shown = self.num_frames = 0
        self._order = self._group = 0  # packets and keyframes so far
        self._places: dict[float, tuple[int, int]] = {}  # group and order by time, of frames that will come
        self._starts_s: dict[int, float] = {}  # of groups
        self._hurt: dict[int, int] = {}  # groups and the packet from which on they are damaged
        self._keys_s: set[float] = set()  # times of keyframes to come, of a decoder that does not mark them
        self._aspect: Fraction | None = None  # of a pixel, at first
        self._aspects: dict[int, float] = {}  # groups in which it is another, so many times the first

    def decode(self, packet: av.Packet) -> list[av.VideoFrame] | None:
        """The frames of a packet; None if it could not be decoded."""
        is_shown = packet.size > 0 and packet.pts is not None and not packet.is_discard
        is_shown = is_shown and not is_hidden(packet, self.codec)
        self.num_shown += is_shown
        if packet.size > 0:
            self._order, self._group = self._order + 1, self._group + packet.is_keyframe
            if packet.pts is not None:
                time_s = _seconds(packet.pts, packet.time_base)
                self._places[time_s] = (self._group, self._order)
                if packet.is_keyframe:
                    self._starts_s[self._group] = time_s
                    if self._decoder and self._decoder.name in PROMPT:
                        self._keys_s.add(time_s)
        with complaints() as said:
            try:
                frames = self._decoder.decode(packet) if self._decoder else packet.decode()
                if is_shown and not frames and self._decoder and self._decoder.name in PROMPT:
                    raise av.InvalidDataError(0, "no frame")
            except av.FFmpegError:
                frames = None
                if packet.size > 0:  # an empty one is Theora's way to say: the same picture again
                    self.num_lost, self.num_lost_in_all = self.num_lost + 1, self.num_lost_in_all + 1
        if said or (frames is None and packet.size > 0):
            self._hurt.setdefault(self._group, self._order)
        if packet.is_keyframe and self._decoder and (aspect := self._decoder.sample_aspect_ratio):
            self._aspect = self._aspect or aspect
            if aspect != self._aspect:
                self._aspects[self._group] = float(aspect / self._aspect)
        return frames  # type: ignore[return-value]

    def is_key(self, frame: av.VideoFrame) -> bool:
        """Whether a frame is built on no other."""
        time_s = _seconds(frame.pts, frame.time_base)
        if time_s in self._keys_s:
            self._keys_s = {known for known in self._keys_s if known > time_s}
            return True
        return bool(frame.key_frame)

    def aspect_change(self, frame: av.VideoFrame) -> float:
        """How many times as wide a pixel is as at first; asked before `is_damaged`."""
        if not self._aspects:
            return 1.0
        group, _ = self._places.get(_seconds(frame.pts, frame.time_base), (self._group, 0))
        return self._aspects.get(group, 1.0)

    def is_damaged(self, frame: av.VideoFrame, is_key: bool, is_after_gap: bool = False) -> bool:
        """Whether a frame is damaged: reported so, or built on what is, up to the next keyframe.

        Args:
            is_key: whether it is built on no other.
            is_after_gap: frames before it are missing, on which it may be built.
        """
        self.num_frames += 1
        time_s = _seconds(frame.pts, frame.time_base)
        group, order = self._places.pop(time_s, (self._group, self._order))
        for known in [known for known in self._places if known < time_s - _FORGOTTEN_S]:
            del self._places[known]
        if frame.is_corrupt or (is_after_gap and not is_key):
            self._hurt[group] = min(order, self._hurt.get(group, order))
        is_leading = time_s < self._starts_s.get(group, time_s)  # built on the group before as well
        return self._hurt.get(group, order + 1) <= order or (is_leading and group - 1 in self._hurt)

    @property
    def has_losses(self) -> bool:
        return bool(self._hurt)

    def check(self, path: str, last_s: float, is_whole: bool) -> None:
        """Refuse a file at whose end frames are missing.

        Args:
            last_s: time of the last frame.
            is_whole: whether the file was read from its start, so that frames can be counted.

        Raises:
            MediaError: the last packets gave no frame; or the decoder lost frames without an error.
        """
        if self.num_lost:
            raise MediaError(
                "lost_packets",
                f"{path}: the last {self.num_lost} packets cannot be decoded, after {last_s:.3f} s",
            )
        num_missing = self.num_shown - self.num_frames - self.num_lost_in_all
        if is_whole and num_missing > max(2, MISSING_SHARE * self.num_shown):
            raise MediaError(
                "missing_frames",
                f"{path}: {self.num_shown} packets gave {self.num_frames} frames, and the decoder reports no "
                "error",
            )


class VideoReader:
    """Frames of a source.

    Args:
        facts: the source's probe.
        max_pixels: cap on width x height, kept by one factor for both axes; None for native size.
        decoder: None for the probe's choice. "pyav" reads a video in order with the reference decoder, which
            alone reports damage: right for a full pass. decord is the faster one for a few ranges of a long
            file.

    Attributes:
        decoder: the decoder that served the last frame.
        has_losses: packets of the last pass gave no frame, or the decoder complained.
    """

    def __init__(self, facts: Probe, max_pixels: int | None = None, decoder: str | None = None) -> None:
        self.facts, self.max_pixels = facts, max_pixels
        self.decoder = facts.decoder if decoder is None or facts.decoder == "pillow" else decoder
        if self.decoder == "decord" and is_old_444(facts.codec, facts.pixel_format):
            self.decoder = "pyav"  # facts of before this was known say otherwise
        self._times_s: np.ndarray | None = None  # of frames by their number, where packets do not say
        self.has_losses = False
        self._restart_s = 0.0  # added to the clock of a stream that began anew

    def frames(self, start_s: float = 0.0, end_s: float = float("inf")) -> Iterator[Frame]:
        """Frames with `start_s <= time_s < end_s`, in order; for an image, its one frame.

        Where a file changes its size midway, so do the frames.

        Raises:
            MediaError: the file cannot be decoded (further), or lies about its frames.
        """
        if self.decoder == "decord":
            yield from self._decord_then_pyav(start_s, end_s)
        else:
            yield from self._converted(self.pictures(start_s, end_s))

    def pictures(self, start_s: float = 0.0, end_s: float = float("inf")) -> Iterator[Picture]:
        """The same frames from the reference decoder, to be converted by the caller as far as it needs them.

        Raises:
            MediaError: as `frames` does.
        """
        last_s = -1.0
        for picture in (self._pillow if self.facts.decoder == "pillow" else self._pyav)(start_s, end_s):
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
                picture.is_damaged,
            )

    def _pillow(self, start_s: float, end_s: float) -> Iterator[Picture]:
        geometry = self.facts.geometry
        try:
            for time_s, rgb in images.animation_frames(self.facts.path, *geometry.display_size_px):
                yield Picture(time_s, rgb, geometry)
                if time_s >= end_s:
                    return
        except (OSError, ValueError, SyntaxError) as error:
            raise MediaError("image_decode", f"{self.facts.path}: {error}") from error

    def _pyav(self, start_s: float, end_s: float) -> Iterator[Picture]:
        """Decode in order: right on every file, whatever its GOPs and edit lists.

        From the beginning, except in files whose packets show that a seek is exact: there from the keyframe
        before `start_s`.
        """
        facts, scaler, self._restart_s = self.facts, Scaler(), 0.0
        health, previous_s, is_whole = Health(facts.codec), -1.0, True
        try:
            with open_container(facts.path) as container:
                stream = video_stream(container, facts.path)
                health = Health(facts.codec, decoder_of(stream))
                gaps_s = self._gaps_s(container, stream)
                packets = packets_from(container, stream, facts, start_s)
                is_whole = packets is None
                if facts.container == "avi" or TIMES_OF_DECODING in facts.decoder_reasons:
                    # decode order is all there is: the i-th shown frame has the i-th smallest time
                    self._times_s = scan_packets(container, stream).times_s
                    container.seek(0)
                tick_s = float(stream.time_base or 0)
                field_filter = deinterlaced(stream) if facts.is_interlaced else None
                for packet in packets or container.demux(stream):
                    decoded = health.decode(packet)
                    self.has_losses = health.has_losses
                    if field_filter and decoded is not None:
                        decoded = field_filter(decoded, packet.size == 0)
                    for frame in decoded or ():
                        own_tick_s = float(frame.time_base or 0) if field_filter else tick_s
                        number = health.num_frames + health.num_lost_in_all
                        time_s = self._time_s(frame.pts, own_tick_s, number, previous_s)
                        is_after_gap = False
                        while gaps_s and gaps_s[0] - EPSILON_S <= time_s:
                            is_after_gap = previous_s < gaps_s.pop(0) - EPSILON_S
                        is_key, widened = health.is_key(frame), health.aspect_change(frame)
                        is_damaged = health.is_damaged(frame, is_key, is_after_gap)
                        if time_s <= previous_s and health.has_losses:  # held back by damage until too late
                            health.num_frames -= 1
                            continue
                        previous_s = time_s
                        if time_s >= end_s - EPSILON_S:
                            return
                        if time_s >= start_s - EPSILON_S:
                            geometry = shown(facts.geometry, frame, widened)
                            yield Picture(time_s, frame, geometry, is_damaged, scaler, is_key)
                        health.num_lost = 0
        except av.FFmpegError as error:
            if health.num_frames == 0 or not isinstance(error, av.EOFError):
                raise MediaError("decode", f"{facts.path}: {error}") from error
        self.has_losses |= health.num_frames < health.num_shown
        health.check(facts.path, previous_s, is_whole)

    def count(self, start_s: float, end_s: float) -> int:
        """Packets that should each show a frame with `start_s <= time_s < end_s`.

        Raises:
            MediaError, av.FFmpegError: the packets cannot be read.
        """
        with open_container(self.facts.path) as container:
            found = scan_packets(container, video_stream(container, self.facts.path))
        if not len(found.times_s):
            return found.num_packets
        timeless = found.num_packets - len(found.times_s) if start_s <= 0 and end_s == math.inf else 0
        is_inside = (found.times_s >= start_s - EPSILON_S) & (found.times_s < end_s - EPSILON_S)
        return int(is_inside.sum()) + max(0, timeless)

    def _gaps_s(self, container: InputContainer, stream: VideoStream) -> list[float]:
        """Times of the frames before which others are missing, where the packets are the only sign of it."""
        if LOST_FRAMES not in self.facts.decoder_reasons:
            return []
        found = scan_packets(container, stream).missing_s
        container.seek(0)
        return found

    def _decord_then_pyav(self, start_s: float, end_s: float) -> Iterator[Frame]:
        """decord, and from where it gives up the reference decoder."""
        try:
            for frame in self._decord(start_s, end_s):
                start_s = frame.time_s + 2 * EPSILON_S
                yield frame
        except MediaError:
            self.decoder = "pyav"
            yield from self._converted(self.pictures(start_s, end_s))

    def _time_s(self, pts: int | None, tick_s: float, index: int, previous_s: float) -> float:
        if self._times_s is not None:
            return (
                float(self._times_s[index])
                if index < len(self._times_s)
                else round(previous_s + 1 / (self.facts.fps or 24.0), 6)
            )
        if pts is not None:
            time_s = pts * tick_s - self.facts.start_s + self._restart_s
            is_marked = CLOCK_RESTART in self.facts.decoder_reasons
            if index and is_marked and previous_s - time_s > least_restart_s(self.facts.container):
                step_s = 1 / (self.facts.fps or 24.0)
                self._restart_s += previous_s + step_s - time_s
                time_s = previous_s + step_s
            return round(time_s, 6)
        fps = self.facts.fps or 24.0  # no timestamps at all (raw streams): by count at the packet rate
        return round(previous_s + 1 / fps if index else 0.0, 6)

    def _decord(self, start_s: float, end_s: float) -> Iterator[Frame]:
        """Frames by decord, for files that the probe found safe; scaling to the display size is ours."""
        import decord

        decord.logging.set_level(decord.logging.QUIET)
        facts = self.facts
        with open_container(facts.path) as container:
            times_s = scan_packets(container, video_stream(container, facts.path)).times_s
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
            raise MediaError("decode", f"{facts.path}: {str(error).splitlines()[0]}") from error
