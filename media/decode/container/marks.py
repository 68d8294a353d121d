"""What a file is, by marks in its bytes: a film of JPEGs, an archive, a playlist, films cut off or joined."""

from __future__ import annotations

import contextlib
import io
from collections import Counter

from PIL import Image

from media.bytes.access import is_local, open_binary
from media.decode.color import HLG, PQ
from media.errors import MediaError

_MOST_READ_BYTES = 64 << 20


def is_stream(path: str, size: tuple[int, int]) -> bool:
    """Whether behind a JPEG comes at once another one of its size, as in what cameras send: a film.

    Those hold no EXIF; of a photograph that does, it is another picture of the same moment.
    """
    if not is_local(path) and path.partition("?")[0].lower().endswith((".jpg", ".jpeg")):
        return False  # to look would be to fetch each still of a store twice
    with open_binary(path) as file:
        data = file.read(_MOST_READ_BYTES)
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


_ENDS_BYTES = 4 << 20
_BOX_BYTES, _MOST_BOXES = 8, 10_000
_OF_FILMS = {"ftyp", "moov", "mdat", "free", "skip", "wide", "moof", "styp", "sidx", "uuid", "pnot", "udta"}


_GIF_EXTENSION, _GIF_FRAME, _GIF_CONTROL = 0x21, 0x2C, 0xF9


def boxes(path: str) -> Counter[str]:
    """How often each kind of box lies at the top of an MP4 or MOV file; empty for files of other kinds.

    Of a file in pieces, up to the first of them.

    Source: ISO/IEC 14496-12, section 4.2.
    """
    found, place = Counter[str](), 0
    try:
        with open_binary(path) as file:
            end = file.seek(0, io.SEEK_END)
            while place + _BOX_BYTES <= end and found.total() < _MOST_BOXES:
                file.seek(place)
                head = file.read(2 * _BOX_BYTES)
                size, kind = int.from_bytes(head[:4], "big"), head[4:8].decode("latin-1")
                if kind not in _OF_FILMS and (not found or not kind.isalnum()):
                    break
                found[kind] += 1
                size = int.from_bytes(head[8:16], "big") if size == 1 else size
                if size < _BOX_BYTES or kind == "moof":  # 0: it goes on to the end; of pieces there are many
                    break
                place += size
    except (MediaError, OSError):
        return Counter()
    return found


def has_bare_frames(path: str) -> bool:
    """Whether a frame of a GIF comes without a block of its delay: FFmpeg takes it as part of the one before.

    Source: GIF89a, sections 20 to 23.
    """
    with open_binary(path) as file:
        data = file.read(_MOST_READ_BYTES)  # of a longer one, its beginning
    place, is_announced = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0), False
    with contextlib.suppress(IndexError):
        while data[place] in (_GIF_EXTENSION, _GIF_FRAME):
            if data[place] == _GIF_EXTENSION:
                is_announced |= data[place + 1] == _GIF_CONTROL
                place += 2
            else:
                if not is_announced:
                    return True
                is_announced = False
                own = data[place + 9]
                place += 11 + (3 << (own & 7) + 1 if own & 0x80 else 0)
            while data[place]:  # blocks of data, each with its length before it
                place += 1 + data[place]
            place += 1
    return False


def still_transfer(path: str) -> str:
    """`pq`, `hlg` or `sdr`, as a HEIC, AVIF or PNG says of its colours.

    Sources: ISO/IEC 14496-12, section 12.1.5; PNG, third edition, section 11.3.2.6 (cICP).
    """
    with open_binary(path) as file:
        head = file.read(1 << 20)
    codes = {PQ: "pq", HLG: "hlg"}
    if head.startswith(b"\x89PNG"):
        place = head[: max(0, head.find(b"IDAT"))].find(b"\0\0\0\4cICP")
        return codes.get(head[place + 9], "sdr") if place >= 0 else "sdr"
    place = head.find(b"colrnclx")
    return codes.get(int.from_bytes(head[place + 10 : place + 12], "big"), "sdr") if place >= 0 else "sdr"


def has_deep_samples(path: str) -> bool:
    """Whether a JPEG 2000 has samples of more than eight bits (ISO/IEC 15444-1, section A.5.1)."""
    with open_binary(path) as file:
        head = file.read(1 << 20)
    place = head.find(b"\xff\x4f\xff\x51")
    count = int.from_bytes(head[place + 40 : place + 42], "big") if place >= 0 else 0
    return any(bits & 127 > 7 for bits in head[place + 42 : place + 42 + 3 * count : 3])


def is_dolby_vision_of_others(path: str) -> bool:
    """Whether an MP4 in Dolby Vision says that its pictures are those of HDR10, HLG or SDR as well.

    Source: Dolby Vision streams within ISO base media files, version 2.4, section 3.2 (compatibility id).
    """
    with open_binary(path) as file:
        size = file.seek(0, 2)
        found = b""
        for place in (0, max(0, size - _ENDS_BYTES)):
            file.seek(place)
            found += file.read(_ENDS_BYTES)
    places = [place for place in (found.find(b"dvcC"), found.find(b"dvvC")) if place >= 0]
    return any(found[place + 8] >> 4 for place in places if place + 8 < len(found))


def is_playlist(path: str) -> bool:
    """Whether a file is a list of others, whatever its name says."""
    try:
        with open_binary(path) as file:
            head = file.read(64).lstrip(b"\xef\xbb\xbf \r\n\t")
    except MediaError:
        return False
    return head.startswith((b"#EXTM3U", b"ffconcat"))
