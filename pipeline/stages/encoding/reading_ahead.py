"""Sources that are decoded ahead of the encoder, each in a thread of its own with a decoder of its own.

One at first: then decoding and encoding overlap. Where the encoder waits for frames nevertheless, one more
source is opened ahead, and so on: how many are needed depends on the VAE, the device and the codecs, and is
measured rather than told.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from media.decode.probe import Probe
from media.decode.reader import Frame
from media.errors import MediaError
from pipeline.stages.encoding.clip_frames import ClipRouter

AHEAD_BYTES = 48 << 20
"""Decoded frames of one source that wait for the encoder, at most about."""
MOST_AHEAD = 64
MOST_WAITING = 0.1
"""Share of the time that the encoder may wait for frames before another source is decoded ahead."""
_LEAST_S = 1.0
"""So long is looked at before that is judged."""


@dataclass(frozen=True)
class _End:
    """Behind the last frame of a clip: what went wrong in it, and in its source up to there."""

    error: BaseException | None = None
    problem: MediaError | None = None


@dataclass(frozen=True)
class Job:
    """A source, and its clips that are wanted, in order."""

    facts: Probe
    clips: Sequence[dict]


class _Source:
    """The frames of one source's clips, made in a thread."""

    def __init__(self, job: Job, max_pixels: int | None) -> None:
        self._job, self._max_pixels = job, max_pixels
        self._turn = threading.Condition()
        self._waiting, self._waiting_bytes = deque[Frame | _End](), 0
        self._wanted = 0  # number of the clip that is read, those before are done with
        self._is_over = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        router, failed = None, BaseException()
        try:
            router = ClipRouter(self._job.facts, self._max_pixels, list(self._job.clips))
        except BaseException as error:  # noqa: BLE001 - it is raised where the frames are used
            failed = error
        for number, clip in enumerate(self._job.clips):
            try:
                if router is None:
                    raise failed
                for frame in router.frames(clip):
                    if not self._put(number, frame):
                        break
                self._put(number, _End(problem=router.problem))
            except BaseException as error:  # noqa: BLE001 - likewise
                self._put(number, _End(error, router.problem if router else None))
            if self._is_over:
                return

    def _put(self, number: int, item: Frame | _End) -> bool:
        """Whether it is wanted, once there is room for it."""
        size = item.rgb.nbytes if isinstance(item, Frame) else 0
        with self._turn:
            self._turn.wait_for(lambda: self._is_over or number < self._wanted or self._has_room(size))
            if self._is_over or number < self._wanted:
                return False
            self._waiting.append(item)
            self._waiting_bytes += size
            self._turn.notify_all()
            return True

    def _has_room(self, size: int) -> bool:
        count = len(self._waiting)
        return count < 2 or (count < MOST_AHEAD and self._waiting_bytes + size <= AHEAD_BYTES)

    def take(self) -> tuple[Frame | _End, float]:
        """What comes next, and how long it was waited for, in seconds."""
        begin = time.monotonic()
        with self._turn:
            self._turn.wait_for(lambda: bool(self._waiting))
            item = self._waiting.popleft()
            self._waiting_bytes -= item.rgb.nbytes if isinstance(item, Frame) else 0
            self._turn.notify_all()
        return item, time.monotonic() - begin

    def leave(self, *, is_read: bool) -> None:
        """Go on to the next clip; of this one nobody wants more."""
        with self._turn:
            self._wanted += 1
            while self._waiting and not is_read:  # nothing of the next comes before this one's end
                item = self._waiting.popleft()
                if isinstance(item, _End):
                    break
                self._waiting_bytes -= item.rgb.nbytes
            self._turn.notify_all()

    def stop(self) -> None:
        with self._turn:
            self._is_over = True
            self._turn.notify_all()

    def join(self) -> None:
        self._thread.join()


@dataclass
class _Clock:
    """How the time of whoever reads goes, since it was looked at last: all of it, and what was waited."""

    since_s: float = field(default_factory=time.monotonic)
    waited_s: float = 0.0
    is_running: bool = False

    def add(self, waited_s: float) -> None:
        """A wait; the first one, in which the first decoder starts, does not count."""
        if self.is_running:
            self.waited_s += waited_s
        else:
            self.is_running, self.since_s = True, time.monotonic()

    def is_slow(self) -> bool:
        """Whether too much of it was waiting; enough has been seen then, and it begins anew."""
        spent_s = time.monotonic() - self.since_s
        if spent_s < _LEAST_S:
            return False
        found = self.waited_s > MOST_WAITING * spent_s
        self.since_s, self.waited_s = time.monotonic(), 0.0
        return found


class SourcesAhead:
    """Frames of the clips of many sources. Use as a context manager: on leaving, all decoders are at rest.

    Attributes:
        width: how many sources are decoded at the same time now, the one that is read included.
        problem: what was wrong with the source of the clip that was read last, up to its end.
    """

    def __init__(self, jobs: Sequence[Job], max_pixels: int | None, most: int) -> None:
        """Args: jobs: in the order in which they will be read. most: width at most."""
        self._jobs, self._max_pixels, self._most = jobs, max_pixels, most
        self._places = {clip["clip_id"]: place for place, job in enumerate(jobs) for clip in job.clips}
        self._open = dict[int, _Source]()
        self._clock = _Clock()
        self.width = 1
        self.problem: MediaError | None = None

    def __enter__(self) -> SourcesAhead:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_before(len(self._jobs))

    def _close_before(self, place: int) -> None:
        gone = [self._open.pop(number) for number in list(self._open) if number < place]
        for source in gone:
            source.stop()
        for source in gone:
            source.join()

    def _source(self, place: int) -> _Source:
        """That of a place, opened with those that are decoded ahead of it."""
        if place not in self._open:
            self._close_before(place)
        for number in range(place, min(place + self.width, len(self._jobs))):
            if number not in self._open:
                self._open[number] = _Source(self._jobs[number], self._max_pixels)
        return self._open[place]

    @contextlib.contextmanager
    def clip(self, clip: dict) -> Iterator[Iterator[Frame]]:
        """The frames of a clip; ask for all clips, in order. What cannot be read is an error in its place."""
        if self._clock.is_slow():
            self.width = min(self._most, self.width + 1)
        source, self.problem = self._source(self._places[clip["clip_id"]]), None
        is_read = False

        def frames() -> Iterator[Frame]:
            nonlocal is_read
            while True:
                item, waited_s = source.take()
                self._clock.add(waited_s)
                if isinstance(item, Frame):
                    yield item
                    continue
                is_read, self.problem = True, item.problem
                if item.error is not None:
                    raise item.error
                return

        try:
            yield frames()
        finally:
            source.leave(is_read=is_read)
