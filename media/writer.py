"""Writing videos: any size, odd ones too, true times, without padding or cropping."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, VideoReformatter

from media.threads import ordinary_threads

os.environ.setdefault("SVT_LOG", "1")  # errors only; the AV1 encoder prints a page for each file otherwise

CODECS = {
    # no look-ahead decisions: they read memory x264 never set, so the same frames would not always give the
    # same bytes
    "h264": (
        "libx264",
        {
            "crf": "18",
            "preset": "veryfast",
            "x264-params": "mbtree=0:b-adapt=0:scenecut=0:weightp=0:rc-lookahead=0:bframes=2",
        },
    ),
    "hevc": (
        "libx265",
        {"crf": "22", "preset": "ultrafast", "x265-params": "log-level=none:pools=none:frame-threads=1"},
    ),
    "vp9": ("libvpx-vp9", {"crf": "34", "b": "0", "deadline": "realtime", "cpu-used": "8", "row-mt": "0"}),
    "av1": ("libsvtav1", {"crf": "35", "preset": "12", "svtav1-params": "lp=1"}),
    "mpeg4": ("mpeg4", {"qscale": "4"}),
    "ffv1": ("ffv1", {"level": "3", "slicecrc": "1"}),  # lossless: the very pixels
}
X265_NARROW_PX = 48
"""Up to this width x265, as it looks ahead, writes past its memory: it is kept from looking."""
_FAR = 1 << 24
"""Ticks between decoding and showing that no stream has."""
_MILLISECONDS = Fraction(1, 1000)
HD_HEIGHT_PX = 720


def write_video(
    target: str | Path | io.BytesIO,
    frames: Iterable[np.ndarray],
    fps: float,
    codec: str = "h264",
    times_s: Sequence[float] | None = None,
    container: str | None = None,
    options: dict[str, str] | None = None,
    comment: str = "",
) -> int:
    """Write frames [H, W, 3] uint8 to a video file or buffer.

    Args:
        target: path (its suffix names the container) or a buffer (then `container` does).
        frames: at least one frame, all of one size.
        fps: frames per second; ignored where `times_s` is given.
        codec: h264, hevc, vp9, av1 or mpeg4, or ffv1, which keeps every pixel as it is. Odd sizes are written
            with full-resolution colour where 4:2:0 cannot hold them.
        times_s: presentation time of each frame, for variable rates.
        comment: text for the container's metadata.

    Returns:
        The number of frames written.
    """
    name, defaults = CODECS[codec]
    kind = container or Path(str(target)).suffix.lstrip(".")
    sink = (
        target if isinstance(target, io.BytesIO) else str(Path(target).absolute())
    )  # a colon in a relative name is no protocol
    formats = {"mkv": "matroska", "ts": "mpegts"}
    count, is_large, converted = 0, False, VideoReformatter()
    # bitexact: no random ids and no muxer version, so the same frames give the same bytes
    with av.open(
        sink, "w", format=formats.get(kind, kind), container_options={"fflags": "+bitexact"}
    ) as output:
        base = _MILLISECONDS if times_s is not None else 1 / Fraction(fps).limit_denominator(1001)
        rate = Fraction(fps).limit_denominator(1001)
        if comment:
            output.metadata["comment"] = comment
        stream = cast(
            av.VideoStream, output.add_stream(name, rate=rate, options={**defaults, **(options or {})})
        )
        for index, rgb in enumerate(frames):
            if index == 0:
                stream.height, stream.width = rgb.shape[:2]
                is_odd = stream.height % 2 or stream.width % 2
                stream.pix_fmt = "yuv444p" if is_odd and codec in {"h264", "hevc"} else "yuv420p"
                if codec == "ffv1":
                    stream.pix_fmt = "bgr0"
                elif is_large := stream.height >= HD_HEIGHT_PX:
                    _mark_as_709(stream.codec_context)
                if codec == "hevc" and stream.width <= X265_NARROW_PX:
                    _without_looking_ahead(stream.codec_context)
                stream.codec_context.time_base = base
                stream.codec_context.thread_count = 1
                with ordinary_threads():
                    stream.codec_context.open()
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(rgb), format="rgb24")
            # by one thread: for small pictures swscale's own take as long again
            matrix = {"dst_colorspace": Colorspace.ITU709} if is_large else {}
            frame = converted.reformat(frame, format=stream.pix_fmt, threads=1, **matrix)
            frame.time_base = base
            frame.pts = index if times_s is None else round(times_s[index] * 1000)
            output.mux(_in_time(stream.encode(frame)))
            count += 1
        if count == 0:
            raise ValueError("a video needs at least one frame")
        output.mux(_in_time(stream.encode(None), is_only=count == 1))
    return count


def _in_time(packets: list[av.Packet], is_only: bool = False) -> list[av.Packet]:
    """Packets whose times of decoding are times.

    x265 tells that of an only frame by one that never came, from memory that holds anything.
    """
    for packet in packets:
        shown, decoded = packet.pts, packet.dts
        if shown is not None and decoded is not None and (is_only or abs(shown - decoded) > _FAR):
            packet.dts = shown
    return packets


def _without_looking_ahead(context: VideoCodecContext) -> None:
    asked = context.options.get("x265-params", "")
    context.options = {**context.options, "x265-params": f"{asked}:no-cutree=1:no-scenecut=1".lstrip(":")}


def _mark_as_709(context: VideoCodecContext) -> None:
    """Players take what says nothing for BT.601 where it is small, and for BT.709 from HD on."""
    context.colorspace, context.color_range = Colorspace.ITU709, ColorRange.MPEG
    context.color_primaries, context.color_trc = ColorPrimaries.BT709, ColorTrc.BT709


def webm_bytes(frames: Sequence[np.ndarray], times_s: Sequence[float]) -> bytes:
    """A VP9 WebM of the frames at their true times, as bytes that depend on the frames alone."""
    sink = io.BytesIO()
    span = times_s[-1] - times_s[0] if len(times_s) > 1 else 0.0
    fps = (len(times_s) - 1) / span if span > 0 else 24.0
    cheap = {
        "crf": "38",
        "lag-in-frames": "0",
        "static-thresh": "800",
    }  # something to look at, made for each clip there is
    write_video(sink, frames, max(fps, 0.1), "vp9", [time - times_s[0] for time in times_s], "webm", cheap)
    return sink.getvalue()
