"""From the middle of a file come the very frames that come there from its start."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from fractions import Fraction

import av
import numpy as np
import pytest

from media.decode import seeking
from media.decode.probe import probe
from media.decode.reader import VideoReader
from media.decode.seeking import is_seekable
from media.errors import MediaError
from media.threads import ordinary_threads
from pipeline.plan import segments_of
from tests.media.bytes.http_server import Server
from world.render import render_frame
from world.scene import sample_shot

FPS, COUNT, SIZE = 24, 120, (96, 64)
KINDS = {
    "closed groups, MP4": ("libx264", "mp4", {"x264-params": "keyint=12:bframes=3:b-pyramid=normal"}),
    "open groups, MP4": (
        "libx264",
        "mp4",
        {"x264-params": "open-gop=1:keyint=12:bframes=3:b-pyramid=normal"},
    ),
    "open groups, Matroska": ("libx265", "mkv", {"x265-params": "open-gop=1:keyint=12:log-level=none"}),
    "open groups, transport stream": ("libx264", "ts", {"x264-params": "open-gop=1:keyint=12:bframes=3"}),
    "MPEG-2, transport stream": ("mpeg2video", "ts", {"g": "12", "bf": "2"}),
    "MPEG-2, program stream": ("mpeg2video", "mpg", {"g": "12", "bf": "2"}),
    "MPEG-4, Matroska": ("mpeg4", "mkv", {"g": "12", "bf": "2"}),
    "fields": ("mpeg2video", "ts", {"g": "12", "bf": "2", "flags": "+ildct+ilme", "top": "1"}),
    "Flash": ("libx264", "flv", {"g": "12", "bf": "2"}),
    "WMV": ("wmv2", "asf", {"g": "12"}),
    "AV1": ("libsvtav1", "mp4", {"g": "12", "preset": "12"}),
    "ProRes": ("prores_ks", "mov", {}),
}


def made(path, codec, options, pixels="yuv420p"):
    shot, noise = sample_shot(3, SIZE[0] / SIZE[1], COUNT / FPS), np.random.default_rng(3)
    with ordinary_threads(), av.open(str(path), "w") as container:
        stream = container.add_stream(codec, FPS, options=options)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv422p10le" if codec == "prores_ks" else pixels
        for index in range(COUNT):
            rgb = render_frame(shot, index / FPS, *SIZE).astype(int) + noise.integers(
                -9, 10, (*SIZE[::-1], 3)
            )
            frame = av.VideoFrame.from_ndarray(np.clip(rgb, 0, 255).astype(np.uint8), "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return probe(str(path))


def frames(facts, start_s=0.0):
    return [
        (frame.time_s, hashlib.md5(frame.rgb.tobytes()).hexdigest(), frame.is_damaged)
        for frame in VideoReader(facts, decoder="pyav").frames(start_s)
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_frames_from_the_middle_are_those_from_the_start(tmp_path, kind):
    codec, suffix, options = KINDS[kind]
    facts = made(tmp_path / f"a.{suffix}", codec, options)
    assert is_seekable(facts.container, facts.decoder_reasons), facts.decoder_reasons
    whole = frames(facts)
    assert len(whole) == COUNT
    for start_s in np.arange(0.1, facts.duration_s, 0.37):
        assert frames(facts, start_s) == [frame for frame in whole if frame[0] >= start_s - 1e-4], start_s


@pytest.mark.parametrize("suffix", ["ts", "flv", "mp4", "mkv"])
def test_what_the_start_alone_says_of_an_old_encoder_holds_in_the_middle(tmp_path, suffix):
    """FFmpeg reads 4:4:4 of x264 before version 151 in another way; the version is in the first packet."""
    path = tmp_path / f"a.{suffix}"
    made(path, "libx264", {"x264-params": "keyint=24:8x8dct=1"}, "yuv444p")
    data = path.read_bytes()
    new = re.sub(rb"x264 - core 1\d\d", b"x264 - core 148", data)
    assert new != data
    path.write_bytes(new)
    facts = probe(str(path))
    assert "old_444" in facts.decoder_reasons and is_seekable(facts.container, facts.decoder_reasons)
    # a new encoder wrote it, not an old one
    assert all(is_damaged for _, _, is_damaged in frames(facts)[24:])
    for start_s in (1.1, 2.5, 4.2):  # and so it is from the middle, where nothing says what wrote it
        found = frames(facts, start_s)
        assert found and all(is_damaged for _, _, is_damaged in found), start_s
    of_before = dataclasses.replace(facts, decoder="decord", decoder_reasons=())
    assert VideoReader(of_before).decoder == "pyav"


def test_a_file_cut_before_its_first_packet_is_named(tmp_path):
    path = tmp_path / "a.ts"
    facts = made(path, "libx264", {"g": "12"})
    path.write_bytes(path.read_bytes()[: 3 * 188])
    with pytest.raises(MediaError):
        frames(facts, 2.5)


@pytest.mark.parametrize("suffix", ["ts", "flv", "mp4"])
def test_pictures_that_refresh_bit_by_bit_are_read_from_the_start(tmp_path, suffix):
    options = {"x264-params": "intra-refresh=1:keyint=24:bframes=0"}
    facts = made(tmp_path / f"a.{suffix}", "libx264", options)
    assert "recovery_points" in facts.decoder_reasons
    whole = frames(facts)
    assert frames(facts, 3.04) == [frame for frame in whole if frame[0] >= 3.04 - 1e-4]


def test_open_groups_and_codecs_do_not_keep_a_film_in_one_segment(tmp_path):
    for kind in ("open groups, MP4", "open groups, Matroska", "AV1"):
        codec, suffix, options = KINDS[kind]
        facts = made(tmp_path / f"{kind}.{suffix}", codec, options)
        assert facts.decoder_reasons
        row = vars(facts) | {"source_id": "a", "uri": facts.path}
        assert len(segments_of(row, 2.0)) == 3


@pytest.mark.parametrize("reason", ["edit_list", "clock_restart", "no_pts", "first_not_key", "gap"])
def test_files_whose_times_are_in_doubt_are_read_from_their_start(reason):
    assert not is_seekable("mov", [reason]) and not is_seekable("avi", ["container:avi"])


@pytest.mark.parametrize("suffix", ["ts", "asf"])
def test_a_segment_of_a_stream_far_away_reads_its_own_bytes(tmp_path, monkeypatch, suffix):
    monkeypatch.setenv("RUSHES_HTTP_ALLOW_PRIVATE", "127.0.0.1/32")
    monkeypatch.setattr(seeking, "_BACK_S", 1.0)
    noise = np.random.default_rng(0).integers(0, 255, (8, 360, 640, 3), dtype=np.uint8)
    codec = "wmv2" if suffix == "asf" else "mpeg2video"
    with av.open(str(tmp_path / f"a.{suffix}"), "w") as container:
        stream = container.add_stream(codec, FPS, options={"g": "12", "b": "12M"})
        stream.width, stream.height, stream.pix_fmt = 640, 360, "yuv420p"
        for index in range(20 * FPS):
            frame = av.VideoFrame.from_ndarray(noise[index % len(noise)], "rgb24")
            frame.pts, frame.time_base = index, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    size = (tmp_path / f"a.{suffix}").stat().st_size
    assert size > 20 << 20
    near = probe(str(tmp_path / f"a.{suffix}"))
    with Server(tmp_path) as server:
        far = probe(f"{server.url}/ok/a.{suffix}")
        assert is_seekable(far.container, far.decoder_reasons), far.decoder_reasons
        before = len(server.seen)
        found = frames(far, near.duration_s - 1)
        asked = [headers["Range"].removeprefix("bytes=").split("-") for _, headers in server.seen[before:]]
        num_bytes = sum(min(int(last), size - 1) - int(first) + 1 for first, last in asked)
    assert found == frames(near, near.duration_s - 1)
    assert num_bytes < size / 2, (num_bytes, size)


@pytest.mark.parametrize("codec", ["rpza", "qtrle"])
def test_codecs_whose_keyframes_lean_on_what_came_before_are_read_from_the_start(tmp_path, codec):
    """A palette in the first packet alone, or packets that call themselves keys: all white midway."""
    pixels = {"rpza": "rgb555le", "qtrle": "gray"}[codec]
    try:
        facts = made(tmp_path / "a.mov", codec, {}, pixels)
    except (ValueError, av.FFmpegError):
        pytest.skip(f"this FFmpeg writes no {codec}")
    assert not is_seekable(facts.container, facts.decoder_reasons)
    whole = frames(facts)
    assert frames(facts, 1.0) == [frame for frame in whole if frame[0] >= 1.0 - 1e-4] and len(whole) == COUNT
