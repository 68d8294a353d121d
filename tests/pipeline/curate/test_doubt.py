"""Frames that may show another picture in the place of their own are in doubt."""

import numpy as np

from media.damage.signs import Signs
from pipeline.curate.doubt import judged
from pipeline.curate.sampling import Sample


def frames(count=1, *, is_key=False, **signs):
    return [Sample(0.0, 0.0, None, Signs(is_key=is_key, **signs), is_grey=False)] * count


def marks(*groups, codec=""):
    seen = ((sample, np.zeros((4, 4, 3), np.uint8)) for group in groups for sample in group)
    return [sample.signs.is_damaged for sample, _ in judged(seen, codec)]


KEY = frames(is_key=True)


def test_a_keyframe_that_stands_in_for_a_lost_one_is_damage_where_something_was_lost():
    stand_in = frames(is_stand_in=True)
    assert not any(marks(KEY, frames(), stand_in, frames())), "a forward keyframe of a sound file"
    assert marks(KEY, frames(), stand_in, frames(num_refused=3)) == [False, False, True, False]
    at_the_end = frames(is_key=True, num_refused=3)
    assert marks(KEY, frames(), stand_in, at_the_end) == [False, False, True, False]


def test_a_frame_between_two_that_were_refused_is_in_doubt():
    after_loss = frames(num_refused=1)
    assert not any(marks(KEY, after_loss, frames(2))), "nothing leaned on it"
    assert marks(KEY, after_loss, after_loss, frames()) == [False, True, False, False]


def test_in_a_file_that_is_hurt_elsewhere_a_frame_unlike_those_around_it_is_in_doubt():
    def found(hurt, codec):
        glances = [np.full((24, 24, 3), 200 if place == 4 else 80, np.uint8) for place in range(8)]
        samples = [*KEY, *frames(1, is_after_loss=hurt), *frames(6)]
        return [sample.signs.is_damaged for sample, _ in judged(zip(samples, glances, strict=True), codec)]

    assert found(True, "av1") == [False] * 4 + [True] + [False] * 3
    assert not any(found(False, "av1")) and not any(found(True, "h264"))
