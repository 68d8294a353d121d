import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from media.decode.geometry import Geometry, pick_times

sides = st.integers(1, 4000)


@given(
    width=sides,
    height=sides,
    aspect=st.floats(0.3, 3),
    turns=st.integers(-3, 3),
    cap=st.integers(64, 1_000_000),
)
def test_a_cap_scales_both_axes_by_one_factor_and_never_enlarges(width, height, aspect, turns, cap):
    geometry = Geometry(width, height, aspect, 90 * turns)
    shown, capped = geometry.display_size_px, geometry.capped_size_px(cap)
    assert all(0 < small <= large for small, large in zip(capped, shown, strict=True))
    factor = min(1.0, (cap / (shown[0] * shown[1])) ** 0.5)
    for small, large in zip(capped, shown, strict=True):
        assert abs(small - large * factor) <= 0.5 + 1e-6 or small == 1


@given(width=sides, height=sides, aspect=st.floats(0.3, 3))
def test_square_pixels_come_from_enlarging_the_short_axis(width, height, aspect):
    shown = Geometry(width, height, aspect).display_size_px
    assert shown[0] >= width
    assert shown[1] >= height


def test_turning_is_counter_clockwise_and_swaps_axes():
    picture = np.zeros((2, 3, 3), np.uint8)
    picture[0, 2] = 255  # top right
    turned = Geometry(3, 2, 1.0, 90).upright(picture)
    assert turned.shape == (3, 2, 3)
    assert turned[0, 0, 0] == 255  # now top left
    assert Geometry(3, 2, 1.0, 90).display_size_px == (2, 3)


@given(gaps=st.lists(st.floats(0.005, 0.5), min_size=1, max_size=80), max_fps=st.floats(1, 60))
def test_a_rate_cap_picks_existing_frames_evenly(gaps, max_fps):
    times = np.cumsum([0.0, *gaps]).tolist()
    picks = pick_times(times, max_fps)
    assert picks[0] == 0
    assert picks == sorted(set(picks))
    slots = [int((times[index] - times[0]) * max_fps + 1e-3) for index in picks]
    assert len(slots) == len(set(slots))  # at most one frame in each 1/max_fps
    every = {int((time - times[0]) * max_fps + 1e-3) for time in times}
    assert set(slots) == every  # and one wherever there is one
