"""Footage as it came, by the id of its source: its bytes for a player, or a strip of frames of any codec."""

from __future__ import annotations

import io
import os
import time
from typing import Any

import numpy as np
from fastapi import HTTPException
from fastapi.responses import Response
from PIL import Image

from dashboard.index.index import Index
from dashboard.media import span_of
from media.apart.reader import Reader, probe
from media.bytes.access import open_binary
from media.errors import MediaError

MOST_BYTES = 4 << 20
"""Of one answer; a player asks for the next."""
FRAMES, FRAME_PX, PATIENCE_S = 8, 160, 6.0
PLAYABLE = {
    "mov": "video/mp4",
    "matroska": "video/webm",
    "ogg": "video/ogg",
    "mp3": "audio/mpeg",
    "jpeg_pipe": "image/jpeg",
    "png_pipe": "image/png",
    "gif": "image/gif",
    "webp_pipe": "image/webp",
}
_MARKS = (
    b"ftyp",
    b"moov",
    b"mdat",
    b"wide",
    b"\x1a\x45\xdf\xa3",
    b"OggS",
    b"\xff\xd8\xff",
    b"\x89PNG",
    b"GIF8",
    b"RIFF",
)
"""One of these is among the first bytes of all that is served: a dataset of others may name any file as a
source."""
_CODECS = {"h264", "vp8", "vp9", "av1", "theora", "mjpeg", "png", "gif", "webp"}


def source_of(index: Index, source_id: str) -> dict[str, Any]:
    """The row of a source whose file was read.

    Raises:
        HTTPException: there is none of that id.
    """
    rows = index.rows('SELECT * FROM sources WHERE source_id = ? ORDER BY "commit" DESC LIMIT 1', [source_id])
    if not rows:
        raise HTTPException(404, "no such source")
    return rows[0]


def is_playable(source: dict[str, Any]) -> bool:
    """Whether browsers can be expected to play the file itself."""
    return source["container"] in PLAYABLE and source["codec"] in _CODECS


def answer(index: Index, source_id: str, asked: str | None) -> Response:
    """A range of a source's bytes.

    Raises:
        HTTPException: there is no such source; its file is gone, or is another by now.
    """
    source = source_of(index, source_id)
    if not is_playable(source):
        raise HTTPException(415, "browsers do not play it; its frames are at strip.jpg")
    try:
        with open_binary(source["uri"]) as file:
            size = file.seek(0, os.SEEK_END)
            if size != source["size_bytes"]:
                raise HTTPException(409, f"the file has {size} bytes by now, it had {source['size_bytes']}")
            file.seek(0)
            head = file.read(16)
            if not any(mark in head for mark in _MARKS):
                raise HTTPException(415, "its bytes are of no video and no picture")
            span = span_of(asked, size) or (0, size)
            begin, end = span[0], min(span[1], span[0] + MOST_BYTES)
            if begin >= end:
                return Response(status_code=416, headers={"Content-Range": f"bytes */{size}"})
            file.seek(begin)
            data = file.read(end - begin)
    except (OSError, MediaError) as error:
        raise HTTPException(404, f"its file cannot be read ({error})") from error
    headers = {
        "Accept-Ranges": "bytes",
        "Content-Range": f"bytes {begin}-{end - 1}/{size}",
        "Cache-Control": "private, no-cache",
    }
    kind = PLAYABLE.get(source["container"], "application/octet-stream")
    return Response(data, 206 if asked or end < size else 200, media_type=kind, headers=headers)


def strip(index: Index, source_id: str, start_s: float, end_s: float) -> Response:
    """Frames of a span side by side, as a JPEG; decoded in a process apart, whatever the codec.

    Raises:
        HTTPException: nothing can be decoded there.
    """
    source, until_s = source_of(index, source_id), time.monotonic() + PATIENCE_S
    frames = []
    try:
        facts = probe(source["uri"])
        reader = Reader(facts)
        count = 1 if end_s <= start_s else FRAMES
        for at in range(count):
            if time.monotonic() > until_s:
                break
            from_s = start_s + (end_s - start_s) * at / count
            for picture in reader.pictures(from_s, max(end_s, from_s + 0.001)):
                frames.append(picture.draft(FRAME_PX))
                break
    except (MediaError, OSError) as error:
        if not frames:
            raise HTTPException(415, f"it cannot be decoded ({error})") from error
    if not frames:
        raise HTTPException(404, "there is no frame in that span")
    height, width = frames[0].shape[:2]
    whole = np.concatenate([np.asarray(Image.fromarray(f).resize((width, height))) for f in frames], axis=1)
    data = io.BytesIO()
    Image.fromarray(whole).save(data, "JPEG", quality=80)
    return Response(
        data.getvalue(), media_type="image/jpeg", headers={"Cache-Control": "private, max-age=600"}
    )
