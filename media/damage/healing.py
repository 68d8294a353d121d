"""Damage that no decoder reports: a part of the picture breaks in one frame, and the next keyframe mends it.

A keyframe shows the same scene as the frame before it. So a part of the picture that changes there far more
than it did from frame to frame, though an earlier frame was much more like the keyframe, was broken in
between. A cut is no such thing: what comes after it was not there before. Nor is a cut away and back, though
an encoder that has just set a keyframe may begin the shot between without one: all of the picture changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import cv2
import numpy as np

COMES_BACK = 0.5
"""Where the part was so far from the keyframe before, of its way at the end, and came back with no keyframe,
it does so by itself: a lamp that blinks, a clock's hand, what passes by."""
AGAIN, MOVES, FEWEST = 3.0, 2.0, 2
"""A keyframe is the first picture of the group before it again where no part differs by more levels from
that. If so many parts always change by twice that and so many levels more, footage is repeated, as in loops:
a scene that stands still stands."""
BLOCKS = 12
"""Rows and columns of parts that are looked at apart."""
ABRUPT, LEAST = 2.5, 8.0
"""A part is mended where its mean change is so many times its usual one and so many of 255 levels more."""
ONSET = 0.3
"""A part breaks at once: of its way from the keyframe so much is gone in one frame. Where it drifts away from
frame to frame, the keyframe begins the same scene anew, as in loops."""
WORSE = 2.0
"""The last frame before it is so many times as far from the keyframe as an earlier one, and `LEAST` more."""
WHOLE = 5.0
"""No part changes so many levels more than usual at a keyframe where nothing was broken before."""
QUIET = 3.0
"""So many levels change on the mean from frame to frame where that is proof; where more do, a picture of
MPEG-4 and its kin that is built on another than its own may look as whole."""
MOST = 0.9
"""Share of the parts that damage breaks at most; a cut changes them all."""
MAX_FRAMES = 300
"""Between keyframes, that are remembered."""


def parts(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """[BLOCKS, BLOCKS] float32: mean change of each part between two glances [s, s, 3] uint8."""
    return cv2.resize(cv2.absdiff(first, second), (BLOCKS, BLOCKS), interpolation=cv2.INTER_AREA).mean(
        2, dtype=np.float32
    )


def alone(before: np.ndarray, glance: np.ndarray, after: np.ndarray) -> bool:
    """Whether a part of one frame is unlike those before and after it, which are alike."""
    away = np.minimum(parts(before, glance), parts(glance, after))
    return bool((away > ABRUPT * parts(before, after) + LEAST).any())


def is_whole(glances: Sequence[np.ndarray], after: np.ndarray, most_moved: float = np.inf) -> bool:
    """Whether the next keyframe mends nothing: what seemed lost before it was a pause.

    Args:
        most_moved: mean change from frame to frame above which that is no proof.
    """
    if len(glances) < 2:
        return False
    moved = parts(glances[-2], glances[-1])
    usual = cv2.dilate(moved, np.ones((3, 3), np.uint8))
    return bool(moved.mean() <= most_moved and (parts(glances[-1], after) - usual).max() <= WHOLE)


def broken_from(
    glances: Sequence[np.ndarray], after: np.ndarray, before: np.ndarray | None = None
) -> int | None:
    """The first broken frame before a keyframe; None where nothing was mended.

    Args:
        glances: of the frames before the keyframe back to their own keyframe, in order.
        after: glance of the keyframe.
        before: of the frame before their own keyframe, where there is one.
    """
    if len(glances) < 3:
        return None
    mended = parts(glances[-1], after)
    usual = cv2.dilate(parts(glances[-2], glances[-1]), np.ones((3, 3), np.uint8))
    is_mended = mended > ABRUPT * usual + LEAST
    if not 0 < is_mended.mean() < MOST:
        return None
    away = np.array([parts(glance, after)[is_mended].mean() for glance in glances])
    if away[-1] <= WORSE * away.min() + LEAST:
        return None
    first = int(np.nonzero(away <= away.min() + LEAST / 2)[0][-1]) + 1
    is_gradual = np.diff(away[first - 1 :]).max() < ONSET * (away[-1] - away.min())
    comes_back = (away[: first - 1] > away.min() + COMES_BACK * (away[-1] - away.min())).any()
    # as before the last keyframe: a state of the scene
    is_state = before is not None and parts(glances[-1], before)[is_mended].mean() <= LEAST
    return None if is_gradual or comes_back or is_state or _is_repeated(glances, after) else first


def _is_repeated(glances: Sequence[np.ndarray], after: np.ndarray) -> bool:
    """Whether the group begins again.

    In a still scene the next keyframe is like the first one too, but there nothing moves from frame to frame
    more than noise, by which the two keyframes differ as well.
    """
    apart = float(parts(glances[0], after).max())
    if apart > AGAIN:
        return False
    usual = np.median([parts(*pair) for pair in pairwise(glances)], axis=0)
    return int((usual > 2 * apart + MOVES).sum()) >= FEWEST
