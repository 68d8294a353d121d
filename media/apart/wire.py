"""Messages between a process and its decoder, through two pipes: a line of JSON and bytes.

No pickle: what a decoder sends was made by a process that met untrusted bytes.
"""

from __future__ import annotations

import io
import json
import os
import struct
from typing import Any

import numpy as np

_HEAD = struct.Struct("<IQ")  # bytes of the JSON, bytes that follow it
_MOST_JSON, _MOST_BYTES = 1 << 20, 1 << 32


class WireError(Exception):
    """The other side is gone, or speaks nonsense."""


class Wire:
    """One end.

    Args:
        reads, writes: descriptors of the two pipes; the wire closes them.
    """

    def __init__(self, reads: int, writes: int) -> None:
        self._reads = io.BufferedReader(io.FileIO(reads), 1 << 16)
        self._writes = writes

    def send(self, header: dict[str, Any], data: bytes | np.ndarray = b"") -> None:
        """Raises: WireError: the other side is gone."""
        text = json.dumps(header).encode()
        body = np.ascontiguousarray(data).data.cast("B") if isinstance(data, np.ndarray) else data
        try:
            self._write(_HEAD.pack(len(text), len(body)) + text)
            self._write(body)
        except OSError as error:
            raise WireError(str(error)) from error

    def _write(self, data: bytes | memoryview) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(self._writes, left) :]

    def receive(self) -> tuple[dict[str, Any], np.ndarray]:
        """The next message: its header, and its bytes [N] uint8, which own their memory.

        Raises:
            WireError: the other side is gone, or what it sends is no message.
        """
        num_text, num_bytes = _HEAD.unpack(self._exactly(bytearray(_HEAD.size)))
        if num_text > _MOST_JSON or num_bytes > _MOST_BYTES:
            raise WireError(f"a message of {num_text} and {num_bytes} bytes")
        try:
            header = json.loads(bytes(self._exactly(bytearray(num_text))))
        except (ValueError, RecursionError) as error:
            raise WireError(str(error)) from error
        if not isinstance(header, dict):
            raise WireError("a message without a header")
        data = np.empty(num_bytes, np.uint8)
        self._exactly(data.data)
        return header, data

    def _exactly(self, buffer: bytearray | memoryview) -> bytearray | memoryview:
        view, count = memoryview(buffer), 0
        while count < len(view):
            got = self._reads.readinto(view[count:])
            if not got:
                raise WireError("the other side is gone")
            count += got
        return buffer

    def close(self) -> None:
        """Close both ends; once more does nothing."""
        self._reads.close()
        if self._writes >= 0:
            os.close(self._writes)
        self._writes = -1
