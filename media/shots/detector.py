"""Shots: where one take ends and the next begins, from one pass over the frames, with finite memory.

Hard cuts come from PySceneDetect's adaptive detector, driven by our own decode: a frame starts a shot when it
differs from the one before far more than its neighbours do, so fast motion and flicker are no cuts. The
detector's minimum scene length is off: such a rule remembers the last cut, and cutting a long video into
segments would then give other shots than the whole. Short shots are judged afterwards. Cuts amid fast motion
come from `moving`, fades and dissolves from `transitions`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import cv2
import numpy as np
from scenedetect import AdaptiveDetector

from media.shots.moving import MovingCuts
from media.shots.transitions import FLAT_STD, Transitions, tiny

GLANCE_PX = 72
FLAT_GAP_S = 0.25  # flat pictures between a fade out and a fade in, up to this long, belong to the transition
MIN_CUT_CHANGE = 4 / 255  # mean change of a pixel: less is the noise of a dark picture, whatever its hues do
_CUT_WINDOW = 2

Item = TypeVar("Item")


class FastAdaptiveDetector(AdaptiveDetector):
    """PySceneDetect's adaptive detector on RGB frames, with its frame score by one OpenCV call.

    The same numbers at a third of the time. The method is not of its public interface: `num_scored` tells
    that it is still asked.
    """

    num_scored = 0

    last_score = 0.0
    _last_hsv: np.ndarray | None = None

    def _calculate_frame_score(self, timecode: object, frame_img: np.ndarray) -> float:
        hsv = cv2.cvtColor(frame_img, cv2.COLOR_RGB2HSV)
        last, self._last_hsv = self._last_hsv, hsv
        self.num_scored += 1
        # hue, saturation and value weigh the same
        self.last_score = 0.0 if last is None else cv2.norm(hsv, last, cv2.NORM_L1) / hsv.size
        return self.last_score


@dataclass(frozen=True)
class Label:
    """What a frame is: the first after a hard cut, part of a transition, or the next one of a shot."""

    is_cut: bool
    is_transition: bool


class ShotDetector(Generic[Item]):
    """Labels a stream of frames, `delay` frames late.

    Args:
        threshold: PySceneDetect's adaptive ratio.
        fps: average rate of the source; transitions are looked for at lengths in seconds.
    """

    def __init__(self, threshold: float, fps: float) -> None:
        self._detector = FastAdaptiveDetector(
            adaptive_threshold=threshold, min_scene_len=0, window_width=_CUT_WINDOW
        )
        self._moving = MovingCuts(_CUT_WINDOW)
        self._transitions = Transitions(fps)
        self._gap = math.ceil(FLAT_GAP_S * fps) if self._transitions.halves else 0
        self.delay = max(self._transitions.reach + self._gap, _CUT_WINDOW) + 1
        self.lead_in_frames = (
            self.delay + 2 * _CUT_WINDOW
        )  # frames before a segment that make its labels those of the whole
        self._count = 0
        self._given = 0
        self._waiting: deque[Item] = deque()
        self._cuts: set[int] = set()
        self._tiny: dict[int, np.ndarray] = {}
        # from the one before the frame whose verdict the detector still owes
        self._glances = deque[np.ndarray](maxlen=_CUT_WINDOW + 2)

    def labelled(self, frames: Iterable[tuple[Item, np.ndarray]]) -> Iterator[tuple[Item, Label]]:
        """Each item with its label. `frames` gives items with their glance, [s, s, 3] uint8.

        Where the frames end in an error, those in hand are given out with the labels they have before it is
        raised.
        """
        problem: Exception | None = None
        stream = iter(frames)
        while True:
            try:
                step = next(stream, None)
            except Exception as error:  # noqa: BLE001 - raised again below, once the frames in hand are out
                problem, step = error, None
            if step is None:
                break
            self._push(*step)
            if len(self._waiting) > self.delay:
                yield self._pop()
        self._transitions.finish()
        while self._waiting:
            yield self._pop()
        if problem is not None:
            raise problem

    def _push(self, item: Item, glance: np.ndarray) -> None:
        self._glances.append(glance)
        # a plain number in the place of a FrameTimecode, whose arithmetic takes longer than the score
        for frame in self._detector.process_frame(self._count, glance):  # type: ignore[arg-type]
            if self._change(int(frame)) >= MIN_CUT_CHANGE:
                self._cuts.add(int(frame))
        if self._detector.num_scored <= self._count:
            raise RuntimeError("this PySceneDetect scores frames in another way: install one before it")
        if self._moving.push(self._detector.last_score, glance):
            self._cuts.add(self._count - _CUT_WINDOW)
        if self._transitions.halves:
            self._tiny[self._count] = vector = tiny(glance)
            self._transitions.push(vector)
        self._waiting.append(item)
        self._count += 1

    def _change(self, frame: int) -> float:
        """Mean change of a pixel, 0..1, from the frame before one of those that were pushed last."""
        place = len(self._glances) - 1 - (self._count - frame)
        if place < 1:
            return 0.0
        before, after = self._glances[place - 1], self._glances[place]
        return float(cv2.norm(after, before, cv2.NORM_L1) / after.size / 255)

    def _is_flat(self, frame: int) -> bool:
        vector = self._tiny.get(frame)
        return vector is not None and bool(cv2.meanStdDev(vector.reshape(1, -1, 3))[1].max() < FLAT_STD)

    def _in_transition(self, frame: int) -> bool:
        return any(blend.begin <= frame < blend.end for blend in self._transitions.found)

    def _joins_fades(self, frame: int) -> bool:
        """Whether a frame lies in a short flat stretch between two transitions."""
        if not self._transitions.found or not self._is_flat(frame):
            return False

        def reaches(step: int) -> int | None:
            for away in range(1, self._gap + 1):
                if self._in_transition(frame + step * away):
                    return away
                if not self._is_flat(frame + step * away):
                    return None
            return None

        back, ahead = reaches(-1), reaches(1)
        return back is not None and ahead is not None and back + ahead - 1 <= self._gap

    def _pop(self) -> tuple[Item, Label]:
        frame = self._given
        self._given += 1
        label = Label(frame in self._cuts, self._in_transition(frame) or self._joins_fades(frame))
        self._cuts.discard(frame)
        self._transitions.forget(frame - self._gap)
        self._tiny.pop(frame - self._gap - 1, None)
        return self._waiting.popleft(), label


def window_lengths(length_s: float, max_s: float) -> list[float]:
    """Lengths of the windows of a take: whole windows of `max_s`, and the last two share what is left evenly.

    The rule needs at most two windows of look-ahead, so it streams; it counts from the shot's start, so
    segmenting does not change it.
    """
    windows = []
    while length_s > 2 * max_s:
        windows.append(max_s)
        length_s -= max_s
    return [*windows, length_s / 2, length_s / 2] if length_s > max_s else [*windows, length_s]
