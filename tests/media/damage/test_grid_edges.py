"""Blocks that break off are told from what moves, by where their edges lie."""

import av
import numpy as np
import pytest

from media.damage.grid_edges import GridEdges
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
    assert edges.excess(frame(scene(0), pixels)) == 0
    edges.excess(frame(scene(3), pixels))
    assert abs(edges.excess(frame(scene(6), pixels))) < 0.5
    assert edges.excess(frame(blocks(scene(9), 0), pixels)) > 3
    edges.excess(frame(scene(12), pixels))
    assert edges.excess(frame(blocks(scene(15), 3), pixels)) < 1


def test_what_stands_is_not_new_and_another_size_is_compared_with_nothing():
    edges, broken = GridEdges(), blocks(scene(0), 0)
    edges.excess(frame(scene(0)))
    assert edges.excess(frame(broken)) > 3
    assert edges.excess(frame(broken)) == 0
    assert edges.excess(frame(scene(0, (160, 96)))) == 0
    assert edges.excess(frame(scene(0, (16, 16)))) == 0
    assert GridEdges().excess(av.VideoFrame(64, 64, "rgb24")) == 0


def samples(edges, keys=(0,), **more):
    return [
        Sample(place / 24, 0.0, None, False, False, is_key=place in keys, new_edges=value, **more)
        for place, value in enumerate(edges)
    ]


def test_damage_begins_where_edges_rise_above_what_is_usual():
    assert Edges().broken_from(samples([0, 0.1, 0.1, 0.2, 0.6, 1.4, 0.1])) == 5
    assert Edges().broken_from(samples([0, 0.8, 0.9, 0.8, 0.9, 1.4, 0.1])) is None, "a film of many edges"
    assert Edges().broken_from(samples([0, 5.0])) is None, "nothing is usual yet"


def marks(stream):
    return [
        sample.is_damaged
        for sample, _ in judged((sample, np.zeros((4, 4, 3), np.uint8)) for sample in stream)
    ]


def test_frames_are_in_doubt_from_there_to_the_next_keyframe():
    edges = [0, 0.1, 0, 0.1, 2.0, 0.5, 0, 0.1]
    assert marks(samples(edges, keys=(0, 6))) == [False] * 4 + [True] * 2 + [False] * 2
    assert marks(samples(edges)) == [False] * 4 + [True] * 4, "and to the end where there is none"


def test_doubt_goes_on_in_a_group_that_is_too_long_to_be_held():
    edges = [0, 0.1, 0, 0.1, 2.0] + [0.0] * 700
    assert marks(samples(edges, keys=(0, 650))) == [False] * 4 + [True] * 646 + [False] * 55


def test_a_frame_before_what_was_lost_is_in_doubt():
    first, second = samples([0.0])[0], samples([0.0], casts_doubt=True)[0]
    assert marks([first, second]) == [True, False]


@pytest.mark.parametrize("size_px", [(54, 96), (86, 64), (128, 72)])
def test_a_single_step_in_a_small_picture_is_chance(tmp_path, size_px):
    for seed in (1, 2, 3):
        path = sound(tmp_path, "hevc", seed, size_px)
        row = source_row(Found(str(path)))
        [segment] = segments_of(row, PlanConfig().segment_s)
        found = list(pieces(segment, row, CurateConfig()))
        assert sum(len(piece.samples) for piece in found if not isinstance(piece, Gap)) == 120
