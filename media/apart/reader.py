"""Facts and pictures of files, made by a process apart.

A file may hold anything, and decoders are large programs in C. `probe` and `Reader` are those of
`media.decode`, run where they can do no harm.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from media.apart.pool import borrowed
from media.apart.process import Decoder
from media.decode.geometry import Geometry
from media.decode.probe import Probe
from media.decode.reader import Frame


def probe(path: str) -> Probe:
    """`media.decode.probe.probe`, in a process apart."""
    with borrowed(path) as decoder:
        header, _ = decoder.ask("probe", path=path)
        return Probe.from_json(header["probe"])


@dataclass
class FarPicture:
    """A picture in the decoder's process, which is converted there; good until the next one is asked for.

    Attributes: those of `media.decode.picture.Picture`.
    """

    time_s: float
    geometry: Geometry
    is_damaged: bool
    is_key: bool
    _decoder: Decoder = field(repr=False)
    _glance: np.ndarray | None = field(default=None, repr=False)
    glance_px: int | None = None  # the side of the glance that came with it, then that which is wanted next

    def _look(self, how: str, *size: int) -> np.ndarray:
        return self._decoder.array(*self._decoder.ask("look", how=how, size=size))

    def rgb(self, width: int, height: int) -> np.ndarray:
        """As `Picture.rgb`."""
        return self._look("rgb", width, height)

    def draft(self, max_side_px: int) -> np.ndarray:
        """As `Picture.draft`."""
        return self._look("draft", max_side_px)

    def glance(self, side_px: int) -> np.ndarray:
        """As `Picture.glance`; that of the next picture comes with it."""
        if self._glance is None or side_px != self.glance_px:
            self._glance, self.glance_px = self._look("glance", side_px), side_px
        return self._glance


class Reader:
    """`media.decode.reader.VideoReader`, in a process apart.

    Args, attributes and errors are the same; a decoder that dies of the file is a `MediaError`, one that is
    killed from outside a `ChildProcessError`.
    """

    def __init__(self, facts: Probe, max_pixels: int | None = None, decoder: str | None = None) -> None:
        self.facts, self.max_pixels = facts, max_pixels
        self.decoder = facts.decoder if decoder is None or facts.decoder == "pillow" else decoder
        self.has_losses = False

    def pictures(self, start_s: float = 0.0, end_s: float = float("inf")) -> Iterator[FarPicture]:
        """As `VideoReader.pictures`. Of each picture ask before the next one comes."""
        glance_px: int | None = None
        with self._begun("pictures", start_s=start_s, end_s=end_s) as decoder:
            while (found := self._next(decoder, glance_px)) is not None:
                header, data = found
                picture = FarPicture(
                    float(header["time_s"]),
                    Geometry(**header["geometry"]),
                    bool(header["is_damaged"]),
                    bool(header["is_key"]),
                    decoder,
                    None if glance_px is None else decoder.array(header, data),
                    glance_px,
                )
                yield picture
                glance_px = picture.glance_px

    def frames(self, start_s: float = 0.0, end_s: float = float("inf")) -> Iterator[Frame]:
        """As `VideoReader.frames`."""
        with self._begun(
            "frames", max_pixels=self.max_pixels, decoder=self.decoder, start_s=start_s, end_s=end_s
        ) as decoder:
            while (found := self._next(decoder, None)) is not None:
                header, data = found
                yield Frame(float(header["time_s"]), decoder.array(header, data), bool(header["is_damaged"]))

    def count(self, start_s: float, end_s: float) -> int:
        """As `VideoReader.count`."""
        with borrowed(self.facts.path) as decoder:
            header, _ = decoder.ask("count", facts=asdict(self.facts), start_s=start_s, end_s=end_s)
            return int(header["count"])

    @contextlib.contextmanager
    def _begun(self, what: str, **arguments: Any) -> Iterator[Decoder]:
        with borrowed(self.facts.path) as decoder:
            decoder.ask(what, facts=asdict(self.facts), **arguments)
            yield decoder

    def _next(self, decoder: Decoder, glance_px: int | None) -> tuple[dict[str, Any], np.ndarray] | None:
        header, data = decoder.answer("next", glance_px=glance_px)
        self.has_losses = bool(header.get("has_losses"))
        self.decoder = str(header.get("decoder", self.decoder))
        decoder.check(header)
        return None if header.get("is_over") else (header, data)
