"""Stills have the colours that they were made in, animations their layers; damaged ones are no pictures."""

from __future__ import annotations

import io
import struct
import zlib

import av
import numpy as np
import pytest
from PIL import Image, ImageCms

from media.decode.probe import probe
from media.decode.reader import VideoReader
from media.errors import MediaError
from media.threads import ordinary_threads

PATCHES = ((200, 40, 40), (40, 200, 40), (40, 40, 200), (128, 128, 128))


def patches():
    rgb = np.zeros((48, 64, 3), np.uint8)
    for index, colour in enumerate(PATCHES):
        rgb[:, 16 * index : 16 * index + 16] = colour
    return Image.fromarray(rgb)


def shown(path):
    return [frame.rgb for frame in VideoReader(probe(str(path)), decoder="pyav").frames()]


def xyz(name, values):
    return name, b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(value * 65536) for value in values))


def profile(primaries, gamma, text=b"of a test"):
    """An ICC profile of a display with these primaries (XYZ at D50), as lcms reads them."""
    curve = b"curv\0\0\0\0" + struct.pack(">IH", 1, round(gamma * 256))
    said = b"desc\0\0\0\0" + struct.pack(">I", len(text) + 1) + text + b"\0" + bytes(79)
    tags = [(b"desc", said), xyz(b"wtpt", (0.9642, 1.0, 0.8249))]
    tags += [xyz(name, values) for name, values in zip((b"rXYZ", b"gXYZ", b"bXYZ"), primaries, strict=True)]
    tags += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    place, table, body = 128 + 4 + 12 * len(tags), b"", b""
    for name, value in tags:
        data = value + bytes(-len(value) % 4)
        table += name + struct.pack(">II", place + len(body), len(data))
        body += data
    size = place + len(body)
    head = struct.pack(">I4sI4s4s4s", size, b"lcms", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(24) + struct.pack(">3i", 63190, 65536, 54061)
    return head + bytes(128 - len(head)) + struct.pack(">I", len(tags)) + table + body


P3 = profile(((0.5151, 0.2412, -0.0011), (0.2920, 0.6922, 0.0419), (0.1571, 0.0666, 0.7841)), 2.2)
SRGB = ((0.4361, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7141))
LINEAR = profile(SRGB, 1.0, b"sRGB linear")


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg", "tif"])
@pytest.mark.parametrize("icc", [P3, LINEAR], ids=["p3", "linear"])
def test_a_profile_says_what_colours_mean(tmp_path, suffix, icc):
    srgb = ImageCms.createProfile("sRGB")
    own = ImageCms.ImageCmsProfile(io.BytesIO(icc))
    stored = ImageCms.profileToProfile(patches(), srgb, own, outputMode="RGB")
    how = (
        {"lossless": True}
        if suffix == "webp"
        else {"quality": 98, "subsampling": 0}
        if suffix == "jpg"
        else {}
    )
    stored.save(tmp_path / f"a.{suffix}", icc_profile=icc, **how)
    [rgb] = shown(tmp_path / f"a.{suffix}")
    difference = np.abs(rgb.astype(int) - np.asarray(patches()))[4:-4].reshape(40, 4, 16, 3)[:, :, 4:12]
    assert difference.max() <= 8  # of eight bits the darkest steps of a linear one are coarse
    assert np.abs(np.asarray(stored).astype(int) - np.asarray(patches())).max() > 10


def test_a_damaged_profile_costs_nothing(tmp_path):
    patches().save(tmp_path / "a.png", icc_profile=P3[:200])
    assert (shown(tmp_path / "a.png")[0] == np.asarray(patches())).all()


def test_stills_of_hdr_are_shown_as_films_of_hdr(tmp_path):
    with ordinary_threads(), av.open(str(tmp_path / "pq.avif"), "w", format="avif") as container:
        stream = container.add_stream("libsvtav1", 1, options={"preset": "12", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 256, 192, "yuv420p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace, context.color_range = 16, 9, 9, 1
        frame = av.VideoFrame.from_image(patches().resize((256, 192))).reformat(
            format="yuv420p10le", dst_colorspace=9
        )
        frame.color_trc, frame.color_primaries, frame.colorspace = 16, 9, 9
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    facts = probe(str(tmp_path / "pq.avif"))
    assert (facts.kind, facts.transfer) == ("image", "pq")
    [rgb] = shown(tmp_path / "pq.avif")
    assert rgb[96, 32, 0] > 240 and rgb[96, 32, 1] < 20  # 200 of 255 is 1,700 nits


def test_frames_laid_over_what_was_before_do_not_pile_up(tmp_path):
    frames = [Image.new("RGBA", (100, 80)) for _ in range(5)]
    for index, layer in enumerate(frames):
        layer.paste((200, 40, 40, 255), (10 * index, 10, 10 * index + 20, 30))
    frames[0].save(
        tmp_path / "a.png", save_all=True, append_images=frames[1:], duration=100, disposal=2, blend=1
    )
    assert [int((rgb[..., 1] == 40).sum()) for rgb in shown(tmp_path / "a.png")] == [400] * 5


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def test_one_grey_of_sixteen_bits_may_be_see_through(tmp_path):
    grey = np.repeat(np.arange(0, 65536, 1024, dtype=">u2")[None], 8, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in grey)
    head = struct.pack(">IIBBBBB", grey.shape[1], grey.shape[0], 16, 0, 0, 0, 0)
    parts = [(b"IHDR", head), (b"tRNS", b"\0\0"), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts))
    [rgb] = shown(tmp_path / "a.png")
    expected = (grey[0] >> 8).astype(np.uint8)
    expected[0] = 255
    assert np.abs(rgb[0, :, 0].astype(int) - expected).max() <= 1


def noisy():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((512, 384), Image.Resampling.BICUBIC)


def test_jpegs_that_go_on_over_broken_bits_are_refused(tmp_path):
    noisy().save(tmp_path / "a.jpg", quality=90)
    data, truth = (tmp_path / "a.jpg").read_bytes(), shown(tmp_path / "a.jpg")[0].astype(int)
    num_bad, num_refused = 0, 0
    for seed in range(60):
        rng, hurt = np.random.default_rng(seed), bytearray(data)
        hurt[int(rng.integers(1000, len(data) - 2))] ^= 1 << int(rng.integers(8))
        (tmp_path / "b.jpg").write_bytes(hurt)
        try:
            taken = np.asarray(Image.open(tmp_path / "b.jpg").convert("RGB")).astype(int)
        except OSError:
            continue
        is_bad = 10 * np.log10(255**2 / max(((taken - truth) ** 2).mean(), 1e-9)) < 30
        num_bad += is_bad
        try:
            shown(tmp_path / "b.jpg")
        except MediaError as error:
            num_refused += is_bad
            assert error.reason == "image_decode"
    assert num_bad >= 8 and num_refused >= 0.45 * num_bad


@pytest.mark.parametrize("behind", [b"", b"\0" * 5000, b"\0\0\0\1"], ids=["nothing", "zeros", "a few bytes"])
def test_what_cameras_leave_behind_a_picture_is_no_damage(tmp_path, behind):
    noisy().save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes() + behind)
    assert len(shown(tmp_path / "a.jpg")) == 1


@pytest.mark.parametrize("suffix", ["webp", "avif"])
def test_a_still_that_ends_in_zeros_is_refused(tmp_path, suffix):
    noisy().save(tmp_path / f"a.{suffix}", quality=90)
    data = (tmp_path / f"a.{suffix}").read_bytes()
    half = len(data) // 2
    (tmp_path / f"a.{suffix}").write_bytes(data[:half] + bytes(len(data) - half))
    with pytest.raises(MediaError, match="ends in zeros"):
        shown(tmp_path / f"a.{suffix}")


def test_a_film_behind_a_picture_is_told(tmp_path):
    noisy().save(tmp_path / "a.jpg")
    film = struct.pack(">I", 24) + b"ftypmp42" + bytes(12)
    (tmp_path / "a.jpg").write_bytes((tmp_path / "a.jpg").read_bytes() + film)
    assert "a film behind the picture is left out" in probe(str(tmp_path / "a.jpg")).detail


def test_what_an_animated_webp_does_not_cover_is_seen_through(tmp_path):
    def chunk(name, *parts):
        body = b"".join(parts)
        return name + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)

    def threes(*numbers):
        return b"".join(struct.pack("<I", number)[:3] for number in numbers)

    encoded = io.BytesIO()
    Image.new("RGB", (20, 20), (200, 0, 0)).save(encoded, "WEBP", lossless=True)
    frames = [
        chunk(b"ANMF", threes(left // 2, 2, 19, 19, 100), b"\0", encoded.getvalue()[12:]) for left in (4, 40)
    ]
    head = chunk(b"VP8X", b"\2\0\0\0", threes(63, 63)) + chunk(b"ANIM", b"\xff" * 4, b"\0\0")
    (tmp_path / "a.webp").write_bytes(chunk(b"RIFF", b"WEBP", head, *frames))
    first, second = (frame.rgb for frame in VideoReader(probe(str(tmp_path / "a.webp"))).frames())
    white, red = [255, 255, 255], [200, 0, 0]
    assert [first[place].tolist() for place in ((0, 0), (10, 10), (10, 50))] == [white, red, white]
    assert [second[place].tolist() for place in ((0, 0), (10, 10), (10, 50))] == [white, red, red]


@pytest.mark.parametrize("form", ["webp", "gif", "png"])
@pytest.mark.parametrize(("durations", "is_uneven"), [([100, 200, 50, 400, 100, 100], True), ([100] * 6, 0)])
def test_uneven_times_of_an_animation_are_seen_whoever_reads_it(tmp_path, form, durations, is_uneven):
    path = tmp_path / f"a.{form}"
    first, *others = (patches().rotate(90 * index, expand=False) for index in range(6))
    first.save(path, save_all=True, append_images=others, duration=durations)
    assert probe(str(path)).is_vfr == is_uneven


@pytest.mark.parametrize("delay", [None, 0, 40])
def test_every_frame_of_a_gif_is_read_whether_it_tells_its_delay_or_not(tmp_path, delay):
    """FFmpeg takes frames without a block of their delay for one picture; Pillow writes such by default."""
    frames = [Image.new("RGB", (16, 12), (40 * index, 0, 255 - 40 * index)) for index in range(5)]
    given = {} if delay is None else {"duration": delay}
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], **given)
    facts = probe(str(tmp_path / "a.gif"))
    assert (facts.kind, facts.num_packets) == ("video", 5)
    found = [rgb[5, 5] for rgb in shown(tmp_path / "a.gif")]
    assert np.abs(np.array(found).astype(int) - [[40 * i, 0, 255 - 40 * i] for i in range(5)]).max() < 8


@pytest.mark.parametrize("transfer", [16, 18])
def test_see_through_pixels_of_hdr_are_white(tmp_path, transfer):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        stream = container.add_stream("ffv1", 5)
        stream.width, stream.height, stream.pix_fmt = 32, 32, "yuva444p10le"
        context = stream.codec_context
        context.color_trc, context.color_primaries, context.colorspace = transfer, 9, 9
        rgba = np.full((32, 32, 4), 90, np.uint8)
        rgba[:16, :, 3], rgba[16:, :, 3] = 0, 255
        for _ in range(2):
            frame = av.VideoFrame.from_ndarray(rgba, "rgba").reformat(format="yuva444p10le", dst_colorspace=9)
            frame.color_trc, frame.color_primaries, frame.colorspace = transfer, 9, 9
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    facts = probe(str(tmp_path / "a.mkv"))
    assert facts.transfer in ("pq", "hlg")
    rgb = next(iter(VideoReader(facts, decoder="pyav").frames())).rgb
    assert (rgb[2:14] == 255).all() and (rgb[18:30] < 200).all()


@pytest.mark.parametrize(
    ("primaries", "gamma"), [(SRGB, 1.0), ((SRGB[2], SRGB[1], SRGB[0]), 2.2)], ids=["light", "swapped"]
)
def test_a_profile_that_is_srgb_by_name_alone_counts_for_what_it_says(tmp_path, primaries, gamma):
    own = ImageCms.ImageCmsProfile(io.BytesIO(profile(primaries, gamma, b"sRGB-elle-V2")))
    stored = ImageCms.profileToProfile(patches(), ImageCms.createProfile("sRGB"), own, outputMode="RGB")
    stored.save(tmp_path / "a.png", icc_profile=own.tobytes())
    [rgb] = shown(tmp_path / "a.png")
    assert np.abs(rgb.astype(int) - np.asarray(patches())).max() <= 8
    patches().save(tmp_path / "b.png", icc_profile=profile(SRGB, 2.2, b"sRGB built-in"))
    assert (shown(tmp_path / "b.png")[0] == np.asarray(patches())).all()


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.pfm", "gbrpf32le"),
        ("a.pfm", "grayf32le"),
        ("a.pfm", "grayf32be"),
        ("a.phm", "gbrpf32le"),
        ("a.phm", "grayf32le"),
        ("a.exr", "gbrpf32le"),
        ("a.exr", "gbrapf32le"),
        ("a.exr", "grayf32le"),
        ("a.hdr", "gbrpf32le"),
    ],
)
def test_light_of_float_pictures_gets_the_curve_of_srgb(tmp_path, name, kind):
    light = np.full((48, 64), 0.2158605, np.float32)  # shade 128
    light[:, 32:] = 4.0  # brighter than white
    with av.open(str(tmp_path / name), "w", format="image2") as container:
        stream = container.add_stream(name[-3:], width=64, height=48, pix_fmt=kind)
        frame = av.VideoFrame(64, 48, kind)
        for index, plane in enumerate(frame.planes):
            plane.update(
                np.ones_like(light) if index == 3 else light.astype(">f4" if kind.endswith("be") else "<f4")
            )
        container.mux([*stream.encode(frame), *stream.encode()])
    [rgb] = shown(tmp_path / name)
    assert np.abs(rgb[:, :31].astype(int) - 128).max() <= 2
    assert rgb[:, 33:].min() == 255


def test_light_of_what_covers_a_pixel_in_part_is_laid_over_white(tmp_path):
    """OpenEXR keeps light times cover: white that covers half of a pixel is white over white."""
    with av.open(str(tmp_path / "a.exr"), "w", format="image2") as container:
        stream = container.add_stream("exr", width=64, height=48, pix_fmt="gbrapf32le")
        frame = av.VideoFrame(64, 48, "gbrapf32le")
        for index, plane in enumerate(frame.planes):
            half = np.full((48, 64), 0.5, np.float32)
            half[:, 32:] = 0.5 if index == 3 else 0.0  # black behind half a pixel
            plane.update(half)
        container.mux([*stream.encode(frame), *stream.encode()])
    [rgb] = shown(tmp_path / "a.exr")
    assert rgb[:, :31].min() == 255
    assert np.abs(rgb[:, 33:].astype(int) - 188).max() <= 1


@pytest.mark.parametrize(("mantissa", "expected"), [(110, 128), (255, 188), (0, 0)])
def test_light_of_a_radiance_picture_gets_the_curve_of_srgb(tmp_path, mantissa, expected):
    exponent = 127 if mantissa < 255 else 128  # light of .215 and of 1.0 / 2
    pixel = bytes([mantissa] * 3 + [exponent - (mantissa == 255)])
    head = b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 48 +X 64\n"
    (tmp_path / "a.hdr").write_bytes(head + pixel * (48 * 64))
    [rgb] = shown(tmp_path / "a.hdr")
    assert np.abs(rgb.astype(int) - expected).max() <= 1
