"""What writing a video leaves as it was."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest

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
