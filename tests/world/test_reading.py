"""The reader of the film world against what was drawn."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from world.reading.reader import ATTRIBUTES, OF_VIDEOS, read, truth_of
from world.render import render_frame
from world.scene import COLORS, sample_shot

SIZES_PX = [(96, 64), (64, 96), (80, 80), (125, 56), (120, 90)]
RATES = [(8.0, 17), (12.0, 25), (15.0, 33)]


def shares(seeds, is_still=False):
    """The share of films in which each attribute is read as it was drawn."""
    right: Counter[str] = Counter()
    for seed in seeds:
        width, height = SIZES_PX[seed % len(SIZES_PX)]
        fps, count = (1.0, 1) if is_still else RATES[seed % len(RATES)]
        shot = sample_shot(10**6 + seed, width / height, 0.0 if is_still else count / fps)
        frames = np.stack([render_frame(shot, index / fps, width, height) for index in range(count)])
        found, truth = read(frames, fps).attributes(is_still), truth_of(shot)
        assert found.keys() == truth.keys()
        right.update(name for name, value in truth.items() if found[name] == value)
    return {name: right[name] / len(seeds) for name in truth}


def test_every_attribute_of_films_is_read():
    found = shares(range(40))
    assert tuple(found) == ATTRIBUTES
    assert min(found.values()) >= 0.92, found


def test_stills_have_no_motion_and_no_camera():
    found = shares(range(40), is_still=True)
    assert not set(OF_VIDEOS) & set(found)
    assert min(found.values()) >= 0.92, found


@pytest.mark.slow
@pytest.mark.long
def test_attributes_are_read_in_97_of_100_films():
    films, stills = shares(range(100, 400)), shares(range(100, 400), is_still=True)
    print(films, stills)
    assert min(films.values()) >= 0.97, films
    assert min(stills.values()) >= 0.97, stills


def test_an_empty_picture_has_no_subject():
    frames = np.full((5, 48, 64, 3), 127, np.uint8)
    found = read(frames, 10.0).attributes(False)
    assert found["count"] == "0"
    assert found["colour"] == found["shape"] == found["motion"] == found["text"] == ""


@pytest.mark.parametrize(
    ("background", "color"), [("sea", "purple"), ("desert", "red"), ("night sky", "yellow")]
)
def test_a_patch_of_no_shape_is_seen_in_its_colour(background, color):
    """A small model's samples: the colour is there, the outline of no shape."""
    shot = replace(sample_shot(7, 1.5, 1.0), background=background, light="daylight", things=[], title="")
    frames = np.stack([render_frame(shot, 0.0, 96, 64)] * 5)
    for row, (left, right) in enumerate([(30, 34), (24, 50), (26, 33), (25, 31), (40, 60), (41, 44)]):
        frames[:, 20 + 2 * row : 22 + 2 * row, left:right] = COLORS[color]
    found = read(frames, 10.0)
    assert [thing.color for thing in found.things] == [color]
    assert found.things[0].fit < 0.66
