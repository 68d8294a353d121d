"""Second tries: what was accepted outlives an outage; what has nothing accepted is not dropped for one."""

from __future__ import annotations

import numpy as np
import pytest

from captioner import writing
from captioner.protocol import Caption, ClipFrames, Usage, Verdict
from captioner.writing import write_captions

CLIP = ClipFrames(clip_id="a", frames=[np.zeros((4, 4, 3), np.uint8)], times_s=[0.0], facts={})
GOOD = Caption(kind="short", text="a red ball", source="model", usage=Usage(requests=1, output_tokens=5))
BAD = Caption(kind="dense", text="as an AI I cannot", source="model")
LOST = Caption(
    kind="dense", text="", source="model", finish_reason="error: HTTP 500", usage=Usage(requests=3)
)


class Answers:
    """Gives what it was told to, one try after the other."""

    def __init__(self, *tries):
        self.tries = list(tries)

    def caption(self, clips, attempt=0):
        return [list(self.tries[attempt]) for _ in clips]


@pytest.fixture(autouse=True)
def gate(monkeypatch):
    def judge(caption, facts=None):
        return Verdict(status="rejected" if caption.text.startswith("as an AI") else "accepted")

    monkeypatch.setattr(writing, "judge", judge)
    monkeypatch.setattr(writing, "told", lambda caption, facts: caption)


def test_an_outage_of_the_second_try_takes_nothing_that_was_accepted():
    [captions] = write_captions(Answers([GOOD, BAD], [LOST], [LOST]), [CLIP], retries=2)
    assert [caption.text for caption in captions if caption.verdict.status == "accepted"] == ["a red ball"]
    assert not any(caption.finish_reason.startswith("error") for caption in captions)
    assert sum((caption.usage for caption in captions), Usage()).requests == 1 + 3 + 3, "it was paid for"


def test_a_third_try_may_still_answer():
    fine = Caption(kind="dense", text="a red ball on a meadow", source="model")
    [captions] = write_captions(Answers([GOOD, BAD], [LOST], [fine]), [CLIP], retries=2)
    assert {caption.kind for caption in captions if caption.verdict.status == "accepted"} == {
        "short",
        "dense",
    }


def test_an_outage_where_nothing_was_accepted_is_a_failure_and_no_drop():
    [captions] = write_captions(Answers([BAD], [LOST]), [CLIP], retries=1)
    assert any(caption.finish_reason.startswith("error") for caption in captions)
