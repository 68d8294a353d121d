"""Probe: what a file is, read from its packets without decoding more than one frame.

Every other part trusts these facts instead of the container's header: the number of packets, the true times
and which decoder is right for it. decord 0.6 is silently wrong on transport streams, edit lists, open GOPs
and hidden frames, so a file goes to decord only when the packets show none of these; everything else is
decoded in order by PyAV, still images and animated WebP by Pillow.
"""

from __future__ import annotations

import struct
import warnings
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
from av.sidedata.sidedata import Type as SideDataType
from PIL import Image, UnidentifiedImageError

from media.bytes.access import is_local, opened, stat_media
from media.decode.color import transfer_name
from media.decode.container import open_container
from media.decode.geometry import Geometry, orientation
from media.decode.packets import Packets, scan_packets, video_stream
from media.errors import MediaError

av.logging.set_level(av.logging.PANIC)
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
Image.MAX_IMAGE_PIXELS = 400_000_000

PLAYLISTS = {"hls", "dash", "concat", "concatf"}
MAX_GAP_S = 3600.0  # an hour without a frame is a broken clock, not footage
DECORD_CONTAINERS = {"mov", "matroska"}
DECORD_CODECS = {"h264", "vp8", "vp9", "mpeg4", "hevc", "mjpeg", "prores", "theora", "mpeg2video", "h263"}


@dataclass(frozen=True, kw_only=True)
class Probe:
    """Facts of one source. Times count from its first presented frame."""

    path: str
    kind: str  # video | image
    container: str
    codec: str
    pixel_format: str
    geometry: Geometry
    start_s: float  # first presentation time in the file's own clock
    duration_s: float  # from the packets; 0 for an image
    declared_duration_s: float  # what the header claims; 0 if nothing
    num_packets: int
    fps: float  # packets per second, 0 for an image
    is_vfr: bool
    has_audio: bool
    transfer: str  # sdr | pq | hlg
    is_interlaced: bool  # its first frame is; such frames are deinterlaced
    decoder: str  # decord | pyav | pillow
    decoder_reasons: tuple[str, ...]  # why not decord
    detail: str = ""  # remarks: header and packets disagree, a gap in time


def _first_frame(path: str) -> av.VideoFrame:
    with open_container(path) as container:
        stream = video_stream(container, path)
        last_error = "no frame came out"
        for packet in container.demux(stream):
            try:
                for frame in packet.decode():
                    return frame
            except av.FFmpegError as error:
                last_error = str(error)
    raise MediaError("no_frames", f"{path}: {last_error}")


def _turn(frame: av.VideoFrame) -> tuple[int, bool]:
    """Rotation and mirroring from the frame's display matrix."""
    try:
        matrix: Any = frame.side_data.get(SideDataType.DISPLAYMATRIX)  # type: ignore[call-overload]
    except ValueError:  # side data of a kind PyAV does not know
        return 0, False
    return orientation(struct.unpack("=9i", bytes(matrix))) if matrix is not None else (0, False)


def _probe_image(path: str) -> Probe | None:
    """Facts of a still image or an animated WebP, APNG or AVIF by Pillow; None for other files."""
    try:
        with opened(path) as file, Image.open(file) as image:
            frames = getattr(image, "n_frames", 1)
            if image.format == "GIF" and frames > 1:
                return None
            if image.format not in {"JPEG", "PNG", "WEBP", "AVIF", "BMP", "TIFF", "GIF", "PPM", "MPO"}:
                return None
            is_still = frames == 1 or image.format in {"MPO", "TIFF"}
            turned = image.getexif().get(0x0112, 1) >= 5  # orientations 5 to 8 swap the axes
            width, height = (image.height, image.width) if turned else image.size
            duration = 0.0
            if not is_still:
                from media.decode.images import frame_times_s

                times, last = frame_times_s(image)
                duration = times[-1] + last
            return Probe(
                path=path,
                kind="image" if is_still else "video",
                container=str(image.format).lower(),
                codec=str(image.format).lower(),
                pixel_format=image.mode,
                geometry=Geometry(width, height),
                start_s=0.0,
                duration_s=duration,
                declared_duration_s=0.0,
                num_packets=1 if is_still else frames,
                fps=0.0 if is_still else frames / max(duration, 1e-3),
                is_vfr=False,
                has_audio=False,
                transfer="sdr",
                is_interlaced=False,
                decoder="pillow",
                decoder_reasons=("still image",) if is_still else ("animated image",),
            )
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        TypeError,
        RuntimeError,
        struct.error,
        Image.DecompressionBombError,
    ):
        return None


def _why_not_decord(container: str, codec: str, packets: Packets) -> list[str]:
    reasons = list(packets.warnings)
    if container not in DECORD_CONTAINERS:
        reasons.append(f"container:{container}")
    if codec not in DECORD_CODECS:
        reasons.append(f"codec:{codec}")
    return reasons


def _remarks(declared_s: float, duration_s: float, packets: Packets) -> str:
    """What a user should know of a file that is read all the same."""
    remarks = []
    if declared_s and abs(declared_s - duration_s) > max(0.5, 0.1 * duration_s):
        remarks.append(f"header declares {declared_s:.3f} s, packets cover {duration_s:.3f} s")
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
    if image := _probe_image(path):
        return image
    try:
        with open_container(path) as container:
            stream = video_stream(container, path)
            packets = scan_packets(container, stream)
            name = container.format.name.split(",")[0]
            if name in PLAYLISTS:
                raise MediaError(
                    "playlist", f"{path} is a {name} playlist, which names other files; give those instead"
                )
            codec = stream.codec.canonical_name
            declared = (
                float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
            )
            if not declared and container.duration:
                declared = container.duration / av.time_base
            aspect = float(stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio or 1) or 1.0
            has_audio = bool(container.streams.audio)
        if len(packets.times_s) == 0 and "no_pts" not in packets.warnings:
            raise MediaError("no_packets", f"{path} has a video stream without packets")
        frame = _first_frame(path)
    except av.FFmpegError as error:
        raise MediaError("not_media", f"{path}: {error}") from error
    reasons = _why_not_decord(name, codec, packets)
    if not is_local(path):
        reasons.append("remote")
    if (transfer := transfer_name(frame)) != "sdr":
        reasons.append("hdr")
    if not declared:
        reasons.append("no_duration")
    if any(part.bits > 8 for part in frame.format.components):
        reasons.append("high_bit_depth")
    if frame.interlaced_frame:
        reasons.append("interlaced")
    if packets.gap_s > MAX_GAP_S:
        raise MediaError(
            "implausible_clock",
            f"{path} has no frame for {packets.gap_s:.0f} s after {packets.gap_at_s:.3f} s: its times are "
            "broken; remux it",
        )
    if packets.gap_s:
        reasons.append("gap")
    duration = float(packets.times_s[-1] + packets.last_duration_s) if len(packets.times_s) else declared
    steps = np.diff(packets.times_s)
    is_vfr = len(steps) > 1 and float(steps.max() - steps.min()) > max(0.002, 0.1 * float(np.median(steps)))
    return Probe(
        path=path,
        kind="video",
        container=name,
        codec=codec,
        pixel_format=frame.format.name,
        geometry=Geometry(frame.width, frame.height, aspect, *_turn(frame)),
        start_s=packets.first_s,
        duration_s=round(duration, 6),
        declared_duration_s=round(declared, 6),
        num_packets=packets.num_packets,
        fps=round(packets.num_packets / duration, 6) if duration else 0.0,
        is_vfr=is_vfr,
        has_audio=has_audio,
        transfer=transfer,
        is_interlaced=bool(frame.interlaced_frame),
        decoder="pyav" if reasons else "decord",
        decoder_reasons=tuple(reasons),
        detail=_remarks(declared, duration, packets),
    )
