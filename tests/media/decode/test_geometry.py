import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from media.decode.geometry import Geometry, pick_times
from media.decode.probe import probe
from media.decode.reader import VideoReader

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


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_stills_are_upright_and_of_their_own_shape(tmp_path, orientation, suffix):
    """A dot in the corner that is up and to the left."""
    upright = np.zeros((64, 96, 3), np.uint8) if orientation < 5 else np.zeros((96, 64, 3), np.uint8)
    upright[:16, :16] = 255
    turns = {2: (1, 0), 3: (1, 1), 4: (0, 1), 5: (0, 0), 6: (1, 0), 7: (1, 1), 8: (0, 1)}
    mirrored, flipped = turns.get(orientation, (0, 0))
    stored = upright.swapaxes(0, 1) if orientation >= 5 else upright
    if orientation in (6, 8):  # swapping the axes has mirrored it as well
        mirrored, flipped = (0, 1) if orientation == 6 else (1, 0)
    stored = stored[:: -1 if flipped else 1, :: -1 if mirrored else 1]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"still.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    facts = probe(str(path))
    assert facts.geometry.display_size_px == (upright.shape[1], upright.shape[0])
    [frame] = VideoReader(facts).frames()
    assert frame.rgb.shape == upright.shape
    assert np.abs(frame.rgb.astype(int) - upright).mean() < 8
