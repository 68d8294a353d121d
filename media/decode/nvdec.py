"""Videos decoded by a GPU's own decoder (NVDEC), which is believed as far as it was seen to be right.

FFmpeg reads the packets as ever, and the GPU makes the pictures: the stored ones, which these codecs define
to the bit. So times, deinterlacing and colour are the same code, and the same frames are wanted. Drivers err
nevertheless: the first frames of each codec and pixel format are decoded by the processor too, and the
processor's are given out. One that differs ends the GPU's part in that kind. Later the first frame of each
file is compared, and every sixteenth file whole.
"""

from __future__ import annotations

import io
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, cast

import av
import numpy as np
from av.codec.hwaccel import HWAccel
from av.video.codeccontext import VideoCodecContext

from media.decode.facts import Probe
from media.errors import why

NAME = "nvdec"
PROOF_FRAMES = 120
"""Frames of a kind that are compared before the GPU's are given out."""
ONE_OF, MOST_TROUBLES = 16, 3
"""One of so many files is compared whole; so many on which the GPU failed, and the kind is left alone."""
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


@dataclass
class Standing:
    """What is known of the GPU's frames of one kind.

    Attributes:
        num_equal: frames that were compared.
        num_troubles: files that it did not decode to their end, where the processor went on.
        refusal: why it decodes no more of them.
    """

    num_equal: int = 0
    num_troubles: int = 0
    refusal: str = ""


_standings = defaultdict[tuple[str, str], Standing](Standing)
_untold = list[str]()


def standing_of(facts: Probe) -> Standing:
    """That of the kind of a file, in this process."""
    return _standings[facts.codec, facts.pixel_format]


def told() -> list[str]:
    """Why the GPU decodes no more of a kind, where that was not told yet."""
    found = list(_untold)
    _untold.clear()
    return found


class SideBySide:
    """Frames of one file by the GPU, beside the processor's where they are compared.

    Args:
        by_processor: gives frames with `start_s <= time_s` on.
        by_gpu: the same.

    Attributes:
        decoder: which one gave the last frame.
    """

    def __init__(
        self,
        facts: Probe,
        by_processor: Callable[[float], Iterator[Any]],
        by_gpu: Callable[[float], Iterator[Any]],
    ) -> None:
        self._facts, self._by_processor, self._by_gpu = facts, by_processor, by_gpu
        self.decoder = NAME

    def frames(self, start_s: float) -> Iterator[Any]:
        """Frames from `start_s` on.

        Raises:
            MediaError: the processor cannot decode the file (further).
        """
        standing = standing_of(self._facts)
        if standing.refusal:
            self.decoder = "pyav"
            yield from self._by_processor(start_s)
            return
        is_audited = zlib.crc32(self._facts.path.encode()) % ONE_OF == 0
        is_whole = is_audited or standing.num_equal < PROOF_FRAMES
        beside: Iterator[Any] | None = self._by_processor(start_s)
        after_s = start_s
        with closing(self._by_gpu(start_s)) as of_gpu:  # type: ignore[type-var]
            while True:
                try:
                    given = next(of_gpu, None)
                except Exception as error:  # noqa: BLE001 - whatever it is: the processor decides
                    yield from self._rest(standing, error, beside or self._by_processor(after_s))
                    return
                if beside is not None:
                    right = next(beside, None)
                    if not _are_same(given, right):
                        self._note(standing, f"decodes {self._facts.path} otherwise", is_sure=True)
                        self.decoder = "pyav"
                        if right is not None:
                            yield right
                            yield from beside
                        return
                    standing.num_equal += right is not None
                    given, beside = right, beside if is_whole else None
                if given is None:
                    return
                after_s = given.time_s + _LITTLE_S
                yield given

    def _rest(self, standing: Standing, error: Exception, frames: Iterator[Any]) -> Iterator[Any]:
        """What the processor gives where the GPU failed, which is its fault if there is more."""
        self.decoder, has_more = "pyav", False
        for frame in frames:
            has_more = True
            yield frame
        if has_more:
            self._note(standing, f"fails: {why(error)}", is_sure=False)

    def _note(self, standing: Standing, fault: str, *, is_sure: bool) -> None:
        standing.num_troubles += 1
        if is_sure or standing.num_troubles >= MOST_TROUBLES:
            kind = f"{self._facts.codec} of {self._facts.pixel_format}"
            standing.refusal = f"the GPU {fault}: {kind} is decoded by the processor from here on"
            _untold.append(standing.refusal)


_LITTLE_S = 2e-4  # behind a frame, and before the next one


def _are_same(first: Any, second: Any) -> bool:
    if first is None or second is None:
        return first is second
    return bool(first.time_s == second.time_s) and np.array_equal(first.rgb, second.rgb)
