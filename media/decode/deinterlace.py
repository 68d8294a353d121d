"""Deinterlacing: every interlaced frame of an interlaced source goes through FFmpeg's bwdif.

One frame out for each frame in, from the first interlaced one on: a film may begin with a logo or black that
is not.

The number of frames and their times stay as they are; progressive frames of such a source pass untouched.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from errno import EAGAIN

import av
from av.filter import Graph

Deinterlacer = Callable[[Sequence[av.VideoFrame], bool], list[av.VideoFrame]]


def deinterlaced(stream: av.VideoStream) -> Deinterlacer:
    """A function `(decoded frames, is this the end) -> frames ready`, one frame late.

    A change of size or of the pixels' format starts the filter anew.
    """
    graph: Graph | None = None
    form = (0, 0, "")

    def build(frame: av.VideoFrame) -> Graph:
        made = Graph()
        source = made.add_buffer(
            width=frame.width, height=frame.height, format=frame.format, time_base=stream.time_base
        )
        filter_ = made.add("bwdif", "mode=send_frame:parity=auto:deint=interlaced")
        sink = made.add("buffersink")
        source.link_to(filter_)
        filter_.link_to(sink)
        made.configure()
        return made

    def drain() -> list[av.VideoFrame]:
        ready = []
        while graph is not None:
            try:
                ready.append(graph.vpull())
            except (av.EOFError, av.BlockingIOError):
                break
            except av.FFmpegError as error:
                if error.errno == EAGAIN:
                    break
                raise
        return ready

    def run(frames: Sequence[av.VideoFrame], is_end: bool) -> list[av.VideoFrame]:
        nonlocal graph, form
        ready: list[av.VideoFrame] = []
        for frame in frames:
            if (now := (frame.width, frame.height, frame.format.name)) != form:
                if graph is not None:
                    graph.vpush(None)
                    ready += drain()
                graph, form = build(frame), now
            assert graph is not None
            graph.vpush(frame)
            ready += drain()
        if is_end and graph is not None:
            graph.vpush(None)
            ready += drain()
        return ready

    return run
