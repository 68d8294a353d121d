"""Containers by PyAV, wherever the file lies.

A file is that one file: FFmpeg may not take its name for a protocol (`12:30.mp4`) or a pattern (`f%03d.sgi`),
and what is in it may not name addresses; where it is not local, nothing at all.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from typing import Any, BinaryIO

import av
import av.error
from av.codec.hwaccel import HWAccel

from media.bytes.access import opened
from media.errors import MediaError

_LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""PyAV 18 refuses tags that are no UTF-8 unless told; from 19 on it replaces them and the setting is gone."""

_FOLLOWING = {"merge_pmt_versions": "1"}
_LOCAL = {"protocol_whitelist": "file", "pattern_type": "none"} | _FOLLOWING
_NO_OTHERS = {"protocol_whitelist": "none"} | _FOLLOWING
_ONE_BY_NAME = (".jpg", ".jpeg", ".jpe", ".jfif")
"""By such a name FFmpeg takes a stream of pictures for its first one, so it is not told."""


class _Nameless(io.RawIOBase):
    """A file whose name nobody asks for."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._file.seek(offset, whence)


@contextlib.contextmanager
def open_container(uri: str, hwaccel: HWAccel | None = None) -> Iterator[av.container.InputContainer]:
    """The container at a path or address, closed afterwards.

    Args:
        hwaccel: what decodes its videos in place of the processor.

    Raises:
        MediaError: the address cannot be read, also later, where it fails between two reads.
        av.FFmpegError: the bytes are no media.
    """
    more: dict[str, Any] = {"mode": "r", "hwaccel": hwaccel, **_LENIENT}
    with opened(uri) as file:
        if isinstance(file, str) and file.lower().endswith(_ONE_BY_NAME):
            with open(file, "rb") as bare:
                nameless = io.BufferedReader(_Nameless(bare))
                with av.open(nameless, options=_NO_OTHERS, **more) as container:
                    yield container
            return
        if isinstance(file, str):
            with av.open(os.path.abspath(file), options=_LOCAL, **more) as container:
                yield container
            return
        try:
            with av.open(file, options=_NO_OTHERS, **more) as container:
                yield container
        except av.FFmpegError:
            if error := getattr(file, "error", None):  # FFmpeg made another error of it
                raise error from None
            raise
        finally:
            with contextlib.suppress(MediaError):
                # an error of a read that nobody asked for must not surface in the next file
                av.error.err_check(0)
        if error := getattr(file, "error", None):
            raise error
