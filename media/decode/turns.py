"""Which way up a video's pictures are: from display matrices, or EXIF in films of JPEGs."""

from __future__ import annotations

import contextlib
import io
import struct
from typing import Any

import av
from av.sidedata.sidedata import Type as SideDataType
from PIL import Image

from media.decode.geometry import orientation

_NAMED_PROFILES = {"png", "apng"}
"""Codecs whose frames carry colour profiles with names. PyAV 18 frees such a name twice when side data is
looked at, and the process dies of it, later."""
_EXIF_ORIENTATION = 0x0112
_TURNS = {2: (0, True), 3: (180, False), 4: (180, True), 5: (-90, True), 6: (-90, False)}
_TURNS |= {7: (90, True), 8: (90, False)}
"""Of EXIF's orientations, as `Geometry` has them: degrees counter-clockwise, then whether it is mirrored."""


def turn_of(frame: av.VideoFrame, codec: str, packet: av.Packet) -> tuple[int, bool]:
    """Rotation (degrees, counter-clockwise) and mirroring that show a frame upright.

    Args:
        packet: the one that the frame came of.
    """
    if codec in _NAMED_PROFILES:
        return _rotation(frame), False
    try:
        matrix: Any = frame.side_data.get(SideDataType.DISPLAYMATRIX)  # type: ignore[call-overload]
    except ValueError:  # side data of a kind that PyAV does not know, such as EXIF
        return _exif_turn(bytes(packet)) if codec == "mjpeg" else (_rotation(frame), False)
    return orientation(struct.unpack("=9i", bytes(matrix))) if matrix is not None else (0, False)


def _rotation(frame: av.VideoFrame) -> int:
    return round(frame.rotation / 90) * 90


def _exif_turn(jpeg: bytes) -> tuple[int, bool]:
    """The turn that a JPEG's EXIF tells; none where it has none that can be read."""
    with contextlib.suppress(OSError, SyntaxError, ValueError), Image.open(io.BytesIO(jpeg)) as image:
        return _TURNS.get(image.getexif().get(_EXIF_ORIENTATION, 1), (0, False))
    return 0, False
