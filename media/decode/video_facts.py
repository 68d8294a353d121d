"""What a video file shows of itself: its header, its packets and its first frame.

decord 0.6 is silently wrong on transport streams, edit lists, open GOPs and hidden frames, so a file goes to
decord only when the packets show none of these.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice, pairwise

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from media.aspects import plausible
from media.bytes.access import is_local
from media.damage.health import Health
from media.damage.obu import is_refused, sequence_headers
from media.damage.witness import is_see_through
from media.decode.color import transfer_name
from media.decode.container.marks import archive, boxes, is_dolby_vision_of_others, is_playlist
from media.decode.container.opening import open_container
from media.decode.container.packets import (
    ENCRYPTED,
    LOOSE,
    TIMES_OF_DECODING,
    is_cover,
    scan_packets,
    video_stream,
)
from media.decode.container.timeline import Packets
from media.decode.geometry import is_uneven
from media.decode.turns import turn_of
from media.errors import MediaError, why

PLAYLISTS = {"hls", "dash", "concat", "concatf"}
DECORD_CONTAINERS = {"mov", "matroska"}
_FRAMED = DECORD_CONTAINERS | {"avi", "asf", "flv", "ogg", "mpegts"}
"""Containers that begin with a mark of their own, which no archive does."""
_LEANING = {"8bps", "dirac", "msrle", "msvideo1", "qtrle", "rpza", "smc"}
"""Codecs whose packets call themselves keys and are none, or whose palette comes with the first one alone."""
DECORD_CODECS = {"h264", "vp8", "vp9", "mpeg4", "prores", "theora", "h263"}
"""Not those whose pictures may change their size or their fields midway, which decord does not say."""
_CLOCK_S = 1.1e-3
"""Containers round times to milliseconds."""
_LOOKED_AT = 48
_DOLBY_VISION = {"dvh1", "dvhe"}


def is_old_444(codec: str, pixel_format: str) -> bool:
    """Whether frames may be right only for a decoder that has seen the file's first packet, which decord lets
    go where it jumps; see `media.decode.seeking.told_who_made_it`."""
    return codec == "h264" and ("444" in pixel_format or pixel_format.startswith("gbr"))


def _comes_out_of_order(path: str) -> bool:
    """Whether frames leave the decoder at times that fall back, as after a remuxer that wrote others."""
    times = list[int]()
    with open_container(path) as container, contextlib.suppress(av.FFmpegError):
        for frame in islice(container.decode(video_stream(container, path)), _LOOKED_AT):
            times += [] if frame.pts is None else [frame.pts]
    return any(later < earlier for earlier, later in pairwise(times))


def _first_frame(path: str, is_strict: bool = True) -> tuple[av.VideoFrame, tuple[int, bool]]:
    """The first frame that comes out, and how it is turned.

    Raises:
        MediaError, av.FFmpegError: none does.
    """
    with open_container(path) as container:
        stream = video_stream(container, path, is_strict)
        health = Health(stream.codec_context.codec.canonical_name, stream.codec_context)
        for packet in container.demux(stream):
            for frame in health.decode(packet):
                return frame, turn_of(frame, health.codec, packet)
    raise MediaError("no_frames", f"{path}: {health.refusal or 'no frame came out'}")


def _is_loose(path: str) -> bool:
    """Whether no keyframe of AV1 keeps to the standard, so that it is the encoder's way and no damage."""
    with open_container(path) as container:
        packets = (packet for packet in container.demux(video_stream(container, path)) if packet.size)
        found = list(islice(filter(None, map(sequence_headers, packets)), 2))
    return len(found) > 1 or any(is_refused(header) for headers in found for header in headers)


@dataclass(frozen=True, kw_only=True)
class Header:
    """What the file says before a frame is decoded."""

    container: str
    codec: str
    tag: str  # the container's name of the codec
    declared_s: float  # 0 if it says nothing
    declared_fps: float
    told_aspect: Fraction  # of a pixel; it may be none that is possible
    has_audio: bool
    num_told: int  # pictures that are promised; 0: it says nothing
    num_others: int  # further video streams
    has_alpha: bool  # beside the pictures, where only libvpx reads it
    has_reordering: bool  # pictures are not decoded in the order they are shown in

    @property
    def sample_aspect(self) -> float:
        """The same, or that of a square one."""
        return float(plausible(self.told_aspect) or 1)


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What a video file shows of itself: its header, its packets and its first frame."""

    path: str
    head: Header
    packets: Packets
    frame: av.VideoFrame
    turn: tuple[int, bool]  # of the first frame: degrees counter-clockwise, and whether it is mirrored

    @property
    def duration_s(self) -> float:
        """From the packets if they have times."""
        times = self.packets.times_s
        return float(times[-1] + self.packets.last_duration_s) if len(times) else self.head.declared_s

    @property
    def fps(self) -> float:
        """Frames per second: what the header says if frames come at these times, else their mean rate."""
        times, said = self.packets.times_s, self.head.declared_fps
        if len(times) == 1 and said and abs(1 / said - self.packets.last_duration_s) <= _CLOCK_S:
            return said
        if said and len(times) > 1 and np.abs(times - np.arange(len(times)) / said).max() <= _CLOCK_S:
            return said
        return self.packets.num_packets / self.duration_s if self.duration_s else 0.0

    @property
    def is_vfr(self) -> bool:
        """Whether frames come at uneven times."""
        return is_uneven(self.packets.times_s)

    def reasons_against_decord(self) -> list[str]:
        """Why the fast decoder cannot be trusted with the file; empty if it can."""
        frame, found = self.frame, list(self.packets.warnings)
        checks = {
            f"container:{self.head.container}": self.head.container not in DECORD_CONTAINERS,
            f"codec:{self.head.codec}": self.head.codec not in DECORD_CODECS,
            "remote": not is_local(self.path),
            "hdr": transfer_name(frame) != "sdr",
            "no_duration": not self.head.declared_s,
            "high_bit_depth": any(part.bits > 8 for part in frame.format.components),
            "interlaced": bool(frame.interlaced_frame),
            "turned": self.turn != (0, False),
            "gap": bool(self.packets.gap_s),
            "alpha": self.head.has_alpha,
            "leans_on_start": self.head.codec in _LEANING
            or (self.head.container == "mov" and frame.format.name == "pal8"),
            "old_444": is_old_444(self.head.codec, frame.format.name),
            "other_streams": self.head.num_others > 0,
        }
        return found + [name for name, is_so in checks.items() if is_so]


def video_facts(path: str) -> VideoFacts:
    """Read a video's header and packets and decode its first frame.

    Raises:
        MediaError: it is no media or a playlist, has no video packets, or not one frame can be decoded.
    """
    try:
        with open_container(path) as container:
            stream = video_stream(container, path)
            packets = scan_packets(container, stream)
            head = _header(container, stream)
        _check_header(path, head, packets)
        frame, turn = _frame_of(path, head, packets)
    except MediaError as error:
        if error.reason == "no_video":
            _check_archive(path)
        raise
    except av.FFmpegError as error:
        _check_archive(path)
        if is_playlist(path):
            raise MediaError("playlist", f"{path} is a playlist, which names other files") from error
        if (found := boxes(path)) and not found["moov"]:
            raise MediaError("cut", f"{path} ends before its index (moov): {why(error)}") from error
        raise MediaError(
            "not_media", f"{path}: is no video or picture that can be read ({why(error)})"
        ) from error
    return VideoFacts(path=path, head=head, packets=packets, frame=frame, turn=turn)


def _header(container: InputContainer, stream: VideoStream) -> Header:
    name = container.format.name.split(",")[0]
    aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
    return Header(
        container=name,
        codec=stream.codec.canonical_name,
        tag=stream.codec_context.codec_tag.lower(),
        declared_s=_declared_s(container, stream),
        declared_fps=float(stream.average_rate or 0),
        told_aspect=Fraction(aspect),
        has_audio=bool(container.streams.audio),
        num_told=int(stream.frames) if name == "mov" else 0,
        num_others=sum(other is not stream and not is_cover(other) for other in container.streams.video),
        has_alpha=is_see_through(stream),
        has_reordering=bool(stream.codec_context.has_b_frames),
    )


def _check_header(path: str, head: Header, packets: Packets) -> None:
    """Refuse what is no film by itself.

    Raises:
        MediaError: it is a playlist or an archive, encrypted, or has no packets.
    """
    if head.container in PLAYLISTS:
        raise MediaError(
            "playlist", f"{path} is a {head.container} playlist, which names other files; give those instead"
        )
    if head.container not in _FRAMED:
        _check_archive(path)
    if len(packets.times_s) == 0 and "no_pts" not in packets.warnings:
        raise MediaError("no_packets", f"{path} has a video stream without packets")
    if ENCRYPTED in packets.warnings:
        raise MediaError("encrypted", f"{path} is encrypted; give it as it is without its lock")


def _frame_of(path: str, head: Header, packets: Packets) -> tuple[av.VideoFrame, tuple[int, bool]]:
    """The first frame and its turn; what it tells of the file is added to the packets' warnings.

    Raises:
        MediaError, av.FFmpegError: none comes out, or its pictures cannot be shown as they are meant.
    """
    try:
        frame, turn = _first_frame(path)
    except MediaError:
        if head.codec != "av1" or not _is_loose(path):
            raise
        frame, turn = _first_frame(path, is_strict=False)
        packets.warnings.append(LOOSE)
    if head.tag in _DOLBY_VISION and not is_dolby_vision_of_others(path):
        raise MediaError(
            "dolby_vision", f"{path} is Dolby Vision ({head.tag}), whose colours are its own; convert it"
        )
    if frame.format.name.startswith("bayer"):
        raise MediaError("raw_photograph", f"{path} is a raw photograph; develop it")
    if head.codec == "hevc" and frame.interlaced_frame:  # FFmpeg says so of lone fields alone
        raise MediaError("lone_fields", f"{path}: each of its pictures is one field")
    if packets.is_rising and head.has_reordering and _comes_out_of_order(path):
        packets.warnings.append(TIMES_OF_DECODING)
    return frame, turn


def _check_archive(path: str) -> None:
    """Refuse an archive, by its first bytes; FFmpeg takes some for raw streams.

    Raises:
        MediaError: it is one.
    """
    if kind := archive(path):
        raise MediaError("archive", f"{path} is a packed archive ({kind}), which is not looked into")


def _declared_s(container: InputContainer, stream: VideoStream) -> float:
    """Seconds that the header claims, of the stream or else of the file; 0 if it says nothing."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else 0.0
