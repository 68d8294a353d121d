"""Probe: what a file is, read from its packets without decoding more than one frame.

Every other part trusts these facts instead of the container's header: the number of packets, the true times
and which decoder is right for it. decord 0.6 is silently wrong on transport streams, edit lists, open GOPs
and hidden frames, so a file goes to decord only when the packets show none of these; everything else is
decoded in order by PyAV, still images and animated WebP by Pillow.
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
from media.bytes.access import is_local, stat_media
from media.damage.health import Health
from media.damage.obu import is_refused, sequence_headers
from media.damage.witness import is_see_through
from media.decode import limits
from media.decode.color import transfer_name
from media.decode.container import open_container
from media.decode.edits import unfollowed_edits
from media.decode.facts import Probe
from media.decode.geometry import Geometry, is_uneven
from media.decode.joined import has_film_after
from media.decode.marks import (
    archive,
    boxes,
    is_dolby_vision_of_others,
    is_playlist,
)
from media.decode.packets import (
    ENCRYPTED,
    LATE_STREAM,
    LOOSE,
    MAX_GAP_S,
    TIMES_OF_DECODING,
    Packets,
    is_cover,
    scan_packets,
    video_stream,
)
from media.decode.stills.probing import probe_image
from media.decode.stills.tiff import why_not
from media.decode.turns import turn_of
from media.errors import MediaError

av.logging.set_level(av.logging.PANIC)

PLAYLISTS = {"hls", "dash", "concat", "concatf"}
DECORD_CONTAINERS = {"mov", "matroska"}
_FRAMED = DECORD_CONTAINERS | {"avi", "asf", "flv", "ogg", "mpegts"}
"""Containers that begin with a mark of their own, which no archive does."""
_LEANING = {"8bps", "dirac", "msrle", "msvideo1", "qtrle", "rpza", "smc"}
"""Codecs whose packets call themselves keys and are none, or whose palette comes with the first one alone."""
DECORD_CODECS = {"h264", "vp8", "vp9", "mpeg4", "prores", "theora", "h263"}
"""Not those whose pictures may change their size or their fields midway, which decord does not say."""


def is_old_444(codec: str, pixel_format: str) -> bool:
    """Whether frames may be right only for a decoder that has seen the file's first packet, which decord lets
    go where it jumps; see `media.decode.seeking.told_who_made_it`."""
    return codec == "h264" and ("444" in pixel_format or pixel_format.startswith("gbr"))


_CLOCK_S = 1.1e-3
"""Containers round times to milliseconds."""


_LOOKED_AT = 48


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


_DOLBY_VISION = {"dvh1", "dvhe"}
_STILL_CONTAINERS = ("_pipe", "image2")


@dataclass(frozen=True, kw_only=True)
class VideoFacts:
    """What a video file shows of itself: its header, its packets and its first frame."""

    path: str
    container: str
    codec: str
    declared_s: float  # 0 if the header says nothing
    declared_fps: float
    sample_aspect: float
    told_aspect: float  # what the file says, which may be none that is possible
    has_audio: bool
    num_told: int  # pictures that the header promises; 0: it says nothing
    num_others: int  # further video streams
    has_alpha: bool  # beside the pictures, where only libvpx reads it
    packets: Packets
    frame: av.VideoFrame
    turn: tuple[int, bool]  # of the first frame: degrees counter-clockwise, and whether it is mirrored

    @property
    def duration_s(self) -> float:
        """From the packets if they have times."""
        times = self.packets.times_s
        return float(times[-1] + self.packets.last_duration_s) if len(times) else self.declared_s

    @property
    def fps(self) -> float:
        """Frames per second: what the header says if frames come at these times, else their mean rate."""
        times, said = self.packets.times_s, self.declared_fps
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
            f"container:{self.container}": self.container not in DECORD_CONTAINERS,
            f"codec:{self.codec}": self.codec not in DECORD_CODECS,
            "remote": not is_local(self.path),
            "hdr": transfer_name(frame) != "sdr",
            "no_duration": not self.declared_s,
            "high_bit_depth": any(part.bits > 8 for part in frame.format.components),
            "interlaced": bool(frame.interlaced_frame),
            "turned": self.turn != (0, False),
            "gap": bool(self.packets.gap_s),
            "alpha": self.has_alpha,
            "leans_on_start": self.codec in _LEANING
            or (self.container == "mov" and frame.format.name == "pal8"),
            "old_444": is_old_444(self.codec, frame.format.name),
            "other_streams": self.num_others > 0,
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
            name = container.format.name.split(",")[0]
            if name in PLAYLISTS:
                raise MediaError(
                    "playlist", f"{path} is a {name} playlist, which names other files; give those instead"
                )
            if name not in _FRAMED:
                _check_archive(path)
            codec, tag = stream.codec.canonical_name, stream.codec_context.codec_tag.lower()
            declared_s = _declared_s(container, stream)
            declared_fps = float(stream.average_rate or 0)
            aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or Fraction(1)
            has_audio = bool(container.streams.audio)
            num_told = int(stream.frames) if name == "mov" else 0
            num_others = sum(other is not stream and not is_cover(other) for other in container.streams.video)
            has_alpha = is_see_through(stream)
            has_reordering = bool(stream.codec_context.has_b_frames)
        if len(packets.times_s) == 0 and "no_pts" not in packets.warnings:
            raise MediaError("no_packets", f"{path} has a video stream without packets")
        if ENCRYPTED in packets.warnings:
            raise MediaError("encrypted", f"{path} is encrypted; give it as it is without its lock")
        try:
            frame, turn = _first_frame(path)
        except MediaError:
            if codec != "av1" or not _is_loose(path):
                raise
            frame, turn = _first_frame(path, is_strict=False)
            packets.warnings.append(LOOSE)
        if tag in _DOLBY_VISION and not is_dolby_vision_of_others(path):
            raise MediaError(
                "dolby_vision",
                f"{path} is Dolby Vision ({tag}), whose colours are its own; convert it",
            )
        if frame.format.name.startswith("bayer"):
            raise MediaError("raw_photograph", f"{path} is a raw photograph; develop it")
        if codec == "hevc" and frame.interlaced_frame:  # FFmpeg says so of lone fields alone
            raise MediaError("lone_fields", f"{path}: each of its pictures is one field")
        if packets.is_rising and has_reordering and _comes_out_of_order(path):
            packets.warnings.append(TIMES_OF_DECODING)
    except MediaError as error:
        if error.reason == "no_video":
            _check_archive(path)
        raise
    except av.FFmpegError as error:
        _check_archive(path)
        if is_playlist(path):
            raise MediaError("playlist", f"{path} is a playlist, which names other files") from error
        if (found := boxes(path)) and not found["moov"]:
            raise MediaError("cut", f"{path} ends before its index (moov): {error}") from error
        raise MediaError("not_media", f"{path}: {error}") from error
    return VideoFacts(
        path=path,
        container=name,
        codec=codec,
        declared_s=declared_s,
        declared_fps=declared_fps,
        sample_aspect=float(plausible(aspect) or 1),
        told_aspect=float(aspect),
        has_audio=has_audio,
        num_told=num_told,
        num_others=num_others,
        has_alpha=has_alpha,
        packets=packets,
        frame=frame,
        turn=turn,
    )


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


def _remarks(facts: VideoFacts) -> str:
    """What a user should know of a file that is read all the same."""
    remarks, packets = [], facts.packets
    declared_s, duration_s = facts.declared_s, facts.duration_s
    if facts.num_others:
        remarks.append(f"{facts.num_others} further video streams are left out")
    if LATE_STREAM in packets.warnings:
        remarks.append("another stream that comes up on the way is left out")
    if facts.container == "mov" and (others := boxes(facts.path)["moov"] - 1) > 0:
        remarks.append(f"{others} further films joined behind this one are left out")
    if facts.container == "mov" and (edits := unfollowed_edits(facts.path)):
        remarks.append(edits)
    if has_film_after(facts.path, facts.container, packets.end_bytes):
        remarks.append("a further film joined behind this one is left out")
    if facts.told_aspect and facts.told_aspect != facts.sample_aspect:
        remarks.append(f"pixels {facts.told_aspect:g} times as wide as high are taken for square ones")
    if declared_s and abs(declared_s - duration_s) > max(0.5, 0.1 * duration_s):
        remarks.append(f"header declares {declared_s:.3f} s, packets cover {duration_s:.3f} s")
        if facts.num_told > len(packets.times_s) and declared_s > duration_s:
            remarks.append(
                f"the index names pictures that are not in it, for {declared_s - duration_s:.3f} s"
            )
    if packets.gap_s:
        remarks.append(f"no frame for {packets.gap_s:.3f} s after {packets.gap_at_s:.3f} s")
    return "; ".join(remarks)


def probe(path: str) -> Probe:
    """Facts of a media file, at a path or any address that `media.bytes.access` reads.

    Raises:
        MediaError: the file is missing, is no media, has no video stream, or not one frame can be decoded.
    """
    if stat_media(path)[0] == 0:
        raise MediaError("empty", f"{path} has no bytes")
    if why := why_not(path):
        raise MediaError(*why)
    if image := probe_image(path):
        return image
    facts = video_facts(path)
    packets, frame = facts.packets, facts.frame
    if packets.gap_s > MAX_GAP_S:
        raise MediaError(
            "implausible_clock",
            f"{path} has no frame for {packets.gap_s:.0f} s after {packets.gap_at_s:.3f} s: its times are "
            "broken; remux it",
        )
    geometry = Geometry(frame.width, frame.height, facts.sample_aspect, *facts.turn)
    limits.check_pixels(path, *geometry.display_size_px)
    reasons, duration_s = facts.reasons_against_decord(), facts.duration_s
    is_still = packets.num_packets == 1 and facts.container.endswith(_STILL_CONTAINERS)
    if is_still:
        duration_s = 0.0
    return Probe(
        path=path,
        kind="image" if is_still else "video",
        container=facts.container,
        codec=facts.codec,
        pixel_format=frame.format.name,
        geometry=geometry,
        start_s=packets.first_s,
        duration_s=round(duration_s, 6),
        declared_duration_s=round(facts.declared_s, 6),
        num_packets=packets.num_packets,
        fps=0.0 if is_still else round(facts.fps, 6),
        is_vfr=facts.is_vfr,
        has_audio=facts.has_audio,
        transfer=transfer_name(frame),
        is_interlaced=bool(frame.interlaced_frame),
        decoder="pyav" if reasons else "decord",
        decoder_reasons=tuple(reasons),
        detail="" if is_still else _remarks(facts),
    )
