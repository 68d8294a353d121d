"""One pass over a video's frames as they are decoded: when each is shown, and in what state."""

from __future__ import annotations

from dataclasses import dataclass

import av
import numpy as np
from av.video.frame import PictureType

from media.damage.health import Health
from media.damage.signs import Signs
from media.damage.witness import decoder_of
from media.decode.color import LINEAR, without_alpha
from media.decode.container.packets import CLOCK_RESTART, begins_anew
from media.decode.deinterlace import Deinterlacer, deinterlaced
from media.decode.facts import Probe
from media.decode.gpu import nvdec
from media.decode.picture import Picture, Scaler, shown

EPSILON_S = 1e-4  # presentation times closer than this are one instant
_USUAL_FPS = 24.0
_OF_LIGHT = ("hdr", "pfm", "phm")  # Radiance and portable float maps, whose decoders do not say so
_MOST_LATE = 16
"""Frames that come after later ones, of a file that is not known to be damaged: with more its times are
wrong."""


class Clock:
    """When frames are shown, in seconds from the source's first one.

    Args:
        by_number_s: times of all frames by their number, where packets do not say.
        spread_s: the same where several packets say one time: up to the next one they come one by one.
    """

    def __init__(
        self, facts: Probe, *, by_number_s: np.ndarray | None = None, spread_s: np.ndarray | None = None
    ) -> None:
        self._facts, self._times_s, self._spread_s = facts, by_number_s, spread_s
        self._said_s, self._num_same = -1.0, 0
        self._step_s = 1 / (facts.fps or _USUAL_FPS)
        self._restart_s = 0.0  # added to the clock of a stream that began anew
        self.is_restarted = False
        """Whether it began anew with the frame whose time was asked for last."""

    def time_s(self, pts: int | None, tick_s: float, number: int, previous_s: float) -> float:
        """Of a frame.

        Args:
            pts: its own time in ticks, if it has one.
            number: of frames before it.
            previous_s: when the one before it is shown.
        """
        self.is_restarted = False
        if self._times_s is not None:
            is_known = number < len(self._times_s)
            return float(self._times_s[number]) if is_known else round(previous_s + self._step_s, 6)
        if pts is None:  # no timestamps at all (raw streams): by count at the packet rate
            return round(previous_s + self._step_s if number else 0.0, 6)
        time_s = pts * tick_s - self._facts.start_s + self._restart_s
        may_restart = number > 0 and CLOCK_RESTART in self._facts.decoder_reasons
        before_s = previous_s if self._spread_s is None else self._said_s
        if may_restart and begins_anew(self._facts.container, time_s - before_s):
            self._restart_s += before_s + self._step_s - time_s
            time_s = before_s + self._step_s
            self.is_restarted = True
        return self._apart(round(time_s, 6))

    def _apart(self, time_s: float) -> float:
        """The time of a frame that says one, which others before it may have said, too."""
        if self._spread_s is None:
            return time_s
        self._num_same = self._num_same + 1 if time_s == self._said_s else 0
        self._said_s = time_s
        place = int(np.searchsorted(self._spread_s, time_s - EPSILON_S)) + self._num_same
        return float(self._spread_s[place]) if place < len(self._spread_s) else time_s


@dataclass(frozen=True)
class Placed:
    """When a frame is shown, and what is known of it."""

    time_s: float
    is_key: bool
    is_damaged: bool
    is_after_gap: bool
    widened: float  # how many times as wide a pixel is as at first


class Pass:
    """What a pass over a file's frames has seen so far.

    Args:
        stream: of a container that was just opened.
        gaps_s: times of the frames before which others are missing, where the packets are the only sign.
        clock: of the file, which has told no time yet.
        is_witnessed: as for `Health`.
        on_gpu: the container was opened to be decoded there.

    Attributes:
        previous_s: when the last frame was shown; -1 before the first.
    """

    def __init__(
        self,
        facts: Probe,
        stream: av.VideoStream,
        gaps_s: list[float],
        clock: Clock,
        is_witnessed: bool = False,
        on_gpu: bool = False,
    ) -> None:
        self.facts, self.stream, self._on_gpu = facts, stream, on_gpu
        decoder = nvdec.decoder_of(stream) if on_gpu else decoder_of(stream)
        self.health = Health(facts.codec, decoder, is_witnessed)
        self.previous_s = -1.0
        self._clock = clock
        self._gaps_s, self._num_late = gaps_s, 0
        self._scaler = Scaler()
        self._fields: Deinterlacer | None = None
        self._tick_s = float(stream.time_base or 0)
        self._has_spare_byte = facts.container == "avi" and facts.codec == "rawvideo"

    def decoded(self, packet: av.Packet) -> list[av.VideoFrame]:
        """The frames that come out with a packet, deinterlaced from the first interlaced one on."""
        frames = self.health.decode(packet)
        if self._on_gpu:
            frames = [nvdec.as_decoded(frame, self.facts.pixel_format) for frame in frames]
        if not self._fields and any(frame.interlaced_frame for frame in frames):
            self._fields = deinterlaced(self.stream)
        if self._has_spare_byte and frames:
            frames = [without_alpha(frame) for frame in frames]
        if self.facts.codec in _OF_LIGHT:
            for frame in frames:
                frame.color_trc = LINEAR
        if self._fields:
            frames = self._fields(frames, packet.size == 0)
        return frames

    def placed(self, frame: av.VideoFrame) -> Placed | None:
        """Of the next frame; None for one that comes after later ones."""
        health = self.health
        tick_s = float(frame.time_base or 0) if self._fields else self._tick_s
        number = health.num_frames + health.num_lost_in_all
        time_s = self._clock.time_s(frame.pts, tick_s, number, self.previous_s)
        is_after_gap = False
        while self._gaps_s and self._gaps_s[0] - EPSILON_S <= time_s:
            is_after_gap = self.previous_s < self._gaps_s.pop(0) - EPSILON_S
        is_key, widened = health.is_key(frame), health.aspect_change(frame)
        is_damaged = health.is_damaged(frame, is_key, is_after_gap)
        if time_s <= self.previous_s and (health.has_losses or self._num_late < _MOST_LATE):
            health.num_frames -= 1  # held back by what is missing until too late
            self._num_late += 1
            return None
        self.previous_s = time_s
        return Placed(time_s, is_key, is_damaged, is_after_gap, widened)

    def picture(self, frame: av.VideoFrame, told: Placed) -> Picture:
        """The frame that was placed last, with every sign of damage that it or its surroundings give."""
        health = self.health
        signs = Signs(
            is_damaged=told.is_damaged,
            is_by_gap=health.is_by_gap
            or (told.is_after_gap and not health.is_after_loss and not health.is_numbered),
            is_key=told.is_key,
            is_intra=told.is_key or frame.pict_type == PictureType.I,
            is_after_loss=health.is_after_loss or told.is_after_gap,
            num_refused=health.num_refused,
            is_stand_in=self.facts.codec == "av1" and bool(frame.key_frame) and not told.is_key,
            is_restarted=self._clock.is_restarted,
        )
        return Picture(
            told.time_s, frame, shown(self.facts.geometry, frame, told.widened), signs, self._scaler
        )
