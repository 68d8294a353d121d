"""Files that say odd things of their pictures: further streams, spare bytes, cut edges, colours, raw."""

from __future__ import annotations

import struct
import subprocess
import tarfile
import zipfile
import zlib
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from media.decode.probe import probe
from media.decode.reader import VideoReader
from media.errors import MediaError
from tests.ffmpeg import ffmpeg

RED, BLUE = (200, 30, 30), (30, 30, 200)


def flat(colour, size=(64, 48)):
    return np.full((size[1], size[0], 3), colour, np.uint8)


def film(path, *tracks, codec="libx264", pixels="yuv420p", tag=None, options=None, **context):
    """Ten frames of each track [(colour, size)]."""
    with av.open(str(path), "w") as container:
        streams = []
        for _, size in tracks:
            stream = container.add_stream(codec, 25, options=options or {})
            (stream.width, stream.height), stream.pix_fmt = size, pixels
            for name, value in context.items():
                setattr(stream.codec_context, name, value)
            if tag:
                stream.codec_context.codec_tag = tag
            streams.append(stream)
        for index in range(10):
            for stream, (colour, size) in zip(streams, tracks, strict=True):
                frame = av.VideoFrame.from_ndarray(flat(colour, size), "rgb24")
                frame.pts = index
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode(None))
    return str(path)


def first(path, decoder=None):
    return next(VideoReader(probe(str(path)), decoder=decoder).frames()).rgb


def middle(rgb):
    return rgb[rgb.shape[0] // 2, rgb.shape[1] // 2].astype(int)


def refused(path):
    with pytest.raises(MediaError, match=str(path).rsplit("/", 1)[-1]) as caught:
        first(path)
    return caught.value.reason


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_of_two_tracks_all_decoders_read_the_same(tmp_path, suffix):
    path = film(tmp_path / f"a.{suffix}", (RED, (64, 48)), (BLUE, (128, 96)))
    facts = probe(path)
    assert facts.detail == "1 further video streams are left out"
    usual, reference = first(path), first(path, "pyav")
    assert usual.shape == reference.shape and np.abs(middle(usual) - middle(reference)).max() <= 1


def test_the_fourth_byte_of_a_bare_avi_and_of_some_tga_says_nothing(tmp_path):
    bgra = np.dstack([flat(RED)[..., ::-1], np.zeros((48, 64), np.uint8)])
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("rawvideo", 25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "bgra"
        for index in range(3):
            frame = av.VideoFrame.from_ndarray(bgra, "bgra")
            frame.pts = index
            container.mux(stream.encode(frame))
    assert middle(first(tmp_path / "a.avi")).tolist() == list(RED)
    Image.fromarray(bgra[..., [2, 1, 0, 3]], "RGBA").save(tmp_path / "a.tga")
    assert middle(first(tmp_path / "a.tga")).tolist() == list(RED)


@pytest.mark.parametrize(("encoder", "kind"), [("libx264", "h264"), ("libx265", "hevc")])
def test_what_is_cut_off_at_the_left_is_cut_off(tmp_path, encoder, kind):
    options = {"x265-params": "log-level=none:pools=1"} if kind == "hevc" else {}
    path = film(tmp_path / "a.mp4", (RED, (322, 182)), codec=encoder, options=options)
    how = f"{kind}_metadata=crop_left=16:crop_top=8"
    copied = [ffmpeg(), "-v", "error", "-nostdin", "-i", path, "-c", "copy", "-bsf:v", how]
    subprocess.run([*copied, str(tmp_path / "b.mp4")], check=True, timeout=60)
    facts = probe(str(tmp_path / "b.mp4"))
    assert facts.geometry.display_size_px == (306, 174)
    assert first(facts.path).shape == first(facts.path, "pyav").shape == (174, 306, 3)


def test_pixels_that_cannot_be_so_wide_are_taken_for_square_ones(tmp_path):
    path = tmp_path / "a.mp4"
    film(path, (RED, (64, 48)), sample_aspect_ratio=Fraction(4, 3))
    assert probe(str(path)).geometry.display_size_px == (85, 48)
    data = bytearray(path.read_bytes())
    place = data.find(b"pasp")
    assert place > 0
    data[place + 4 : place + 12] = struct.pack(">II", 1, 65000)
    path.write_bytes(data)
    facts = probe(str(path))
    assert facts.geometry.display_size_px == (64, 48) and "taken for square ones" in facts.detail


def test_dolby_vision_in_colours_of_its_own_is_refused_by_name(tmp_path):
    path = tmp_path / "a.mp4"
    film(path, (RED, (64, 48)), codec="libx265", options={"x265-params": "log-level=none"}, tag="hvc1")
    assert middle(first(path))[0] > 150
    path.write_bytes(path.read_bytes().replace(b"hvc1", b"dvh1"))
    assert refused(path) == "dolby_vision"


def test_a_matrix_that_nothing_converts_is_named(tmp_path):
    film(tmp_path / "a.mp4", (RED, (64, 48)), pixels="yuv444p", colorspace=8)
    with pytest.raises(MediaError, match="matrix 8"):
        first(tmp_path / "a.mp4")


def test_a_png_may_say_that_it_is_hdr(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(flat((128, 128, 128))).save(path)
    data, code = path.read_bytes(), b"cICP\x09\x10\x00\x01"
    chunk = b"\0\0\0\4" + code + struct.pack(">I", zlib.crc32(code))
    path.write_bytes(data[:33] + chunk + data[33:])
    assert probe(str(path)).transfer == "pq"
    assert abs(int(middle(first(path))[0]) - 128) > 10


def test_light_of_an_exr_gets_the_curve_of_srgb(tmp_path):
    planes = np.full((3, 48, 64), 0.5, np.float32)
    context = av.CodecContext.create("exr", "w")
    context.width, context.height, context.pix_fmt, context.time_base = 64, 48, "gbrpf32le", Fraction(1, 25)
    frame = av.VideoFrame(64, 48, "gbrpf32le")
    for plane, values in zip(frame.planes, planes, strict=True):
        plane.update(values.tobytes())
    frame.pts = 0
    [packet] = [*context.encode(frame), *context.encode(None)]
    (tmp_path / "a.exr").write_bytes(bytes(packet))
    assert np.abs(middle(first(tmp_path / "a.exr")) - 188).max() <= 2


def test_samples_of_more_than_eight_bits(tmp_path):
    deep = np.full((48, 64, 3), 65535, np.uint16)
    deep[:, :32] = 40000
    cv2.imwrite(str(tmp_path / "a.jp2"), deep)
    rgb = first(tmp_path / "a.jp2")
    assert abs(int(rgb[20, 10, 0]) - 156) <= 1 and rgb[20, 50].tolist() == [255] * 3
    (tmp_path / "a.pfm").write_bytes(b"Pf\n4 2\n-1.0\n" + np.linspace(0, 1, 8, dtype="<f4").tobytes())
    assert first(tmp_path / "a.pfm").max() == 255
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for number, value in ((339, 3), (258, 16), (277, 1), (256, 4), (257, 2), (262, 1)):
        tags[number] = value
    (tmp_path / "half.tif").write_bytes(b"II*\0" + struct.pack("<I", 8) + tags.tobytes(8))
    assert refused(tmp_path / "half.tif") == "image_decode"
    with pytest.raises(MediaError, match="in planes"):
        planar = {**dict.fromkeys((258,), (16, 16, 16)), 277: 3, 284: 2, 262: 2, 256: 4, 257: 2}
        tags = TiffImagePlugin.ImageFileDirectory_v2()
        for number, value in planar.items():
            tags[number] = value
        (tmp_path / "planar.tif").write_bytes(b"II*\0" + struct.pack("<I", 8) + tags.tobytes(8))
        probe(str(tmp_path / "planar.tif"))


@pytest.mark.parametrize(
    "tag", [{50706: b"\1\4\0\0"}, {254: 1}, {262: 32803}], ids=["dng", "small", "sensor"]
)
def test_a_raw_photograph_is_no_picture(tmp_path, tag):
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    for number, value in tag.items():
        tags[number] = value
    more = {"save_all": True, "append_images": [Image.fromarray(flat(BLUE))]} if 254 in tag else {}
    Image.fromarray(flat(RED)).save(tmp_path / "a.tif", tiffinfo=tags, **more)
    assert refused(tmp_path / "a.tif") == "raw_photograph"


def test_a_transport_streams_clock_may_fall_by_minutes(tmp_path):
    parts = []
    for number, offset in enumerate((200, 90)):
        film(tmp_path / "a.mp4", (RED, (64, 48)))
        made = [ffmpeg(), "-v", "error", "-nostdin", "-i", str(tmp_path / "a.mp4"), "-c", "copy"]
        target = tmp_path / f"{number}.ts"
        subprocess.run([*made, "-output_ts_offset", str(offset), str(target)], check=True, timeout=60)
        parts.append(target.read_bytes())
    (tmp_path / "b.ts").write_bytes(b"".join(parts))
    facts = probe(str(tmp_path / "b.ts"))
    times = [frame.time_s for frame in VideoReader(facts).frames()]
    assert np.allclose(times, np.arange(20) / 25, atol=2e-3)


@pytest.mark.parametrize("kind", ["avi", "mkv", "mpg"])
def test_an_archive_of_films_is_no_film(tmp_path, kind):
    """FFmpeg finds raw MPEG-4 and MP3 in what is stored in them as it is."""
    name = film(tmp_path / f"a.{kind}", (RED, (64, 48)), codec="mpeg2video" if kind == "mpg" else "mpeg4")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.write(name, "a")
    for target in ("inner", "outer"):
        with tarfile.open(tmp_path / f"{target}.tar", "w") as tar:
            tar.add(name if target == "inner" else tmp_path / "inner.tar", target)
    for path in ("a.zip", "inner.tar", "outer.tar"):
        assert refused(tmp_path / path) == "archive"
