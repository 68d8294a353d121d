"""Containers by PyAV, wherever the file lies. A file that is not local may not make FFmpeg open anything else
(playlists do).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import av
import av.error

from media.bytes.access import opened
from media.errors import MediaError


@contextlib.contextmanager
def open_container(uri: str) -> Iterator[av.container.InputContainer]:
    """The container at a path or address, closed afterwards.

    Raises:
        MediaError: the address cannot be read, also later, where it fails between two reads.
        av.FFmpegError: the bytes are no media.
    """
    with opened(uri) as file:
        if isinstance(file, str):
            with av.open(file, mode="r", metadata_errors="replace") as container:
                yield container
            return
        try:
            with av.open(
                file, mode="r", metadata_errors="replace", options={"protocol_whitelist": "none"}
            ) as container:
                yield container
        except av.FFmpegError:
            if error := getattr(file, "error", None):  # FFmpeg made another error of it
                raise error from None
            raise
        finally:
            with contextlib.suppress(MediaError):
                av.error.err_check(
                    0
                )  # an error of a read that nobody asked for must not surface in the next file
        if error := getattr(file, "error", None):
            raise error
