"""The camera's move in a clip, from the global motion between pairs of frames.

Pairs are an eighth and a quarter of a second apart.

Short steps tell fast moves over repeating ground (bricks look the same one brick further), long ones slow
moves over faint ground.

Rates are of the camera, medians over the pairs; where two motions compete in a pair (a large object, the
background), the one that the rest of the clip also shows wins. The background slides against the camera: a
camera that pans right moves the picture left.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np

from media.measure.align import Aligner

Array = np.ndarray

STEPS_S, PAIRS_PER_S, MIN_PAIRS, MAX_PAIRS = (1 / 8, 1 / 4), 2.0, 6, 12
STILL, MOVES = 0.03, 0.04  # heights per second: at most this in a static shot, at least this in a named move
OTHERS = 0.6  # a named move is that much above all other motion of the camera
SHAKES = 0.03  # heights per second of unsteadiness in a handheld shot
SUPPORT, ALIKE = 0.5, 0.03  # say of the rest of the clip, and rates (heights per second) that count as alike
UNCHANGED, FLAT = (
    0.1,
    3.0,
    # luma steps: pictures that differ by less on average are one; a picture that varies by less has nothing
    # to
    # follow
)
AGREED = 0.05  # with less of the picture in agreement nothing is known
UNITS = np.array(
    [1.0, 1.0, 0.5, 0.5 * math.pi / 180]
)  # pan, tilt, log zoom, roll degrees: the motion each causes, in heights
NAMES = (
    ("pan_left", "pan_right"),
    ("tilt_down", "tilt_up"),
    ("zoom_out", "zoom_in"),
    ("roll_left", "roll_right"),
)


@dataclass(frozen=True)
class Camera:
    """A clip's camera.

    Attributes:
        tag: static, pan_left, pan_right, tilt_up, tilt_down, zoom_in, zoom_out, roll_left, roll_right,
            handheld, moving (by no single named move) or unknown.
        confidence: 0 to 1, how sure `tag` is.
        pan_per_s: picture heights per second, to the right > 0.
        tilt_per_s: picture heights per second, up > 0.
        zoom_per_s: log scale per second, in > 0.
        roll_deg_per_s: of the camera, clockwise > 0 (the picture then turns counter-clockwise).
        shake: rms of the camera's rate around its steady part, heights per second.
        object_motion: mean motion that the camera does not explain, over the picture, heights per second.
    """

    tag: str
    confidence: float
    pan_per_s: float = 0.0
    tilt_per_s: float = 0.0
    zoom_per_s: float = 0.0
    roll_deg_per_s: float = 0.0
    shake: float = 0.0
    object_motion: float = 0.0


@dataclass(frozen=True)
class Track:
    """A clip's pairs. `rates` [n, 4]: pan, tilt, zoom, roll per second; the others [n].

    `agreement`: share of the picture that moves so. `lead`: how far that is ahead of the next best motion, 0
    to 1. `support`: how much the other pairs show the same.
    """

    rates: Array
    agreement: Array
    lead: Array
    support: Array
    objects: Array
    texture: Array


def pick_pairs(times_s: list[float]) -> list[tuple[int, int]]:
    """Frames to compare, (first, second), spread over the clip."""
    times = np.asarray(times_s)
    count = min(MAX_PAIRS, max(MIN_PAIRS, math.ceil((times[-1] - times[0]) * PAIRS_PER_S)))
    pairs = set()
    for number, start in enumerate(np.linspace(times[0], max(times[0], times[-1] - max(STEPS_S)), count)):
        first = int(np.argmin(np.abs(times - start)))
        second = max(first + 1, int(np.argmin(np.abs(times - times[first] - STEPS_S[number % len(STEPS_S)]))))
        if second < len(times) and times[second] > times[first]:
            pairs.add((first, second))
    return sorted(pairs)


def inner_box(luma: list[Array]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the picture without bars of one flat tone."""
    some = np.stack([luma[index] for index in np.unique(np.linspace(0, len(luma) - 1, 6).astype(int))])
    box = []
    for axes, side in (((0, 2), luma[0].shape[0]), ((0, 1), luma[0].shape[1])):
        varied = np.nonzero(np.ptp(some, axis=axes) > 12)[0]
        first, last = (int(varied[0]), int(varied[-1]) + 1) if len(varied) else (0, side)
        box += [first, last] if last - first >= 0.3 * side else [0, side]
    return box[0], box[1], box[2], box[3]


def _rate(state: Array, elapsed_s: float) -> Array:
    tx, ty, a, b = state[:4]
    return (
        np.array([-tx, ty, math.log(math.hypot(1 + a, b)), -math.degrees(math.atan2(b, 1 + a))]) / elapsed_s
    )


def track(luma: list[Array], times_s: list[float]) -> Track | None:
    """The camera's rates between pairs of frames; None where there is no pair."""
    pairs = pick_pairs(times_s)
    if not pairs:
        return None
    aligner = Aligner(luma[0].shape[:2], inner_box(luma))
    ready: dict[int, list[Array]] = {}
    guess = np.zeros(6)
    owner, rates, scores, objects, texture = [], [], [], [], []
    for number, (first, second) in enumerate(pairs):
        elapsed = times_s[second] - times_s[first]
        if cv2.norm(luma[first], luma[second], cv2.NORM_L1) < UNCHANGED * luma[first].size:
            options, left, textured = [(1.0, np.zeros(6))], 0.0, float(luma[first].std() > FLAT)
        else:
            ready = {
                index: ready[index] if index in ready else aligner.prepare(luma[index])
                for index in (first, second)
            }
            options, left, textured = aligner.align(ready[first], ready[second], guess * elapsed)
        guess = np.array([*(options[0][1][:4] / elapsed), 0, 0])
        objects.append(left / elapsed)
        texture.append(textured)
        for score, state in options:
            owner.append(number)
            scores.append(score)
            rates.append(_rate(state, elapsed))
    owners, moves, agreed = np.array(owner), np.array(rates), np.array(scores)
    apart = ((moves[:, None] - moves[None]) * UNITS / ALIKE) ** 2
    alike = np.exp(-apart.sum(-1)) * agreed[None]
    support = np.mean([alike[:, owners == number].max(1) for number in range(len(pairs))], axis=0)
    total = agreed + SUPPORT * support
    picks, lead = [], []
    for number in range(len(pairs)):
        mine = np.nonzero(owners == number)[0]
        mine = mine[np.argsort(-total[mine], kind="stable")]
        picks.append(int(mine[0]))
        lead.append(1 - total[mine[1]] / max(total[mine[0]], 1e-6) if len(mine) > 1 else 1.0)
    return Track(
        moves[picks], agreed[picks], np.array(lead), support[picks], np.array(objects), np.array(texture)
    )


def _median(values: Array, weights: Array) -> Array:
    """Weighted median of each column: `values` [n, k], `weights` [n]."""
    order = np.argsort(values, axis=0, kind="stable")
    sums = np.cumsum(weights[order], axis=0)
    return np.take_along_axis(values, np.take_along_axis(order, (sums < sums[-1] / 2).sum(0)[None], 0), 0)[0]


def _ramp(value: float, low: float, high: float) -> float:
    return min(1.0, max(0.0, (value - low) / (high - low)))


def judge(found: Track) -> Camera:
    """The named move that a clip's rates make, and how sure that is."""
    weights = found.agreement**2 + 1e-4
    steady = _median(found.rates, weights)
    motion, around = steady * UNITS, np.abs(found.rates - steady) * UNITS
    bound = 3 * _median(around, weights) + 0.02  # one bad pair is no shake
    shake = float(np.sqrt((weights @ np.minimum(around[:, :2], bound[:2]) ** 2).sum() / weights.sum()))
    speed = float(_median(np.linalg.norm(found.rates * UNITS, axis=1)[:, None], weights)[0])
    axis = int(np.argmax(np.abs(motion)))
    strength = abs(float(motion[axis]))
    others = float(np.linalg.norm(np.delete(motion, axis))) / max(strength, 1e-6)
    along = found.rates[:, axis] * UNITS[axis] * np.sign(motion[axis]) > 0.3 * strength
    share = float(weights @ along / weights.sum())
    agreed, lead, support = (
        float(np.median(values)) for values in (found.agreement, found.lead, found.support)
    )
    rest = (*(float(value) for value in steady), shake, float(np.median(found.objects)))
    if agreed < AGREED or float(np.median(found.texture)) < 0.02:
        return Camera("unknown", 0.0, *rest)
    evidence = _ramp(agreed, AGREED, 0.4) * _ramp(len(found.lead), 0, 4)
    if speed < STILL and strength < STILL and shake < SHAKES:
        return Camera("static", round(evidence * _ramp(1.3 * STILL - max(speed, shake), 0, STILL), 4), *rest)
    if strength > MOVES and others < OTHERS and share > 0.7 and shake < 0.9 * max(strength, 0.06):
        clear = (
            _ramp(strength, 0.7 * MOVES, 1.6 * MOVES)
            * _ramp(1.2 * OTHERS - others, 0, OTHERS / 2)
            * _ramp(share, 0.5, 0.85)
        )
        return Camera(
            NAMES[axis][int(motion[axis] > 0)],
            round(evidence * clear * _ramp(support / agreed, 0.1, 0.4) * _ramp(lead, 0.0, 0.2), 4),
            *rest,
        )
    if shake > max(SHAKES, 0.8 * strength):
        clear = (
            _ramp(agreed, 0.15, 0.45)
            * _ramp(shake, 0.5 * SHAKES, 1.5 * SHAKES)
            * _ramp(1.2 - strength / shake, 0, 0.4)
        )
        return Camera("handheld", round(evidence * clear, 4), *rest)
    return Camera("moving", round(0.45 * evidence, 4), *rest)


def camera(luma: list[Array], times_s: list[float]) -> Camera:
    """The camera's move.

    Args:
        luma: the clip's frames, [H, W] uint8, all of one size, longer side at most 256.
        times_s: their times.
    """
    if len(luma) < 2 or times_s[-1] - times_s[0] < 0.2:
        return Camera("unknown", 0.0)
    found = track(luma, times_s)
    return judge(found) if found is not None else Camera("unknown", 0.0)
