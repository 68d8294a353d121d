import io
import json
import struct

import av
import numpy as np
import pytest
from PIL import Image

from media.decode.probe import probe
from media.decode.reader import VideoReader
from media.errors import MediaError
from media.writer import webm_bytes, write_video


def gradient(index, width=48, height=32):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack(
        [(x * 4 + index * 3) % 256, (y * 6) % 256, np.full_like(x, (index * 9) % 256)], -1
    ).astype(np.uint8)


def test_world_films_come_back_with_every_frame_at_its_time(films):
    for path in sorted(films.glob("film-*.json")):
        truth = json.loads(path.read_text())["truth"]
        [media] = [other for other in films.glob(f"{path.stem}.*") if other.suffix != ".json"]
        facts = probe(str(media))
        frames = list(VideoReader(facts).frames())
        assert len(frames) == truth["num_frames"], media
        assert frames[0].rgb.shape[:2] == (truth["height_px"], truth["width_px"])
        expected = np.arange(truth["num_frames"]) / truth["fps"]
        assert np.abs(np.array([frame.time_s for frame in frames]) - expected).max() <= 1e-3


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_the_two_decoders_give_the_same_pixels(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    write_video(path, [gradient(i) for i in range(20)], 10)
    facts = probe(str(path))
    assert facts.decoder == "decord"
    ours, theirs = list(VideoReader(facts, decoder="pyav").frames()), list(VideoReader(facts).frames())
    assert [frame.time_s for frame in ours] == [frame.time_s for frame in theirs]
    assert all(np.array_equal(a.rgb, b.rgb) for a, b in zip(ours, theirs, strict=True))


def test_a_range_gives_the_frames_inside_it_half_open(tmp_path):
    write_video(tmp_path / "a.mp4", [gradient(i) for i in range(30)], 10)
    facts = probe(str(tmp_path / "a.mp4"))
    for decoder in (None, "pyav"):
        times = [frame.time_s for frame in VideoReader(facts, decoder=decoder).frames(0.5, 1.2)]
        assert np.allclose(times, np.arange(5, 12) / 10)


def test_odd_sizes_are_written_and_read_whole(tmp_path):
    for codec, suffix in (("h264", "mp4"), ("vp9", "webm")):
        path = tmp_path / f"odd.{suffix}"
        write_video(path, [gradient(i, 37, 23) for i in range(5)], 5, codec)
        frames = list(VideoReader(probe(str(path))).frames())
        assert {frame.rgb.shape for frame in frames} == {(23, 37, 3)}


def test_variable_rates_keep_their_times(tmp_path):
    times = [0.0, 0.1, 0.5, 0.6, 1.4]
    write_video(tmp_path / "vfr.mkv", [gradient(i) for i in range(5)], 10, "h264", times)
    facts = probe(str(tmp_path / "vfr.mkv"))
    assert facts.is_vfr
    assert np.allclose([frame.time_s for frame in VideoReader(facts).frames()], times, atol=2e-3)


def test_exif_orientation_is_applied(tmp_path):
    image = Image.fromarray(gradient(0))
    exif = image.getexif()
    exif[0x0112] = 6  # turn clockwise to show
    image.save(tmp_path / "a.jpg", exif=exif, quality=100, subsampling=0)
    facts = probe(str(tmp_path / "a.jpg"))
    [frame] = VideoReader(facts).frames()
    assert (facts.kind, frame.rgb.shape) == ("image", (48, 32, 3))
    assert np.abs(frame.rgb.astype(int) - np.rot90(gradient(0), -1)).mean() < 3


def test_animated_webp_has_its_own_times(tmp_path):
    pictures = [Image.fromarray(gradient(i * 20)) for i in range(3)]
    pictures[0].save(
        tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=[100, 300, 50], lossless=True
    )
    facts = probe(str(tmp_path / "a.webp"))
    assert facts.kind == "video"
    assert [frame.time_s for frame in VideoReader(facts).frames()] == pytest.approx([0.0, 0.1, 0.4])


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [("a.mp4", b"", "empty"), ("b.mp4", b"not a video" * 99, "not_media"), (None, b"", "missing")],
)
def test_what_cannot_be_read_says_why_and_names_the_file(tmp_path, name, content, reason):
    path = tmp_path / (name or "nosuch.mp4")
    if name:
        path.write_bytes(content)
    with pytest.raises(MediaError, match=path.name) as caught:
        probe(str(path))
    assert caught.value.reason == reason


def test_streams_joined_end_to_end_go_on_in_time_and_each_keeps_its_size(tmp_path):
    parts = []
    for index, size in enumerate([(48, 32), (32, 48)]):
        write_video(tmp_path / f"{index}.ts", [gradient(i, *size) for i in range(8)], 8, "mpeg4")
        parts.append((tmp_path / f"{index}.ts").read_bytes())
    (tmp_path / "both.ts").write_bytes(b"".join(parts))
    facts = probe(str(tmp_path / "both.ts"))
    assert "clock_restart" in facts.decoder_reasons
    frames = list(VideoReader(facts).frames())
    assert [frame.time_s for frame in frames] == pytest.approx(np.arange(16) / 8)
    assert [frame.rgb.shape for frame in frames] == [(32, 48, 3)] * 8 + [(48, 32, 3)] * 8
    part = list(VideoReader(facts).frames(1.5, 1.8))
    assert [frame.time_s for frame in part] == pytest.approx([1.5, 1.625, 1.75])


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [((-1, 0, 0, 1), "mirror"), ((0, 1, -1, 0), "clockwise"), ((0, 1, 1, 0), "transpose")],
)
def test_the_display_matrix_turns_and_mirrors(tmp_path, matrix, turned):
    path, picture = tmp_path / "a.mp4", gradient(0)
    write_video(path, [picture] * 4, 4, options={"crf": "1"})
    data = bytearray(path.read_bytes())
    at = data.index(struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30), data.index(b"tkhd"))
    a, b, c, d = (value * 65536 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    shown = {
        "mirror": picture[:, ::-1],
        "clockwise": np.rot90(picture, -1),
        "transpose": picture.transpose(1, 0, 2),
    }[turned]
    [frame, *_] = VideoReader(probe(str(path)), decoder="pyav").frames()
    assert frame.rgb.shape == shown.shape
    assert np.abs(frame.rgb.astype(int) - shown).mean() < 4


def test_what_can_be_seen_through_lies_over_white(tmp_path):
    pixels = np.zeros((16, 24, 4), np.uint8)
    pixels[4:12, 6:18] = (255, 0, 0, 255)
    pictures = [Image.fromarray(np.roll(pixels, i, axis=1)) for i in range(3)]
    pictures[0].save(tmp_path / "a.gif", save_all=True, append_images=pictures[1:], duration=100, disposal=2)
    [first, *_] = VideoReader(probe(str(tmp_path / "a.gif"))).frames()
    assert first.rgb[0, 0].tolist() == [255, 255, 255]
    assert first.rgb[8, 12].tolist() == [255, 0, 0]


def test_interlaced_frames_are_woven_into_whole_ones_at_their_own_times(tmp_path):
    """A bar that moves: a woven interlaced frame has it twice, in alternating rows."""

    def field_pair(index):
        picture = np.full((64, 96, 3), 30, np.uint8)
        picture[0::2, 10 + 8 * index : 26 + 8 * index] = 220
        picture[1::2, 14 + 8 * index : 30 + 8 * index] = 220
        return picture

    path = tmp_path / "a.mp4"
    write_video(
        path, [field_pair(i) for i in range(8)], 25, options={"x264-params": "interlaced=1:tff=1", "crf": "4"}
    )
    facts = probe(str(path))
    assert facts.is_interlaced
    frames = list(VideoReader(facts).frames())
    assert [frame.time_s for frame in frames] == pytest.approx(np.arange(8) / 25, abs=1e-6)
    combed = [
        np.abs(np.diff(picture[16:48, :, 0].astype(int), axis=0)).mean()
        for picture in (field_pair(4), frames[4].rgb)
    ]
    assert combed[1] < 0.5 * combed[0]


def test_proxies_are_a_function_of_their_frames_alone_and_keep_times():
    frames, times = [gradient(i) for i in range(6)], [0.0, 0.08, 0.2, 0.24, 0.5, 0.55]
    data = webm_bytes(frames, times)
    assert data == webm_bytes(frames, times)
    with av.open(io.BytesIO(data)) as container:
        assert [frame.time for frame in container.decode(video=0)] == pytest.approx(times, abs=2e-3)


def test_a_raw_stream_has_the_rate_that_it_says_of_itself(tmp_path):
    for count in (1, 16):
        path = tmp_path / f"{count}.h264"
        with av.open(str(path), "w", format="h264") as container:
            stream = container.add_stream("libx264", 8, options={"bf": "0"})
            stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
            for index in range(count):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(gradient(index), "rgb24")))
            container.mux(stream.encode(None))
        facts = probe(str(path))
        assert (facts.fps, facts.duration_s, facts.num_packets) == (8.0, count / 8, count)
        times = [frame.time_s for frame in VideoReader(facts).frames()]
        assert times == [index / 8 for index in range(count)]


def test_the_cover_of_a_song_is_no_footage(tmp_path):
    path, picture = tmp_path / "song.mp3", io.BytesIO()
    Image.fromarray(gradient(0)).save(picture, "JPEG")
    with av.open(str(path), "w") as container:
        sound = container.add_stream("mp3", 44100, layout="mono")
        cover = container.add_stream("mjpeg", 1)
        cover.width, cover.height, cover.pix_fmt = 48, 32, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        packet = av.Packet(picture.getvalue())
        packet.pts = packet.dts = 0
        packet.stream, packet.is_keyframe = cover, True
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1152), np.int16), "s16p", layout="mono")
        frame.sample_rate, frame.pts = 44100, 0
        packets = sound.encode(frame)
        container.start_encoding()
        container.mux(packet)
        container.mux([*packets, *sound.encode(None)])
    with pytest.raises(MediaError, match="only a cover"):
        probe(str(path))


def test_further_pages_of_a_still_are_told(tmp_path):
    pages = [Image.fromarray(gradient(index)) for index in range(3)]
    pages[0].save(tmp_path / "a.tiff", save_all=True, append_images=pages[1:])
    assert probe(str(tmp_path / "a.tiff")).detail == "2 further pages are left out"
    pages[0].save(tmp_path / "b.tiff")
    assert probe(str(tmp_path / "b.tiff")).detail == ""
