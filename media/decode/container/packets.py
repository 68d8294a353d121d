"""One pass over a video's packets: true times and every sign that a decoder may go wrong.

Nothing is decoded.
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.codec.context import Flags
from av.stream import Disposition

from media.bytes.access import open_binary
from media.damage.complaints import complaints, name_of_codec
from media.damage.frame_numbers import FrameNumbers, Seen
from media.damage.packet_kinds import is_hidden, is_refresh, key_size, place_in_group
from media.decode.container.opening import open_container
from media.decode.container.timeline import (
    DEFAULT_FPS,
    LOST_FRAMES,
    MOST_REORDERED,
    PAGES_LOST,
    Packets,
    Shown,
    summary,
)
from media.decode.limits import MAX_PIXELS, check_pixels
from media.errors import MediaError

RESTART_S, RESTART_TS_S = 0.2, 0.05
"""A clock of decoding that falls back by more began anew: streams joined end to end. Transport streams carry
that clock; elsewhere it may be reckoned from times that are wrong."""
CLOCK_RESTART = "clock_restart"


MAX_GAP_S = 3600.0  # an hour without a frame is a broken clock, not footage


def begins_anew(container: str, step_s: float) -> bool:
    """Whether a clock began anew that goes on by so much, or falls back.

    A transport stream's falls by more than a minute look like its clock of 33 bits that runs over: to FFmpeg
    it goes on by a day.
    """
    if container == "mpegts":
        return step_s < -RESTART_TS_S or step_s > MAX_GAP_S
    return step_s < -RESTART_S


ENCRYPTED = "encrypted"
LATE_STREAM = "late_stream"
"""Another stream comes up on the way, which is not read."""
TIMES_OF_DECODING = "times_of_decoding"
"""Packets are shown at the times of their decoding, which are not those of pictures that wait for others."""
LOOSE = "loose"
"""AV1 of an encoder that does not keep to the standard in what no picture depends on."""
_SILENT = {"h264", "vp8", "vp9", "av1", "mpeg1video", "mpeg2video", "mpeg4", "h263", "flv1"}
_SILENT |= {"wmv1", "wmv2", "wmv3", "vc1", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3"}
_CHUNK_HEAD = 8
"""Bytes before what a chunk of an AVI holds."""
_SIGNATURES = {b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL ": "JPEG XL"}


class _Pass:
    """What one pass over a stream's packets has seen so far."""

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        self.base = stream.time_base or Fraction(1, 1000)
        self.codec = stream.codec.canonical_name
        self.runs, self.notes, self.num = [Shown()], Counter[str](), 0
        is_h264 = self.codec == "h264"
        self.numbers = FrameNumbers(stream.codec_context.extradata) if is_h264 else None
        self.lengths = list[int]()
        """Of packets without any time."""
        self.gaps = list[int]()
        """The same as of a run, by the number of the packet, of those without times."""
        is_avi = container.format.name == "avi"
        self.places = {entry.pos + _CHUNK_HEAD: entry.timestamp for entry in stream.index_entries if is_avi}
        """Of an AVI's packets: which frame each is, by its own index; FFmpeg counts on over what is lost."""
        self._container = container.format.name
        self._is_first = True
        self.end_bytes = 0
        self._last_dts: int | None = None
        self._size: tuple[int, int] | None = None

    def take(self, packet: av.Packet) -> None:
        """The next packet of some bytes."""
        self.notes["first_not_key"] += self._is_first and not packet.is_keyframe
        self.notes[ENCRYPTED] += self._is_first and packet.has_sidedata("encryption_info")
        self._is_first = False
        is_refreshed, told = self._signs(packet)
        self.notes["corrupt_packet"] += packet.is_corrupt
        self.end_bytes = max(self.end_bytes, (packet.pos or 0) + packet.size)
        if packet.is_discard:
            self.notes["edit_list"] += 1
        elif is_hidden(packet, self.codec):
            self.notes["hidden_frames"] += 1
        elif told.is_second:
            self.notes["field_pairs"] += 1
            if self.runs[-1].durations:
                self.runs[-1].durations[-1] += packet.duration or 0
        else:
            self.num += 1
            if packet.pts is None:
                self.notes["no_pts"] += 1
                self.gaps += [self.num - 1] if told.is_gap else []
                self.lengths += [packet.duration or 0] if packet.dts is None else []
            else:
                self._shown(packet, self._number(packet, packet.pts), told, is_refreshed)

    def _number(self, packet: av.Packet, pts: int) -> int:
        """A packet's time in ticks; of an AVI by its index, as long as that does not contradict the order."""
        number = self.places.get(packet.pos, pts) if packet.pos else pts
        return number if number >= pts else pts

    def _signs(self, packet: av.Packet) -> tuple[bool, Seen]:
        """Whether a keyframe only begins a refresh, and what a packet's numbers tell; and changes of size."""
        self.notes["settings_change"] += packet.has_sidedata("new_extradata")
        if packet.is_keyframe and (size := key_size(packet, self.codec)):
            self._size = self._size or size
            self.notes["size_change"] += size != self._size
        if not self.numbers:
            return False, Seen()
        data = bytes(packet)
        is_refreshed = packet.is_keyframe and is_refresh(data)
        return is_refreshed, self.numbers.look(data, packet.is_keyframe and not is_refreshed)

    def _shown(self, packet: av.Packet, pts: int, told: Seen, is_refreshed: bool) -> None:
        if packet.dts is not None:
            step = packet.dts - self._last_dts if self._last_dts is not None else 0
            if begins_anew(self._container, float(step * self.base)):
                self.notes[CLOCK_RESTART] += 1
                self.runs.append(Shown())
            self._last_dts = packet.dts
        self.notes["negative_pts"] += pts < 0
        seen = self.runs[-1]
        if packet.is_keyframe:
            seen.keys.append(pts)
            self.notes["recovery_points"] += is_refreshed
        elif seen.keys and pts < seen.keys[-1]:
            self.notes["open_gop"] += 1
        seen.gaps += [len(seen.pts)] if told.is_gap else []
        seen.maybe += [len(seen.pts)] if told.may_be_anew else []
        seen.pts.append(pts)
        seen.places.append(place_in_group(packet, self.codec))
        seen.durations.append(packet.duration or 0)


def packets_of(
    container: av.container.InputContainer, stream: av.VideoStream, notes: Counter[str] | None = None
) -> Iterator[av.Packet]:
    """All packets of a stream, and the empty one at its end; into `notes`, whether others have come up."""
    try:
        yield from container.demux(stream)
    except IndexError:  # of PyAV, behind them all, where another stream has come up on the way
        if notes is not None:
            notes[LATE_STREAM] += 1


def scan_packets(container: av.container.InputContainer, stream: av.VideoStream) -> Packets:
    """Read every packet header of `stream`. Damage is noted in `warnings`, not raised."""
    told = _Pass(container, stream)
    notes, numbers = told.notes, told.numbers
    is_ogg = container.format.name == "ogg"
    listening: AbstractContextManager[list[str]] = complaints() if is_ogg else nullcontext([])
    with listening as said:
        try:
            for packet in packets_of(container, stream, notes):
                if packet.size:
                    told.take(packet)
        except av.FFmpegError as error:
            notes[f"demux_error:{type(error).__name__}"] += 1
    notes[PAGES_LOST] += any("CRC mismatch" in text for text in said)
    notes["settings_change"] += numbers is not None and numbers.num_settings > 1
    notes["may_have_fields"] += numbers is not None and numbers.has_fields
    num, runs = told.num, told.runs
    is_by_time = (told.codec in _SILENT and not (numbers and numbers.is_known)) or bool(notes[PAGES_LOST])
    found = summary([seen for seen in runs if seen.pts], told.base, num, +notes, is_by_time)
    found.end_bytes = told.end_bytes
    found.is_rising = len(runs) == 1 and all(map(operator.le, runs[0].pts, runs[0].pts[1:]))
    if num and len(told.lengths) == num:  # a raw stream: by count, at the rate that it says of itself
        step_s = float(np.median(told.lengths) * told.base) or 1 / float(stream.guessed_rate or DEFAULT_FPS)
        step_s *= 1 + notes["field_pairs"] / num  # it is that of a field
        found.times_s, found.last_duration_s = np.round(np.arange(num) * step_s, 6), step_s
        ahead = MOST_REORDERED if stream.codec_context.has_b_frames else 0
        found.missing_s = [float(found.times_s[max(0, place - ahead)]) for place in told.gaps]
        found.warnings += [LOST_FRAMES] if told.gaps else []
    return found


def is_cover(stream: av.VideoStream) -> bool:
    """Whether a stream is but a picture beside others."""
    return bool(stream.disposition & Disposition.attached_pic)


def _name_by_signature(path: str) -> str:
    with open_binary(path) as file:
        head = file.read(16)
    known = (name for mark, name in _SIGNATURES.items() if head.startswith(mark))
    return next(known, f"one that begins with {head.hex(' ')}")


def video_stream(container: av.container.InputContainer, path: str, is_strict: bool = True) -> av.VideoStream:
    """The stream a player would show. Raises `MediaError` where there is none that can be decoded.

    Args:
        is_strict: of AV1 what is against the standard is refused.
    """
    stream = cast(av.VideoStream | None, container.streams.best("video"))
    if stream is not None and is_cover(stream):
        stream = next((other for other in container.streams.video if not is_cover(other)), None)
        if stream is None:
            raise MediaError("no_video", f"{path} has no video stream, only a cover picture")
    if stream is None:
        raise MediaError("no_video", f"{path} has no video stream")
    if stream.codec_context is None:
        name = name_of_codec(lambda: open_container(path)) or _name_by_signature(path)
        raise MediaError("no_decoder", f"{path} is in a codec that FFmpeg cannot decode here: {name}")
    context = stream.codec_context
    check_pixels(path, context.width, context.height)
    context.options = {"max_pixels": str(MAX_PIXELS)}  # of a stream whose pictures grow on the way
    # AV1's tiles tell by their last bits whether they were read aright
    if context.name == "libdav1d" and is_strict:
        context.options = {**context.options, "strict": "1"}
    stream.thread_type = "NONE"  # one thread an actor: more files at once beat more threads a file
    # else libraries take as many as there are cores, and lose frames by their number
    context.thread_count = 1
    context.flags |= Flags.unaligned  # cut off at the left as much as is said, not less for speed
    return stream
