"""What a judge says is read as it is meant, and what cannot be judged is refused."""

import json

import pytest

from captioner.judging.judged import (
    judge_events,
    judge_questions,
    load_captions,
    load_truth,
    named_alike,
    read_vote,
)
from captioner.language.asking import remembering
from manifests.errors import IntegrityError, RushesError, UsageError


@pytest.mark.parametrize(
    ("answer", "vote"),
    [
        ("yes", True),
        ("Yes.", True),
        ("**Yes**", True),
        ("<think>No dog? There is one.</think>\n\nYes", True),
        ("Answer: yes", True),
        ("The answer is **no**.", False),
        ("No, it does not say yes to that.", False),
        ("It does, so yes", True),
        ("nothing of the kind", None),
        ("yes and no", True),
        ("It may be yes, it may be no", None),
        ("<think>yes, but", None),
        ("", None),
    ],
)
def test_a_vote_is_read_out_of_what_is_said(answer, vote):
    assert read_vote(answer) is vote


def write(path, value):
    path.write_text(json.dumps(value))
    return path


TRUTH = [{"video_file": "a.mp4", "events": ["a dog runs"], "description": "a dog runs"}]


def test_a_judge_that_cannot_be_read_is_refused(tmp_path):
    items = load_truth(write(tmp_path / "t.json", TRUTH), "events")
    with pytest.raises(RushesError, match="neither yes nor no in 6 of 6"):
        judge_events(items, {"a.mp4": "a dog runs"}, lambda text: "perhaps", runs=3)


def test_answers_that_are_none_do_not_count(tmp_path):
    items = load_truth(
        write(tmp_path / "t.json", [{"video": "a", "qa": [{"question": "q", "answer": "a"}]}]), "questions"
    )
    answers = iter(["yes", "", "yes"])
    told = judge_questions(items, {"a": "text"}, lambda text: next(answers), runs=3)
    assert (told["accuracy"], told["num_unreadable"], told["steady_verdicts"]) == (1.0, 1, 0.0)


def test_a_judging_that_was_stopped_goes_on(tmp_path):
    truth = [{"video": "a", "qa": [{"question": q, "answer": "a"} for q in "pqr"]}]
    items, asked = load_truth(write(tmp_path / "t.json", truth), "questions"), []

    def judged(most):
        def ask(text):
            if len(asked) == most:
                raise RushesError("server", "is away")
            asked.append(text)
            return "yes" if len(asked) % 4 else "no"

        return judge_questions(
            items, {"a": "text"}, remembering(ask, "m", tmp_path / "answers.jsonl"), runs=3
        )

    whole = judged(99)
    (tmp_path / "answers.jsonl").unlink()
    asked.clear()
    with pytest.raises(RushesError, match="away"):
        judged(5)
    with (tmp_path / "answers.jsonl").open("a") as file:
        file.write('{"model": "m", "asked"')  # killed amid a line
    assert judged(99) == whole
    assert len(asked) == 9
    for foreign in ('{"other": 1}\n', '{"other": 1}', "a note of my own", '{"other": 1}\n{"model": "m'):
        (tmp_path / "answers.jsonl").write_text(foreign)
        with pytest.raises(IntegrityError):
            judged(99)
        assert (tmp_path / "answers.jsonl").read_text() == foreign


def test_names_meet_with_and_without_their_endings(tmp_path):
    items = load_truth(write(tmp_path / "t.json", [{**TRUTH[0], "video_file": "a"}]), "events")
    assert named_alike(items, {"a.mp4": "x", "b.mp4": "y"}) == {"a": "x"}
    with pytest.raises(UsageError, match="no caption"):
        named_alike(items, {"c.mp4": "x"})
    with pytest.raises(UsageError, match="no caption"):
        named_alike(items, {})


def test_videos_without_a_caption_are_no_steady_verdicts(tmp_path):
    items = load_truth(write(tmp_path / "t.json", [*TRUTH, {**TRUTH[0], "video_file": "b.mp4"}]), "events")
    told = judge_events(items, {"a.mp4": "a dog runs"}, lambda text: "yes", runs=1)
    assert (told["recall"], told["num_without_caption"], told["steady_verdicts"]) == (0.5, 1, 1.0)


def test_two_videos_of_one_name_are_refused(tmp_path):
    rows = [
        {"file": f"{folder}/x.mp4", "kind": "dense", "text": folder, "verdict": {"status": "accepted"}}
        for folder in "ab"
    ]
    with pytest.raises(UsageError, match=r"2 videos named x\.mp4"):
        load_captions(write(tmp_path / "c.json", rows))


@pytest.mark.parametrize(
    "truth",
    [[], [1, 2], "x", [{"video": "a", "qa": [{"q": "x"}]}], [{"video": "a", "qa": ["x"]}], [{"qa": []}], 5],
)
def test_what_is_no_benchmark_is_refused_by_its_row(tmp_path, truth):
    with pytest.raises(UsageError, match=r"t\.json"):
        load_truth(write(tmp_path / "t.json", truth), "questions")
