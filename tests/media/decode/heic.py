"""HEIC as phones write it: tiles of HEVC and the item that puts them together.

Source: ISO/IEC 14496-12, section 8.11 (items), and 23008-12, section 6.6.2.3 (grids).
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import av
import numpy as np

from media.writer import write_video


def _box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", 8 + len(body)) + kind + body


def _full(kind: bytes, version: int, flags: int, body: bytes) -> bytes:
    return _box(kind, struct.pack(">I", version << 24 | flags) + body)


def _coded(tile: np.ndarray) -> tuple[bytes, bytes]:
    """A tile's settings, as a box, and its picture."""
    sink = io.BytesIO()
    write_video(sink, [tile], 1.0, "hevc", container="mp4")
    with av.open(io.BytesIO(sink.getvalue())) as container:
        stream = container.streams.video[0]
        settings = bytes(stream.codec_context.extradata or b"")
        return _box(b"hvcC", settings), next(bytes(packet) for packet in container.demux(stream))


def write_grid(path: Path, picture: np.ndarray, tile_px: int, quarter_turns: int = 0) -> Path:
    """A picture [H, W, 3] uint8 in tiles of one size, shown after so many turns to the left."""
    height, width = picture.shape[:2]
    rows, columns = -(-height // tile_px), -(-width // tile_px)
    whole = np.pad(picture, ((0, rows * tile_px - height), (0, columns * tile_px - width), (0, 0)), "edge")
    tiles = [
        _coded(whole[row * tile_px :, column * tile_px :][:tile_px, :tile_px])
        for row in range(rows)
        for column in range(columns)
    ]
    count, grid = len(tiles), struct.pack(">BBBBHH", 0, 0, rows - 1, columns - 1, width, height)
    items = b"".join(
        _full(b"infe", 2, 1, struct.pack(">HH", own, 0) + b"hvc1\0") for own in range(1, count + 1)
    ) + _full(b"infe", 2, 0, struct.pack(">HH", count + 1, 0) + b"grid\0")
    uses = struct.pack(">HH", count + 1, count) + b"".join(
        struct.pack(">H", own) for own in range(1, count + 1)
    )
    properties = _box(
        b"ipco",
        tiles[0][0]
        + _full(b"ispe", 0, 0, struct.pack(">II", tile_px, tile_px))
        + _full(b"ispe", 0, 0, struct.pack(">II", width, height))
        + _box(b"irot", bytes([quarter_turns])),
    ) + _full(
        b"ipma",
        0,
        0,
        struct.pack(">I", count + 1)
        + b"".join(struct.pack(">HBBB", own, 2, 0x81, 2) for own in range(1, count + 1))
        + struct.pack(">HBBB", count + 1, 2, 3, 0x84),
    )

    def meta(begin: int) -> bytes:
        places = b""
        for own, (_, data) in enumerate(tiles, 1):
            places += struct.pack(">HHHHII", own, 0, 0, 1, begin, len(data))
            begin += len(data)
        places += struct.pack(">HHHHII", count + 1, 1, 0, 1, 0, len(grid))
        body = _full(b"hdlr", 0, 0, b"\0\0\0\0pict" + b"\0" * 13)
        body += _full(b"pitm", 0, 0, struct.pack(">H", count + 1))
        body += _full(b"iloc", 1, 0, b"\x44\0" + struct.pack(">H", count + 1) + places)
        body += _full(b"iinf", 0, 0, struct.pack(">H", count + 1) + items)
        body += _full(b"iref", 0, 0, _box(b"dimg", uses)) + _box(b"iprp", properties) + _box(b"idat", grid)
        return _full(b"meta", 0, 0, body)

    kind = _box(b"ftyp", b"heic\0\0\0\0mif1heic")
    begin = len(kind) + len(meta(0)) + 8
    path.write_bytes(kind + meta(begin) + _box(b"mdat", b"".join(data for _, data in tiles)))
    return path
