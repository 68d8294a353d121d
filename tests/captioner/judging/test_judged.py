"""What a judge says is read as it is meant, and what cannot be judged is refused."""

import hashlib
import json

import pytest

from captioner.backends.asking import remembering
from captioner.judging.judged import (
    judge_events,
    judge_questions,
    load_captions,
    load_truth,
    named_alike,
    read_vote,
)
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


def listing(told):
    """A judge that says yes, and these events."""
    return lambda text: told if text.startswith("List the visual events") else "yes"


def test_a_list_of_events_that_cannot_be_read_is_no_precision(tmp_path):
    truth = [{**TRUTH[0], "video_file": f"{name}.mp4"} for name in "abc"]
    items = load_truth(write(tmp_path / "t.json", truth), "events")
    captions = {f"{name}.mp4": f"a dog runs in {name}" for name in "abc"}
    lists = iter(["", "a dog runs", "a dog runs\na cat sits"])
    told = judge_events(items, captions, lambda text: next(lists) if "List" in text else "yes", runs=1)
    assert (told["recall"], told["precision"], told["f1"], told["num_without_list"]) == (1, 1, 1, 1)
    assert told["interval_95"] == [1, 1]
    for wrong in ("", "an event\n" * 101):
        with pytest.raises(RushesError, match="no list of events that can be judged for 3 of 3"):
            judge_events(items, captions, listing(wrong), runs=1)


def test_the_interval_is_of_the_score_it_stands_beside(tmp_path):
    truth = [{**TRUTH[0], "video_file": f"{number}.mp4"} for number in range(8)]
    items = load_truth(write(tmp_path / "t.json", truth), "events")
    captions = {f"{number}.mp4": f"a dog runs {number}" for number in range(8)}

    def ask(text):
        if text.startswith("List the visual events"):
            return "a thing that is true" if text.rstrip()[-1] in "0123" else "a thing that is false"
        return "no" if "Event: a thing that is false" in text else "yes"

    told = judge_events(items, captions, ask, runs=1)
    assert (told["recall"], told["precision"]) == (1.0, 0.5)
    low, high = told["interval_95"]
    assert low < told["f1"] < high < 1


def test_thoughts_and_empty_answers_of_a_file_are_not_taken(tmp_path):
    path, asked = tmp_path / "answers.jsonl", list[str]()
    digest = hashlib.sha256(b"q").hexdigest()
    rows = [{"model": "m", "asked": digest, "answer": answer} for answer in ("", "<think>no?</think>yes")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def ask(text):
        asked.append(text)
        return "" if len(asked) == 1 else "no"

    ask_once = remembering(ask, "m", path)
    assert [ask_once("q") for _ in range(3)] == ["yes", "", "no"]
    assert len(path.read_text().splitlines()) == 3  # the empty one is asked for again
    for bad in ({"asked": [1], "answer": "x"}, {"asked": "x", "answer": None}):
        path.write_text(json.dumps({"model": "m", **bad}) + "\n")
        with pytest.raises(IntegrityError, match="no text"):
            remembering(ask, "m", path)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{**TRUTH[0], "video_file": f"{folder}/a.mp4"} for folder in "pq"], "has p/a.mp4 and q/a.mp4"),
        ([{**TRUTH[0], "events": "a man walks"}], "no list of texts"),
        ([{**TRUTH[0], "events": ["a", 1]}], "no list of texts"),
    ],
)
def test_a_benchmark_that_would_be_judged_wrongly_is_refused(tmp_path, rows, words):
    with pytest.raises(UsageError, match=words):
        load_truth(write(tmp_path / "t.json", rows), "events")


def test_a_benchmark_may_begin_with_a_mark_and_be_no_deeper_than_json_goes(tmp_path):
    path = tmp_path / "t.json"
    path.write_text("\ufeff" + json.dumps(TRUTH), encoding="utf-8")
    assert load_truth(path, "events")[0].name == "a.mp4"
    path.write_text("[" * 200_000)
    with pytest.raises(IntegrityError, match="not readable JSON"):
        load_truth(path, "events")
    with pytest.raises(IntegrityError, match="not readable JSON"):
        load_captions(path)


def test_a_name_without_an_ending_that_two_captions_have_is_refused(tmp_path):
    items = load_truth(write(tmp_path / "t.json", [{**TRUTH[0], "video_file": "a"}]), "events")
    with pytest.raises(UsageError, match=r"captions of a\.mp4 and a\.webm"):
        named_alike(items, {"a.mp4": "x", "a.webm": "y", "b.mp4": "z"})


def test_videos_without_a_caption_do_not_hide_a_judge_that_lists_nothing(tmp_path):
    truth = [{**TRUTH[0], "video_file": f"{name}.mp4"} for name in "abcd"]
    items = load_truth(write(tmp_path / "t.json", truth), "events")
    captions = {f"{name}.mp4": "a dog runs" for name in "ab"}
    with pytest.raises(RushesError, match="for 2 of 2 videos"):
        judge_events(items, captions, listing(""), runs=1)
    other = [{"video": "a", "qa": [{"question": "q", "answer": "a"}], "events": [{"t": 0}]}]
    assert load_truth(write(tmp_path / "q.json", other), "questions")[0].events == ()
