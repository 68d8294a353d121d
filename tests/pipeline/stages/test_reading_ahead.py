"""Sources are decoded ahead: the same frames and errors in the same places, bounded, and as many at a time as
the encoder needs.
"""

import threading
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from manifests.tables import scans
from media.decode.reader import Frame
from media.errors import MediaError
from pipeline.stages.encoding import reading_ahead
from pipeline.stages.encoding.reading_ahead import Job, SourcesAhead
from tests.pipeline.stages.test_encode import encode, latents

FRAMES = 12


class FakeRouter:
    """Stands for a `ClipRouter`: the facts are the source's name."""

    made: list[tuple[str, float]]
    at_once: list[int]
    frame_s = 0.0
    side_px = 2
    _open = 0
    _lock = threading.Lock()

    def __init__(self, facts, max_pixels, clips, *, on_gpu=False):
        if facts == "unopened":
            raise MediaError("broken", f"{facts} as told")
        self.facts, self.problem = facts, None

    def frames(self, clip):
        with self._lock:
            FakeRouter._open += 1
            self.at_once.append(FakeRouter._open)
        try:
            for index in range(FRAMES):
                time.sleep(self.frame_s)
                if self.facts == "cut" and clip["number"] == 1 and index == 3:
                    self.problem = MediaError("broken", "cut as told")
                    return
                self.made.append((clip["clip_id"], float(index)))
                yield Frame(rgb=np.zeros((self.side_px, self.side_px, 3), np.uint8), time_s=float(index))
        finally:
            with self._lock:
                FakeRouter._open -= 1


@pytest.fixture
def router(monkeypatch):
    monkeypatch.setattr(FakeRouter, "made", [], raising=False)
    monkeypatch.setattr(FakeRouter, "at_once", [], raising=False)
    monkeypatch.setattr(reading_ahead, "ClipRouter", FakeRouter)
    return FakeRouter


def jobs(*names, clips=3):
    return [
        Job(
            partial(str, name), [{"clip_id": f"{name}-{number}", "number": number} for number in range(clips)]
        )
        for name in names
    ]


def read(ahead, clip, most=1_000_000):
    """Frames of a clip, at most so many, and what was wrong."""
    found = []
    try:
        with ahead.clip(clip) as frames:
            for frame in frames:
                found.append(frame.time_s)
                if len(found) == most:
                    break
    except MediaError as error:
        return found, error.message
    return found, ahead.problem.message if ahead.problem else ""


@pytest.mark.parametrize("width", [1, 3])
def test_frames_and_errors_come_in_their_places(router, monkeypatch, width):
    monkeypatch.setattr(FakeRouter, "frame_s", 0.001)
    asked, whole = jobs("good", "unopened", "cut", "last"), [float(index) for index in range(FRAMES)]
    with SourcesAhead(asked, None, most=width) as ahead:
        ahead.width = width
        found = {clip["clip_id"]: read(ahead, clip) for job in asked for clip in job.clips}
    for clip_id, (times, error) in found.items():
        if clip_id.startswith("unopened"):
            assert (times, error) == ([], "unopened as told")
        elif clip_id == "cut-1":
            assert (times, error) == (whole[:3], "cut as told")
        else:
            assert times == whole
            assert error == ("cut as told" if clip_id == "cut-2" else "")
    assert max(router.at_once) <= width


def test_a_clip_that_is_left_midway_does_not_disturb_the_next(router):
    asked = jobs("one", "two")
    with SourcesAhead(asked, None, most=2) as ahead:
        ahead.width = 2
        for number, clip in enumerate(clip for job in asked for clip in job.clips):
            times, _ = read(ahead, clip, most=1 + number % 3 * 5)
            assert times == [float(index) for index in range(1 + number % 3 * 5)]
    threads = [thread for thread in threading.enumerate() if "_run" in thread.name]
    assert not threads  # all at rest


def test_what_waits_is_bounded_and_is_over_when_left(router, monkeypatch):
    monkeypatch.setattr(FakeRouter, "side_px", 1000)  # 3 MB a frame
    monkeypatch.setattr(reading_ahead, "AHEAD_BYTES", 10_000_000)
    asked = jobs("one", "two", clips=1)
    with SourcesAhead(asked, None, most=1) as ahead, ahead.clip(asked[0].clips[0]) as frames:
        next(frames)
        until_s = time.monotonic() + 30
        while len(router.made) < 3 and time.monotonic() < until_s:
            time.sleep(0.02)
        time.sleep(0.2)
        waited_for = len(router.made)
    assert 3 <= waited_for <= 5
    assert len(router.made) <= waited_for + 1


def test_as_many_sources_are_decoded_at_once_as_the_encoder_waits_for(router, monkeypatch):
    monkeypatch.setattr(reading_ahead, "_LEAST_S", 0.05)
    monkeypatch.setattr(FakeRouter, "frame_s", 0.01)

    def taken(encoding_s):
        asked = jobs(*(f"source{number}" for number in range(12)), clips=1)
        router.at_once.clear()
        begin = time.monotonic()
        with SourcesAhead(asked, None, most=4) as ahead:
            for job in asked:
                with ahead.clip(job.clips[0]) as frames:
                    for _ in frames:
                        time.sleep(encoding_s)
            return time.monotonic() - begin, ahead.width, max(router.at_once)

    alone_s = 12 * FRAMES * 0.01
    fast_s, width, at_once = taken(encoding_s=0.0)
    assert width == 4 >= at_once >= 3
    assert fast_s < 0.9 * alone_s


def test_an_encoder_that_keeps_decoders_waiting_has_one(monkeypatch):
    now_s = 0.0
    monkeypatch.setattr(reading_ahead, "time", SimpleNamespace(monotonic=lambda: now_s))
    clock = reading_ahead._Clock()
    clock.add(5.0)  # while the first decoder starts
    for waited_s, more in ((0.1, 0), (0.5, 1), (0.0, 0)):
        now_s += 2.0
        clock.add(waited_s)
        assert clock.look() == more
    now_s += 0.5
    clock.add(0.5)
    assert clock.look() == 0  # too little to judge by


def test_what_is_not_waited_for_is_read_ahead_no_more(router, monkeypatch):
    now_s, calm = 0.0, reading_ahead.CALM_LOOKS
    monkeypatch.setattr(reading_ahead, "time", SimpleNamespace(monotonic=lambda: now_s))
    asked = jobs("one", clips=5 * calm)
    widths = list[int]()
    with SourcesAhead(asked, None, most=4, width=3) as ahead:
        for number, clip in enumerate(asked[0].clips):
            now_s += 2.0
            ahead._clock.waited_s = (
                1.0 if number == calm // 2 else 0.0
            )  # waited once: then again it is counted
            with ahead.clip(clip) as frames:
                assert len(list(frames)) == FRAMES
            widths.append(ahead.width)
    first = calm // 2
    assert widths[:first] == [3] * first
    assert widths[first : first + calm] == [4] * calm
    assert widths[first + calm :: calm] == [3, 2, 1, 1]  # and never none


def test_after_a_death_nothing_is_begun_that_was_not_asked_for(router):
    asked = jobs("one", "two")
    clips = [clip for job in asked for clip in job.clips]
    with SourcesAhead(asked, None, most=4, is_one_by_one=True) as ahead:
        for number, clip in enumerate(clips):
            with ahead.clip(clip) as frames:
                list(frames)
            time.sleep(0.05)
            assert {clip_id for clip_id, _ in router.made} == {
                clip["clip_id"] for clip in clips[: number + 1]
            }


def test_a_thread_that_cannot_start_is_no_other_clips_fault(router, monkeypatch):
    asked, opened = jobs("one", "two"), SourcesAhead._opened

    def failing(self, place):
        if place == 1 and not router.made:
            raise RuntimeError("can't start new thread")
        return opened(self, place)

    monkeypatch.setattr(SourcesAhead, "_opened", failing)
    with SourcesAhead(asked, None, most=2) as ahead:
        ahead.width = 2
        for clip in (clip for job in asked for clip in job.clips):
            assert read(ahead, clip)[0] == [float(index) for index in range(FRAMES)]
        assert len(ahead._open) <= 1


def test_a_thread_that_ends_before_its_time_is_an_error_and_not_a_wait(router, monkeypatch):
    monkeypatch.setattr(reading_ahead._Source, "_put", lambda *_: 1 / 0)
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    asked = jobs("one")
    with (
        SourcesAhead(asked, None, most=1) as ahead,
        ahead.clip(asked[0].clips[0]) as frames,
        pytest.raises(RuntimeError, match="before its time"),
    ):
        next(frames)


def test_what_was_needed_is_kept_for_the_next_shard(router):
    with SourcesAhead(jobs("one", "two", "three"), None, most=2, width=3) as ahead:
        assert ahead.width == 2


def test_left_for_an_error_nobody_waits_for_what_was_ahead(router, monkeypatch):
    monkeypatch.setattr(FakeRouter, "frame_s", 5.0)
    asked = jobs("one", "two")
    begin = time.monotonic()
    with pytest.raises(OSError, match="full"), SourcesAhead(asked, None, most=2) as ahead:
        ahead._source(0)
        raise OSError("full")
    assert time.monotonic() - begin < 4


def test_latents_are_the_same_however_many_are_decoded_at_once(copy, monkeypatch):
    one = encode(copy, decoders=1)
    alone, rows = latents(copy, one.column), scans.table(copy, "latents", one.column)
    monkeypatch.setattr("pipeline.stages.encode.CODE_VERSION", -1)
    monkeypatch.setattr(reading_ahead, "_LEAST_S", 0.0)
    monkeypatch.setattr(reading_ahead, "MOST_WAITING", -1.0)  # one more at every clip
    four = encode(copy, decoders=4)
    assert four.column != one.column
    many = latents(copy, four.column)
    assert alone.keys() == many.keys()
    for clip_id, tensors in alone.items():
        assert all((tensors[name] == many[clip_id][name]).all() for name in tensors)
    assert rows.equals(scans.table(copy, "latents", four.column))
