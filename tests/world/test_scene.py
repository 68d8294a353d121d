"""Scenes: what captions say of where things stand can be seen."""

import itertools

import pytest

from world.scene import CLEAR, SIZES, sample_shot


@pytest.mark.parametrize("aspect", [9 / 16, 1.0, 21 / 9])
def test_things_do_not_overlap_and_their_order_and_side_are_clear(aspect):
    shots = [sample_shot(seed, aspect, 2.0) for seed in range(300)]
    pairs = [pair for shot in shots for pair in itertools.combinations(shot.things, 2)]
    assert len(pairs) > 100
    for a, b in pairs:
        across, down = abs(a.x - b.x), abs(a.y - b.y)
        assert max(across, down) > (SIZES[a.size] + SIZES[b.size]) * aspect**0.5
        assert abs(across - down) > CLEAR
        assert a.size != b.size or across > CLEAR
    assert {len(shot.things) for shot in shots} == {1, 2, 3}
