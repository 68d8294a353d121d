"""References that H.264 lacks are told by its numbers; frames that were never taken are no loss."""

from __future__ import annotations

import contextlib
import os
from fractions import Fraction
from pathlib import Path

import av
import pytest

from media.damage.frame_numbers import FrameNumbers
from media.damage.nal import Bits, units
from media.decode.container.opening import open_container
from media.decode.container.packets import LOST_FRAMES, scan_packets, video_stream
from media.decode.probe import probe
from media.decode.reader import VideoReader
from media.errors import MediaError
from tests.pipeline.curate.damage import FPS, sound
from world.render import render_frame
from world.scene import sample_shot

REAL = Path(os.environ.get("RUSHES_REAL_VIDEOS", "../shared/videos"))


def film(path, ticks, options=None, rate=30, codec="libx264"):
    """A film with a frame at each of these ticks, as of a camera that skips some."""
    shot = sample_shot(3, 16 / 9, ticks[-1] / rate + 1)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate, options={"g": "60", "bf": "2"} | (options or {}))
        (stream.width, stream.height), stream.pix_fmt = (192, 108), "yuv420p"
        stream.codec_context.time_base = Fraction(1, rate)
        for tick in ticks:
            frame = av.VideoFrame.from_ndarray(render_frame(shot, tick / rate, 192, 108), "rgb24")
            frame.pts, frame.time_base = tick, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def without(path, lost):
    """A copy that lacks some packets."""
    target = path.with_name(f"lacks-{'-'.join(map(str, lost))}{path.suffix}")
    with av.open(str(path)) as source, av.open(str(target), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for place, packet in enumerate(item for item in source.demux(video=0) if item.size):
            if place not in lost:
                packet.stream = stream
                container.mux(packet)
    return target


def told(path):
    with open_container(str(path)) as container:
        return scan_packets(container, video_stream(container, str(path)))


def damaged(path):
    return [picture.signs.is_damaged for picture in VideoReader(probe(str(path)), decoder="pyav").pictures()]


def test_a_keyframe_that_is_lost_with_what_follows_it_is_a_gap(tmp_path):
    """The next picture has the number 1, as where numbers begin anew; others are shown before it."""
    path = without(film(tmp_path / "a.mp4", list(range(180))), (60, 62))
    marks = dict(zip(told(path).times_s.round(4).tolist(), damaged(path), strict=True))
    hurt = [time_s for time_s, is_damaged in marks.items() if is_damaged]
    assert 2.0 <= min(hurt) < 2.2
    assert all(is_damaged for time_s, is_damaged in marks.items() if min(hurt) <= time_s < 119 / 30)
    assert not any(is_damaged for time_s, is_damaged in marks.items() if time_s >= 4.0)


def test_a_lost_keyframe_is_told_also_where_the_numbers_fit_by_chance(tmp_path):
    """They run over to 0 before it, and the next picture has the number 1, in one group of sixteen."""
    for length in range(17, 33):
        whole = film(tmp_path / f"{length}.mp4", list(range(60)), {"g": str(length), "bf": "1"})
        with av.open(str(whole)) as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        place = [at for at, packet in enumerate(packets) if packet.is_keyframe][1]
        path = without(whole, (place,))
        reader = VideoReader(probe(str(path)), decoder="pyav")
        marks = dict[int, bool]()
        with contextlib.suppress(MediaError):  # that so many frames are missing, at the end
            for picture in reader.pictures():
                marks[round(picture.time_s * 30)] = picture.signs.is_damaged
        hurt = [is_damaged for tick, is_damaged in marks.items() if length < tick < 2 * length]
        assert hurt and all(hurt), length


@pytest.mark.parametrize("codec", ["mpeg1video", "mpeg2video"])
def test_numbers_of_mpeg_tell_a_loss_from_a_pause(tmp_path, codec):
    usual = {"g": "12", "bf": "2"}
    ticks = [tick for tick in range(90) if tick not in (31, 32)]
    paused = film(tmp_path / "pause.mkv", ticks, usual, codec=codec)
    assert not any(damaged(paused))
    with av.open(str(film(tmp_path / "a.mkv", list(range(90)), usual, codec=codec))) as container:
        kinds = [packet.size for packet in container.demux(video=0) if packet.size]
    place = max(range(26, 32), key=lambda at: kinds[at])  # a picture that others lean on
    marks = damaged(without(tmp_path / "a.mkv", (place,)))
    assert any(marks) and not any(marks[:24]) and not any(marks[-24:])


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_camera_that_skips_frames_loses_nothing(tmp_path, suffix):
    ticks = [tick for tick in range(240) if tick % 71 and not 100 <= tick < 130]
    path = film(tmp_path / f"phone{suffix}", ticks)
    assert LOST_FRAMES not in told(path).warnings
    assert damaged(path) == [False] * len(ticks)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize("is_even", [True, False])
def test_a_reference_that_is_missing_is_told_whatever_the_rate(tmp_path, suffix, is_even):
    ticks = list(range(120)) if is_even else sorted({round(index**1.2) for index in range(120)})
    path = film(tmp_path / f"film{suffix}", ticks)
    whole = [picture.draft(96) for picture in VideoReader(probe(str(path)), decoder="pyav").pictures()]
    sizes = [packet.size for packet in av.open(str(path)).demux(video=0) if packet.size]
    victim = max(range(8, 40), key=lambda place: sizes[place])  # a reference, in the first second
    hurt = without(path, [victim])
    found = told(hurt)
    assert LOST_FRAMES in found.warnings and found.missing_s
    times = [picture.time_s for picture in VideoReader(probe(str(path)), decoder="pyav").pictures()]
    by_time = dict(zip(times, whole, strict=True))
    wrong = 0
    for picture in VideoReader(probe(str(hurt)), decoder="pyav").pictures():
        true = by_time[min(by_time, key=lambda time_s: abs(time_s - picture.time_s))]
        error = float(((picture.draft(96).astype(float) - true) ** 2).mean())
        wrong += error > 65025 / 1000 and not picture.signs.is_damaged
    assert wrong == 0 and any(damaged(hurt))


def test_a_packet_that_nothing_is_built_on_takes_nothing_along(tmp_path):
    path = film(tmp_path / "film.mp4", list(range(90)), {"b-pyramid": "none"})
    with av.open(str(path)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    kinds = [next(unit[0] for unit in units(bytes(packet)) if unit[0] & 31 in (1, 5)) for packet in packets]
    victim = next(place for place, kind in enumerate(kinds) if place > 10 and not kind >> 5 & 3)
    hurt = without(path, [victim])
    assert LOST_FRAMES not in told(hurt).warnings
    assert damaged(hurt) == [False] * 89


def test_real_files_lack_nothing():
    if not REAL.is_dir():
        pytest.skip("RUSHES_REAL_VIDEOS names no folder")
    av.logging.set_level(av.logging.PANIC)
    rows = [line.split("\t") for line in (REAL / "INDEX.tsv").read_text().splitlines()]
    seen = 0
    for name in [row[0] for row in rows if "h264" in row and "corrupt" not in row[0]]:
        with av.open(str(REAL / name)) as container:
            stream = container.streams.video[0]
            numbers = FrameNumbers(stream.codec_context.extradata)
            packets = [packet for packet in container.demux(stream) if packet.size]
            assert not any(numbers.look(bytes(one), one.is_keyframe).is_gap for one in packets), name
            seen += numbers.is_known
    assert seen > 20


def test_a_length_that_looks_like_a_start_code_is_a_length():
    first, second = b"\x41" + b"a" * 299, b"\x61" + b"b" * 20
    data = len(first).to_bytes(4, "big") + first + len(second).to_bytes(4, "big") + second
    assert data.startswith(b"\0\0\1")
    assert [unit[:1] for unit in units(data)] == [b"\x41", b"\x61"]
    assert [unit[:1] for unit in units(b"\0\0\0\1" + first + b"\0\0\1" + second)] == [b"\x41", b"\x61"]


def test_bits_are_read_from_the_front():
    bits = Bits(bytes([0b10100110, 0b01000000]))
    assert [bits.number(), bits.number(), bits.number(), bits.number()] == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="bits"):
        Bits(b"\0").number()


def test_the_films_of_damage_are_readable(tmp_path):
    path = sound(tmp_path, "h264", 1)
    with av.open(str(path)) as container:
        numbers = FrameNumbers(container.streams.video[0].codec_context.extradata)
        assert not any(
            numbers.look(bytes(one), one.is_keyframe).is_gap for one in container.demux(video=0) if one.size
        )
    assert numbers.is_known and FPS == 24
