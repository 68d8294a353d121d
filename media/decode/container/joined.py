"""What is joined behind a file's picture or film and is not read: it is told."""

from __future__ import annotations

import io
import re
import struct

from PIL import Image

from media.bytes.access import is_local, open_binary
from media.errors import MediaError

_MOST_READ_BYTES = 64 << 20
_FILM_HEADS = {"flv": b"FLV\x01", "asf": bytes.fromhex("3026b2758e66cf11")}
"""Of containers whose readers stop without a word where a second film begins."""
_MOST_HEAD = 1 << 10
_BRANDS = (b"mp42", b"isom", b"qt  ", b"mp41")
_BITMAP_SIZE, _RIFF_SIZE = struct.Struct("<2xI"), struct.Struct("<4xI4x")


def has_film_behind(path: str) -> bool:
    """Whether a still holds a film behind its picture, as photographs in motion of phones do.

    Of one that is not local nothing is said: to look would be to fetch it twice.
    """
    data = _local_bytes(path)
    return any(data.find(b"ftyp" + brand, 4) > 0 for brand in _BRANDS)


def has_film_after(path: str, container: str, end_bytes: int) -> bool:
    """Whether another film of the same kind begins behind the last packet, which ends at a place."""
    head = _FILM_HEADS.get(container)
    if not head or end_bytes <= 0:
        return False
    try:
        with open_binary(path) as file:
            file.seek(end_bytes)
            return head in file.read(_MOST_READ_BYTES)
    except (MediaError, OSError):
        return False


def has_picture_behind(path: str, image: Image.Image) -> bool:
    """Whether another picture of the same kind begins where a still ends; of local files alone.

    Sources: PNG, third edition, section 5.2; GIF89a, section 27; the WebP container's RIFF header; BMP's file
    header; Netpbm's formats, which say that pictures may follow each other.
    """
    kind = image.format or ""
    if kind not in {"PNG", "GIF", "WEBP", "BMP", "PPM"}:
        return False
    data = _local_bytes(path)
    if kind == "PNG":
        return data[_end_of_png(data) :].lstrip(b"\0\r\n ").startswith(b"\x89PNG")
    if kind == "GIF":
        return b"\0;GIF8" in data
    end, head = _end_of(kind, image, data), {"WEBP": b"RIFF", "BMP": b"BM", "PPM": b"P"}[kind]
    return 0 < end < len(data) and data[end:].lstrip().startswith(head)


def _end_of(kind: str, image: Image.Image, data: bytes) -> int:
    """Where a picture's bytes end, as its head says; 0 where that is not known."""
    if kind == "WEBP":
        return _RIFF_SIZE.size - 4 + _RIFF_SIZE.unpack_from(data)[0]
    begins = [int(tile[2]) for tile in getattr(image, "tile", [])]
    if kind == "BMP":
        end = int(_BITMAP_SIZE.unpack_from(data)[0])  # which some programs write wrongly
        return end if begins and end > begins[0] + image.height else 0
    head = re.sub(rb"#[^\n]*", b"", data[:_MOST_HEAD]).split(maxsplit=4)[:4]
    if head[:1] not in ([b"P5"], [b"P6"]) or len(head) < 4 or not begins or not head[3].isdigit():
        return 0
    values = image.width * image.height * (3 if head[0] == b"P6" else 1)
    return begins[0] + values * (2 if int(head[3]) > 255 else 1)


def _end_of_png(data: bytes) -> int:
    """Behind its last chunk; the end of the bytes where that is not found."""
    place = 8
    while place + 12 <= len(data):
        length, kind = int.from_bytes(data[place : place + 4], "big"), data[place + 4 : place + 8]
        place += 12 + length
        if kind == b"IEND":
            return place
    return len(data)


def _local_bytes(path: str) -> bytes:
    """A local file's bytes, up to a bound; none of another."""
    if not is_local(path):
        return b""
    with open_binary(path) as file:
        file.seek(0, io.SEEK_SET)
        return file.read(_MOST_READ_BYTES)
