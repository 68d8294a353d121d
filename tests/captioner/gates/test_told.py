"""Dense captions say what is surely measured, and nothing else of them changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from captioner.protocol import Caption, ClipFrames, Provenance
from captioner.writing import write_captions

SURE: dict[str, Any] = {"kind": "video", "num_frames": 40, "camera": "pan_left", "camera_confidence": 0.9}


def written(text: str, kind: str = "dense", source: str = "vlm", **facts: Any) -> Caption:
    """What becomes of a model's text, through the gate."""

    class Says:
        name, version, at_once = source, "1", 1

        def setup(self) -> None: ...

        def caption(self, clips, attempt=0):
            made = Provenance(backend=source, model="m")
            return [[Caption(kind=kind, text=text, source=source, provenance=made)] for _ in clips]

    known = {**SURE, **facts}
    clip = ClipFrames(
        clip_id="c", frames=[np.zeros((4, 4, 3), np.uint8)] * 2, times_s=[0.0, 0.5], facts=known
    )
    [[found]] = write_captions(Says(), [clip])
    return found


def said(text: str, kind: str = "dense", source: str = "vlm", **facts: Any) -> str:
    return written(text, kind, source, **facts).text


DOG = "A large brown dog runs over a green meadow in warm light."


def test_the_camera_is_told_as_measured_where_that_is_sure() -> None:
    wrong = written(f"{DOG} The camera pans right. Trees stand behind it.")
    assert wrong.text == f"{DOG} Trees stand behind it. The camera pans left."
    assert wrong.verdict.status == "accepted"
    assert said(DOG) == f"{DOG} The camera pans left."
    right = "A large brown dog runs over a green meadow as the camera pans to the left."
    assert said(right) == right


@pytest.mark.parametrize(
    "text",
    [
        "As the camera pans right, a large brown dog runs across a wide green field.",
        "A large brown dog runs over a field while the camera pans right in warm light.",
    ],
)
def test_what_a_sentence_says_besides_is_judged_as_it_is(text) -> None:
    found = written(text)
    assert found.verdict.status == "rejected" and found.text == text
    assert any("camera" in reason for reason in found.verdict.reasons)


@pytest.mark.parametrize(
    "sentence",
    [
        "The camera tracks a red car on a mountain road at dusk.",
        "The camera moves through a forest where a red fox chases a rabbit.",
        "The camera on a tripod next to it is black.",
    ],
)
def test_a_sentence_that_says_more_than_the_move_stays(sentence) -> None:
    assert sentence in said(f"{DOG} {sentence}")


@pytest.mark.parametrize(
    "words", [["I'm sorry"], ["I can't do it"], ["Caption: x"], ["two shots"], ["你好世界", "再见朋友"]]
)
def test_words_in_view_are_no_speech_of_the_captioner(words) -> None:
    found = written(DOG, words=words)
    assert found.verdict.status == "accepted" and words[0] in found.text


@pytest.mark.parametrize(
    "facts",
    [
        {"camera_confidence": 0.4},
        {"camera": "unknown"},
        {"camera": None, "camera_confidence": None},
        {"num_frames": 1},
        {"is_part": True},
    ],
)
def test_what_is_not_sure_is_left_to_the_model(facts: dict[str, Any]) -> None:
    text = f"{DOG} The camera pans right."
    assert said(text, **facts).startswith(text)
    assert said(text, **facts).count("camera") == 1


def test_cuts_are_told_once_and_then_no_one_camera() -> None:
    assert said(DOG, cuts_s=[1.0]) == f"{DOG} The shot changes once."
    assert said(DOG, cuts_s=[1.0, 2.0]) == f"{DOG} The shot changes 2 times."
    assert said(f"{DOG} Then the scene changes to a cat.", cuts_s=[1.0]).count("changes") == 1
    assert said("The scene shows a large brown dog on a meadow.", cuts_s=[1.0]).endswith("changes once.")


def test_words_that_were_read_are_told_where_the_caption_lacks_them() -> None:
    words = ["BREAKING NEWS", "Channel 9"]
    facts: dict[str, Any] = {"words": words, "camera": "unknown"}
    assert said(DOG, **facts) == f"{DOG} The text “BREAKING NEWS”, “Channel 9” can be read."
    assert said(f"{DOG} A sign says breaking news.", **facts).endswith("The text “Channel 9” can be read.")
    signs = f"{DOG} Two signs: Breaking  News, channel 9."
    assert said(signs, **facts) == signs
    many = said(DOG, camera="unknown", words=["one two three four five", "six seven", "eight nine ten"])
    assert "six seven" in many and "eight" not in many
    assert "can be read" in said(DOG, kind="dense", source="measured", words=["EXIT"])


def test_lines_that_are_not_added_leave_their_room_to_others() -> None:
    nine, eight = "one two three four five six seven eight nine", "one two three four five six seven eight"
    assert said(DOG, words=[nine, "STOP"]).endswith("The text “STOP” can be read.")
    assert said(f"{DOG} It says {eight}.", words=[eight, "STOP"]).endswith("The text “STOP” can be read.")


def test_other_kinds_stay() -> None:
    assert said("a dog", kind="short", words=["EXIT"]) == "a dog"
