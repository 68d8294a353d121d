"""What writing a video leaves as it was."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import av
import numpy as np
import pytest

from media.decode.probe import probe
from media.decode.reader import VideoReader
from media.writer import CODECS, write_video

FRAMES = [np.full((64, 96, 3), 20 * number, np.uint8) for number in range(6)]


def policies() -> set[int]:
    return {os.sched_getscheduler(int(thread.name)) for thread in Path("/proc/self/task").iterdir()}


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="Linux alone tells the threads' priorities")
@pytest.mark.parametrize("codec", sorted(CODECS))
def test_no_thread_becomes_a_real_time_one(codec: str) -> None:
    before, meanwhile = policies(), set[int]()

    def frames():
        for frame in FRAMES:
            yield frame
            meanwhile.update(policies())

    assert write_video(io.BytesIO(), frames(), 8.0, codec, container="mkv") == len(FRAMES)
    assert meanwhile <= before == policies()


@pytest.mark.parametrize("width", [16, 33, 40, 45, 48, 49, 58])
def test_narrow_hevc_is_written(width: int) -> None:
    """x265 wrote past its memory where a picture was 33 to 48 pixels wide, and took the process with it.

    In a process of its own: what was written over is found when it is given back, or never.
    """
    work = (
        "import io, numpy as np; from media.writer import write_video; from media.decode.probe import probe\n"
        "rng = np.random.default_rng(0)\n"
        "for turn in range(12):\n"
        f"    frames = [rng.integers(0, 255, (90, {width}, 3), dtype=np.uint8) for _ in range(12 + turn)]\n"
        "    sink = io.BytesIO()\n"
        "    assert write_video(sink, frames, 24.0, 'hevc', container='mkv') == len(frames)\n"
        "    held = [bytes(size) for size in range(1000, 60000, 777)]\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", work], check=False, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, (ended.returncode, ended.stderr)


def test_an_only_frame_of_hevc_has_a_time(tmp_path) -> None:
    """x265 takes its time of decoding from memory that holds anything."""
    for number in range(20):
        noise = np.random.default_rng(number).integers(0, 255, (64, 64, 3), np.uint8)
        write_video(tmp_path / "a.mp4", [noise], 1.0, "hevc")
        with av.open(tmp_path / "a.mp4") as container:
            packets = [packet for packet in container.demux(video=0) if packet.size]
        assert [packet.pts for packet in packets] == [0] == [packet.dts for packet in packets]


@pytest.mark.parametrize(("height", "matrix"), [(720, 1), (540, 2)])
@pytest.mark.parametrize(("codec", "suffix"), [("h264", "mp4"), ("hevc", "mkv"), ("vp9", "webm")])
def test_hd_says_its_matrix_and_colours_come_back(tmp_path, codec, suffix, height, matrix) -> None:
    """Large films are BT.709 and say so; small ones say nothing, and are BT.601, as players take them."""
    colors = [(200, 30, 30), (30, 180, 40), (40, 60, 210)]
    rgb = np.repeat(np.array(colors, np.uint8)[None], height, 0).repeat(height // 2, 1)
    path = tmp_path / f"a.{suffix}"
    write_video(path, [rgb] * 2, 2, codec)
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        assert int(frame.colorspace) == (matrix if height >= 720 else int(frame.colorspace))
        assert height < 720 or int(frame.color_range) == 1
    shown = next(VideoReader(probe(str(path)), decoder="pyav").frames()).rgb
    for place, color in enumerate(colors):
        middle = shown[height // 2, height // 2 * place + height // 4].astype(int)
        assert np.abs(middle - color).max() <= 4, (middle, color)
