"""The camera estimate: against the film world's truth, on what real footage does to it, and on nothing at
all.
"""

from __future__ import annotations

import functools

import cv2
import numpy as np
import pytest

from media.measure.camera import Camera, camera
from world.film import RATES_FPS, SIZES_PX
from world.render import render_frame
from world.scene import sample_shot

OPPOSITE = {"pan_left": "pan_right", "tilt_up": "tilt_down", "zoom_in": "zoom_out"}
OPPOSITE |= {second: first for first, second in OPPOSITE.items()}


@pytest.fixture(scope="module")
def judged() -> list[tuple[str, Camera]]:
    """Truth and estimate of shots that no threshold was chosen on."""
    cv2.setNumThreads(1)
    found = []
    for number in range(110):
        rng = np.random.default_rng([77, number])
        width, height = SIZES_PX[int(rng.integers(len(SIZES_PX)))]
        fps = RATES_FPS[int(rng.integers(len(RATES_FPS)))]
        shot = sample_shot(int(rng.integers(1 << 31)), width / height, float(rng.uniform(1.2, 2.8)))
        times = [index / fps for index in range(round(shot.duration_s * fps))]
        luma = [cv2.cvtColor(render_frame(shot, time, width, height), cv2.COLOR_RGB2GRAY) for time in times]
        found.append((shot.camera, camera(luma, times)))
    return found


def test_film_world(judged: list[tuple[str, Camera]]) -> None:
    right = [truth == found.tag for truth, found in judged]
    assert np.mean(right) >= 0.95, [(truth, found.tag) for truth, found in judged if truth != found.tag]


def test_the_direction_is_right(judged: list[tuple[str, Camera]]) -> None:
    assert sum(OPPOSITE.get(truth) == found.tag for truth, found in judged) <= 1


def test_what_is_claimed_is_so(judged: list[tuple[str, Camera]]) -> None:
    claims = [truth == found.tag for truth, found in judged if found.confidence >= 0.5]
    assert len(claims) >= 0.8 * len(judged)
    assert np.mean(claims) >= 0.97


@functools.cache
def scene(seed: int = 0) -> np.ndarray:
    """A textured picture [400, 700] uint8, larger than a frame."""
    rng = np.random.default_rng(seed)
    soft = sum(cv2.GaussianBlur(rng.normal(0, 1, (400, 700)), (0, 0), sigma) * sigma for sigma in (2, 5, 12))
    return np.clip(128 + 90 * soft / np.abs(soft).max() * 2, 0, 255).astype(np.uint8)


def moved(
    motions: list[tuple[float, float, float, float]], size: tuple[int, int] = (144, 256)
) -> list[np.ndarray]:
    """Frames of `scene` seen by a camera at (x, y) pixels right and down of its middle, a scale and a turn
    clockwise in degrees.
    """
    height, width = size
    frames = []
    for x, y, scale, turn in motions:
        cos, sin = np.cos(np.radians(turn)) / scale, np.sin(np.radians(turn)) / scale
        matrix = np.array([[cos, -sin, 350 + x], [sin, cos, 200 + y]])
        matrix[:, 2] -= matrix[:, :2] @ [(width - 1) / 2, (height - 1) / 2]
        frames.append(
            cv2.warpAffine(scene(), matrix, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
        )
    return frames


TIMES = [index / 24 for index in range(48)]


@pytest.mark.parametrize(
    "tag, field, rate, path",
    [
        ("pan_right", "pan_per_s", 0.25, lambda t: (36 * t, 0, 1, 0)),
        ("pan_left", "pan_per_s", -0.5, lambda t: (-72 * t, 0, 1, 0)),
        ("tilt_up", "tilt_per_s", 0.2, lambda t: (0, -28.8 * t, 1, 0)),
        ("zoom_in", "zoom_per_s", 0.2, lambda t: (0, 0, np.exp(0.2 * t), 0)),
        ("zoom_out", "zoom_per_s", -0.1, lambda t: (0, 0, np.exp(-0.1 * t), 0)),
        ("roll_right", "roll_deg_per_s", 10, lambda t: (0, 0, 1, 10 * t)),
        ("static", "pan_per_s", 0, lambda t: (0, 0, 1, 0)),
        ("handheld", "pan_per_s", 0, lambda t: (2 * np.sin(9 * t), 2 * np.sin(11 * t + 1), 1, 0)),
    ],
)
def test_rates_are_measured(tag: str, field: str, rate: float, path) -> None:
    found = camera(moved([path(time - 1) for time in TIMES]), TIMES)
    assert found.tag == tag and found.confidence > 0.5, found
    assert getattr(found, field) == pytest.approx(rate, abs=0.03 + 0.03 * abs(rate))


def test_bars_do_not_hold_the_picture_still() -> None:
    frames = moved([(0, 30 * time, 1, 0) for time in TIMES])
    for frame in frames:
        frame[:24], frame[-24:] = 16, 16
    found = camera(frames, TIMES)
    assert found.tag == "tilt_down" and found.confidence > 0.5, found


def test_a_large_object_is_not_the_camera() -> None:
    rng = np.random.default_rng(3)
    texture = cv2.GaussianBlur(rng.integers(0, 256, (90, 80)).astype(np.uint8), (0, 0), 1.5)
    still = moved([(0, 0, 1, 0)] * len(TIMES))
    for index, frame in enumerate(still):
        frame[30:120, 20 + 3 * index : 100 + 3 * index] = texture
    found = camera(still, TIMES)
    assert found.tag == "static" and found.confidence > 0.5, found
    assert found.object_motion > 0.01


def test_stripes_leave_their_direction_open() -> None:
    rows = 128 + 60 * np.sin(np.arange(144) / 5.0)
    frames = [np.repeat(rows[:, None], 256, 1).astype(np.uint8) for _ in TIMES]
    assert camera(frames, TIMES).tag in {"static", "unknown"}


def test_nothing_to_see_is_unknown() -> None:
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (90, 160)).astype(np.uint8) for _ in TIMES]
    flat = [np.full((90, 160), 16, np.uint8) for _ in TIMES]
    assert camera(noise, TIMES).tag == "unknown"
    assert camera(flat, TIMES).tag == "unknown"
    assert camera(flat[:1], TIMES[:1]) == Camera("unknown", 0.0)


def test_the_same_clip_gives_the_same_answer() -> None:
    frames = moved([(20 * time, 5 * time, 1, 0) for time in TIMES])
    assert camera(frames, TIMES) == camera(frames, TIMES)
