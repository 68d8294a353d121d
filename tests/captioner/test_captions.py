import json

import numpy as np
import pytest
import torch

from captioner import Caption, ClipFrames, gate, make_captioner, make_text_encoder
from captioner.given import given_captions
from captioner.mixing import Mixing, draw
from manifests.errors import UsageError
from world.scene import SHAPES

FACTS = {
    "kind": "video", "num_frames": 30, "width_px": 160, "height_px": 90, "luma_mean": 0.4, "motion": 0.6, "frozen_share": 0.0,
    "camera": "pan_left", "camera_confidence": 0.9, "palette": ["brown", "red"], "start_s": 0.0, "end_s": 2.0,
}  # fmt: skip


def measured(**changes):
    [captions] = make_captioner("measured").caption([ClipFrames(clip_id="a", frames=[], times_s=[], facts=FACTS | changes)])
    return {caption.kind: caption for caption in captions}


def test_measured_states_what_was_measured_and_names_no_object():
    found = measured()
    assert "pans left" in found["dense"].text
    assert "brown and red" in found["dense"].text
    assert not any(shape in found["dense"].text for shape in SHAPES)
    assert all(not gate(caption) for caption in found.values())


@pytest.mark.parametrize("changes", [{"camera_confidence": 0.2}, {"camera": "unknown"}])
def test_measured_says_nothing_of_a_camera_it_is_not_sure_of(changes):
    found = measured(**changes)
    assert "camera" not in found["dense"].text.lower()
    assert found["dense"].fields["camera"] == ""


def test_a_picture_does_not_move():
    found = measured(kind="image", num_frames=1, width_px=90)
    assert found["dense"].text.endswith("square picture, mostly brown and red.")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "too_short"),
        ("I'm sorry, I cannot describe this video at all", "refusal"),
        ("a cat sits " * 30, "repetition"),
        ("word " * 500, "too_long"),
    ],
)
def test_gates_reject_with_a_reason(text, reason):
    assert any(found.startswith(reason) for found in gate(Caption(kind="dense", text=text, source="x")))


def test_given_captions_cover_the_clip_they_belong_to():
    timed = [
        {"start_s": 0.0, "end_s": 2.1, "kind": "dense", "text": "first"},
        {"start_s": 2.1, "end_s": 9.0, "kind": "dense", "text": "second"},
    ]
    facts = FACTS | {"timed_captions_json": json.dumps(timed), "alt": "IMG_1.MOV"}
    found = given_captions(facts)
    assert [(caption.kind, caption.text, caption.source) for caption in found] == [("dense", "first", "ground_truth"), ("alt", "IMG_1.MOV", "alt")]


def test_mixing_draws_dense_nineteen_times_in_twenty_and_repeats_by_seed():
    kinds = ["alt", "short", "dense", "dense"]
    picks = [draw(kinds, Mixing(), np.random.default_rng([7, index])) for index in range(4000)]
    share = sum(kinds[pick] == "dense" for pick in picks) / len(picks)
    assert 0.935 < share < 0.965
    assert picks == [draw(kinds, Mixing(), np.random.default_rng([7, index])) for index in range(4000)]
    assert {kinds[pick] for pick in picks} == {"alt", "short", "dense"}


def test_mixing_falls_back_when_a_kind_is_missing():
    assert draw(["alt"], Mixing(), np.random.default_rng(0)) == 0
    assert draw([], Mixing(), np.random.default_rng(0)) is None


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
        make_text_encoder("t5")
