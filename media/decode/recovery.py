"""H.264 "keyframes" that are none: points from which a picture becomes whole bit by bit (intra refresh).

Demuxers flag them as keyframes, and decoding that begins there gives broken pictures at first, for as long as
the encoder chose.
"""

from __future__ import annotations

from collections.abc import Iterator

_SLICE, _IDR = 1, 5
_INTRA = {2, 4, 7, 9}
"""Slice types I and SI."""
_MOST_BYTES = 1 << 16


def is_refresh(data: bytes) -> bool:
    """Whether a packet of H.264 that is flagged as a keyframe begins with a slice that leans on others."""
    for unit in _units(data[:_MOST_BYTES]):
        kind = unit[0] & 31 if unit else 0
        if kind == _IDR:
            return False
        if kind == _SLICE:
            bits = "".join(f"{byte:08b}" for byte in unit[1:12])
            _, rest = _number(bits)  # the first block of the slice
            kind_of_slice, _ = _number(rest)
            return kind_of_slice not in _INTRA
    return False


def _units(data: bytes) -> Iterator[bytes]:
    """NAL units after start codes, or after lengths of four bytes."""
    if data.startswith((b"\0\0\1", b"\0\0\0\1")):
        yield from data.split(b"\0\0\1")[1:]
        return
    at = 0
    while at + 4 < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 4 + size]
        at += 4 + size


def _number(bits: str) -> tuple[int, str]:
    """An Exp-Golomb number, and the bits after it."""
    zeros = len(bits) - len(bits.lstrip("0"))
    end = 2 * zeros + 1
    return (int(bits[zeros:end], 2) - 1 if len(bits) >= end else -1), bits[end:]
