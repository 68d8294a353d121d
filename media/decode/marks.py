"""What a file is, by marks in its bytes: a film of JPEG pictures, a packed archive."""

from __future__ import annotations

import io

from PIL import Image

from media.bytes.access import is_local, open_binary
from media.errors import MediaError

_MOST_JPEG_BYTES = 64 << 20


def is_stream(path: str, size: tuple[int, int]) -> bool:
    """Whether behind a JPEG comes at once another one of its size, as in what cameras send: a film.

    Those hold no EXIF; of a photograph that does, it is another picture of the same moment.
    """
    if not is_local(path) and path.partition("?")[0].lower().endswith((".jpg", ".jpeg")):
        return False  # to look would be to fetch each still of a store twice
    with open_binary(path) as file:
        data = file.read(_MOST_JPEG_BYTES)
    place = 2
    while data[place : place + 1] == b"\xff":  # segments, up to the one that the picture's bits follow
        kind, length = data[place + 1 : place + 2], int.from_bytes(data[place + 2 : place + 4], "big")
        place += 2 + length
        if kind == b"\xda":
            break
    end = data.find(b"\xff\xd9", place)
    behind = data[end + 2 :].lstrip(b"\0") if end >= 0 else b""
    if not behind.startswith(b"\xff\xd8\xff"):
        return False
    try:
        with Image.open(io.BytesIO(behind)) as other:
            return other.size == size
    except (OSError, SyntaxError, ValueError):  # no picture
        return False


_ARCHIVES = {
    b"PK\3\4": "zip",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\7": "rar",
    b"\x28\xb5\x2f\xfd": "zstd",
}


def archive(path: str) -> str:
    """What kind of archive a file is, by its first bytes; empty for none."""
    try:
        with open_binary(path) as file:
            head = file.read(512)
    except MediaError:
        return ""
    if head[257:262] == b"ustar":
        return "tar in a tar"
    return next((name for mark, name in _ARCHIVES.items() if head.startswith(mark)), "")
