"""What no motion explains, by which cuts amid motion are told."""

import cv2
import numpy as np
import pytest

from media.shots.moving import left_over


def test_what_is_left_over_without_motion_is_that_of_a_search_block_by_block():
    rng = np.random.default_rng(1)
    before = cv2.resize(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), (36, 36))
    after = np.roll(before, (3, -2), (0, 1))
    after[:10] = rng.integers(0, 256, 3)
    padded = np.pad(before.astype(int), ((6, 6), (6, 6), (0, 0)), mode="edge")
    blocks = [
        min(
            np.abs(
                padded[y + down : y + down + 6, x + across : x + across + 6] - after[y : y + 6, x : x + 6]
            ).mean()
            for down in range(13)
            for across in range(13)
        )
        for y in range(0, 36, 6)
        for x in range(0, 36, 6)
    ]
    assert left_over(before, after) == pytest.approx(np.mean(blocks), rel=1e-5)
    assert left_over(before, before) == 0
