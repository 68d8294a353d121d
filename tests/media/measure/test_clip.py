"""Measurements say what is there: text, noise, bars, loops, screens, black and white."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from media.measure.clip import bars_px, look, loop_likelihood, measure, palette, screen_likelihood
from world.render import render_frame
from world.scene import sample_shot


def natural(seed=3, size=(320, 180), time_s=0.5):
    return render_frame(sample_shot(seed, size[0] / size[1], 2.0), time_s, *size)


def page(lines=7):
    image = Image.new("RGB", (480, 270), (250, 250, 250))
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(20)
    for number in range(lines):
        draw.text(
            (16, 12 + 36 * number), "Rushes turn raw footage into a model", fill=(20, 20, 30), font=font
        )
    return np.asarray(image)


def measured(frames, fps=8.0):
    times = [index / fps for index in range(len(frames))]
    changes = [
        float(np.abs(a.astype(int) - b).mean() / 255) for a, b in zip(frames, frames[1:], strict=False)
    ]
    return measure(
        [look(frame) for frame in frames[::4]], frames, times, changes, times[-1], frames[0].shape[1]
    )


def test_noise_is_measured_in_steps_of_luma():
    clean = natural()
    for sigma in (4.0, 12.0):
        noisy = np.clip(
            clean + np.random.default_rng(0).normal(0, sigma, (*clean.shape[:2], 1)), 0, 255
        ).astype(np.uint8)
        assert look(noisy).noise == pytest.approx(sigma, rel=0.35)
    assert look(clean).noise < 2.5


def test_bars_are_found_at_full_size_and_only_where_they_stay():
    barred = [np.pad(natural(time_s=t), ((30, 20), (0, 0), (0, 0))) for t in (0.0, 1.0)]
    assert bars_px([look(rgb) for rgb in barred], 640) == pytest.approx([60, 40, 0, 0], abs=2)
    lit = barred[1].copy()
    lit[:30] = 200
    assert bars_px([look(barred[0]), look(lit)], 640)[0] == 0


def test_a_loop_leads_back_and_a_shot_does_not():
    out = [natural(7, time_s=t) for t in np.arange(0, 1.5, 0.125)]
    assert loop_likelihood([*out, *out[::-1]]) > 0.9
    assert loop_likelihood(out) < 0.4


def test_recorded_screens_and_still_pictures():
    assert screen_likelihood([look(page())] * 3) > 0.8
    assert screen_likelihood([look(natural(seed)) for seed in range(5)]) < 0.2
    still, moving = (
        measured([natural()] * 24),
        measured([natural(9, time_s=index / 8) for index in range(16)]),
    )
    assert still["slideshow_likelihood"] > 0.9
    assert moving["slideshow_likelihood"] < 0.6
    assert (still["frozen_share"], still["motion"]) == (1.0, 0.0)


@pytest.mark.parametrize(("level", "name"), [(0, "black_share"), (255, "white_share")])
def test_black_and_white_are_shares_of_the_clip(level, name):
    flat = np.full((90, 160, 3), level, np.uint8)
    assert measured([flat] * 8)[name] == 1.0
    assert measured([natural()] * 8)[name] == 0.0


@pytest.mark.parametrize(("level", "name"), [(8, "black"), (100, "grey"), (190, "white"), (250, "white")])
def test_a_picture_without_colour_is_black_grey_or_white(level, name):
    assert palette([look(np.full((40, 60, 3), level, np.uint8))]) == [name]


def test_palette_names_what_covers_most():
    red = np.full((60, 90, 3), (205, 45, 40), np.uint8)
    red[:20] = (240, 240, 240)
    assert palette([look(red)]) == ["red", "white"]
