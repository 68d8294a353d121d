"""The decoder's process: answers requests for facts and pictures of one file after the other.

Started by `media.apart.process` with two pipes. It opens local files itself, read-only; the bytes of all
others come through the pipe from the process that asks.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, NoReturn

import av
import cv2
import numpy as np

from media.apart.confine import confine
from media.apart.landlock import devices, keep_from_secrets
from media.apart.wire import Wire, WireError
from media.bytes import access
from media.bytes.blocks import BlockReader, Blocks
from media.damage import libde265
from media.decode.facts import Probe
from media.decode.geometry import Geometry, slot_of
from media.decode.gpu import nvdec, trial
from media.decode.picture import Picture
from media.decode.probe import probe
from media.decode.reader import Frame, VideoReader
from media.errors import MediaError

_LOOK_EVERY_S = 1.0
_FAR_BLOCK_BYTES = 256 << 10
_AT_ONCE_BYTES = 32 << 20
_MOST_PICTURES, _MOST_FRAMES = 16, 4


@dataclass
class Slots:
    """Which pictures are the first of their slot of a clock of `fps`, and so will be asked for.

    A rule of curation (pipeline/curate/sampling.py), known here to spare exchanges; nothing depends on it.
    """

    side_px: int
    fps: float
    _last: int = -1

    def is_new(self, time_s: float) -> bool:
        before, self._last = self._last, slot_of(time_s, self.fps)
        return self._last != before


class Server:
    """Answers the requests that come over a wire."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._reader: VideoReader | None = None
        self._stream: Iterator[Picture | Frame] = iter(())
        self._pictures: list[Picture] = []
        self._geometry: Geometry | None = None
        self._slots: list[Slots] = []
        self._most = 1
        access.open_through(self._open)

    def _open(self, uri: str) -> BinaryIO:
        """A file that is not local, read by the other side."""
        size = self._far({"size": True})[0]["size"]
        blocks = Blocks(uri, size, self._fetch, block_bytes=_FAR_BLOCK_BYTES, max_ahead=1, num_blocks=4)
        return BlockReader(blocks).as_binary()

    def _fetch(self, offset: int, size: int) -> bytes:
        return self._far({"read": [offset, size]})[1].tobytes()

    def _far(self, request: dict[str, Any]) -> tuple[dict[str, Any], np.ndarray]:
        self.wire.send(request)
        header, data = self.wire.receive()
        if "error" in header:
            raise MediaError(*header["error"])
        return header, data

    def serve(self) -> None:
        """Answer until the other side is gone."""
        while True:
            request, _ = self.wire.receive()
            try:
                header, data = getattr(self, f"_do_{request.pop('do')}")(**request)
            except WireError:
                raise
            except Exception as error:  # noqa: BLE001 - all of them are the other side's to judge
                header, data = _told(error), np.empty(0, np.uint8)
            self.wire.send(header, data)

    def _do_probe(self, path: str) -> tuple[dict, bytes]:
        return {"probe": asdict(probe(path))}, b""

    def _do_count(self, facts: dict, start_s: float, end_s: float) -> tuple[dict, bytes]:
        return {"count": VideoReader(Probe.from_json(facts)).count(start_s, end_s)}, b""

    def _do_pictures(
        self, facts: dict, start_s: float, end_s: float, drafts: list[list], is_witnessed: bool
    ) -> tuple[dict, bytes]:
        self._slots = [Slots(*draft) for draft in drafts]
        own = Probe.from_json(facts)
        reader = self._reader = VideoReader(own, decoder="pyav", is_witnessed=is_witnessed)
        self._stream, self._geometry = reader.pictures(start_s, end_s), None
        self._most = _most_at_once(*reader.facts.geometry.display_size_px, _MOST_PICTURES)
        return {}, b""

    def _do_frames(
        self, facts: dict, max_pixels: int | None, decoder: str, start_s: float, end_s: float
    ) -> tuple[dict, bytes]:
        reader = self._reader = VideoReader(Probe.from_json(facts), max_pixels, decoder)
        self._stream = reader.frames(start_s, end_s)
        self._most = _most_at_once(*reader.facts.geometry.capped_size_px(max_pixels), _MOST_FRAMES)
        return {}, b""

    def _do_next(self, glance_px: int | None = None) -> tuple[dict, np.ndarray]:
        """Some pictures or frames, with the glances or pixels of all; an error, if one came after them."""
        assert self._reader is not None
        self._pictures, arrays, told = list[Picture](), list[np.ndarray](), list[list]()
        header: dict[str, Any] = {}
        while len(told) < self._most:
            try:
                item: Picture | Frame | None = next(self._stream, None)
                if item is None:
                    header = {"is_over": True}
                    break
                own, facts = self._shown(item, glance_px)
            except Exception as error:  # noqa: BLE001 - as in `serve`, after what came before it
                header = _told(error)
                break
            told.append(facts)
            arrays += own
            if isinstance(item, Picture):
                self._pictures.append(item)
                if glance_px is None:
                    break
        header |= {"items": told, "shapes": [array.shape for array in arrays]}
        header |= {"has_losses": bool(self._reader.has_losses), "decoder": self._reader.decoder}
        if told_of_gpu := trial.told():
            header["of_gpu"] = told_of_gpu
        flat = np.concatenate([array.reshape(-1) for array in arrays]) if arrays else np.empty(0, np.uint8)
        return header, flat

    def _shown(self, item: Picture | Frame, glance_px: int | None) -> tuple[list[np.ndarray], list]:
        """What goes over of a picture or frame: its arrays, and what is said of it."""
        if isinstance(item, Frame):
            return [item.rgb], [item.time_s, bool(item.is_damaged)]
        due = [slots.side_px for slots in self._slots if slots.is_new(item.time_s)]
        own = [] if glance_px is None else [item.glance(glance_px), *map(item.draft, due)]
        due = due if own else []
        return own, [item.time_s, item.signs.to_list(), self._changed(item), due]

    def _changed(self, picture: Picture) -> dict[str, Any] | None:
        """The geometry of a picture, where it is another than before."""
        before, self._geometry = self._geometry, picture.geometry
        return None if picture.geometry == before else asdict(picture.geometry)

    def _do_look(self, index: int, how: str, size: list[int]) -> tuple[dict, np.ndarray]:
        rgb: np.ndarray = getattr(self._pictures[index], how)(*size)
        return {"shapes": [rgb.shape]}, rgb

    def _do_stop(self) -> tuple[dict, bytes]:
        self._pictures, self._reader, self._stream, self._geometry = [], None, iter(()), None
        return {}, b""


def _most_at_once(width: int, height: int, most: int) -> int:
    """Pictures in one answer: an exchange costs as much as decoding a small one."""
    return max(1, min(most, _AT_ONCE_BYTES // (width * height * 3)))


def _told(error: Exception) -> dict[str, Any]:
    if isinstance(error, MediaError):
        return {"error": [error.reason, error.message]}
    if isinstance(error, MemoryError):
        return {"error": ["memory_limit", "its decoder needs more memory than a decoder may have"]}
    if isinstance(error, OSError) and not isinstance(error, av.FFmpegError):
        return {"machine": [error.errno, str(error)]}
    return {"error": [type(error).__name__, str(error)]}


def _end_with(parent: int) -> None:
    """End when the process that asks has ended, even amid a picture that never comes."""

    def look() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_EVERY_S)
        os._exit(0)

    threading.Thread(target=look, daemon=True).start()


def _hold_gpu(found: list[str], is_kept: bool) -> None:
    """Take the GPU, where the files that are written to can be told from others."""
    if not found:
        nvdec.device.trouble = "this machine has no device of NVIDIA's driver (/dev/nvidia*)"
    elif not is_kept:
        nvdec.device.trouble = "this system has no Landlock, without which a decoder may open no device"
    else:
        nvdec.device.hold()


def main() -> NoReturn:
    """Serve on the pipes of standard input and output; what else is printed goes to standard error."""
    wire = Wire(os.dup(0), os.dup(1))
    os.dup2(2, 1)
    is_kept, found = False, devices() if sys.argv[2:] == ["gpu"] else []
    with contextlib.suppress(Exception):  # one guard of several: the other side tells that it is not there
        is_kept = keep_from_secrets(found)  # before there are other threads, which it would not hold
    _end_with(int(sys.argv[1]))
    cv2.setNumThreads(1)
    server = Server(wire)
    libde265.load()
    if sys.argv[2:] == ["gpu"]:
        _hold_gpu(found, is_kept)
    is_filtered = confine(on_gpu=not nvdec.device.trouble)
    wire.send({"is_filtered": is_filtered, "is_kept": is_kept, "gpu_trouble": nvdec.device.trouble})
    with contextlib.suppress(WireError, KeyboardInterrupt):
        server.serve()
    os._exit(0)


if __name__ == "__main__":
    main()
