"""One pass over a video's packets: true times and every sign that a decoder may go wrong.

Nothing is decoded.
"""

from __future__ import annotations

import itertools
import operator
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
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
from media.decode.container import open_container
from media.decode.limits import MAX_PIXELS, check_pixels
from media.errors import MediaError

MAX_KEY_INTERVAL_S = (
    12.0  # decord decodes, and holds, all from the keyframe before; further apart, memory and time run away
)
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


PAGES_LOST = "pages_lost"
"""Checksums of an Ogg file say that pages of it are damaged, which are left out."""
ENCRYPTED = "encrypted"
LATE_STREAM = "late_stream"
"""Another stream comes up on the way, which is not read."""
TIMES_OF_DECODING = "times_of_decoding"
"""Packets are shown at the times of their decoding, which are not those of pictures that wait for others."""
GAP_S, GAP_STEPS = 1.0, 10.0  # a step between frames over both is a gap
_DEFAULT_FPS = 24.0
LOST_FRAMES = "lost_frames"
"""Frames are missing from a stream whose decoder builds on others without a word."""
LOOSE = "loose"
"""AV1 of an encoder that does not keep to the standard in what no picture depends on."""
HOLES, HOLE_S = "holes", 0.5
"""Before a keyframe of an even stream nothing comes for so long: a piece may be gone."""
_SILENT = {"h264", "vp8", "vp9", "av1", "mpeg1video", "mpeg2video", "mpeg4", "h263", "flv1"}
_SILENT |= {"wmv1", "wmv2", "wmv3", "vc1", "msmpeg4v1", "msmpeg4v2", "msmpeg4v3"}
_CHUNK_HEAD = 8
"""Bytes before what a chunk of an AVI holds."""
_MOST_PLACES = 1024  # in a group of MPEG
_FEW_STEPS, _MOST_REORDERED = 24, 16
_SIGNATURES = {b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL ": "JPEG XL"}
_MOST_MISSING = 0.02
"""Share of steps; with more of them frames were left out on purpose."""


@dataclass
class Packets:
    """What the pass saw.

    Attributes:
        times_s: ascending presentation times of shown packets, from the first one.
        num_packets: packets that show a frame.
        warnings: short stable words, each once.
        gap_s, gap_at_s: the longest step between shown packets, if it is a gap, and where.
        missing_s: times of frames before which others are missing (`LOST_FRAMES`), and of keyframes after
            `HOLES`.
        is_rising: each packet is shown after the one before it.
        end_bytes: where the last packet ends in the file, as far as its container tells.
    """

    times_s: np.ndarray
    first_s: float
    last_duration_s: float
    num_packets: int
    warnings: list[str]
    gap_s: float = 0.0
    gap_at_s: float = 0.0
    missing_s: list[float] = field(default_factory=list)
    is_rising: bool = False
    end_bytes: int = 0


@dataclass
class _Seen:
    """Shown packets of one run of the stream's clock, in ticks."""

    pts: list[int] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    places: list[int | None] = field(default_factory=list)
    """In their groups, of MPEG-1 and MPEG-2."""
    keys: list[int] = field(default_factory=list)
    gaps: list[int] = field(default_factory=list)
    """Places of packets before which a reference picture is missing."""
    maybe: list[int] = field(default_factory=list)
    """The same where it may be that numbering began anew: a gap in time tells."""


class _Pass:
    """What one pass over a stream's packets has seen so far."""

    def __init__(self, container: av.container.InputContainer, stream: av.VideoStream) -> None:
        self.base = stream.time_base or Fraction(1, 1000)
        self.codec = stream.codec.canonical_name
        self.runs, self.notes, self.num = [_Seen()], Counter[str](), 0
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
                self.runs.append(_Seen())
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
    found = _summary([seen for seen in runs if seen.pts], told.base, num, +notes, is_by_time)
    found.end_bytes = told.end_bytes
    found.is_rising = len(runs) == 1 and all(map(operator.lt, runs[0].pts, runs[0].pts[1:]))
    if num and len(told.lengths) == num:  # a raw stream: by count, at the rate that it says of itself
        step_s = float(np.median(told.lengths) * told.base) or 1 / float(stream.guessed_rate or _DEFAULT_FPS)
        step_s *= 1 + notes["field_pairs"] / num  # it is that of a field
        found.times_s, found.last_duration_s = np.round(np.arange(num) * step_s, 6), step_s
        ahead = _MOST_REORDERED if stream.codec_context.has_b_frames else 0
        found.missing_s = [float(found.times_s[max(0, place - ahead)]) for place in told.gaps]
        found.warnings += [LOST_FRAMES] if told.gaps else []
    return found


def _summary(runs: list[_Seen], base: Fraction, num: int, notes: Counter[str], is_by_time: bool) -> Packets:
    """What was seen.

    Args:
        is_by_time: gaps in an even stream are the only sign of packets that are missing.
    """
    if not runs:
        return Packets(np.zeros(0), 0.0, 1 / _DEFAULT_FPS, num, list(notes))
    tick = float(base)
    for seen in runs:
        if np.diff([*sorted(seen.keys), max(seen.pts)]).max(initial=0) * tick > MAX_KEY_INTERVAL_S:
            notes["sparse_keyframes"] += 1
        if len(seen.pts) != len(set(seen.pts)):
            notes["duplicate_pts"] += 1
    steps = np.diff(np.sort(np.array(runs[0].pts, np.int64)))
    step = int(np.median(steps[steps > 0])) if (steps > 0).any() else 0
    pieces, missing_ticks, keys = list[np.ndarray](), set[int](), set[int]()
    for seen in runs:  # a later run goes on one step after the run before it
        ordered = np.sort(np.array(seen.pts, np.int64))
        begin = int(pieces[-1][-1]) + step if pieces else 0
        pieces.append(ordered - ordered[0] + begin)
        shift = begin - int(ordered[0])
        late = set(ordered[_missing(ordered, step)].tolist()) if seen.maybe and step else set()
        lost = [place for place in seen.maybe if not late.isdisjoint(_built_on_gaps(seen.pts, [place]))]
        sure = [*seen.gaps, *lost]
        missing_ticks.update(tick + shift for tick in _built_on_gaps(seen.pts, sure))
        keys.update(tick + shift for tick in seen.keys)
    ticks = np.concatenate(pieces)
    last = runs[-1].durations[int(np.argmax(runs[-1].pts))] * tick
    gaps = np.diff(ticks) * tick
    found = Packets(
        times_s=np.round(ticks * tick, 6),
        first_s=min(runs[0].pts) * tick,
        last_duration_s=last if 0 < last < 10 else (step * tick or 1 / _DEFAULT_FPS),
        num_packets=num,
        warnings=list(notes),
    )
    is_known = PAGES_LOST in notes
    places = _missing(ticks, step, is_known=is_known) if step else np.zeros(0, np.int64)
    if is_by_time and len(runs) == 1:
        places = _left_out(runs[0], places)
    missing_ticks.update(ticks[places].tolist() if is_by_time else ())
    holes = set(ticks[places[gaps[places - 1] > HOLE_S]].tolist()) & keys - missing_ticks
    found.warnings += [LOST_FRAMES] if missing_ticks else [HOLES] if holes else []
    found.missing_s = [round(own * tick, 6) for own in sorted(missing_ticks | holes)]
    if len(gaps) and gaps.max() > max(GAP_S, GAP_STEPS * step * tick):
        found.gap_s, found.gap_at_s = float(gaps.max()), float(found.times_s[int(gaps.argmax())])
    return found


def _built_on_gaps(pts: list[int], gaps: list[int]) -> list[int]:
    """Times of the pictures before which a reference is missing, and of those shown before, decoded after."""
    return [tick for at in gaps for tick in pts[at : at + _MOST_REORDERED] if tick <= pts[at]]


def _missing(ticks: np.ndarray, step: int, *, is_known: bool = False) -> np.ndarray:
    """Places of frames before which others are missing, in a stream [n] that is even but for few gaps.

    Args:
        is_known: that some are missing is known, so that it need not be even otherwise.
    """
    steps = np.diff(ticks)
    is_gap = steps > 1.5 * step
    if is_known:
        return np.nonzero(is_gap)[0] + 1
    rest = steps[~is_gap]
    is_even = len(rest) > 0 and rest.max() - rest.min() <= max(1, 0.05 * step)
    if not is_even or len(steps) < _FEW_STEPS or is_gap.sum() > max(2, _MOST_MISSING * len(steps)):
        return np.zeros(0, np.int64)
    return np.nonzero(is_gap[1:])[0] + 2  # a stream cut out of another lacks what leads to its first keyframe


def _left_out(seen: _Seen, places: np.ndarray) -> np.ndarray:
    """Of places after a gap in time those where pictures are missing: of MPEG-1 and MPEG-2 their numbers tell
    a loss from a pause."""
    own = [seen.places[at] for at in np.argsort(seen.pts, kind="stable")]

    ends = Counter(before for before, after in itertools.pairwise(own) if after == 0)
    usual = max(ends, key=lambda end: ends[end], default=None)  # the last picture of a group

    def is_pause(at: int) -> bool:
        before, after = own[at - 1], own[at]
        if before is None or after is None:
            return False
        return (after - before) % _MOST_PLACES == 1 or (after == 0 and before == usual)

    return np.array([at for at in places if not is_pause(at)], np.int64)


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
    if context.name == "exr":  # which holds light; H.273 calls the curve of sRGB so
        context.options = {**context.options, "apply_trc": "iec61966_2_1"}
    # AV1's tiles tell by their last bits whether they were read aright
    if context.name == "libdav1d" and is_strict:
        context.options = {**context.options, "strict": "1"}
    stream.thread_type = "NONE"  # one thread an actor: more files at once beat more threads a file
    # else libraries take as many as there are cores, and lose frames by their number
    context.thread_count = 1
    context.flags |= Flags.unaligned  # cut off at the left as much as is said, not less for speed
    return stream
