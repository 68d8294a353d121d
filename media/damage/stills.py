"""Damage of a still that its decoder makes a picture of all the same.

libjpeg goes on over whatever bits there are, and warns; libheif, libwebp and dav1d make grey or green of the
zeros that a download left where it stopped. Of a bit flipped in a JPEG's data the warning tells in half to
five sevenths of the pictures that it spoils (`tests/media/decode/test_stills.py`); the others are as any.
"""

from __future__ import annotations

import re

import simplejpeg

from media.bytes.access import open_binary

_MOST_BYTES = 256 << 20
_TAIL_BYTES = 1 << 10
_COMPRESSED = {"HEIF", "AVIF", "WEBP"}
"""Formats whose data never end in so many zeros."""
_LEFT_OVER = re.compile(r"(\d+) extraneous bytes before marker")
_FEW_BYTES = 16
"""Cameras leave fewer between a picture's data and what follows."""


def damage_of(path: str, image_format: str) -> str:
    """What shows that a still is damaged; empty for nothing.

    Args:
        image_format: Pillow's name of it.
    """
    if image_format in {"JPEG", "MPO"}:
        with open_binary(path) as file:
            data = file.read(_MOST_BYTES + 1)
        return _of_jpeg(data) if len(data) <= _MOST_BYTES else ""
    if image_format in _COMPRESSED:
        with open_binary(path) as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - _TAIL_BYTES))
            tail = file.read(_TAIL_BYTES)
        return "it ends in zeros" if size > _TAIL_BYTES and not any(tail) else ""
    return ""


def _of_jpeg(data: bytes) -> str:
    try:
        simplejpeg.decode_jpeg(data, colorspace="GRAY", strict=True)
    except ValueError as error:
        said = str(error)
        left = _LEFT_OVER.search(said)
        is_few = left is not None and int(left.group(1)) < _FEW_BYTES
        return said if said.startswith(("Corrupt JPEG data", "Premature end")) and not is_few else ""
    return ""
