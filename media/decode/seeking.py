"""Where decoding may begin in the middle of a file and give the same frames as from its start.

By the index of MP4 and Matroska files; else by reading packets without decoding them. Where pictures before a
keyframe lean on the group before it (open groups, fields), decoding begins a keyframe earlier, and what it
gives before the asked time is thrown away.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from av.container import InputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from media.decode.probe import DECORD_CONTAINERS, Probe

_HARMLESS = {"sparse_keyframes", "high_bit_depth", "hdr", "no_duration", "remote"}
"""Reasons against decord that do not touch seeking."""
_LEANING = {"open_gop", "interlaced"}
_TIMED = {"mpegts", "mpeg", "flv", "ogg", "asf"}
"""Containers without an index that is to be trusted, whose packets have times."""
_FAR = {"remote", "sparse_keyframes"}
"""Reasons for which a container without an index is read from its start: its bytes, or groups, are many."""
_EARLIER_S = 1e-4


def is_seekable(container: str, reasons: Iterable[str]) -> bool:
    """Whether a file can be read from the middle, by what the probe found against decord."""
    left = {reason for reason in reasons if not reason.startswith("codec:")} - _LEANING
    if left - _HARMLESS - {f"container:{container}"}:
        return False
    # what is far away is not read again and again from its start
    return container in DECORD_CONTAINERS or (container in _TIMED and not left & _FAR)


def packets_from(
    container: InputContainer, stream: VideoStream, facts: Probe, start_s: float
) -> Iterator[Packet] | None:
    """Packets from a keyframe before `start_s` on; None where the file is to be read from its start."""
    if start_s <= 0 or not is_seekable(facts.container, facts.decoder_reasons):
        return None
    tick_s = float(stream.time_base or 1)
    ticks = int((start_s + facts.start_s - _EARLIER_S) / tick_s)
    if facts.container not in DECORD_CONTAINERS:
        return _after_reading(container.demux(stream), ticks)
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


def _after_reading(packets: Iterator[Packet], ticks: int) -> Iterator[Packet]:
    """From the keyframe before the last one before `ticks` on; what lies before is read and let go."""
    group, before = list[Packet](), list[Packet]()
    for packet in packets:
        if packet.is_keyframe and packet.pts is not None:
            if packet.pts > ticks:
                return chain(before, group, [packet], packets)
            before, group = group, []
        group.append(packet)
    return chain(before, group)
