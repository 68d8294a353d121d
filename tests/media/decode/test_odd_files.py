"""Files that are read as what they are: photographs of phones, pictures turned or mirrored by any means,
streams that become others midway."""

from __future__ import annotations

import contextlib
import io
import struct
import subprocess

import av
import numpy as np
import pytest
from PIL import Image

from media.damage.nal import units
from media.decode.color import has_alpha
from media.decode.container.timeline import HOLES
from media.decode.probe import probe
from media.decode.reader import VideoReader
from media.errors import MediaError
from media.writer import write_video
from tests.ffmpeg import ffmpeg
from tests.media.decode.heic import write_grid


def picture(index, width=96, height=64):
    """Another colour in each quarter, and a bar that moves."""
    found = np.zeros((height, width, 3), np.uint8)
    found[: height // 2, : width // 2], found[: height // 2, width // 2 :] = (220, 40, 40), (40, 220, 40)
    found[height // 2 :, : width // 2], found[height // 2 :, width // 2 :] = (40, 40, 220), (220, 220, 40)
    found[:, 4 * index % width : 4 * index % width + 6] = 255
    return found


def shown_through(path, matrix):
    """The MP4 file with another matrix of display, as phones write it."""
    data, one = path.read_bytes(), 1 << 16
    at = data.index(b"tkhd") + 44
    assert struct.unpack(">i", data[at : at + 4]) == (one,)
    a, b, c, d = (one * part for part in matrix)
    path.write_bytes(data[:at] + struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30) + data[at + 36 :])
    return path


@pytest.mark.parametrize(
    ("matrix", "upright"),
    [
        ((1, 0, 0, 1), lambda rgb: rgb),
        ((-1, 0, 0, 1), lambda rgb: rgb[:, ::-1]),
        ((1, 0, 0, -1), lambda rgb: rgb[::-1]),
        ((-1, 0, 0, -1), lambda rgb: rgb[::-1, ::-1]),
        ((0, 1, -1, 0), lambda rgb: np.rot90(rgb, -1)),
        ((0, -1, 1, 0), np.rot90),
        ((0, 1, 1, 0), lambda rgb: rgb.transpose(1, 0, 2)),
    ],
)
def test_every_decoder_turns_and_mirrors(tmp_path, matrix, upright):
    write_video(tmp_path / "a.mp4", [picture(i) for i in range(12)], 12.0)
    facts = probe(str(shown_through(tmp_path / "a.mp4", matrix)))
    truth = upright(picture(0)).astype(int)
    for decoder in (None, "decord", "pyav"):
        first = next(VideoReader(facts, decoder=decoder).frames()).rgb
        assert first.shape == truth.shape
        assert np.abs(first - truth).mean() < 12, decoder


@pytest.mark.parametrize("turns", [0, 1, 3])
def test_a_photograph_in_tiles_is_one_upright_picture(tmp_path, turns):
    truth = picture(3, 180, 120)
    facts = probe(str(write_grid(tmp_path / "a.heic", truth, 64, turns)))
    assert (facts.kind, facts.num_packets, facts.codec) == ("image", 1, "heif")
    [frame] = VideoReader(facts).frames()
    upright = np.rot90(truth, turns)
    assert facts.geometry.display_size_px == (upright.shape[1], upright.shape[0])
    assert frame.rgb.shape == upright.shape
    assert np.abs(frame.rgb.astype(int) - upright).mean() < 8


def test_a_picture_for_older_programs_is_no_frame_of_an_animation(tmp_path):
    frames = [Image.fromarray(picture(index)) for index in range(5)]
    shown, path = Image.new("RGB", frames[0].size, "white"), tmp_path / "a.png"
    shown.save(path, save_all=True, append_images=frames, duration=100, default_image=True)
    facts = probe(str(path))
    assert (facts.kind, facts.num_packets, facts.duration_s) == ("video", 5, pytest.approx(0.5))
    read = [frame.rgb for frame in VideoReader(facts).frames()]
    assert len(read) == 5
    assert all(np.array_equal(own, np.asarray(true)) for own, true in zip(read, frames, strict=True))


@pytest.mark.parametrize("name", sorted(av.video.format.names))
def test_what_can_be_seen_through_is_known_by_its_parts(name):
    try:
        frame = av.VideoFrame(16, 16, name)
    except (ValueError, av.FFmpegError):
        pytest.skip("no format of frames in memory")
    is_so = name == "pal8" or name.startswith(("yuva", "ya8", "ya16", "yaf", "gbrap", "ayuv", "vuya", "uyva"))
    is_so |= any(part in name for part in ("rgba", "bgra", "argb", "abgr"))
    assert has_alpha(frame) == is_so


def stream_of(frames, pid):
    """A transport stream with its video at a place of its own."""
    sink = io.BytesIO()
    with av.open(sink, "w", format="mpegts", container_options={"mpegts_start_pid": str(pid)}) as container:
        stream = container.add_stream("libx264", 25, options={"bf": "0", "g": "25"})
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        container.mux(stream.encode(None))
    return sink.getvalue()


def test_a_transport_stream_goes_on_where_its_video_moves(tmp_path):
    path = tmp_path / "a.ts"
    halves = [[picture(i + 50 * half) for i in range(50)] for half in (0, 1)]
    path.write_bytes(stream_of(halves[0], 256) + stream_of(halves[1], 768))
    facts = probe(str(path))
    assert facts.num_packets == 100
    assert len(list(VideoReader(facts, decoder="pyav").frames())) >= 97


def test_further_video_streams_are_told(tmp_path):
    write_video(tmp_path / "a.mp4", [picture(i) for i in range(12)], 12.0)
    with av.open(str(tmp_path / "a.mp4")) as source, av.open(str(tmp_path / "b.mkv"), "w") as container:
        stream = source.streams.video[0]
        outs = [container.add_stream_from_template(stream) for _ in range(2)]
        for packet in source.demux(stream):
            for out in outs if packet.size else ():
                packet.stream = out
                container.mux(packet)
    assert "1 further video stream" in probe(str(tmp_path / "b.mkv")).detail
    assert probe(str(tmp_path / "a.mp4")).detail == ""


def test_a_film_that_becomes_interlaced_midway_is_not_combed(tmp_path):
    """Its black lead is not interlaced: the filter begins with the first frame that is."""

    def fields(index):
        found = np.full((64, 96, 3), 30, np.uint8)
        found[0::2, 10 + 8 * index : 26 + 8 * index] = 220
        found[1::2, 14 + 8 * index : 30 + 8 * index] = 220
        return found

    parts = []
    for flags, shown in (
        ("", [np.full((64, 96, 3), 90, np.uint8)] * 8),
        ("+ildct+ilme", map(fields, range(8))),
    ):
        sink = io.BytesIO()
        with av.open(sink, "w", format="mpegts") as container:
            options = {"qscale": "2", "bf": "0"} | ({"flags": flags} if flags else {})
            stream = container.add_stream("mpeg2video", 25, options=options)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            for rgb in shown:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(rgb, "rgb24")))
            container.mux(stream.encode(None))
        parts.append(sink.getvalue())
    (tmp_path / "a.ts").write_bytes(b"".join(parts))
    facts = probe(str(tmp_path / "a.ts"))
    assert not facts.is_interlaced
    frames = list(VideoReader(facts, decoder="pyav").frames())
    assert len(frames) == 16
    combed = [
        np.abs(np.diff(rgb[16:48, :, 0].astype(int), axis=0)).mean() for rgb in (fields(4), frames[12].rgb)
    ]
    assert combed[1] < 0.5 * combed[0]


def test_empty_units_without_end_are_not_all_kept():
    assert len(list(units(bytes(1 << 20)))) <= 4096
    assert len(list(units(b"\0\0\1" * 100_000))) <= 4096


def test_a_lost_piece_between_keyframes_is_known(tmp_path):
    """Each keyframe begins its numbers anew, so that none is missing."""
    write_video(
        tmp_path / "a.mp4",
        [picture(i) for i in range(100)],
        25.0,
        options={"g": "25", "x264-params": "keyint=25:min-keyint=25:scenecut=0:bframes=0"},
    )
    with av.open(str(tmp_path / "a.mp4")) as source, av.open(str(tmp_path / "b.mp4"), "w") as container:
        out = container.add_stream_from_template(source.streams.video[0])
        for place, packet in enumerate(source.demux(video=0)):
            if packet.size and not 25 <= place < 50:
                packet.stream = out
                container.mux(packet)
    facts = probe(str(tmp_path / "b.mp4"))
    assert HOLES in facts.decoder_reasons
    pictures = list(VideoReader(facts, decoder="pyav").pictures())
    assert [own.time_s for own in pictures if own.signs.is_after_loss] == [2.0]
    assert not any(own.signs.is_damaged for own in pictures)


def film(path, codec, frames, rate=25, pixel_format="yuv420p", options=None, **kwargs):
    with av.open(str(path), "w", **kwargs) as container:
        stream = container.add_stream(codec, rate, options=options or {})
        stream.width, stream.height, stream.pix_fmt = 96, 64, pixel_format
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(picture(index), "rgb24").reformat(format=pixel_format)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["to 4:2:2", "to 4:2:0"])
def test_an_interlaced_film_may_change_its_pixels_format(tmp_path, order):
    options = {"flags": "+ilme+ildct", "x264-params": "tff=1:interlaced=1", "bf": "0"}
    parts = [
        film(tmp_path / f"{name}.ts", "libx264", 40, pixel_format=name, options=options).read_bytes()
        for name in ("yuv420p", "yuv422p10le")
    ]
    (tmp_path / "a.ts").write_bytes(parts[order[0]] + parts[order[1]])
    facts = probe(str(tmp_path / "a.ts"))
    assert facts.is_interlaced
    frames = [frame.rgb.astype(int) for frame in VideoReader(facts, decoder="pyav").frames()]
    assert len(frames) == 80
    assert all(
        np.abs(np.median(rgb[4:28, 52:92], (0, 1)) - (40, 220, 40)).max() < 12 for rgb in frames[50:70]
    )


@pytest.mark.parametrize("codec", ["libvpx", "libvpx-vp9"])
def test_alpha_beside_a_film_is_laid_over_white(tmp_path, codec):
    options = {"auto-alt-ref": "0"}
    with av.open(str(tmp_path / "a.webm"), "w") as container:
        stream = container.add_stream(codec, 25, options=options)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuva420p"
        for index in range(6):
            rgba = np.dstack([picture(index), np.zeros((64, 96), np.uint8)])
            rgba[:, :48, 3] = 255
            container.mux(stream.encode(av.VideoFrame.from_ndarray(rgba, "rgba").reformat(format="yuva420p")))
        container.mux(stream.encode(None))
    facts = probe(str(tmp_path / "a.webm"))
    assert "alpha" in facts.decoder_reasons
    for frame in VideoReader(facts).frames():
        assert (frame.rgb[:, 60:] > 250).all() and frame.rgb[:, 30:40].min() < 60


def test_frames_lost_in_an_avi_leave_their_time_empty(tmp_path):
    path = film(tmp_path / "a.avi", "mjpeg", 100, pixel_format="yuvj420p")
    data = bytearray(path.read_bytes())
    at = [place for place in range(len(data)) if data[place : place + 4] == b"00dc"][40]
    data[at + 8 : at + 8 + 4000] = bytes(4000)
    data[at : at + 4000] = bytes(4000)
    path.write_bytes(data)
    times = np.array([frame.time_s for frame in VideoReader(probe(str(path)), decoder="pyav").frames()])
    numbers = np.rint(times * 25).astype(int)
    assert len(numbers) < 100 and numbers[-1] == 99
    assert sorted(np.diff(numbers))[:-1] == [1] * (len(numbers) - 2)


@pytest.mark.parametrize(
    "data", [b"#EXTM3U\nhttp://127.0.0.1/a.ts\n", b"ffconcat version 1.0\nfile /etc/passwd\n"]
)
def test_a_playlist_is_one_whatever_its_name(tmp_path, data):
    (tmp_path / "a.mp4").write_bytes(data)
    with pytest.raises(MediaError) as told:
        probe(str(tmp_path / "a.mp4"))
    assert told.value.reason == "playlist"


def test_a_film_that_ends_before_its_index_is_cut(tmp_path):
    made = film(tmp_path / "a.mp4", "libx264", 20).read_bytes()
    (tmp_path / "b.mp4").write_bytes(made[:1500])
    with pytest.raises(MediaError) as told:
        probe(str(tmp_path / "b.mp4"))
    assert told.value.reason == "cut"


def test_a_cut_animation_gives_what_came(tmp_path):
    frames = [Image.fromarray(picture(index)) for index in range(8)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=50)
    data = (tmp_path / "a.gif").read_bytes()
    (tmp_path / "b.gif").write_bytes(data[: len(data) // 2])
    facts = probe(str(tmp_path / "b.gif"))
    given = 0
    with contextlib.suppress(MediaError):
        for _ in VideoReader(facts, decoder="pyav").frames():
            given += 1
    assert given >= 2


def test_pictures_of_one_field_each_are_refused_by_name(tmp_path):
    options = {"x265-params": "interlace=tff:log-level=none"}
    film(tmp_path / "a.mp4", "libx265", 20, rate=50, options=options)
    with pytest.raises(MediaError) as told:
        probe(str(tmp_path / "a.mp4"))
    assert told.value.reason == "lone_fields"


def test_an_encrypted_film_is_refused_by_its_name(tmp_path):
    """Its pictures decode to noise; nothing but the packets says so."""
    film(tmp_path / "a.mp4", "libx264", 20)
    locked = ["-encryption_scheme", "cenc-aes-ctr", "-encryption_key", "7" * 32, "-encryption_kid", "a" * 32]
    command = [ffmpeg(), "-v", "error", "-i", tmp_path / "a.mp4", "-c", "copy", *locked, tmp_path / "b.mp4"]
    subprocess.run(command, check=True)
    with pytest.raises(MediaError) as caught:
        probe(str(tmp_path / "b.mp4"))
    assert caught.value.reason == "encrypted"


def test_pictures_that_an_index_names_and_that_are_gone_are_told(tmp_path):
    film(tmp_path / "a.mp4", "libx264", 100, container_options={"movflags": "faststart"})
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(data[: len(data) * 2 // 3])
    assert "the index names pictures that are not in it" in probe(str(tmp_path / "b.mp4")).detail
    assert not probe(str(tmp_path / "a.mp4")).detail
