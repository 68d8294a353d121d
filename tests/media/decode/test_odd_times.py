"""Files whose packets and names say other things than their pictures: streams of stills, times of decoding,
lost packets, clocks that fall back.
"""

import io
import re
from fractions import Fraction
from types import SimpleNamespace

import av
import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin

from manifests.layout import Dataset
from manifests.tables import scans
from media.apart import pool
from media.apart.reader import probe as probe_apart
from media.decode.container.packets import CLOCK_RESTART, TIMES_OF_DECODING
from media.decode.container.timeline import REPEATED_TIMES
from media.decode.images import encode_jpeg
from media.decode.passing import Clock
from media.decode.probe import probe
from media.decode.reader import VideoReader
from media.errors import MediaError
from media.writer import write_video
from tests.conftest import ingest_here
from tests.media.decode.test_reader import gradient

FPS = 25


def moving(index, width=160, height=96):
    rgb = np.roll(gradient(0, width, height), 3 * index, axis=1)
    rgb[30:60, 2 * index : 2 * index + 30] = 255 - index
    return rgb


def times_of(path):
    return [frame.time_s for frame in VideoReader(probe(str(path)), decoder="pyav").frames()]


@pytest.mark.parametrize("name", ["cam.mjpg", "cam.bin", "cam.jpg"])
def test_a_stream_of_jpegs_is_a_film(tmp_path, name):
    (tmp_path / name).write_bytes(b"".join(encode_jpeg(moving(index)) for index in range(12)))
    facts = probe(str(tmp_path / name))
    assert (facts.kind, facts.num_packets) == ("video", 12)
    assert len(list(VideoReader(facts).frames())) == 12


def test_of_a_photograph_with_another_behind_it_the_first_is_taken_upright(tmp_path):
    sink, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(moving(0)).save(sink, "JPEG", exif=exif)
    (tmp_path / "a.jpg").write_bytes(2 * sink.getvalue())
    facts = probe(str(tmp_path / "a.jpg"))
    assert (facts.kind, facts.geometry.display_size_px) == ("image", (96, 160))


@pytest.mark.parametrize("compression", ["rle", "raw"])
def test_stills_that_ffmpeg_alone_reads_are_stills(tmp_path, compression):
    with av.open(str(tmp_path / "a.sgi"), "w", format="image2", options={"update": "1"}) as made:
        stream = made.add_stream("sgi", rate=1, options={"rle": "1" if compression == "rle" else "0"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "rgb24"
        for packet in stream.encode(av.VideoFrame.from_ndarray(moving(0), "rgb24")):
            made.mux(packet)
    facts = probe(str(tmp_path / "a.sgi"))
    assert (facts.kind, facts.fps, facts.duration_s) == ("image", 0.0, 0.0)
    [frame] = VideoReader(facts).frames()
    assert np.array_equal(frame.rgb, moving(0))


@pytest.mark.parametrize(
    "behind", [encode_jpeg(moving(1, 80, 48)), b"\0" * 64, b"ftypmp42" * 9, b"\xff\xd8\xff no picture", b""]
)
def test_a_still_with_something_behind_it_is_a_still(tmp_path, behind):
    (tmp_path / "a.jpg").write_bytes(encode_jpeg(moving(0)) + behind)
    assert probe(str(tmp_path / "a.jpg")).kind == "image"


@pytest.mark.parametrize("kind", ["ico", "jp2", "pcx", "tga"])
def test_older_kinds_of_stills_are_stills(tmp_path, kind):
    Image.fromarray(moving(0, 64, 48)).save(
        tmp_path / f"a.{kind}", **({"sizes": [(64, 48)]} if kind == "ico" else {})
    )
    facts = probe(str(tmp_path / f"a.{kind}"))
    assert (facts.kind, facts.decoder, facts.geometry.display_size_px) == ("image", "pillow", (64, 48))
    [frame] = VideoReader(facts).frames()
    assert np.abs(frame.rgb.astype(int) - moving(0, 64, 48)).mean() < (12 if kind == "jp2" else 1)


def large_png(path, text_bytes):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    notes = PngImagePlugin.PngInfo()
    notes.add_itxt("settings", "x" * text_bytes, zip=True)
    Image.fromarray(moving(0)).save(path, pnginfo=notes, icc_profile=profile)


def test_stills_with_long_notes_and_profiles_hurt_no_file_after_them(tmp_path):
    """FFmpeg reads what Pillow refuses; side data of such frames may not be looked at (PyAV 18)."""
    write_video(tmp_path / "z.mp4", [moving(index) for index in range(10)], FPS)
    pool._pool.end()
    for number in range(12):
        large_png(tmp_path / f"{number}.png", (2 if number % 2 else 17) << 20)
        facts = probe_apart(str(tmp_path / f"{number}.png"))
        assert (facts.kind, facts.decoder) == ("image", "pillow" if number % 2 else "pyav")
        assert probe_apart(str(tmp_path / "z.mp4")).num_packets == 10
    assert len(pool.pids()) == 1  # of which none died


@pytest.mark.parametrize(
    ("codec", "kind"), [("h264", "mkv"), ("h264", "mp4"), ("hevc", "mp4"), ("mpeg4", "mkv")]
)
def test_pictures_that_are_shown_at_times_of_decoding_come_in_their_order(tmp_path, codec, kind):
    options = {"bf": "3"} if codec != "hevc" else {"x265-params": "bframes=3:log-level=none"}
    source = tmp_path / f"a.{kind}"
    write_video(source, [moving(index) for index in range(50)], FPS, codec, options=options)
    with av.open(str(source)) as there, av.open(str(tmp_path / f"b.{kind}"), "w") as made:
        stream = made.add_stream_from_template(there.streams.video[0])
        packets = [packet for packet in there.demux(video=0) if packet.size]
        for packet, pts in zip(packets, sorted(packet.pts for packet in packets), strict=True):
            packet.pts = packet.dts = pts
            packet.stream = stream
            made.mux(packet)
    facts = probe(str(tmp_path / f"b.{kind}"))
    assert TIMES_OF_DECODING in facts.decoder_reasons
    assert TIMES_OF_DECODING not in probe(str(source)).decoder_reasons
    right = [frame.rgb for frame in VideoReader(probe(str(source)), decoder="pyav").frames()]
    frames = list(VideoReader(facts).frames())
    assert np.abs(np.array([frame.time_s for frame in frames]) - np.arange(50) / FPS).max() < 2e-3
    assert all(np.array_equal(frame.rgb, rgb) for frame, rgb in zip(frames, right, strict=True))
    assert [frame.time_s for frame in VideoReader(facts).frames(0.8, 1.0)] == pytest.approx(
        [0.8, 0.84, 0.88, 0.92, 0.96], abs=2e-3
    )


def test_packets_that_are_lost_leave_their_time_empty_and_the_others_theirs(tmp_path):
    path = tmp_path / "a.avi"
    with av.open(str(path), "w") as made:
        stream = made.add_stream("mjpeg", rate=FPS, options={"qscale": "3"})
        stream.width, stream.height, stream.pix_fmt = 160, 96, "yuvj420p"
        for index in range(50):
            frame = av.VideoFrame.from_ndarray(moving(index), "rgb24").reformat(format="yuvj420p")
            made.mux(stream.encode(frame))
        made.mux(stream.encode(None))
    data = bytearray(path.read_bytes())
    chunks = [found.start() for found in re.finditer(b"00dc", data[: data.rindex(b"idx1")])]
    for number in (9, 10, 11):
        begin = chunks[number] + 8
        size = int.from_bytes(data[begin - 4 : begin], "little")
        data[begin : begin + size] = bytes(size)
    path.write_bytes(data)
    kept = [number for number in range(50) if number not in (8, 9, 10)]  # the first mark is of the header
    assert times_of(path) == pytest.approx(np.array(kept) / FPS)


def test_a_clock_that_falls_back_a_little_goes_on(tmp_path):
    for name, begin_s in (("a", 0.0), ("b", 1.86)):
        times_s = [begin_s + index / FPS for index in range(50)]
        write_video(tmp_path / f"{name}.ts", [moving(index) for index in range(50)], FPS, "mpeg4", times_s)
    both = tmp_path / "both.ts"
    both.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    assert CLOCK_RESTART in probe(str(both)).decoder_reasons
    times = times_of(both)
    assert len(times) == 100 and np.diff(times).min() > 0 and times[-1] == pytest.approx(99 / FPS, abs=0.05)


def test_times_that_fall_back_without_a_new_clock_are_no_new_clock(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", [moving(index) for index in range(10)], FPS, options={"bf": "0"})
    reader = VideoReader(probe(str(tmp_path / "a.mp4")), decoder="pyav")
    order = iter([0, 6, 3, *range(7, 14)])
    monkeypatch.setattr(Clock, "time_s", _of_pts(Clock.time_s, order))
    times = [frame.time_s for frame in reader.frames()]
    assert len(times) == 9 and times == sorted(times) and reader.has_losses, "one came too late, and is lost"


def test_times_that_fall_back_again_and_again_are_wrong(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", [moving(index) for index in range(40)], FPS, options={"bf": "0"})
    reader = VideoReader(probe(str(tmp_path / "a.mp4")), decoder="pyav")
    order = iter([0, 60, *range(1, 39)])
    monkeypatch.setattr(Clock, "time_s", _of_pts(Clock.time_s, order))
    with pytest.raises(MediaError, match="follows one at"):
        list(reader.frames())


def _of_pts(real, order):
    def time_s(self, pts, tick_s, index, previous_s):
        return real(self, round(next(order) / FPS / tick_s), tick_s, index, previous_s)

    return time_s


def test_a_codec_without_a_decoder_is_named(tmp_path):
    (tmp_path / "a.jxl").write_bytes(b"\xff\x0a" + bytes(range(200)) * 40)
    with pytest.raises(MediaError, match=r"cannot decode here: (jpegxl|JPEG XL)") as caught:
        probe(str(tmp_path / "a.jxl"))
    assert caught.value.reason == "no_decoder"


def test_a_still_that_ffmpeg_alone_reads_has_a_latent(tmp_path):
    (tmp_path / "films").mkdir()
    large_png(tmp_path / "films" / "a.png", 17 << 20)
    ingest_here(tmp_path / "films", tmp_path / "ds")
    dataset = Dataset(str(tmp_path / "ds"))
    assert scans.table(dataset, "sources")["decoder"].to_pylist() == ["pyav"]
    assert scans.table(dataset, "failures").num_rows == 0
    assert scans.table(dataset, "latents").num_rows == scans.table(dataset, "clips").num_rows == 1


def test_pixels_that_become_wider_midway_are_shown_so(tmp_path):
    """Two streams end to end, as of a broadcast: the second with pixels of 4:3."""
    parts = []
    for number, aspect in enumerate((Fraction(1), Fraction(4, 3))):
        path = tmp_path / f"{number}.ts"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("libx264", 24, options={"bf": "0"})
            (stream.width, stream.height), stream.pix_fmt = (96, 64), "yuv420p"
            stream.codec_context.sample_aspect_ratio = aspect
            for index in range(36):
                frame = av.VideoFrame.from_ndarray(np.full((64, 96, 3), index, np.uint8), "rgb24")
                frame.pts, frame.time_base = index + 36 * number, Fraction(1, 24)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        parts.append(path.read_bytes())
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    facts = probe(str(tmp_path / "both.ts"))
    sizes = [picture.geometry.display_size_px for picture in VideoReader(facts, decoder="pyav").pictures()]
    assert sizes == [(96, 64)] * 36 + [(128, 64)] * 36


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ([0, 40, 80, 80, 160, 200], [0, 40, 80, 120, 160, 200]),
        ([0, 0, 80, 80, 160, 160], [0, 40, 80, 120, 160, 200]),
        ([0, 40, 80, 80, 80, 80], [0, 40, 80, 120, 160, 200]),
        ([0, 0, 0, 0, 0, 0], [0, 40, 80, 120, 160, 200]),
    ],
)
def test_frames_that_say_the_same_time_are_shown_one_by_one(tmp_path, said, shown):
    write_video(tmp_path / "even.mkv", [moving(index) for index in range(6)], FPS, "mpeg4")
    path = str(tmp_path / "a.mkv")
    with av.open(str(tmp_path / "even.mkv")) as even, av.open(path, "w") as container:
        stream = container.add_stream_from_template(even.streams.video[0])
        for packet, time_ms in zip((own for own in even.demux(video=0) if own.size), said, strict=True):
            packet.stream, packet.time_base = stream, Fraction(1, 1000)
            packet.pts = packet.dts = time_ms
            packet.duration = 40
            container.mux(packet)
    facts = probe(path)
    assert (REPEATED_TIMES in facts.decoder_reasons, facts.num_packets) == (True, 6)
    frames = list(VideoReader(facts).frames())
    assert [frame.time_s for frame in frames] == pytest.approx([time / 1000 for time in shown], abs=1e-3)
    for index, frame in enumerate(frames):
        assert np.abs(frame.rgb.astype(int) - moving(index)).mean() < 12
    late = [frame.time_s for frame in VideoReader(facts).frames(0.1)]
    assert late == [frame.time_s for frame in frames if frame.time_s >= 0.1]


def test_times_that_several_packets_say_do_not_look_like_a_clock_that_falls():
    said = [0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 1.2, 1.4]
    spread = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4])
    facts = SimpleNamespace(fps=5.0, start_s=0.0, container="mpegts", decoder_reasons=(CLOCK_RESTART,))
    clock, before, found = Clock(facts, spread_s=spread), -1.0, []
    for number, time_s in enumerate(said):
        before = clock.time_s(round(time_s * 1000), 1e-3, number, before)
        found.append(before)
    assert found == pytest.approx(spread.tolist())


@pytest.mark.parametrize("name", ["am_sample.mkv", "am_sample.flv"])
def test_durations_of_a_tick_are_not_believed(real_videos, name):
    """Packets lie a thirtieth apart, and each says that it lasts a millisecond."""
    facts = probe(str(real_videos / name))
    assert (round(facts.fps, 3), round(facts.duration_s, 3), facts.num_packets) == (30.0, 1.0, 30)
