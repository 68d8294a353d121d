"""Dense captions say what is surely measured, and nothing else of them changes."""

from __future__ import annotations

from typing import Any

import pytest

from captioner.gates.told import told
from captioner.protocol import Caption, Provenance

SURE: dict[str, Any] = {"kind": "video", "num_frames": 40, "camera": "pan_left", "camera_confidence": 0.9}


def said(text: str, kind: str = "dense", source: str = "vlm", **facts: Any) -> str:
    caption = Caption(kind=kind, text=text, source=source, provenance=Provenance(backend=source, model="m"))
    return told(caption, {**SURE, **facts}).text


def test_the_camera_is_told_as_measured_where_that_is_sure() -> None:
    wrong = "A dog runs. The camera pans right. The light is warm."
    assert said(wrong) == "A dog runs. The light is warm. The camera pans left."
    assert said("A dog runs") == "A dog runs. The camera pans left."
    right = "A dog runs as the camera pans to the left."
    assert said(right) == right
    inside = "A dog runs, and the camera tilts up."  # part of a sentence: it stays, and is judged
    assert said(inside) == inside + " The camera pans left."


@pytest.mark.parametrize(
    "facts",
    [
        {"camera_confidence": 0.4},
        {"camera": "unknown"},
        {"camera": None, "camera_confidence": None},
        {"kind": "image"},
        {"num_frames": 1},
        {"is_part": True},
    ],
)
def test_what_is_not_sure_is_left_to_the_model(facts: dict[str, Any]) -> None:
    assert said("A dog. The camera pans right.", **facts) == "A dog. The camera pans right."


def test_cuts_are_told_once_and_then_no_one_camera() -> None:
    assert said("A dog.", cuts_s=[1.0]) == "A dog. The shot changes once."
    assert said("A dog.", cuts_s=[1.0, 2.0]) == "A dog. The shot changes 2 times."
    assert said("A dog, then the scene changes to a cat.", cuts_s=[1.0]).count("changes") == 1


def test_words_that_were_read_are_told_where_the_caption_lacks_them() -> None:
    words = ["BREAKING NEWS", "Channel 9"]
    facts: dict[str, Any] = {"words": words, "camera": "unknown"}
    assert said("A desk.", **facts) == "A desk. The text “BREAKING NEWS”, “Channel 9” can be read."
    assert said("A desk with the words breaking news.", **facts).endswith("The text “Channel 9” can be read.")
    assert said("A desk: Breaking  News on channel 9.", **facts) == "A desk: Breaking  News on channel 9."
    many = said("A page.", camera="unknown", words=["one two three four five", "six seven", "eight nine ten"])
    assert "six seven" in many and "eight" not in many
    assert "can be read" in said("A sign.", kind="dense", source="measured", words=["EXIT"])


def test_other_kinds_stay() -> None:
    assert said("a dog", kind="short", words=["EXIT"]) == "a dog"
    assert said("", kind="dense") == ""
