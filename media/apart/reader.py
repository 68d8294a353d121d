"""Facts and pictures of files, made by a process apart.

A file may hold anything, and decoders are large programs in C. `probe` and `Reader` are those of
`media.decode`, run where they can do no harm.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from media.apart.pool import borrowed
from media.apart.process import Decoder, DoubtfulDeath, tell_once
from media.damage.signs import Signs
from media.decode.facts import Probe
from media.decode.geometry import Geometry
from media.decode.gpu.nvdec import NAME as NVDEC
from media.decode.reader import Frame
from media.errors import MediaError

Item = TypeVar("Item")


def probe(path: str) -> Probe:
    """`media.decode.probe.probe`, in a process apart."""
    try:
        return _probe(path)
    except DoubtfulDeath:
        return _probe(path, is_new=True)


def _probe(path: str, *, is_new: bool = False) -> Probe:
    with borrowed(path, is_new=is_new) as decoder:
        header, _ = decoder.ask("probe", path=path)
        try:
            found = Probe.from_json(header["probe"])
        except (KeyError, TypeError) as error:
            raise decoder.nonsense(header) from error
        return replace(found, path=path)  # whatever it says: this is the file that will be opened


def gpu_trouble() -> str:
    """Why decoders get no GPU; empty where they do. Starts one."""
    with borrowed("", on_gpu=True) as decoder:
        return decoder.gpu_trouble


def _in_doubt_again(read: Callable[..., Iterator[Item]]) -> Iterator[Item]:
    """What a decoder gives; where it dies and another file may have hurt it, a new one gives the rest."""
    num_given = 0
    try:
        for item in read(is_new=False):
            num_given += 1
            yield item
    except DoubtfulDeath:
        yield from islice(read(is_new=True), num_given, None)


@dataclass
class FarPicture:
    """A picture in the decoder's process, which is converted there; good until the next one is asked for.

    Attributes: those of `media.decode.picture.Picture`.
    """

    time_s: float
    geometry: Geometry
    signs: Signs
    _decoder: Decoder = field(repr=False)
    _index: int = field(repr=False)
    _glance: np.ndarray | None = field(default=None, repr=False)
    glance_px: int | None = None  # the side of the glance that came with it, then that which is wanted next
    _drafts: dict[int, np.ndarray] = field(default_factory=dict, repr=False)

    def _look(self, how: str, *size: int) -> np.ndarray:
        return self._decoder.arrays(*self._decoder.ask("look", index=self._index, how=how, size=size))[0]

    def rgb(self, width: int, height: int) -> np.ndarray:
        """As `Picture.rgb`."""
        return self._look("rgb", width, height)

    def draft(self, max_side_px: int) -> np.ndarray:
        """As `Picture.draft`."""
        return self._drafts[max_side_px] if max_side_px in self._drafts else self._look("draft", max_side_px)

    def glance(self, side_px: int) -> np.ndarray:
        """As `Picture.glance`; those of the next pictures come with them."""
        if self._glance is None or side_px != self.glance_px:
            self._glance, self.glance_px = self._look("glance", side_px), side_px
        return self._glance


class Reader:
    """`media.decode.reader.VideoReader`, in a process apart.

    Args, attributes and errors are the same; a decoder that dies of the file is a `MediaError`, one that is
    killed from outside a `ChildProcessError`. Where one dies that has served other files, a new one begins
    again, and goes on where the first one stopped.
    """

    def __init__(
        self,
        facts: Probe,
        max_pixels: int | None = None,
        decoder: str | None = None,
        is_witnessed: bool = False,
    ) -> None:
        self.facts, self.max_pixels, self.is_witnessed = facts, max_pixels, is_witnessed
        self.decoder = facts.decoder if decoder is None or facts.decoder == "pillow" else decoder
        self._on_gpu = self.decoder == NVDEC
        self.has_losses = False

    def pictures(
        self,
        start_s: float = 0.0,
        end_s: float = float("inf"),
        drafts: Sequence[tuple[int, float]] = (),
    ) -> Iterator[FarPicture]:
        """As `VideoReader.pictures`. Of each picture ask before the next one comes.

        Args:
            drafts: longer side and rate of drafts that will be asked for, larger ones first: they come with
                the first picture of each slot of that rate. Others cost an exchange each.
        """
        yield from _in_doubt_again(partial(self._pictures, start_s, end_s, drafts))

    def _pictures(
        self, start_s: float, end_s: float, drafts: Sequence[tuple[int, float]], *, is_new: bool
    ) -> Iterator[FarPicture]:
        wanted: dict[str, int | None] = {"glance_px": None}
        geometry = self.facts.geometry
        asked = {"drafts": drafts, "is_witnessed": self.is_witnessed}
        with self._begun("pictures", is_new, start_s=start_s, end_s=end_s, **asked) as decoder:
            for items, arrays in self._answers(decoder, wanted):
                rest, is_looked_at = iter(arrays), wanted["glance_px"] is not None
                for index, item in enumerate(items):
                    try:
                        time_s, signs, changed, due = item
                        geometry = geometry if changed is None else Geometry(**changed)
                        told = Signs.from_list(signs)
                        picture = FarPicture(float(time_s), geometry, told, decoder, index)
                        if is_looked_at:
                            picture.glance_px, picture._glance = wanted["glance_px"], next(rest)
                            picture._drafts = dict(zip(map(int, due), rest, strict=False))
                    except (TypeError, ValueError, StopIteration) as error:
                        raise decoder.nonsense({"item": item}) from error
                    yield picture
                    wanted["glance_px"] = picture.glance_px

    def frames(self, start_s: float = 0.0, end_s: float = float("inf")) -> Iterator[Frame]:
        """As `VideoReader.frames`. Where a decoder dies that holds a GPU, the processor gives the rest."""
        num_given = 0
        if self._on_gpu:
            try:
                for frame in self._frames(start_s, end_s, is_new=False):
                    num_given += 1
                    yield frame
                return
            except (DoubtfulDeath, MediaError) as error:
                if isinstance(error, MediaError) and error.reason != "decoder_died":
                    raise
                self._on_gpu, self.decoder = False, "pyav"
                tell_once(f"{error}; it held a GPU, the processor goes on")
        yield from islice(_in_doubt_again(partial(self._frames, start_s, end_s)), num_given, None)

    def _frames(self, start_s: float, end_s: float, *, is_new: bool) -> Iterator[Frame]:
        asked: dict[str, Any] = {"max_pixels": self.max_pixels}
        asked["decoder"] = NVDEC if self._on_gpu else self.decoder
        with self._begun("frames", is_new, start_s=start_s, end_s=end_s, **asked) as decoder:
            for items, pixels in self._answers(decoder, {}):
                if len(items) != len(pixels):
                    raise decoder.nonsense({"items": len(items)})
                for item, rgb in zip(items, pixels, strict=True):
                    try:
                        time_s, is_damaged = item
                        frame = Frame(float(time_s), rgb, bool(is_damaged))
                    except (TypeError, ValueError) as error:
                        raise decoder.nonsense({"item": item}) from error
                    yield frame

    def count(self, start_s: float, end_s: float) -> int:
        """As `VideoReader.count`."""
        try:
            return self._counted(start_s, end_s)
        except DoubtfulDeath:
            return self._counted(start_s, end_s, is_new=True)

    def _counted(self, start_s: float, end_s: float, *, is_new: bool = False) -> int:
        with borrowed(self.facts.path, is_new=is_new) as decoder:
            header, _ = decoder.ask("count", facts=asdict(self.facts), start_s=start_s, end_s=end_s)
            try:
                return int(header["count"])
            except (KeyError, TypeError, ValueError) as error:
                raise decoder.nonsense(header) from error

    @contextlib.contextmanager
    def _begun(self, what: str, is_new: bool, **arguments: Any) -> Iterator[Decoder]:
        on_gpu = self._on_gpu and what == "frames"
        with borrowed(self.facts.path, is_new=is_new, on_gpu=on_gpu) as decoder:
            decoder.ask(what, facts=asdict(self.facts), **arguments)
            yield decoder

    def _answers(
        self, decoder: Decoder, wanted: dict[str, int | None]
    ) -> Iterator[tuple[list[list], list[np.ndarray]]]:
        """What the decoder says of the next pictures, and their arrays, until the file ends or fails."""
        while True:
            header, data = decoder.answer("next", **wanted)
            self.has_losses = bool(header.get("has_losses"))
            self.decoder = str(header.get("decoder", self.decoder))
            for line in header.get("of_gpu") or ():
                tell_once(str(line)[:500])
            if items := header.get("items"):
                yield items, decoder.arrays(header, data)
            decoder.check(header)
            if header.get("is_over"):
                return
