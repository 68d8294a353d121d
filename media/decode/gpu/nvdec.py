"""Videos decoded by a GPU's own decoder (NVDEC).

FFmpeg reads the packets as ever, and the GPU makes the pictures: the stored ones, which these codecs define
to the bit. So times, deinterlacing and colour are the same code, and the same frames are wanted (`trial.py`
looks whether they are).
"""

from __future__ import annotations

import io
from typing import cast

import av
import numpy as np
from av.codec.hwaccel import HWAccel
from av.video.codeccontext import VideoCodecContext

from media.decode.facts import Probe
from media.errors import why

NAME = "nvdec"
_STORED = {"nv12": ("yuv420p", "yuvj420p"), "p010le": ("yuv420p10le",)}
"""How a GPU stores pixels, and what FFmpeg's own decoders make of the same."""
_KINDS = {
    **dict.fromkeys(("h264", "vp8"), ("yuv420p", "yuvj420p")),
    **dict.fromkeys(("hevc", "vp9", "av1"), ("yuv420p", "yuv420p10le")),
}
"""Codecs whose pictures are defined to the bit, unlike MPEG-2's and MPEG-4's, and pixel formats of 4:2:0."""
_PROPER = {"av1": "av1"}
"""Where FFmpeg's usual decoder has nothing to do with a GPU: the one that has."""


def is_fit(facts: Probe) -> bool:
    """Whether a GPU may decode a file: its kind is one that GPUs decode to the bit."""
    geometry = facts.geometry
    is_even = geometry.stored_width_px % 2 == 0 == geometry.stored_height_px % 2
    return facts.kind == "video" and is_even and facts.pixel_format in _KINDS.get(facts.codec, ())


def accelerator() -> HWAccel:
    """To be given to a container: its videos are decoded by the GPU, or not at all."""
    return HWAccel("cuda", allow_software_fallback=False, options={"primary_ctx": "1"})


def decoder_of(stream: av.VideoStream) -> VideoCodecContext:
    """The decoder on the GPU for a stream of a container that was opened with `accelerator()`."""
    own = stream.codec_context
    if (name := _PROPER.get(own.codec.canonical_name)) is None:
        return own
    made = cast(VideoCodecContext, av.CodecContext.create(name, "r", accelerator()))
    made.thread_count, made.options, made.flags = 1, own.options, own.flags
    if own.extradata:
        made.extradata = own.extradata
    return made


def as_decoded(frame: av.VideoFrame, pixel_format: str) -> av.VideoFrame:
    """The same pixels laid out as FFmpeg's own decoders do; another frame as it is.

    Args:
        pixel_format: of the source.
    """
    wanted = _STORED.get(frame.format.name, ())
    return frame.reformat(format=pixel_format if pixel_format in wanted else wanted[0]) if wanted else frame


class Device:
    """The GPU of this process: held from before the process is confined, so that it stays at hand.

    Attributes:
        trouble: why there is none to be had; empty when it is held.
    """

    def __init__(self) -> None:
        self.trouble = "nobody asked for one"
        self._held: HWAccel | None = None

    def hold(self) -> None:
        """Take it, and decode a small film of noise with it."""
        try:
            self._held = accelerator().create(av.Codec("h264", "r"))
            self.trouble = _tried()
        except Exception as error:  # noqa: BLE001 - whatever a driver does: the processor decodes
            self.trouble = f"{type(error).__name__}: {why(error)}"


device = Device()


def _tried() -> str:
    """What is wrong with the GPU's frames of a small film; empty where nothing is."""
    if "libx264" not in av.codecs_available:
        return ""
    file, rng = io.BytesIO(), np.random.default_rng(0)
    with av.open(file, "w", format="matroska") as made:
        stream = made.add_stream("libx264", 25, width=192, height=128, pix_fmt="yuv420p")
        for _ in range(8):
            noise = rng.integers(0, 256, (192, 192), np.uint8)
            made.mux(stream.encode(av.VideoFrame.from_ndarray(noise, "yuv420p")))
        made.mux(stream.encode())
    own, of_gpu = (_decoded(file.getvalue(), using) for using in (None, accelerator()))
    is_same = len(own) == len(of_gpu) and all(map(np.array_equal, own, of_gpu))
    return "" if is_same else f"decodes {len(of_gpu)} frames of a film of {len(own)}, and not the same ones"


def _decoded(data: bytes, using: HWAccel | None) -> list[np.ndarray]:
    with av.open(io.BytesIO(data), "r", hwaccel=using) as container:
        return [as_decoded(frame, "yuv420p").to_ndarray() for frame in container.decode(video=0)]
