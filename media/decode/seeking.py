"""Where decoding may begin in the middle of a file and give the same frames as from its start.

By the index of MP4 and Matroska files; else by the times of packets, among which FFmpeg searches by halves,
so that a segment of a large stream reads its own bytes. Where pictures before a keyframe lean on the group
before it (open groups, fields), decoding begins a keyframe earlier, and what it gives before the asked time
is thrown away.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from itertools import chain, islice

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from media.damage.complaints import complaints
from media.decode.container.packets import LOOSE
from media.decode.facts import Probe
from media.decode.video_facts import DECORD_CONTAINERS

_HARMLESS = {
    "alpha",
    "old_444",
    "turned",
    "sparse_keyframes",
    "high_bit_depth",
    "hdr",
    "no_duration",
    "remote",
    "other_streams",
    LOOSE,
}
"""Reasons against decord that do not touch seeking."""
_LEANING = {"open_gop", "interlaced", "field_pairs", "may_have_fields"}
_TIMED = {"mpegts", "ogg", "asf"}
"""Containers without an index that is to be trusted, among whose packets FFmpeg can search for a time."""
_OWN_OF_ASF = ("codec:wmv", "codec:vc1", "codec:msmpeg4")
"""The times of others' packets in it are those of decoding."""
_READ = {"mpeg", "flv"}
"""Those that are read up to it: in program streams the times of packets follow from those before them."""
_BACK_S = 4.0
"""So far before the asked time a container without an index is read, at first; then four times as far."""
_EARLIER_S = 1e-4
_SIGNED = {"h264", "mpeg4"}


def is_seekable(container: str, reasons: Iterable[str]) -> bool:
    """Whether a file can be read from the middle, by what the probe found against decord."""
    reasons = tuple(reasons)
    left = {reason for reason in reasons if not reason.startswith("codec:")} - _LEANING
    if left - _HARMLESS - {f"container:{container}"}:
        return False
    if container in _READ:  # what is far away is not read again and again from its start
        return not left & {"remote", "sparse_keyframes"}
    if container == "asf" and not any(reason.startswith(_OWN_OF_ASF) for reason in reasons):
        return False
    return container in DECORD_CONTAINERS or container in _TIMED


def told_who_made_it(container: InputContainer, stream: VideoStream, facts: Probe) -> list[Packet]:
    """Let the decoder see the first packet of a file that is read from the middle; its frames are let go.

    Encoders of H.264 and MPEG-4 say who they are at the start alone, and FFmpeg reads what older ones wrote
    against the standard by that: without it every picture of H.264 4:4:4 by x264 before 2017 is wrong.

    Returns:
        The packets that were read for it, behind which the container stands now.
    """
    if facts.codec not in _SIGNED:
        return []
    seen = list[Packet]()
    with complaints(), contextlib.suppress(av.FFmpegError):
        seen = list(islice((packet for packet in container.demux(stream) if packet.size), 1))
        for packet in seen:
            stream.codec_context.decode(packet)
    if stream.codec_context.is_open:
        stream.codec_context.flush_buffers()
    return seen


def packets_from(
    container: InputContainer, stream: VideoStream, facts: Probe, start_s: float
) -> Iterator[Packet] | None:
    """Packets from a keyframe before `start_s` on; None where the file is to be read from its start.

    Args:
        stream: of a container that was just opened; its decoder is told what it must know of the start.
    """
    if start_s <= 0 or not is_seekable(facts.container, facts.decoder_reasons):
        return None
    seen = told_who_made_it(container, stream, facts)
    tick_s = float(stream.time_base or 1)
    ticks = int((start_s + facts.start_s - _EARLIER_S) / tick_s)
    if facts.container in _READ:
        return _last_groups(chain(seen, container.demux(stream)), ticks, least=0)
    if facts.container in _TIMED:
        return _by_halves(container, stream, ticks, tick_s)
    least, last = ticks, None
    groups = 2 if _LEANING & set(facts.decoder_reasons) else 1
    while True:
        container.seek(least, stream=stream, backward=True)
        first = next((packet for packet in container.demux(stream) if packet.size), None)
        if first is None or first.pts is None:
            container.seek(0)
            return None
        groups -= first.pts <= ticks  # MP4 is sought by times of decoding, which are earlier
        if not groups or first.dts == last:  # there is none before it
            break
        least, last = min(first.pts, least if first.dts is None else first.dts) - 1, first.dts
    container.seek(least, stream=stream, backward=True)
    return iter(container.demux(stream))


def _by_halves(
    container: InputContainer, stream: VideoStream, ticks: int, tick_s: float
) -> Iterator[Packet] | None:
    """Packets from the keyframe before the last one before `ticks` on; None where that is the first."""
    begin, back = stream.start_time or 0, _BACK_S / tick_s
    while ticks - back > begin:
        container.seek(int(ticks - back), stream=stream, backward=True)
        packets = container.demux(stream)
        if (found := _last_groups(packets, ticks)) is not None:
            return found
        back *= 4
    container.seek(0)
    return None


def _last_groups(packets: Iterator[Packet], ticks: int, least: int = 2) -> Iterator[Packet] | None:
    """From the keyframe before the last one before `ticks` on; None where there are fewer than `least`.

    What lies before is read and let go.
    """
    group, before, count = list[Packet](), list[Packet](), 0
    for packet in packets:
        if packet.is_keyframe and packet.pts is not None:
            if packet.pts > ticks:
                return chain(before, group, [packet], packets) if count >= least else None
            before, group, count = group, [], count + 1
        if count or not least:
            group.append(packet)
    return chain(before, group) if count >= least else None
