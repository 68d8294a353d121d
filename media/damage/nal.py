"""NAL units of H.264, and the bits in them.

Sources: ITU-T H.264, sections 7.2, 7.3.1, 9.1 and B.1; ISO/IEC 14496-15 for units after their lengths.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice

_HEAD_BYTES = 512
"""Of a unit: more is not looked at."""
_MOST_UNITS = 4096
"""Of a packet: more are no picture."""


def units(data: bytes, size_bytes: int = 4) -> Iterator[bytes]:
    """The beginnings of a packet's units, after lengths of so many bytes each or after start codes.

    A length of 256 to 511 bytes looks like a start code: lengths it is where they add up to the packet.
    """
    spans = _spans(data, size_bytes)
    at = spans[-1][1] if spans else 0
    is_cut = not data.startswith((b"\0\0\1", b"\0\0\0\1"))  # a damaged packet without start codes
    if spans and (at == len(data) or is_cut):
        yield from (data[begin : min(end, begin + _HEAD_BYTES)] for begin, end in spans)
    else:
        yield from islice(after_start_codes(data), _MOST_UNITS)


def _spans(data: bytes, size_bytes: int) -> list[tuple[int, int]]:
    """Where a packet's units lie, after lengths of so many bytes each; the last may end past it."""
    spans, at = list[tuple[int, int]](), 0
    while at + size_bytes <= len(data) and len(spans) < _MOST_UNITS:
        begin = at + size_bytes
        at = begin + int.from_bytes(data[at:begin], "big")
        spans.append((begin, at))
    return spans


def whole_units(data: bytes, size_bytes: int) -> Iterator[bytes]:
    """All of a packet's units, after lengths of so many bytes each."""
    yield from (data[begin:end] for begin, end in _spans(data, size_bytes))


def after_start_codes(data: bytes) -> Iterator[bytes]:
    """The beginnings of units after start codes."""
    at = data.find(b"\0\0\1")
    while at >= 0:
        yield data[at + 3 : at + 3 + _HEAD_BYTES]
        at = data.find(b"\0\0\1", at + 3)


class Bits:
    """Bits of a NAL unit's payload, read from the front.

    Raises:
        ValueError: where there are none left.
    """

    def __init__(self, unit: bytes) -> None:
        data = unit.replace(b"\0\0\3", b"\0\0")  # bytes put in so that no start code arises
        self._value, self._left = int.from_bytes(data, "big"), 8 * len(data)

    def take(self, count: int) -> int:
        """An unsigned number of so many bits."""
        self._left -= count
        if self._left < 0:
            raise ValueError("no bits left")
        return self._value >> self._left & ((1 << count) - 1)

    def number(self) -> int:
        """An Exp-Golomb number."""
        zeros = 0
        while not self.take(1):
            zeros += 1
            if zeros > 32:
                raise ValueError("no number")
        return (1 << zeros) - 1 + self.take(zeros)
