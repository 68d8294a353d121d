"""Where a clip ends before a hole, and shots that look like damage and are none."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest

from media.damage.healing import broken_from
from media.damage.packet_kinds import is_leaf
from media.writer import write_video
from pipeline.config import CurateConfig, PlanConfig
from pipeline.curate.cutting import Gap, pieces
from pipeline.footage.sources import Found, source_row
from pipeline.plan import segments_of
from tests.media.damage.test_frame_numbers import without
from world.render import render_frame
from world.scene import sample_shot


def scene(seed, count, size=(320, 180)):
    shot = sample_shot(seed, size[0] / size[1], count / 25)
    return [render_frame(shot, index / 25, *size) for index in range(count)]


def cut(path: Path):
    row = source_row(Found(str(path)))
    found = [
        piece
        for segment in segments_of(row, PlanConfig().segment_s)
        for piece in pieces(segment, row, CurateConfig())
    ]
    clips = [piece for piece in found if not isinstance(piece, Gap)]
    gaps = [piece for piece in found if isinstance(piece, Gap)]
    total = sum(len(clip.samples) for clip in clips) + sum(gap.num_frames for gap in gaps)
    assert total == row["num_packets"]
    return clips, gaps


@pytest.mark.parametrize(
    ("codec", "suffix", "options"),
    [
        ("vp9", ".webm", {"g": "50"}),
        ("mpeg4", ".mp4", {"g": "50"}),
        ("hevc", ".mp4", {"x265-params": "log-level=none:pools=none:keyint=50:min-keyint=50:bframes=0"}),
    ],
)
def test_a_clip_ends_at_a_hole_though_a_cut_comes_behind_it(tmp_path, codec, suffix, options):
    path = tmp_path / f"film{suffix}"
    write_video(path, [*scene(1, 50), *scene(2, 50)], 25.0, codec, options=options)
    clips, gaps = cut(without(path, range(35, 50)))
    assert not gaps
    assert [(clip.start_s, round(clip.end_s, 2), len(clip.samples)) for clip in clips] == [
        (0.0, 1.4, 35),
        (2.0, 4.0, 50),
    ]


def test_no_clip_is_longer_than_allowed_where_the_clock_jumps(tmp_path):
    path = tmp_path / "film.mkv"
    times = [index / 25 for index in range(50)] + [1800 + index / 25 for index in range(50)]
    write_video(path, [*scene(1, 50), *scene(2, 50)], 25.0, times_s=times)
    clips, _ = cut(path)
    assert clips
    assert all(clip.end_s - clip.start_s <= CurateConfig().max_clip_s for clip in clips)


@pytest.mark.parametrize("codec", ["h264", "hevc", "vp9", "mpeg4"])
def test_a_cut_away_and_back_is_no_damage(tmp_path, codec):
    """An encoder that has just set a keyframe begins the shot between without one."""
    first, second = scene(1, 90), scene(5, 90)
    shots = [(first if turn % 2 == 0 else second)[15 * turn : 15 * turn + 15] for turn in range(6)]
    params = {
        "h264": {"x264-params": "keyint=250:scenecut=40:rc-lookahead=40", "preset": "medium"},
        "hevc": {"x265-params": "log-level=none:pools=none:keyint=250", "preset": "medium"},
    }
    path = tmp_path / "film.mkv"
    write_video(path, [frame for shot in shots for frame in shot], 25.0, codec, options=params.get(codec))
    clips, gaps = cut(path)
    assert not gaps
    assert sum(len(clip.samples) for clip in clips) == 90


def test_what_changes_as_a_whole_was_cut_and_what_changes_in_part_was_broken():
    rng = np.random.default_rng(0)
    good = cv = rng.integers(0, 256, (32, 32, 3)).astype(np.uint8)
    other = 255 - good
    broken = cv.copy()
    broken[:12] = other[:12]
    assert broken_from([good] * 5 + [broken] * 5, good) == 5
    assert broken_from([good] * 5 + [other] * 5, good) is None


@pytest.mark.parametrize(
    ("codec", "suffix", "options"),
    [
        ("vp9", ".webm", {"g": "24"}),
        ("av1", ".mkv", {"g": "24", "preset": "10"}),
        ("ffv1", ".mkv", {}),
    ],
)
def test_a_pause_is_no_loss(tmp_path, codec, suffix, options):
    """The next keyframe changes nothing that was not changing anyway, or the decoder would have refused.

    Of AV1 the frames after it may lean on one that never came, which costs two.
    """
    path, frames = tmp_path / f"film{suffix}", scene(3, 124)
    times = [index / 25 for index in (*range(57), *range(61, 124))]
    write_video(path, frames[:57] + frames[61:], 25.0, codec, options=options, times_s=times)
    clips, gaps = cut(path)
    most = 2 * (codec == "av1")
    assert sum(gap.num_frames for gap in gaps) <= most
    assert sum(len(clip.samples) for clip in clips) >= 120 - most


def test_damage_of_a_frame_that_no_other_is_built_on_ends_with_it(tmp_path):
    path = tmp_path / "film.mp4"
    write_video(
        path,
        scene(3, 100),
        25.0,
        options={"x264-params": "bframes=2:b-pyramid=none:keyint=50:scenecut=0:b-adapt=0", "crf": "12"},
    )
    target = path.with_name("hurt.mp4")
    with av.open(str(path)) as source, av.open(str(target), "w") as container:
        stream, is_hurt = container.add_stream_from_template(source.streams.video[0]), False
        for place, packet in enumerate(item for item in source.demux(video=0) if item.size):
            data = bytes(packet)
            if place > 60 and not is_hurt and is_leaf(packet, "h264"):
                data, is_hurt = data[:24] + bytes(byte ^ 0x5A for byte in data[24:]), True
            copy = av.Packet(data)
            copy.pts, copy.dts, copy.duration = packet.pts, packet.dts, packet.duration
            copy.time_base, copy.is_keyframe, copy.stream = packet.time_base, packet.is_keyframe, stream
            container.mux(copy)
    assert is_hurt
    _, gaps = cut(target)
    assert [(gap.reason, gap.num_frames) for gap in gaps] == [("damaged_frames", 1)]


@pytest.mark.parametrize(("codec", "suffix"), [("mpeg4", ".ts"), ("vp9", ".mkv")])
def test_a_clock_that_begins_anew_begins_a_clip_whatever_the_pictures(tmp_path, codec, suffix):
    path, both = tmp_path / f"film{suffix}", tmp_path / f"both{suffix}"
    write_video(path, scene(1, 50), 25.0, codec, options={"g": "25"})
    both.write_bytes(path.read_bytes() * 2)
    assert "clock_restart" in source_row(Found(str(both)))["decoder_reasons"]
    clips, gaps = cut(both)
    assert not gaps
    assert [len(clip.samples) for clip in clips] == [50, 50]
    assert clips[1].starts_with == "time_gap"
