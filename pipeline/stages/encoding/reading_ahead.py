"""Sources that are decoded ahead of the encoder, each in a thread of its own with a decoder of its own.

One at first: then decoding and encoding overlap. Where the encoder waits for frames nevertheless, one more
source is opened ahead, and so on; where it has hardly waited for long, one less: how many are needed depends
on the VAE, the device and the codecs, and is measured rather than told.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from media.decode.facts import Probe
from media.decode.reader import Frame
from media.errors import MediaError
from pipeline.stages.encoding.clip_frames import ClipRouter

AHEAD_BYTES = 48 << 20
"""Decoded frames of one source that wait for the encoder, at most about."""
MOST_AHEAD = 64
MOST_WAITING = 0.1
"""Share of the time that the encoder may wait for frames before another source is decoded ahead."""
HARDLY_WAITING, CALM_LOOKS = 0.01, 20
"""Share of the time below which a look is a calm one, and how many of them in a row make one source less."""
_LEAST_S = 1.0
"""So long is looked at before that is judged."""


@dataclass(frozen=True)
class _End:
    """Behind the last frame of a clip: what went wrong in it, and in its source up to there."""

    error: BaseException | None = None
    problem: MediaError | None = None


@dataclass(frozen=True)
class Job:
    """A source and its clips that are wanted, in order.

    Attributes:
        facts: gives what is known of the source, or raises a `MediaError` where it is gone or another now.
        on_gpu: it is decoded by a GPU where that can be.
    """

    facts: Callable[[], Probe]
    clips: Sequence[dict]
    on_gpu: bool = False


class _Source:
    """The frames of one source's clips, made in a thread.

    Args:
        waits: a clip is begun only when it is asked for, so that what happens meanwhile is its own doing.
    """

    def __init__(self, job: Job, max_pixels: int | None, *, waits: bool) -> None:
        self._job, self._max_pixels = job, max_pixels
        self._turn = threading.Condition()
        self._waiting, self._waiting_bytes = deque[tuple[int, Frame | _End]](), 0
        self._asked = -1 if waits else len(job.clips)
        self._wanted = 0  # clips before this one are done with
        self._is_over = self._has_ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._read()
        finally:
            with self._turn:
                self._has_ended = True
                self._turn.notify_all()

    def _read(self) -> None:
        router, failed = None, None
        try:
            job = self._job
            router = ClipRouter(job.facts(), self._max_pixels, list(job.clips), on_gpu=job.on_gpu)
        except BaseException as error:  # noqa: BLE001 - it is raised where the frames are used
            failed = error
        for number, clip in enumerate(self._job.clips):
            with self._turn:
                self._turn.wait_for(lambda: self._is_over or number <= self._asked)  # noqa: B023 - it is now
            if self._is_over:
                return
            if router is None:
                self._put(number, _End(failed))
                continue
            try:
                for frame in router.frames(clip):
                    if not self._put(number, frame):
                        break
                self._put(number, _End(problem=router.problem))
            except BaseException as error:  # noqa: BLE001 - likewise
                self._put(number, _End(error, router.problem))

    def _put(self, number: int, item: Frame | _End) -> bool:
        """Whether it is wanted, once there is room for it."""
        size = item.rgb.nbytes if isinstance(item, Frame) else 0
        with self._turn:
            self._turn.wait_for(lambda: self._is_over or number < self._wanted or self._has_room(size))
            if self._is_over or number < self._wanted:
                return False
            self._waiting.append((number, item))
            self._waiting_bytes += size
            self._turn.notify_all()
            return True

    def _has_room(self, size: int) -> bool:
        count = len(self._waiting)
        return count < 2 or (count < MOST_AHEAD and self._waiting_bytes + size <= AHEAD_BYTES)

    def ask(self, number: int) -> None:
        """From now on a clip is read, and nobody wants more of those before it."""
        with self._turn:
            self._asked = max(self._asked, number)
            self._turn.notify_all()
        self.leave_before(number)

    def leave_before(self, number: int) -> None:
        """Nobody wants more of the clips before one."""
        with self._turn:
            self._wanted = number
            while self._waiting and self._waiting[0][0] < number:
                self._pop()
            self._turn.notify_all()

    def take(self) -> tuple[Frame | _End, float]:
        """What comes next of the clip that was asked for, and how long it was waited for, in seconds.

        Raises:
            RuntimeError: the thread ended before its time, as for want of memory.
        """
        begin = time.monotonic()
        with self._turn:
            self._turn.wait_for(lambda: bool(self._waiting) or self._has_ended)
            if not self._waiting:
                raise RuntimeError("what reads the source ahead has ended before its time")
            item = self._pop()
            self._turn.notify_all()
        return item, time.monotonic() - begin

    def _pop(self) -> Frame | _End:
        _, item = self._waiting.popleft()
        self._waiting_bytes -= item.rgb.nbytes if isinstance(item, Frame) else 0
        return item

    def stop(self) -> None:
        with self._turn:
            self._is_over = True
            self._turn.notify_all()

    def join(self, most_s: float | None = None) -> None:
        self._thread.join(most_s)


@dataclass
class _Clock:
    """How the time of whoever reads goes, since it was looked at last: all of it, and what was waited.

    Attributes:
        num_calm: looks in a row at which hardly anything was waited.
    """

    since_s: float = field(default_factory=time.monotonic)
    waited_s: float = 0.0
    is_running: bool = False
    num_calm: int = 0

    def add(self, waited_s: float) -> None:
        """A wait; the first one, in which the first decoder starts, does not count."""
        if self.is_running:
            self.waited_s += waited_s
        else:
            self.is_running, self.since_s = True, time.monotonic()

    def look(self) -> int:
        """How many sources more are wanted ahead: 1, 0 or -1. Where enough has been seen it begins anew."""
        spent_s = time.monotonic() - self.since_s
        if spent_s < _LEAST_S:
            return 0
        is_slow = self.waited_s > MOST_WAITING * spent_s
        is_calm = self.waited_s < HARDLY_WAITING * spent_s
        self.num_calm = self.num_calm + 1 if is_calm else 0
        self.since_s, self.waited_s = time.monotonic(), 0.0
        if self.num_calm < CALM_LOOKS:
            return int(is_slow)
        self.num_calm = 0
        return -1


class SourcesAhead:
    """Frames of the clips of many sources. Use as a context manager: on leaving, all decoders are at rest.

    Where it is left for an error, those that are amid a picture come to rest by themselves.

    Attributes:
        width: how many sources are decoded at the same time now, the one that is read included.
        problem: what was wrong with the source of the clip that was read last, up to its end.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        max_pixels: int | None,
        most: int,
        *,
        width: int = 1,
        is_one_by_one: bool = False,
    ) -> None:
        """
        Args:
            jobs: in the order in which they will be read.
            most: width at most.
            width: at first.
            is_one_by_one: nothing is decoded ahead, so that a death is no other clip's doing.
        """
        self._jobs, self._max_pixels = jobs, max_pixels
        self._most, self._is_one_by_one = 1 if is_one_by_one else most, is_one_by_one
        self._places = {
            clip["clip_id"]: (place, number)
            for place, job in enumerate(jobs)
            for number, clip in enumerate(job.clips)
        }
        self._open = dict[int, _Source]()
        self._clock = _Clock()
        self.width = min(self._most, width)
        self.problem: MediaError | None = None

    def __enter__(self) -> SourcesAhead:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close_before(len(self._jobs), None if kind is None else 0.0)

    def _close_before(self, place: int, most_s: float | None = None) -> None:
        gone = [self._open.pop(number) for number in list(self._open) if number < place]
        for source in gone:
            source.stop()
        for source in gone:
            source.join(most_s)

    def _source(self, place: int) -> _Source:
        """That of a place, opened with those that are decoded ahead of it."""
        self._close_before(place)
        if place not in self._open:
            self._open[place] = self._opened(place)
        for number in range(place + 1, min(place + self.width, len(self._jobs))):
            if number not in self._open:
                try:
                    self._open[number] = self._opened(number)
                except RuntimeError:  # no room for a thread now, which is not this clip's fault
                    break
        return self._open[place]

    def _opened(self, place: int) -> _Source:
        return _Source(self._jobs[place], self._max_pixels, waits=self._is_one_by_one)

    @contextlib.contextmanager
    def clip(self, clip: dict) -> Iterator[Iterator[Frame]]:
        """The frames of a clip; ask for all clips, in order. What cannot be read is an error in its place."""
        self.width = max(1, min(self._most, self.width + self._clock.look()))
        place, number = self._places[clip["clip_id"]]
        source, self.problem = self._source(place), None
        source.ask(number)

        def frames() -> Iterator[Frame]:
            while True:
                item, waited_s = source.take()
                self._clock.add(waited_s)
                if isinstance(item, Frame):
                    yield item
                    continue
                self.problem = item.problem
                if item.error is not None:
                    raise item.error
                return

        try:
            yield frames()
        finally:
            source.leave_before(number + 1)
            if number + 1 == len(self._jobs[place].clips):
                self._close_before(place + 1)
