"""One pass over a video's packets: true times and every sign that a decoder may go wrong.

Nothing is decoded.
"""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass, field
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.stream import Disposition

from media.bytes.access import open_binary
from media.decode.complaints import name_of_codec
from media.decode.container import open_container
from media.decode.frame_numbers import FrameNumbers
from media.decode.limits import MAX_PIXELS, check_pixels
from media.decode.packet_kinds import is_hidden, is_refresh
from media.errors import MediaError

MAX_KEY_INTERVAL_S = (
    12.0  # decord decodes, and holds, all from the keyframe before; further apart, memory and time run away
)
RESTART_S, RESTART_TS_S = 0.2, 0.05
"""A clock of decoding that falls back by more began anew: streams joined end to end. Transport streams carry
that clock; elsewhere it may be reckoned from times that are wrong."""
CLOCK_RESTART = "clock_restart"


def least_restart_s(container: str) -> float:
    """How far a clock falls back at least that began anew."""
    return RESTART_TS_S if container == "mpegts" else RESTART_S


TIMES_OF_DECODING = "times_of_decoding"
"""Packets are shown at the times of their decoding, which are not those of pictures that wait for others."""
GAP_S, GAP_STEPS = 1.0, 10.0  # a step between frames over both is a gap
_DEFAULT_FPS = 24.0
LOST_FRAMES = "lost_frames"
"""Frames are missing from a stream whose decoder builds on others without a word."""
_SILENT = {"h264", "vp8", "vp9", "av1", "mpeg1video", "mpeg2video", "mpeg4"}
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
        missing_s: times of frames before which others are missing (`LOST_FRAMES`).
        is_rising: each packet is shown after the one before it.
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


@dataclass
class _Seen:
    """Shown packets of one run of the stream's clock, in ticks."""

    pts: list[int] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    gaps: list[int] = field(default_factory=list)
    """Places of packets before which a reference picture is missing."""


def scan_packets(container: av.container.InputContainer, stream: av.VideoStream) -> Packets:
    """Read every packet header of `stream`. Damage is noted in `warnings`, not raised."""
    base = stream.time_base or Fraction(1, 1000)
    restart_s = least_restart_s(container.format.name)
    runs, notes, codec = [_Seen()], Counter[str](), stream.codec.canonical_name
    num, is_first, last_dts, lengths = 0, True, None, list[int]()
    numbers = FrameNumbers(stream.codec_context.extradata) if codec == "h264" else None
    try:
        for packet in container.demux(stream):
            if packet.size == 0:
                continue
            if is_first and not packet.is_keyframe:
                notes["first_not_key"] += 1
            is_first = False
            is_refreshed, is_gap = _h264_signs(packet, numbers) if numbers else (False, False)
            notes["corrupt_packet"] += packet.is_corrupt
            if packet.is_discard:
                notes["edit_list"] += 1
                continue
            if is_hidden(packet, codec):
                notes["hidden_frames"] += 1
                continue
            num += 1
            if packet.pts is None:
                notes["no_pts"] += 1
                lengths += [packet.duration or 0] if packet.dts is None else []
                continue
            if packet.dts is not None:
                if last_dts is not None and (last_dts - packet.dts) * base > restart_s:
                    notes[CLOCK_RESTART] += 1
                    runs.append(_Seen())
                last_dts = packet.dts
            if packet.pts < 0:
                notes["negative_pts"] += 1
            seen = runs[-1]
            if packet.is_keyframe:
                seen.keys.append(packet.pts)
                notes["recovery_points"] += is_refreshed
            elif seen.keys and packet.pts < seen.keys[-1]:
                notes["open_gop"] += 1
            if is_gap:
                seen.gaps.append(len(seen.pts))
            seen.pts.append(packet.pts)
            seen.durations.append(packet.duration or 0)
    except av.FFmpegError as error:
        notes[f"demux_error:{type(error).__name__}"] += 1
    is_told = numbers is not None and numbers.is_known
    found = _summary([seen for seen in runs if seen.pts], base, num, +notes, codec in _SILENT and not is_told)
    found.is_rising = len(runs) == 1 and all(map(operator.lt, runs[0].pts, runs[0].pts[1:]))
    if num and len(lengths) == num:  # a raw stream has no times: by count, at the rate that it says of itself
        step_s = float(np.median(lengths) * base) or 1 / float(stream.guessed_rate or _DEFAULT_FPS)
        found.times_s, found.last_duration_s = np.round(np.arange(num) * step_s, 6), step_s
    return found


def _h264_signs(packet: av.Packet, numbers: FrameNumbers) -> tuple[bool, bool]:
    """Whether a keyframe only begins a refresh, and whether a reference is missing before a packet."""
    data = bytes(packet)
    is_refreshed = packet.is_keyframe and is_refresh(data)
    return is_refreshed, numbers.is_gap(data, packet.is_keyframe and not is_refreshed)


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
    pieces, missing_ticks = list[np.ndarray](), set[int]()
    for seen in runs:  # a later run goes on one step after the run before it
        ordered = np.sort(np.array(seen.pts, np.int64))
        begin = int(pieces[-1][-1]) + step if pieces else 0
        pieces.append(ordered - ordered[0] + begin)
        missing_ticks.update(tick - int(ordered[0]) + begin for tick in _built_on_gaps(seen))
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
    if is_by_time and step:
        missing_ticks.update(ticks[_missing(ticks, step)].tolist())
    if missing_ticks:
        found.missing_s = [round(own * tick, 6) for own in sorted(missing_ticks)]
        found.warnings.append(LOST_FRAMES)
    if len(gaps) and gaps.max() > max(GAP_S, GAP_STEPS * step * tick):
        found.gap_s, found.gap_at_s = float(gaps.max()), float(found.times_s[int(gaps.argmax())])
    return found


def _built_on_gaps(seen: _Seen) -> list[int]:
    """Times of the pictures before which a reference is missing, and of those shown before, decoded after."""
    return [
        tick
        for place in seen.gaps
        for tick in seen.pts[place : place + _MOST_REORDERED]
        if tick <= seen.pts[place]
    ]


def _missing(ticks: np.ndarray, step: int) -> np.ndarray:
    """Places of frames before which others are missing, in a stream [n] that is even but for few gaps."""
    steps = np.diff(ticks)
    is_gap = steps > 1.5 * step
    rest = steps[~is_gap]
    is_even = len(rest) > 0 and rest.max() - rest.min() <= max(1, 0.05 * step)
    if not is_even or len(steps) < _FEW_STEPS or is_gap.sum() > max(2, _MOST_MISSING * len(steps)):
        return np.zeros(0, np.int64)
    return np.nonzero(is_gap[1:])[0] + 2  # a stream cut out of another lacks what leads to its first keyframe


def _is_cover(stream: av.VideoStream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def _name_by_signature(path: str) -> str:
    with open_binary(path) as file:
        head = file.read(16)
    known = (name for mark, name in _SIGNATURES.items() if head.startswith(mark))
    return next(known, f"one that begins with {head.hex(' ')}")


def video_stream(container: av.container.InputContainer, path: str) -> av.VideoStream:
    """The stream a player would show. Raises `MediaError` where there is none that can be decoded."""
    stream = cast(av.VideoStream | None, container.streams.best("video"))
    if stream is not None and _is_cover(stream):
        stream = next((other for other in container.streams.video if not _is_cover(other)), None)
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
    stream.thread_type = "NONE"  # one thread an actor: more files at once beat more threads a file
    return stream
