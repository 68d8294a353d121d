import json

import numpy as np
import pytest
import torch

from captioner.backends.given import given_captions
from captioner.gates.gates import judge
from captioner.mixing import Mixing, draw, structured_variant
from captioner.protocol import ClipFrames
from captioner.registry import make_captioner, make_text_encoder
from manifests.errors import UsageError
from world.scene import SHAPES

FACTS = {
    "kind": "video",
    "num_frames": 30,
    "width_px": 160,
    "height_px": 90,
    "luma_mean": 0.4,
    "motion": 0.6,
    "frozen_share": 0.0,
    "camera": "pan_left",
    "camera_confidence": 0.9,
    "palette": ["brown", "red"],
    "start_s": 0.0,
    "end_s": 2.0,
}


def measured(**changes):
    [captions] = make_captioner("measured").caption(
        [ClipFrames(clip_id="a", frames=[], times_s=[], facts=FACTS | changes)]
    )
    return {caption.kind: caption for caption in captions}


def test_measured_states_what_was_measured_and_names_no_object():
    found = measured()
    assert "pans left" in found["dense"].text
    assert "brown and red" in found["dense"].text
    assert not any(shape in found["dense"].text for shape in SHAPES)
    assert all(judge(caption, FACTS).status == "accepted" for caption in found.values())


@pytest.mark.parametrize("changes", [{"camera_confidence": 0.2}, {"camera": "unknown"}])
def test_measured_says_nothing_of_a_camera_it_is_not_sure_of(changes):
    found = measured(**changes)
    assert "camera" not in found["dense"].text.lower()
    assert "camera" not in found["dense"].fields


def test_a_picture_does_not_move():
    found = measured(kind="image", num_frames=1, width_px=90)
    assert found["dense"].text.endswith("square picture, mostly brown and red.")


def test_given_captions_cover_the_clip_they_belong_to():
    timed = [
        {"start_s": 0.0, "end_s": 2.1, "kind": "dense", "text": "first"},
        {"start_s": 2.1, "end_s": 9.0, "kind": "dense", "text": "second"},
    ]
    facts = FACTS | {"timed_captions_json": json.dumps(timed), "alt": "IMG_1.MOV"}
    found = given_captions(facts)
    assert [(caption.kind, caption.text, caption.source) for caption in found] == [
        ("dense", "first", "ground_truth"),
        ("alt", "IMG_1.MOV", "alt"),
    ]


def test_mixing_draws_dense_nineteen_times_in_twenty_and_repeats_by_seed():
    captions = [("alt", "alt"), ("short", "coca"), ("dense", "coca"), ("dense", "openai")]
    kinds = [kind for kind, _ in captions]
    picks = [draw(captions, Mixing(), np.random.default_rng([7, index])) for index in range(4000)]
    share = sum(kinds[pick] == "dense" for pick in picks) / len(picks)
    assert 0.935 < share < 0.965
    assert picks == [draw(captions, Mixing(), np.random.default_rng([7, index])) for index in range(4000)]
    assert {kinds[pick] for pick in picks} == {"alt", "short", "dense"}


def test_mixing_falls_back_when_a_kind_is_missing():
    assert draw([("alt", "alt")], Mixing(), np.random.default_rng(0)) == 0
    assert draw([], Mixing(), np.random.default_rng(0)) is None


def test_mixing_weighs_versions_of_captions():
    captions = [("dense", "coca"), ("dense", "openai"), ("short", "coca")]
    mixing = Mixing(weights={"dense@coca": 0.25, "dense@openai": 0.75})
    picks = [draw(captions, mixing, np.random.default_rng([1, index])) for index in range(2000)]
    assert 0.22 < picks.count(0) / len(picks) < 0.28
    assert 2 not in picks
    with pytest.raises(UsageError, match="no kind"):
        Mixing(weights={"prose": 1.0})


def test_structured_variants_lose_and_shuffle_fields_but_never_the_subjects():
    fields = {
        "subjects": ["a red ball"],
        "actions": ["rolls"],
        "setting": "a meadow",
        "lighting": "daylight",
        "style": "",
    }
    variants = {structured_variant(fields, np.random.default_rng(seed)) for seed in range(60)}
    assert len(variants) > 20
    assert all("subjects: a red ball" in text for text in variants)
    assert any("meadow" not in text for text in variants)
    assert not any("style" in text for text in variants)


def test_hashed_words_are_ragged_deterministic_and_know_word_order():
    encoder = make_text_encoder("hashed-words")
    short, long = encoder.encode(["a red ball", "a red ball moves left, slowly"])
    assert short.shape == (4, encoder.width)  # three words and the end
    assert long.shape[0] > short.shape[0]
    assert torch.equal(short, make_text_encoder("hashed-words").encode(["A red  ball"])[0])
    ball_red, red_ball = encoder.encode(["ball red", "red ball"])
    assert not torch.allclose(ball_red, red_ball)
    assert encoder.encode([""])[0].shape == (1, encoder.width)


def test_unknown_backends_name_the_known_ones():
    with pytest.raises(UsageError, match="measured"):
        make_captioner("gpt")
    with pytest.raises(UsageError, match="hashed-words"):
        make_text_encoder("word2vec")
