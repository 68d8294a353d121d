"""The evaluation gives full marks to the truth, chance to a guesser, and sees counterfactual clips for what
they are.
"""

from dataclasses import replace

import numpy as np
import pytest

from captioner.gates.slots import CHANCE
from captioner.judging.counterfactuals import counterfactuals
from captioner.judging.film_truth import evaluate, held_out
from captioner.protocol import Caption
from captioner.registry import make_captioner
from captioner.windows import Windowed
from tests.captioner.gates.test_slots import two_things
from world import captions
from world.counterfactuals import CHANGES, KINDS, counterfactual


@pytest.fixture(scope="module")
def clips():
    return held_out(120, seed=3, workers=2)


class Oracle:
    """Knows the truth of a clip by the pictures it is shown: a captioner without fault."""

    name, version, at_once = "oracle", "oracle/1", 1

    def __init__(self, known):
        self.known = known

    def setup(self):
        pass

    def caption(self, clips, attempt=0):
        return [[Caption(kind="dense", text=self.known[clip.clip_id], source="oracle")] for clip in clips]


def test_the_truth_scores_one_everywhere(clips):
    known = {
        test.clip.clip_id: " Then the shot changes. ".join(captions.dense(shot) for shot in test.shots)
        for test in clips
    }
    report = evaluate(Oracle(known), clips, "dense")
    assert report.mean_recall == report.mean_precision == report.main_subject == 1.0
    assert report.to_json()["attributes"]["shot changes"]["facts"] > 0


def test_a_guesser_scores_about_chance(clips):
    rng = np.random.default_rng(0)
    names = [test.clip.clip_id for test in clips]
    texts = [captions.dense(test.shots[0]) for test in clips]
    known = dict(zip(names, [texts[index] for index in rng.permutation(len(texts))], strict=True))
    report = evaluate(Oracle(known), clips, "dense")
    for name in ("background", "direction"):
        assert abs(report.tallies[name].precision - CHANCE[name]) < 0.13, name
    assert report.tallies["camera"].precision > 0.7  # told from the measurement, whoever writes
    assert report.tallies["object"].precision < 0.5


def test_measured_names_no_object_and_is_right_about_the_camera(clips):
    report = evaluate(make_captioner("measured"), clips, "dense")
    assert report.tallies["object"].said == report.tallies["colour"].said == 0
    assert report.tallies["camera"].precision > 0.95
    assert report.tallies["shot changes"].recall > 0.9
    assert report.num_rejected == 0


def test_cuts_inside_a_clip_part_it_into_windows(clips):
    cut = [test for test in clips if len(test.shots) == 2]
    assert cut
    asked = []

    class Asked(Oracle):
        def caption(self, clips, attempt=0):
            asked.extend(clip.clip_id for clip in clips)
            return [[Caption(kind="dense", text="A ball.", source="oracle")] for _ in clips]

    [found] = Windowed(Asked({}), 12.0).caption([cut[0].clip])
    assert len(asked) == 2
    assert "Then the shot changes." in found[0].text


@pytest.mark.parametrize("kind", KINDS)
def test_counterfactual_shots_change_what_they_say_they_change(kind):
    shot = two_things()
    other, frames = counterfactual(kind, shot, np.zeros((3, 4, 6, 3), np.uint8))
    assert (frames is None) == (kind == "recoloured")
    changed = set()
    for thing in shot.things:
        twin = (
            other.things[shot.things.index(thing)]
            if kind == "recoloured"
            else next(item for item in other.things if item.color == thing.color)
        )
        changed |= {"colour"} if twin.color != thing.color else set()
        changed |= {"motion"} if (twin.motion == "still") != (thing.motion == "still") else set()
        changed |= {"direction"} if twin.motion != thing.motion else set()
        assert (twin.shape, twin.size, twin.texture) == (thing.shape, thing.size, thing.texture)
    changed |= {"camera"} if other.camera != shot.camera else set()
    assert changed <= set(CHANGES[kind])
    assert changed


def test_a_captioner_that_does_not_look_flips_no_direction(clips):
    class Blind:
        name, version, at_once = "blind", "blind/1", 1

        def setup(self):
            pass

        def caption(self, clips, attempt=0):
            names = [clip.clip_id.removesuffix("-mirrored").removesuffix("-recoloured") for clip in clips]
            return [[Caption(kind="dense", text=known[name], source="blind")] for name in names]

    known = {test.clip.clip_id: captions.dense(test.shots[0]) for test in clips}
    found = counterfactuals(Blind(), clips[:40], "mirrored")
    assert found.flippable > 5
    assert found.flipped == 0
    assert found.kept == found.must_stay
    found = counterfactuals(Blind(), clips[:40], "recoloured")
    assert found.must_change > 20
    assert found.changed == 0


class Away(Oracle):
    """A server that gives no answer for every second clip."""

    def caption(self, clips, attempt=0):
        found = super().caption(clips)
        return [
            [replace(captions[0], text="", finish_reason="error: HTTP 500")] if index % 2 else captions
            for index, captions in enumerate(found)
        ]


def test_a_clip_without_an_answer_is_told_and_keeps_no_slot(clips, capsys):
    chosen = clips[:24]
    known = {test.clip.clip_id: captions.dense(test.shots[0]) for test in chosen}
    known |= {f"{name}-{kind}": text for name, text in known.items() for kind in KINDS}
    report = evaluate(Away(known), chosen, "dense")
    assert report.to_json()["num_failed"] == 12
    assert "got no answer: error: HTTP 500" in capsys.readouterr().err
    assert report.mean_recall < 0.7
    all_of_them = counterfactuals(Oracle(known), chosen, "mirrored")
    some = counterfactuals(Away(known), chosen, "mirrored")
    assert 0 < some.num_clips < all_of_them.num_clips == some.num_clips + some.num_failed
    assert "mirrored: clip" in capsys.readouterr().err
