"""Shots against truth: the film world's cuts and dissolves, joined real clips, and the same shots however a
video is cut into segments.
"""

import json

import numpy as np
import pytest

from media.decode.probe import probe
from media.decode.reader import VideoReader
from media.shots.detector import GLANCE_PX, ShotDetector
from pipeline.config import CurateConfig
from pipeline.footage.sources import Found, source_row
from tests.pipeline.curate.test_stage import clips_of
from world.film import make_film, render_film, truth, write_film

SEED = 202
UNLABELLED = {"cos_test_video_30s.mp4": (356,)}
"""A cut between two moving views of the same snow, which the labels lack."""


def labels(pictures, fps):
    """Frames that start a shot after a cut, and [begin, end) of each transition."""
    detector = ShotDetector(CurateConfig().cut_threshold, fps)
    found = [
        label for _, label in detector.labelled((index, picture) for index, picture in enumerate(pictures))
    ]
    cuts = [index for index, label in enumerate(found) if label.is_cut and not label.is_transition]
    edges = np.flatnonzero(np.diff([0, *[label.is_transition for label in found], 0]))
    return cuts, [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def glances(path):
    facts = probe(str(path))
    return [picture.glance(GLANCE_PX) for picture in VideoReader(facts).pictures()], facts.fps


def f1(hits, misses, extras):
    return 2 * hits / max(1, 2 * hits + misses + extras)


def score(films):
    """(hits, misses, extras) of hard cuts, frame exact, and of dissolves, found where the two shots mix."""
    hard, soft = np.zeros(3, int), np.zeros(3, int)
    for pictures, fps, joins in films:
        cuts, blends = labels(pictures, fps)
        true_cuts = {join["frame"] for join in joins if join["kind"] == "cut"}
        fades = [join["frame"] for join in joins if join["kind"] == "fade"]
        hits = len(true_cuts & set(cuts))
        hard += (hits, len(true_cuts) - hits, len(set(cuts) - true_cuts))
        found = [frame for frame in fades if any(begin - 1 <= frame <= end + 1 for begin, end in blends)]
        soft += (
            len(found),
            len(fades) - len(found),
            sum(not any(begin - 1 <= frame <= end + 1 for frame in fades) for begin, end in blends),
        )
    return hard, soft


def drawn(count):
    """Films of several shots, as drawn."""
    from media.decode.geometry import Geometry
    from media.decode.picture import Picture

    index = 0
    while count:
        film = make_film(SEED, index)
        index += 1
        if len(film.shots) > 1:
            count -= 1
            pictures = [
                Picture(0.0, rgb, Geometry(film.width_px, film.height_px)).glance(GLANCE_PX)
                for rgb in render_film(film)
            ]
            yield pictures, film.fps, truth(film)["truth"]["joins"]


def test_film_world_shots():
    hard, soft = score(drawn(24))
    assert hard[0] >= 20
    assert soft[0] >= 4
    assert f1(*hard) >= 0.99
    assert f1(*(hard + soft)) >= 0.95


@pytest.mark.slow
def test_film_world_shots_after_every_codec(tmp_path):
    films = []
    for index in range(150):
        film = make_film(SEED + 1, index)
        if len(film.shots) > 1:
            path = write_film(film, tmp_path)
            films.append((*glances(path), truth(film)["truth"]["joins"]))
    hard, soft = score(films)
    print(f"{len(films)} films: cuts {hard}, dissolves {soft} (hits, misses, extras)")
    assert f1(*hard) >= 0.99
    assert f1(*(hard + soft)) >= 0.95


def test_the_fast_detector_is_pyscenedetects_own():
    """Same scores and same cuts as the library's class on the same frames."""
    from scenedetect import AdaptiveDetector, FrameTimecode

    from media.shots.detector import FastAdaptiveDetector

    ours, theirs = (
        kind(adaptive_threshold=3.0, min_scene_len=0, window_width=2)
        for kind in (FastAdaptiveDetector, AdaptiveDetector)
    )
    found = ([], [])
    for index, rgb in enumerate(render_film(make_film(SEED, 3))):
        for detector, cuts, picture in ((ours, found[0], rgb), (theirs, found[1], rgb[..., ::-1])):
            cuts += [
                code.frame_num
                for code in detector.process_frame(FrameTimecode(index, 24.0), np.ascontiguousarray(picture))
            ]
        assert ours._frame_score == pytest.approx(theirs._frame_score, rel=1e-9)
    assert found[0] == found[1]


@pytest.mark.parametrize("name", ["multi_hard", "multi_dissolve", "multi_fade"])
def test_joined_real_clips(real_videos, name):
    known = json.loads((real_videos / "shots.json").read_text())[f"derived/{name}.mp4"]
    cuts, blends = labels(*glances(real_videos / "derived" / f"{name}.mp4"))
    assert set(known["cuts"]) <= set(cuts)
    assert len(cuts) <= len(known["cuts"]) + 1  # one of the joined clips has a cut of its own
    assert len(blends) == len(known["gradual"])
    for (begin, end), (first, last) in zip(blends, known["gradual"], strict=True):
        assert first - 1 <= begin < end <= last + 1


def test_labelled_real_trailers(real_videos):
    """Labels by eye; every hard cut, and most of the gradual ones."""
    known = json.loads((real_videos / "shots.json").read_text())
    gradual = found = 0
    for name in ("bower_bbb_480p_30s.mp4", "cos_test_video_30s.mp4"):
        cuts, blends = labels(*glances(real_videos / name))
        hard = {*known[name]["cuts"], *UNLABELLED.get(name, ())}
        assert hard <= set(cuts)
        labelled = 648 if "partial" in known[name]["by"] else 10**9
        assert len([frame for frame in cuts if frame < labelled]) == len(hard)
        gradual += len(known[name]["gradual"])
        found += sum(
            any(begin < last and first < end for begin, end in blends)
            for first, last in known[name]["gradual"]
        )
    assert found >= 0.7 * gradual


@pytest.mark.parametrize(
    ("name", "cuts_s"),
    [("cos_test_video_30s.mp4", [14.833]), ("mee_echo-hereweare.webm", [17.8, 18.333, 19.267])],
)
def test_cuts_amid_motion_are_found_and_flashes_are_none(real_videos, name, cuts_s, monkeypatch):
    """By eye; the second film has a flash at 3.1 s and an explosion at 21.5 s."""
    facts = probe(str(real_videos / name))
    times_s = [picture.time_s for picture in VideoReader(facts).pictures()]
    pictures, fps = glances(real_videos / name)
    with monkeypatch.context() as patch:
        patch.setattr("media.shots.detector.MovingCuts.push", lambda *_: False)
        before, _ = labels(pictures, fps)
    after, _ = labels(pictures, fps)
    new = sorted(set(after) - set(before))
    assert set(before) <= set(after)
    assert [times_s[frame] for frame in new] == pytest.approx(cuts_s, abs=0.01)


def random_bounds(rng, length_s, shortest_s, longest_s):
    bounds = [0.0]
    while bounds[-1] < length_s:
        bounds.append(bounds[-1] + float(rng.uniform(shortest_s, longest_s)))
    return [*bounds[:-1], length_s] if len(bounds) > 2 else [0.0, length_s]


@pytest.mark.slow
def test_any_segmenting_of_films_gives_the_shots_of_the_whole(tmp_path):
    for index in range(20):
        path = write_film(make_film(SEED + 2, index), tmp_path)
        source = source_row(Found(str(path)))
        whole = clips_of(path, [0.0, source["duration_s"]], CurateConfig(), source)
        for seed in range(2):
            bounds = random_bounds(np.random.default_rng([index, seed]), source["duration_s"], 0.4, 3.0)
            assert clips_of(path, bounds, CurateConfig(), source) == whole, (path, bounds)


REAL = [
    "bower_bbb_480p_30s.mp4",
    "cos_test_video_30s.mp4",
    "dvr_traffic_camera_vfr.mp4",
    "sim_chrome.ogv",
    "derived/multi_fade.mp4",
    *(
        pytest.param(name, marks=pytest.mark.long)
        for name in (
            "sim_chrome.webm",
            "mee_echo-hereweare.webm",
            "gr_world.mp4",
            "dj_video4.mp4",
            "intel_car-detection.mp4",
            "mdnl_crystal.mp4",
        )
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_any_segmenting_of_real_videos_gives_the_shots_of_the_whole(real_videos, name):
    source = source_row(Found(str(real_videos / name)))
    whole = clips_of(None, [0.0, source["duration_s"]], CurateConfig(), source)
    for seed in range(2):
        bounds = random_bounds(np.random.default_rng(seed), source["duration_s"], 5, 60 if seed else 12)
        assert clips_of(None, bounds, CurateConfig(), source) == whole, bounds
