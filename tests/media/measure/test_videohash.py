"""The video hash: what it must ignore, what it must tell apart, and its bytes."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from media.decode.images import decode_image, encode_jpeg
from media.measure.videohash import SAME, VideoHash, bar_free_boxes, distance, video_hash
from world.render import render_frame
from world.scene import sample_shot

FPS = 4.0


def clip(
    seed: int,
    start_s: float = 0.0,
    end_s: float = 2.5,
    size: tuple[int, int] = (160, 90),
    duration_s: float = 2.5,
) -> tuple[list[np.ndarray], list[float]]:
    shot = sample_shot(seed, 16 / 9, duration_s)
    times = list(np.arange(start_s, end_s - 1e-6, 1 / FPS))
    return [render_frame(shot, time, *size) for time in times], times


def hashed(seed: int, **options) -> VideoHash:
    return video_hash(*clip(seed, **options))


def changed(frames: list[np.ndarray], how: str) -> list[np.ndarray]:
    height, width = frames[0].shape[:2]
    if how == "jpeg":
        return [decode_image(encode_jpeg(rgb, 40)) for rgb in frames]
    if how in {"half", "larger"}:
        factor = 0.5 if how == "half" else 1.5
        return [
            cv2.resize(rgb, (round(width * factor), round(height * factor)), interpolation=cv2.INTER_AREA)
            for rgb in frames
        ]
    if how in {"brighter", "darker"}:
        return [
            np.clip(rgb * (1.15 if how == "brighter" else 0.85), 0, 255).astype(np.uint8) for rgb in frames
        ]
    pad = ((14, 14), (0, 0), (0, 0)) if how == "letterbox" else ((0, 0), (20, 20), (0, 0))
    return [np.pad(rgb, pad) for rgb in frames]


@pytest.mark.parametrize("how", ["jpeg", "half", "larger", "brighter", "darker", "letterbox", "pillarbox"])
def test_what_does_not_change_the_content_is_ignored(how: str) -> None:
    gaps = []
    for seed in range(8):
        frames, times = clip(seed)
        gaps.append(distance(video_hash(frames, times), video_hash(changed(frames, how), times)))
    assert sum(gap <= SAME for gap in gaps) >= 7, gaps


@pytest.mark.parametrize("trim", [(0.6, 2.5), (0.0, 1.8), (0.55, 1.85)])
def test_a_trimmed_copy_out_of_phase_is_found(trim: tuple[float, float]) -> None:
    for seed in range(8):
        whole, part = hashed(seed), hashed(seed, start_s=trim[0], end_s=trim[1])
        assert distance(whole, part) <= SAME
        assert distance(whole, part) == distance(part, whole)


def test_other_shots_are_told_apart() -> None:
    hashes = [hashed(seed) for seed in range(100, 130)]
    gaps = [distance(one, two) for number, one in enumerate(hashes) for two in hashes[:number]]
    assert min(gaps) > SAME


def test_flat_frames_never_match() -> None:
    for color in (0, 128, 255):
        flat = video_hash([np.full((90, 160, 3), color, np.uint8)] * 4, [0.0, 0.5, 1.0, 1.5])
        assert all(view.is_flat.all() for view in flat.views)
        assert distance(flat, flat) == float("inf")
        assert distance(flat, hashed(1)) == float("inf")
        assert distance(flat, flat) == float("inf")


def test_flat_lead_ins_do_not_make_a_match() -> None:
    black = [np.zeros((90, 160, 3), np.uint8)] * 4
    times = [number / FPS for number in range(8)]
    one, two = (video_hash([*black, *clip(seed)[0][:4]], times) for seed in (3, 4))
    assert distance(one, two) > SAME


def test_a_still_and_a_very_short_clip() -> None:
    frames, _ = clip(5)
    still = video_hash(frames[4:5], [7.0])
    assert distance(still, still) == 0.0
    assert distance(still, video_hash(frames[4:6], [0.0, 0.05])) <= SAME
    assert distance(still, video_hash(clip(6)[0][4:5], [0.0])) > SAME


def test_bars_end_at_a_straight_edge() -> None:
    frames, _ = clip(2)
    assert bar_free_boxes([np.pad(rgb, ((10, 12), (8, 0), (0, 0))) for rgb in frames]) == [(10, 100, 8, 168)]
    spot = np.zeros((90, 160, 3), np.uint8)
    cv2.circle(spot, (80, 45), 20, (250, 250, 250), -1)
    sure, tight = bar_free_boxes([spot])
    assert sure == (0, 90, 0, 160)
    assert tight[0] > 20


def test_bytes_go_round_and_wrong_ones_are_refused() -> None:
    found = hashed(9)
    again = VideoHash.from_bytes(found.to_bytes())
    assert again.to_bytes() == found.to_bytes()
    assert distance(found, again) == 0.0
    with pytest.raises(ValueError, match="not a video hash"):
        VideoHash.from_bytes(b"xxxx" + found.to_bytes()[4:])
    with pytest.raises(ValueError, match="bytes"):
        VideoHash.from_bytes(found.to_bytes()[:-1])
    with pytest.raises(ValueError, match="needs frames"):
        video_hash([], [])
