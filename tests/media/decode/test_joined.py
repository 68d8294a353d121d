"""What a file holds and its reader leaves out is told: what is joined behind, edits that are not followed."""

from __future__ import annotations

import io
import struct
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from media.decode.probe import probe
from media.decode.reader import VideoReader
from tests.media.decode.test_odd_files import film, picture

ONE = 1 << 16
FRAMES = [picture(index) for index in range(12)]


@pytest.mark.parametrize(("name", "codec"), [("a.flv", "flv"), ("a.wmv", "wmv2")])
def test_a_second_film_that_no_reader_reaches_is_told(tmp_path, name, codec):
    path = tmp_path / name
    film(path, codec, len(FRAMES))
    assert "joined" not in probe(str(path)).detail
    path.write_bytes(path.read_bytes() * 2)
    facts = probe(str(path))
    assert facts.num_packets == len(FRAMES)
    assert "a further film joined behind this one is left out" in facts.detail


def test_a_film_joined_behind_another_is_told(tmp_path):
    made = film(tmp_path / "a.mp4", "libx264", 20).read_bytes()
    (tmp_path / "b.mp4").write_bytes(made + made)
    assert "1 further films joined behind this one" in probe(str(tmp_path / "b.mp4")).detail
    assert probe(str(tmp_path / "a.mp4")).detail == ""


@pytest.mark.parametrize("kind", ["png", "webp", "bmp", "ppm", "gif", "pgm"])
def test_pictures_joined_behind_a_still_are_told(tmp_path, kind):
    path, data = tmp_path / f"a.{kind}", io.BytesIO()
    mode, form = ("L", "ppm") if kind == "pgm" else ("RGB", kind)
    Image.fromarray(FRAMES[0]).convert(mode).save(data, form)
    path.write_bytes(data.getvalue() + b"\n")
    assert probe(str(path)).detail == ""
    path.write_bytes(data.getvalue() * 3)
    facts = probe(str(path))
    assert facts.kind == "image"
    assert facts.detail == "further pictures joined behind this one are left out"


def test_what_only_looks_like_another_picture_is_none(tmp_path):
    data = io.BytesIO()
    Image.fromarray(FRAMES[0]).save(data, "PNG")
    inside = data.getvalue()
    private = (
        struct.pack(">I4s", len(inside), b"prVt") + inside + struct.pack(">I", zlib.crc32(b"prVt" + inside))
    )
    (tmp_path / "a.png").write_bytes(inside[:-12] + private + inside[-12:])
    (tmp_path / "b.ppm").write_bytes(b"P6 # P\n4 4\n65535\n" + b"P" * 96)
    Image.fromarray(FRAMES[0]).save(data := io.BytesIO(), "BMP")
    bitmap = bytearray(data.getvalue())
    struct.pack_into("<I", bitmap, 2, 54)
    bitmap[54:56] = b"BM"
    (tmp_path / "c.bmp").write_bytes(bitmap)
    for name in ("a.png", "b.ppm", "c.bmp"):
        assert "joined" not in probe(str(tmp_path / name)).detail, name


def test_an_edit_list_that_is_cut_is_no_reason_to_fail(tmp_path):
    path = film(tmp_path / "a.mp4", "libx264", len(FRAMES))
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") - 4
    size = struct.unpack_from(">I", data, place)[0]
    struct.pack_into(">I4sI4s", data, place, 8, b"elst", size - 8, b"free")
    path.write_bytes(data)
    assert probe(str(path)).num_packets == len(FRAMES)


def edited(path, edits):
    """The MP4 file, whose index comes last, with another edit list: durations, media times, rates."""
    data = bytearray(path.read_bytes())
    place = data.index(b"elst") - 4
    old = struct.unpack_from(">I", data, place)[0]
    rows = b"".join(struct.pack(">iiI", span, media, int(rate * ONE)) for span, media, rate in edits)
    box = struct.pack(">I4sII", 16 + len(rows), b"elst", 0, len(edits)) + rows
    data[place : place + old] = box
    for kind in (b"edts", b"trak", b"moov"):
        at = data.rindex(kind, 0, place) - 4
        struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] + len(box) - old)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ([(480, 0, 1)], ""),
        ([(200, 0, 1), (200, 2560, 1)], ""),  # a part left out, which FFmpeg leaves out
        ([(200, 0, 1), (500, -1, 1), (200, 0, 1)], "pauses"),
        ([(240, 0, 2)], "other rates"),
        ([(100, 0, 0), (300, -1, 1), (200, 0, 1)], "pauses and other rates"),
    ],
)
def test_edits_that_are_not_followed_are_told(tmp_path, edits, said):
    path = tmp_path / "a.mp4"
    film(path, "libx264", len(FRAMES))
    edited(path, edits)
    detail = probe(str(path)).detail
    assert ("its edit list asks for" in detail) == bool(said)
    assert said in detail


@pytest.mark.parametrize("kind", ["mov", "avi"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_film_of_jpegs_is_turned_as_its_exif_says(tmp_path, orientation, kind):
    path, exif = tmp_path / f"a.{kind}", Image.Exif()
    exif[0x0112] = orientation
    stills = []
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuvj420p"
        for index, rgb in enumerate(FRAMES[:3]):
            data = io.BytesIO()
            Image.fromarray(rgb).save(data, "JPEG", exif=exif, quality=95)
            stills.append(data)
            packet = av.Packet(data.getvalue())
            packet.stream, packet.pts, packet.dts, packet.time_base = stream, index, index, Fraction(1, 25)
            container.mux(packet)
    shown = [frame.rgb for frame in VideoReader(probe(str(path))).frames()]
    for rgb, data in zip(shown, stills, strict=True):
        upright = np.asarray(ImageOps.exif_transpose(Image.open(data)).convert("RGB"))
        assert rgb.shape == upright.shape
        assert np.abs(rgb.astype(int) - upright).mean() < 4
