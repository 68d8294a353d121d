import cv2
import numpy as np
import pytest

from media.measure.camera import camera
from world import captions
from world.film import make_film, render_film, truth, write_film
from world.render import render_frame
from world.scene import Shot, Thing, sample_shot


def shot(motion="right", move="static", seed=5):
    thing = Thing(
        "ball", "red", "large", "plain", motion, 0.0, 0.0, 0.25 if motion != "still" else 0.0, 0.0, 0.0
    )
    return Shot(seed, 2.0, "brick wall", "daylight", move, 0.2, [thing])


def centre_of_red(picture):
    mask = (
        (picture[..., 0].astype(int) - picture[..., 1] > 90) & (picture[..., 1] < 90) & (picture[..., 2] < 90)
    )
    ys, xs = np.nonzero(mask)
    return xs.mean(), ys.mean()


def test_the_same_seed_gives_the_same_files(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for index in range(5):
            write_film(make_film(3, index), tmp_path / name)
        write_film(make_film(3, 0, is_still=True), tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def luma(take, time_s, width, height):
    return cv2.cvtColor(render_frame(take, time_s, width, height), cv2.COLOR_RGB2GRAY)


@pytest.mark.parametrize(
    ("motion", "axis", "sign"), [("right", 0, 1), ("left", 0, -1), ("down", 1, 1), ("up", 1, -1)]
)
@pytest.mark.parametrize("move", ["static", "pan_left", "zoom_in"])
def test_things_move_on_screen_as_their_caption_says(motion, axis, sign, move):
    first, last = (centre_of_red(render_frame(shot(motion, move), time, 160, 120)) for time in (0.5, 1.5))
    assert sign * (last[axis] - first[axis]) > 10
    assert abs(last[1 - axis] - first[1 - axis]) < 6


@pytest.mark.parametrize(
    "move", ["static", "pan_left", "pan_right", "tilt_up", "tilt_down", "zoom_in", "zoom_out"]
)
def test_the_camera_moves_as_it_is_named_and_is_measured_so(move):
    found = camera(
        [luma(shot("still", move), i / 12, 160, 120) for i in range(24)], [i / 12 for i in range(24)]
    )
    assert found.tag == move  # how sure it is differs: bricks look alike half a row further


def test_the_truth_counts_frames_and_cuts_where_they_are():
    film = next(
        film
        for film in (make_film(1, index) for index in range(50))
        if film.joins and set(film.joins) == {"cut"}
    )
    frames = list(render_film(film))
    facts = truth(film)
    assert len(frames) == facts["truth"]["num_frames"]
    change = [np.abs(a.astype(int) - b).mean() for a, b in zip(frames, frames[1:], strict=False)]
    cuts = [join["frame"] for join in facts["truth"]["joins"]]
    assert sorted(np.argsort(change)[-len(cuts) :] + 1) == cuts


def test_captions_say_what_was_drawn_and_short_ones_are_short():
    for seed in range(40):
        film = make_film(seed, 0)
        for take in film.shots:
            dense, short = captions.dense(take), captions.short(take)
            for thing in take.things:
                assert f"{thing.color}" in dense and thing.shape in dense
            assert len(short.split()) <= 12
            assert take.things[0].color in short and take.things[0].shape in short


def test_edges_are_smooth_at_every_size():
    for size in (48, 200):
        picture = render_frame(shot("still"), 0.0, size, size).astype(int)
        levels = len(np.unique(picture.reshape(-1, 3), axis=0))
        assert levels > 100


def test_camera_claims_of_the_measured_captioner_are_right_on_random_shots():
    """Many shots are too plain to tell; what is claimed must be true."""
    from captioner.backends.measured import _MIN_CONFIDENCE

    claims = right = 0
    for seed in range(72):
        width, height = [(160, 90), (96, 128), (112, 112), (192, 80)][seed % 4]
        take = sample_shot(seed, width / height, 2.0)
        found = camera([luma(take, i / 12, width, height) for i in range(24)], [i / 12 for i in range(24)])
        if found.tag not in {"unknown", "moving"} and found.confidence >= _MIN_CONFIDENCE:
            claims += 1
            right += found.tag == take.camera
    assert claims >= 50
    assert right / claims >= 0.98
