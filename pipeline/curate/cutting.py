"""Cutting: from the labelled frames of one segment to its clips and gaps.

A shot belongs to the segment in which it starts: decoding begins a little before the segment, so that its
frames are judged as in the whole, and goes on past its end until the last shot ends. A decode that goes wrong
midway keeps the shots before it. Frames that are no part of any shot (transitions, damage) are gaps; each
frame of a gap belongs to the segment in which its time lies.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from media.apart.reader import Reader
from media.decode.reader import EPSILON_S
from media.errors import MediaError
from media.shots.detector import Label, ShotDetector
from pipeline.config import CurateConfig
from pipeline.curate.doubt import Seen, judged
from pipeline.curate.sampling import Sample, Sampler
from pipeline.curate.takes import Clip, Take
from pipeline.footage.sources import facts_of

_MOST_HOLE_S = 0.1
"""Where frames were lost a shot goes on over a hole of so much time: a viewer does not see it."""
_MOST_LEAD_IN_S = 12.0
"""So far back a keyframe is looked for, from which on frames can be judged."""


@dataclass
class Gap:
    """Frames in a row that belong to no shot."""

    reason: str  # transition | damaged_frames | lost_frames (packets that gave none)
    start_s: float
    end_s: float
    num_frames: int


class Cutter:
    """Cuts the labelled samples of one segment, fed in order from before its start.

    Attributes:
        is_done: no later sample can concern the segment.
        last: the sample fed last.
        num_own: samples fed whose time lies in the segment.

    Args:
        is_last: frames past the end are the segment's too: damage gives some a later time than any packet.
    """

    def __init__(self, start_s: float, end_s: float, config: CurateConfig, is_last: bool = False) -> None:
        self.start_s, self.end_s, self.config = start_s, end_s, config
        self._own_end_s = float("inf") if is_last else end_s
        self.is_done = False
        self.last: Sample | None = None
        self._step_s = 0.0  # from the frame before the last one to it
        self.num_own = 0
        self._take: Take | None = None
        self._gap: Gap | None = None
        self._was_gap = False

    def feed(self, sample: Sample, label: Label) -> Iterator[Clip | Gap]:
        """Take the next sample; gives what is finished by it."""
        reason = "transition" if label.is_transition else "damaged_frames" if sample.signs.is_damaged else ""
        starts_with = "" if reason else self._starts(sample, label)
        end_s = sample.time_s
        if self.last and self._step_s and (starts_with in {"gap", "time_gap"} or self._has_hole(sample)):
            end_s = min(end_s, self.last.time_s + self._step_s)
        if self.last:
            end_s = min(end_s, self.last.time_s + self.config.max_clip_s)
        is_past = sample.time_s >= self._own_end_s - EPSILON_S and self.last is not None
        self.num_own += self.start_s - EPSILON_S <= sample.time_s < self._own_end_s - EPSILON_S
        self._step_s = sample.time_s - self.last.time_s if self.last else 0.0
        self.last, self._was_gap = sample, bool(reason)
        if self._gap and (reason != self._gap.reason or is_past):
            yield from self._end_gap(sample.time_s)
        if self._take and (reason or starts_with):
            yield from self._end_take(end_s)
        if self._take is None and is_past:
            self.is_done = True
        elif sample.time_s < self.start_s - EPSILON_S:
            return
        elif reason:
            self._gap = self._gap or Gap(reason, sample.time_s, sample.time_s, 0)
            self._gap.num_frames += 1
        elif starts_with or self._take:
            self._take = self._take or Take(starts_with, self.config)
            self._take.add(sample)
            yield from self._take.windows_done()

    def _starts(self, sample: Sample, label: Label) -> str:
        """Why a shot starts at this sample; empty if it goes on."""
        if self.last is None:
            return "source_start" if self.start_s == 0 else ""
        if sample.geometry != self.last.geometry:
            return "size_change"
        if sample.signs.is_restarted or sample.time_s - self.last.time_s > self.config.max_clip_s:
            return "time_gap"
        return "cut" if label.is_cut else "gap" if self._was_gap or self._has_hole(sample) else ""

    def _has_hole(self, sample: Sample) -> bool:
        """Whether frames were lost before a sample for so long that one sees it."""
        assert self.last is not None
        most_s = max(_MOST_HOLE_S, 1.5 * self._step_s)
        return sample.signs.is_after_loss and sample.time_s - self.last.time_s > most_s

    def _end_gap(self, end_s: float) -> Iterator[Gap]:
        if self._gap:
            self._gap.end_s = end_s
            yield self._gap
        self._gap = None

    def _end_take(self, end_s: float) -> Iterator[Clip]:
        if self._take:
            yield from self._take.finish(end_s)
        self._take = None

    def finish(self, source_end_s: float) -> Iterator[Clip | Gap]:
        """The source ends."""
        yield from self._end_gap(source_end_s)
        yield from self._end_take(source_end_s)


def pieces(
    segment: dict, source: dict, config: CurateConfig, beat: Callable[[], None] = lambda: None
) -> Iterator[Clip | Gap]:
    """Clips of the shots that start in the segment, and the gaps that lie in it, in order.

    Args:
        segment, source: rows of the plan.
        beat: called for each frame, as a sign of progress.

    Raises:
        MediaError: the source cannot be read (any further); what came before that was given out.
    """
    facts = facts_of(source)
    # the reference decoder, which alone reports damage
    reader = Reader(facts, decoder="pyav", is_witnessed=config.hevc_witness)
    if source["kind"] == "image":
        take = Take("source_start", config)
        take.add(next(Sampler(config).sample(picture)[0] for picture in reader.pictures()))
        yield take.cut(EPSILON_S * 2)
        return
    is_last = segment["end_s"] >= source["duration_s"] - EPSILON_S
    cutter = Cutter(segment["start_s"], segment["end_s"], config, is_last)
    problem: MediaError | None = None
    try:
        for sample, label in ShotDetector[Sample](config.cut_threshold, facts.fps).labelled(
            _samples(reader, config, cutter.start_s)
        ):
            beat()
            yield from cutter.feed(sample, label)
            if cutter.is_done:
                break
    except MediaError as error:
        problem = error
    if cutter.last and not cutter.is_done:
        last_s = cutter.last.time_s
        yield from cutter.finish(
            last_s + 1 / max(facts.fps, 1.0) if problem else max(facts.duration_s, last_s + 1e-3)
        )
    if problem or reader.has_losses:
        yield from _lost(reader, cutter, is_last)
    if problem:
        raise problem
    if cutter.last is None and cutter.start_s == 0:
        raise MediaError("no_frames", f"{source['uri']} gave no frame")


def _lost(reader: Reader, cutter: Cutter, is_last: bool) -> Iterator[Gap]:
    """The frames of the segment that its packets promise and that did not come, as one gap."""
    start_s, end_s = cutter.start_s, float("inf") if is_last else cutter.end_s
    try:
        num_lost = reader.count(start_s, end_s) - cutter.num_own
    except MediaError:
        return
    if num_lost > 0:
        yield Gap("lost_frames", start_s, cutter.end_s, num_lost)


def _samples(reader: Reader, config: CurateConfig, start_s: float) -> Iterator[Seen]:
    """Samples and glances from far enough before `start_s` that labels equal those of the whole source."""
    drafts = [(config.preview_px, config.preview_fps), (config.proxy_px, config.proxy_fps)]
    need = ShotDetector(config.cut_threshold, reader.facts.fps).lead_in_frames
    lead_in_s = max(config.lead_in_s, need / max(reader.facts.fps, 0.1))
    while start_s > 0:
        begin_s, sampler = max(0.0, start_s - lead_in_s), Sampler(config)
        stream = judged(
            (sampler.sample(picture) for picture in reader.pictures(begin_s, drafts=drafts)),
            reader.facts.codec,
        )
        ahead = []
        for item in stream:
            ahead.append(item)
            if item[0].time_s >= start_s - EPSILON_S:
                break
        has_key = any(sample.signs.is_key for sample, _ in ahead) or lead_in_s > _MOST_LEAD_IN_S
        if begin_s == 0 or (len(ahead) > need and has_key):
            yield from itertools.chain(ahead, stream)
            return
        lead_in_s *= 2  # a variable rate: fewer frames there than on average; or no keyframe yet
    sampler = Sampler(config)
    yield from judged(
        (sampler.sample(picture) for picture in reader.pictures(drafts=drafts)), reader.facts.codec
    )
