"""Takes: the samples of one shot as they arrive, cut into clips by the window rule, with bounded memory.

A take longer than two windows gives its first window away while it goes on.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from media.decode.geometry import pick_times
from media.decode.images import encode_jpeg
from media.decode.reader import EPSILON_S
from media.measure.clip import Look, look
from media.shots.detector import window_lengths
from media.writer import webm_bytes
from pipeline.config import CurateConfig
from pipeline.curate.sampling import JPEG_QUALITY, Sample


@dataclass
class Clip:
    """A finished clip: its span and the samples of its frames."""

    start_s: float
    end_s: float
    starts_with: str
    samples: list[Sample]

    @property
    def pictures(self) -> list[tuple[float, np.ndarray]]:
        """Small pictures and their times."""
        return [(sample.time_s, sample.small) for sample in self.samples if sample.small is not None]

    @property
    def previews(self) -> list[tuple[float, bytes]]:
        """Preview JPEGs and their times; of a clip between two slots, its first small picture instead."""
        found = [(sample.time_s, sample.preview) for sample in self.samples if sample.preview is not None]
        return found or [(time_s, encode_jpeg(small, JPEG_QUALITY)) for time_s, small in self.pictures[:1]]

    @property
    def looks(self) -> list[Look]:
        """Numbers of its pictures, at least of one."""
        return [sample.look for sample in self.samples if sample.look is not None] or [
            look(small) for _, small in self.pictures[:1]
        ]

    @property
    def num_damaged(self) -> int:
        return sum(sample.signs.is_damaged for sample in self.samples)

    @property
    def is_grey(self) -> bool:
        return all(sample.is_grey for sample in self.samples)

    @property
    def changes(self) -> list[float]:
        return [sample.change for sample in self.samples[1:]]

    def proxy(self, max_fps: float) -> tuple[bytes, float]:
        """A WebM of the clip at true times, and its rate, 0 for one picture; nothing for a clip of none."""
        pictures = self.pictures
        if not pictures:
            return b"", 0.0
        picks = pick_times([time_s for time_s, _ in pictures], max_fps)
        times = [pictures[index][0] for index in picks]
        rate = (len(times) - 1) / (times[-1] - times[0]) if len(times) > 1 else 0.0
        return webm_bytes([pictures[index][1] for index in picks], times), rate


@dataclass
class Take:
    """One shot in the making."""

    starts_with: str
    config: CurateConfig
    samples: list[Sample] = field(default_factory=list)

    def add(self, sample: Sample) -> None:
        self.samples.append(sample)

    def cut(self, end_s: float) -> Clip:
        """Take the frames before `end_s` out as a clip."""
        count = sum(sample.time_s < end_s - EPSILON_S for sample in self.samples)
        clip = Clip(self.samples[0].time_s, end_s, self.starts_with, self.samples[:count])
        self.samples, self.starts_with = self.samples[count:], "window"
        return clip

    def windows_done(self) -> list[Clip]:
        """Windows that are certain already, because over two windows lie in memory."""
        done, length_s = [], self.config.max_clip_s
        while self.samples and self.samples[-1].time_s - self.samples[0].time_s > 2 * length_s:
            done.append(self.cut(self._frame_at(self.samples[0].time_s + length_s)))
        return done

    def _frame_at(self, time_s: float) -> float:
        """The time of the first frame at or after `time_s`: clip bounds are frame times."""
        return next(sample.time_s for sample in self.samples if sample.time_s >= time_s - EPSILON_S)

    def finish(self, end_s: float) -> list[Clip]:
        """The rest of the take, which ends at `end_s` (the next shot's first frame, or the source's end)."""
        if not self.samples:
            return []
        done, begin_s = [], self.samples[0].time_s
        for length_s in window_lengths(end_s - begin_s, self.config.max_clip_s)[:-1]:
            begin_s += length_s
            if begin_s < self.samples[-1].time_s + EPSILON_S:
                bound_s = self._frame_at(begin_s)
                if bound_s > self.samples[0].time_s + EPSILON_S:
                    done.append(self.cut(bound_s))
        return [*done, self.cut(end_s)]
