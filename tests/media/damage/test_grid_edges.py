"""Blocks that break off are told from what moves, by where their edges lie."""

import av
import numpy as np
import pytest

from media.damage.grid_edges import GridEdges
from media.damage.signs import Signs
from pipeline.config import CurateConfig, PlanConfig
from pipeline.curate.cutting import Gap, pieces
from pipeline.curate.doubt import Edges, judged
from pipeline.curate.sampling import Sample
from pipeline.footage.sources import Found, source_row
from pipeline.plan import segments_of
from tests.pipeline.curate.damage import sound


def scene(shift, size=(320, 180)):
    """[h, w] uint8: soft waves with camera noise."""
    across, down = np.meshgrid(np.arange(size[0]) + shift, np.arange(size[1]))
    noise = np.random.default_rng(shift).integers(-5, 6, across.shape)
    return np.clip(128 + 60 * np.sin(across / 23) * np.cos(down / 31) + noise, 0, 255).astype(np.uint8)


def frame(luma, pixels="yuv420p"):
    found = av.VideoFrame(luma.shape[1], luma.shape[0], pixels)
    plane = found.planes[0]
    rows = np.frombuffer(plane, np.uint16 if "10" in pixels else np.uint8).reshape(plane.height, -1)
    rows[:, : luma.shape[1]] = luma.astype(rows.dtype) << (2 if "10" in pixels else 0)
    return found


def blocks(luma, offset, count=25, seed=0):
    """Blocks of 16 pixels of it exchanged, `offset` pixels beside the grid."""
    found, draw = luma.copy(), np.random.default_rng(seed)
    for _ in range(count):
        (y, x), (v, u) = (
            draw.integers(1, [luma.shape[0] // 8 - 4, luma.shape[1] // 8 - 4]) * 8 for _ in "ab"
        )
        here = np.s_[y + offset : y + offset + 16, x + offset : x + offset + 16]
        found[here] = luma[v : v + 16, u : u + 16]
    return found


@pytest.mark.parametrize("pixels", ["yuv420p", "yuv420p10le", "gray"])
def test_blocks_on_the_grid_are_unusual_and_others_are_not(pixels):
    edges = GridEdges()
    assert edges.excess(frame(scene(0), pixels)) == (0, 0)
    edges.excess(frame(scene(3), pixels))
    assert abs(edges.excess(frame(scene(6), pixels))[0]) < 0.5
    assert edges.excess(frame(blocks(scene(9), 0), pixels))[0] > 3
    assert edges.excess(frame(scene(12), pixels))[1] > 3, "gone"
    assert edges.excess(frame(blocks(scene(15), 3), pixels))[0] < 1


def test_what_stands_is_not_new_and_another_size_is_compared_with_nothing():
    edges, broken = GridEdges(), blocks(scene(0), 0)
    edges.excess(frame(scene(0)))
    assert edges.excess(frame(broken))[0] > 3
    assert edges.excess(frame(broken)) == (0, 0)
    assert edges.excess(frame(scene(0, (160, 96)))) == (0, 0)
    assert edges.excess(frame(scene(0, (16, 16)))) == (0, 0)
    assert GridEdges().excess(av.VideoFrame(64, 64, "rgb24")) == (0, 0)


def samples(new, gone=(), keys=(0,), hurt=(), **more):
    gone = [*gone, *[0.0] * (len(new) - len(gone))]
    return [
        Sample(
            place / 24,
            0.0,
            None,
            Signs(is_damaged=place in hurt, is_key=place in keys, edges=(value, left), **more),
            is_grey=False,
        )
        for place, (value, left) in enumerate(zip(new, gone, strict=True))
    ]


def marks(stream):
    seen = ((sample, np.zeros((4, 4, 3), np.uint8)) for sample in stream)
    return [sample.signs.is_damaged for sample, _ in judged(seen)]


CALM, BREAKS, ALONE = [0, 0.1, 0, 0.1], [0.1, 0.1, 2.0, 0.5], [0.1, 0.1, 0.1, 0.1]


def test_blocks_that_break_off_and_that_the_next_keyframe_takes_away_are_damage():
    mended = [0.0] * 8 + [2.0]
    found = marks(samples([*CALM, *BREAKS, *ALONE], mended, keys=(0, 4, 8)))
    assert found == [False] * 6 + [True] * 2 + [False] * 4
    assert not any(marks(samples([*CALM, *BREAKS, *ALONE], keys=(0, 4, 8)))), "a title that stays"
    always = [0.0, 0, 0, 0, 1.8, 0, 0, 0, 2.0, 0, 0, 0]
    assert not any(marks(samples([*CALM, *BREAKS, *ALONE], always, keys=(0, 4, 8)))), "as at every keyframe"


def test_edges_that_are_usual_are_none():
    mended = [0.0] * 8 + [2.0]
    assert not any(marks(samples([0.8, 0.9, 1.1, 1.2, *BREAKS, *ALONE], mended, keys=(0, 4, 8))))
    assert Edges().broken_from(samples([0, 5.0]), samples([0.0])[0]) is None, "nothing is usual yet"


def test_in_a_file_that_is_hurt_elsewhere_edges_are_enough():
    found = marks(samples([*CALM, *BREAKS], keys=(0, 4), hurt=(3,)))
    assert found == [False] * 3 + [True] + [False] * 2 + [True] * 2, "to the end where no keyframe comes"


def test_doubt_goes_on_in_a_group_that_is_too_long_to_be_held():
    edges = [0, 0.1, 0, 0.1, 2.0] + [0.0] * 700
    found = marks(samples(edges, keys=(0, 650), hurt=(0,)))
    assert found == [True] + [False] * 3 + [True] * 646 + [False] * 55


def test_a_keyframe_that_stands_in_for_a_lost_one_is_damage_where_something_was_lost():
    calm, stand_in = samples([0.0] * 3, is_after_loss=False), samples([0.0], keys=(), is_stand_in=True)
    assert marks([*calm, *stand_in, *calm]) == [False] * 7, "a forward keyframe of a sound file"
    lost = samples([0.0], keys=(), num_refused=3)
    assert marks([*calm, *stand_in, *lost]) == [False] * 3 + [True, False]
    assert marks([*calm, *stand_in, *samples([0.0], num_refused=3)]) == [False] * 3 + [True, False], (
        "a keyframe"
    )


def test_a_frame_between_two_that_were_refused_is_in_doubt():
    after_loss, calm = samples([0.0], keys=(), num_refused=1), samples([0.0], keys=())
    assert marks([*samples([0.0]), *after_loss, *calm, *calm]) == [False] * 4, "nothing leaned on it"
    assert marks([*samples([0.0]), *after_loss, *after_loss, *calm]) == [False, True, False, False]


@pytest.mark.parametrize("size_px", [(54, 96), (86, 64), (128, 72)])
def test_a_single_step_in_a_small_picture_is_chance(tmp_path, size_px):
    for seed in (1, 2, 3):
        path = sound(tmp_path, "hevc", seed, size_px)
        row = source_row(Found(str(path)))
        [segment] = segments_of(row, PlanConfig().segment_s)
        found = list(pieces(segment, row, CurateConfig()))
        assert sum(len(piece.samples) for piece in found if not isinstance(piece, Gap)) == 120
