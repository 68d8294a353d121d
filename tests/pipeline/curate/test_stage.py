import json
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests.tables import scans
from media.damage.signs import Signs
from media.shots.detector import window_lengths
from media.writer import write_video
from pipeline.config import CurateConfig
from pipeline.curate.cutting import Gap, pieces
from pipeline.curate.sampling import Sample
from pipeline.curate.stage import Book
from pipeline.curate.takes import Clip
from pipeline.footage.sources import Found, source_row
from world.render import render_frame
from world.scene import sample_shot


@given(length=st.floats(0.01, 500), longest=st.floats(1, 60))
def test_windows_add_up_and_none_is_longer_than_allowed(length, longest):
    windows = window_lengths(length, longest)
    assert sum(windows) == pytest.approx(length)
    assert max(windows) <= longest + 1e-9
    if length > longest:
        assert min(windows) >= longest / 2 - 1e-9


@pytest.fixture(scope="module")
def long_film(tmp_path_factory):
    """Nine shots of different places, 0.9 to 5 s long, at 10 fps."""
    path = tmp_path_factory.mktemp("long") / "long.mp4"
    lengths, frames, cuts, background = [9, 50, 20, 13, 40, 31, 11, 25, 36], [], [0], ""
    for index, count in enumerate(lengths):
        shot = next(
            shot
            for seed in range(100)
            if (shot := sample_shot(1000 * index + seed, 1.5, count / 10)).background != background
        )
        background = shot.background
        frames += [render_frame(shot, i / 10, 96, 64) for i in range(count)]
        cuts.append(cuts[-1] + count)
    write_video(path, frames, 10)
    return path, [cut / 10 for cut in cuts]


def clips_of(path, bounds, config, source=None):
    """(start, end, frames) of every clip, and the frames in gaps by reason, of a source cut into segments."""
    source = source or source_row(Found(str(path)))
    clips, gaps = [], Counter()
    for start, end in zip(bounds, bounds[1:], strict=False):
        for piece in pieces({"start_s": start, "end_s": end}, source, config):
            if isinstance(piece, Gap):
                gaps[piece.reason] += piece.num_frames
            else:
                clips.append((round(piece.start_s, 4), round(piece.end_s, 4), len(piece.samples)))
    return clips, gaps


def test_shots_are_found_where_the_film_was_cut(long_film):
    path, cuts = long_film
    found, gaps = clips_of(path, [0.0, cuts[-1]], CurateConfig())
    assert not gaps
    assert [start for start, _, _ in found] == pytest.approx(cuts[:-1])
    assert [end for _, end, _ in found] == pytest.approx(cuts[1:])
    assert sum(count for _, _, count in found) == round(cuts[-1] * 10)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("max_clip_s", [16.0, 1.5])
def test_any_segmenting_gives_the_shots_of_the_whole(long_film, seed, max_clip_s):
    path, cuts = long_film
    config = CurateConfig(max_clip_s=max_clip_s)
    rng = np.random.default_rng(seed)
    bounds = [0.0, *sorted(rng.uniform(0, cuts[-1], 5).tolist()), cuts[-1]]
    assert clips_of(path, bounds, config) == clips_of(path, [0.0, cuts[-1]], config)


def test_films_become_their_true_shots_and_no_good_frame_is_lost(dataset, films):
    """Frames in = frames in clips + frames of transitions + frames of shots too short."""
    clips = scans.table(dataset, "clips").to_pylist()
    drops = scans.table(dataset, "drops").to_pylist()
    for path in films.glob("film-*.json"):
        truth, stem = json.loads(path.read_text())["truth"], str(path.with_suffix(""))
        own = sorted(
            (clip for clip in clips if clip["uri"].rsplit(".", 1)[0] == stem),
            key=lambda clip: clip["start_s"],
        )
        gone = [drop for drop in drops if drop["uri"].rsplit(".", 1)[0] == stem]
        lost = sum(
            drop["value"]
            if drop["reason"] == "transition"
            else round((drop["end_s"] - drop["start_s"]) * truth["fps"])
            for drop in gone
        )
        assert sum(clip["num_frames"] for clip in own) + lost == truth["num_frames"]
        if all(join["kind"] == "cut" for join in truth["joins"]):
            assert [round(clip["start_s"] * truth["fps"]) for clip in own] == [
                shot["start_frame"] for shot in truth["shots"]
            ]
            assert not gone


def test_ground_truth_captions_reach_their_clips(dataset):
    rows = scans.table(dataset, "captions").to_pylist()
    truth = {row["clip_id"] for row in rows if row["source"] == "ground_truth" and row["kind"] == "dense"}
    clips = scans.table(dataset, "clips").to_pylist()
    assert len(truth) >= 0.7 * len(clips)  # clips across a dissolve have no single true caption
    assert all(row["status"] == "accepted" or row["reasons"] for row in rows)


def test_a_frame_between_kept_pictures_whose_successors_were_lost_is_dropped_and_costs_no_other():
    """Damage right after a cut: one frame that lasts for seconds, and no picture of it."""
    sample = Sample(1.01, 0.0, None, Signs(), is_grey=False)
    book = Book(None, CurateConfig(), 0, SimpleNamespace())
    source = {"kind": "video", "uri": "a.mkv", "duration_s": 9.0}
    book.open({"segment_id": "s", "source_id": "x", "uri": "a.mkv", "start_s": 0.0, "end_s": 9.0}, source)
    book.note(Clip(1.01, 4.0, "cut", [sample]))
    [drop] = book.drops
    assert (drop["reason"], drop["num_frames"], drop["start_s"], drop["end_s"]) == (
        "no_picture",
        1,
        1.01,
        4.0,
    )
    assert not book.failures and not book.clips
