"""Containers by PyAV, wherever the file lies.

A file is that one file: FFmpeg may not take its name for a protocol (`12:30.mp4`) or a pattern (`f%03d.sgi`),
and what is in it may not name addresses; where it is not local, nothing at all.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import av
import av.error

from media.bytes.access import opened
from media.errors import MediaError

_LENIENT: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
"""PyAV 18 refuses tags that are no UTF-8 unless told; from 19 on it replaces them and the setting is gone."""

_LOCAL = {"protocol_whitelist": "file", "pattern_type": "none"}


@contextlib.contextmanager
def open_container(uri: str) -> Iterator[av.container.InputContainer]:
    """The container at a path or address, closed afterwards.

    Raises:
        MediaError: the address cannot be read, also later, where it fails between two reads.
        av.FFmpegError: the bytes are no media.
    """
    with opened(uri) as file:
        if isinstance(file, str):
            with av.open(os.path.abspath(file), mode="r", options=_LOCAL, **_LENIENT) as container:
                yield container
            return
        try:
            options = {"protocol_whitelist": "none"}
            with av.open(file, mode="r", options=options, **_LENIENT) as container:
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
