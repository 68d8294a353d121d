"""Edit lists of MP4 and MOV files that FFmpeg does not follow: pauses amid a film, and other rates.

Source: ISO/IEC 14496-12, section 8.6.6 (EditListBox).
"""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator

from media.bytes.access import open_binary
from media.errors import MediaError

_MOST_INDEX_BYTES, _MOST_EDITS = 64 << 20, 10_000
_NESTED = {b"moov", b"trak", b"edts", b"mdia"}
_USUAL_RATE = 1 << 16


def unfollowed_edits(path: str) -> str:
    """What of the video track's edit list is not followed, in words; empty if all of it is."""
    try:
        index = _index_of(path)
        tracks = [dict(_boxes(data)) for kind, data in _boxes(index) if kind == b"trak"]
        edits = [_edits(track[b"elst"]) for track in tracks if _is_video(track) and b"elst" in track]
    except (MediaError, OSError, struct.error, IndexError):
        return ""  # the reader of the film itself says what is wrong with it
    found = edits[0] if edits else []
    has_pause = any(media < 0 for _, media, _ in found[1:])
    has_rates = any(rate != _USUAL_RATE for _, _, rate in found)
    words = ["pauses"] * has_pause + ["other rates"] * has_rates
    return f"its edit list asks for {' and '.join(words)}, which FFmpeg does not follow" if words else ""


def _index_of(path: str) -> bytes:
    """What lies in the `moov` box; nothing where there is none."""
    with open_binary(path) as file:
        end, place = file.seek(0, io.SEEK_END), 0
        while place + 8 <= end:
            file.seek(place)
            head = file.read(16)
            size, kind, length = int.from_bytes(head[:4], "big"), head[4:8], 8
            if size == 1:
                size, length = int.from_bytes(head[8:16], "big"), 16
            size = size or end - place
            if size < length:
                return b""
            if kind == b"moov":
                file.seek(place + length)
                return file.read(min(size - length, _MOST_INDEX_BYTES))
            place += size
    return b""


def _boxes(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kinds and contents of the boxes in some bytes; those of a track's own boxes after it, one by one."""
    place = 0
    while place + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, place)
        size = size or len(data) - place
        if size < 8:
            return
        inside = data[place + 8 : place + size]
        yield kind, inside
        if kind in _NESTED and kind != b"trak":
            yield from _boxes(inside)
        place += size


def _is_video(track: dict[bytes, bytes]) -> bool:
    return track.get(b"hdlr", b"")[8:12] == b"vide"


def _edits(box: bytes) -> list[tuple[int, int, int]]:
    """Duration, media time and rate (16.16) of each edit; a media time of -1 shows nothing."""
    if len(box) < 8:
        return []
    version, count = box[0], struct.unpack_from(">I", box, 4)[0]
    row = struct.Struct(">qqi" if version else ">iii")
    end = 8 + min(count, _MOST_EDITS) * row.size
    return [(duration, media, rate) for duration, media, rate in row.iter_unpack(box[8:end])]
