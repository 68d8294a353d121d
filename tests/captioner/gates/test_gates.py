"""The gate: what is rejected and why, and that measurements veto words, never the other way."""

import numpy as np
import pytest

from captioner.gates.gates import duplicates, judge, lowest_aligned, stripped
from captioner.protocol import Caption, ClipFrames, Usage, Verdict
from captioner.writing import write_captions

FACTS = {
    "kind": "video",
    "num_frames": 48,
    "camera": "pan_left",
    "camera_confidence": 0.9,
    "motion": 0.8,
    "frozen_share": 0.0,
    "palette": ["green", "dark blue"],
    "cuts_s": [],
}


def dense(text, **changes):
    return Caption(kind="dense", text=text, source="coca", **changes)


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        (dense(""), "too_short"),
        (dense("word " * 500), "too_long"),
        (dense("I'm sorry, I cannot describe this video at all"), "refusal"),
        (dense("The image does not contain any imaginary content and all is real"), "meta"),
        (dense("a cat sits " * 30), "repetition"),
        (dense("A man walks over a bridge and then he goes on a 2 2 2 2 2 2"), "repeated_ending"),
        (dense("A dog runs over the wide green field and", finish_reason="length"), "cut_off"),
        (dense("Собака бежит по зелёному полю к реке"), "language"),
        (
            Caption(kind="structured", text="subjects: a dog", source="coca", fields={"subjects": "a dog"}),
            "schema",
        ),
    ],
)
def test_each_fault_is_named(caption, reason):
    verdict = judge(caption)
    assert verdict.status == "rejected"
    assert any(found.startswith(reason) for found in verdict.reasons), verdict


@pytest.mark.parametrize(
    ("text", "facts", "word"),
    [
        ("A dog runs. The camera pans right.", {}, "camera"),
        ("A dog runs. The camera is static.", {}, "camera"),
        ("A dog. The camera zooms in.", {"camera": "static"}, "camera"),
        ("A man is running fast.", {"frozen_share": 1.0}, "motion"),
        ("A river runs past a mill. A dog runs over a field.", {"frozen_share": 1.0}, "motion"),
        ("Two distinct scenes of a street and a park.", {"cuts_s": []}, "Two distinct scenes"),
        ("Two shots: first a street, then a wide park.", {"cuts_s": []}, "Two shots"),
        ("Three cuts between a street and a park.", {"cuts_s": []}, "Three cuts"),
        ("A quiet street in the rain. This has 3 cuts.", {"cuts_s": []}, "3 cuts"),
        ("A man on the road runs toward the camera.", {"frozen_share": 1.0}, "motion"),
        ("A horse beside a fence is running.", {"frozen_share": 1.0}, "motion"),
        ("A bridge in the distance while a dog runs fast.", {"frozen_share": 1.0}, "motion"),
        ("In three shots a man walks down a street.", {"cuts_s": []}, "three shots"),
        ("A short film with two cuts of a man.", {"cuts_s": []}, "two cuts"),
        ("A quiet room in which nothing moves.", {"motion": 3.0}, "stillness"),
        ("A field, mostly red, under the sky.", {}, "mostly red"),
        ("One continuous shot of a street with cars.", {"cuts_s": [1.0]}, "single shot"),
        ("The video has three scenes of a street.", {"cuts_s": [1.0]}, "three scenes"),
        ("A dog. The camera pans left.", {"num_frames": 1, "kind": "image"}, "one frame"),
    ],
)
def test_what_was_measured_vetoes_what_is_said(text, facts, word):
    [reason] = judge(dense(text), FACTS | facts).reasons
    assert reason.startswith("contradicts:")
    assert word in reason


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("A dog runs. The camera pans left.", {}),
        ("A dog runs. The camera pans right.", {"camera_confidence": 0.3}),
        ("A dog runs. The camera pans right and then zooms out.", {}),
        ("A field, mostly green, under the sky.", {}),
        ("A field, mostly calm, under the sky.", {}),
        ("The two scenes show a street.", {"cuts_s": [1.0]}),
        ("In two shots a man walks down a street.", {"cuts_s": [1.0]}),
        ("A bartender pours three shots for the guests.", {"cuts_s": []}),
        ("A golfer lines up two shots on the green.", {"cuts_s": []}),
        ("Two scenes are painted on the vase.", {"cuts_s": []}),
        ("The surgeon makes two cuts with a blade.", {"cuts_s": []}),
        ("A river runs past a mill under trees.", {"frozen_share": 1.0}),
        ("A narrow path is running into the woods.", {"frozen_share": 1.0}),
        ("A road with trees runs to the horizon.", {"frozen_share": 1.0}),
        ("There is a river that runs into the sea.", {"frozen_share": 1.0}),
        ("A long winding mountain road runs into the fog.", {"frozen_share": 1.0}),
        ("A vase on a shelf. It has three scenes painted on it.", {"cuts_s": []}),
        ("This shows two cuts of beef on a board.", {"cuts_s": []}),
        ("Two cuts: sirloin and ribeye on a board.", {"cuts_s": []}),
        ("A room with a table and nobody in it.", {"motion": 3.0}),
        ("Two shots of espresso on a wooden table.", {}),
        ("A dog on grass. The camera does not pan right.", {}),
        ("A road runs along the coast at dusk.", {"frozen_share": 1.0}),
        ("A wall, mostly gray, in the sun.", {"palette": ["grey"]}),
    ],
)
def test_what_is_unsure_or_left_open_contradicts_nothing(text, facts):
    assert judge(dense(text), FACTS | facts).status == "accepted"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("The video depicts a dog that runs.", "A dog that runs."),
        ("Sure! The image shows a red car.", "A red car."),
        ("In this video, we can see a dog.", "A dog."),
        ("The video game stands on a shelf.", "The video game stands on a shelf."),
    ],
)
def test_stock_openings_are_taken_off(before, after):
    assert stripped(dense(before)).text == after


def test_an_abstention_stays_one():
    verdict = Verdict(status="out_of_domain", reasons=("distance:9>3",))
    assert judge(dense("", verdict=verdict)) == verdict


def test_one_caption_on_many_unrelated_clips_raises_the_alarm():
    def row(source_number, text, source="openai"):
        return {"kind": "dense", "source": source, "text": text, "clip_id": f"s{source_number}-00000000"}

    rows = [row(index, "A man talks.") for index in range(40)] + [
        row(index, f"Clip {index}.") for index in range(40)
    ]
    rows += [row(index, "There is steady motion.", "measured") for index in range(40)]
    rows += [{**row(0, "One long take."), "clip_id": f"s0-{index:08d}"} for index in range(40)]
    [alarm] = duplicates(rows)
    assert (alarm["text"], alarm["num_clips"]) == ("A man talks.", 40)


def test_the_lowest_aligned_are_the_lowest():
    assert lowest_aligned({"a": 0.1, "b": 0.9, "c": 0.2, "d": 0.5}, 0.5) == {"a", "c"}


class Careless:
    """Writes what it is told to, and counts how often it is asked for each clip."""

    name, version, at_once = "careless", "careless/1", 1

    def __init__(self, answers):
        self.answers, self.asked = answers, []

    def setup(self):
        pass

    def caption(self, clips, attempt=0):
        self.asked += [(clip.clip_id, attempt) for clip in clips]
        return [
            [
                Caption(
                    kind="dense",
                    text=self.answers[clip.clip_id][attempt],
                    source="careless",
                    usage=Usage(output_tokens=5),
                )
            ]
            for clip in clips
        ]


def test_only_rejected_clips_are_written_anew_and_the_rejected_text_stays():
    backend = Careless(
        {
            "good": ["A dog runs over a field."],
            "bad": ["I'm sorry, I cannot describe it.", "A cat sleeps on a red chair."],
        }
    )
    clips = [
        ClipFrames(clip_id=name, frames=[np.zeros((4, 4, 3), np.uint8)], times_s=[0.0], facts=FACTS)
        for name in ("good", "bad")
    ]
    good, bad = write_captions(backend, clips, retries=2)
    assert backend.asked == [("good", 0), ("bad", 0), ("bad", 1)]
    assert [caption.verdict.status for caption in good] == ["accepted"]
    assert [caption.verdict.status for caption in bad] == ["rejected", "accepted"]
    assert sum(caption.usage.output_tokens for caption in bad) == 10
