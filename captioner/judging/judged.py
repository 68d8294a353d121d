"""Benchmarks that need a judge: DREAM-1K's events (arXiv:2407.00634), VDC's questions (2410.03051).

A judge is a language model and changes its mind: every verdict is asked for several times, and the share of
verdicts that held is part of the result.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from captioner.backends.asking import Ask
from captioner.gates.answers import without_thought
from manifests.cli import say
from manifests.errors import IntegrityError, RushesError, UsageError
from manifests.store.json_files import parse_json, parse_lines

_FIRST = re.compile(r"[^a-z]*(?:(?:the )?(?:final )?answer[^a-z]*(?:is[^a-z]+)?)?(yes|no)\b")
_VOTE = re.compile(r"\b(yes|no)\b")
_FORM = "A row should have video_file and events, or video and qa."
_MOST_EVENTS = 100
"""In the list that a judge makes of a caption; a longer one is none."""
_NAMES = ("video_file", "video", "video_name", "vid", "idx")
_EVENTS = (
    "List the visual events in this caption, one a line, without numbers and without anything "
    "else.\n\n{caption}"
)
_ENTAILED = (
    "Caption: {caption}\n\nEvent: {event}\n\nDoes the caption say that this event happens? Answer with one "
    "word: yes or no."
)
_QUESTION = (
    "Caption: {caption}\n\nQuestion: {question}\nTrue answer: {answer}\n\nDoes the caption give the true "
    "answer? Answer with one word: yes or no."
)


@dataclass(frozen=True)
class Item:
    """One video of a benchmark: its events and reference caption, or its (question, answer) pairs."""

    name: str
    reference: str
    events: tuple[str, ...] = ()
    questions: tuple[tuple[str, str], ...] = ()


def load_truth(path: Path, form: str) -> list[Item]:
    """Read a benchmark's file: a JSON list, a JSON object by video, or JSON lines.

    Raises:
        UsageError: a row has no name, or no events or questions; two videos have one name.
    """
    text = path.read_text("utf-8-sig", errors="replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = parse_lines(text + "\n", str(path), "It should be JSON or JSON lines.")
    if isinstance(value, dict) and not any(key in value for key in _NAMES):
        value = [
            {"video": key, **(item if isinstance(item, dict) else {"qa": item})}
            for key, item in value.items()
        ]
    rows = value if isinstance(value, list) else [value]
    if not rows:
        raise UsageError(str(path), "holds no video", _FORM)
    items = [_item(row, f"{path}, row {number}", form) for number, row in enumerate(rows)]
    whole = dict[str, str]()
    for name, item in items:
        if whole.setdefault(item.name, name) != name:
            raise UsageError(str(path), f"has {whole[item.name]} and {name}", "Judge them apart.")
    return [item for _, item in items]


def _item(row: Any, whose: str, form: str) -> tuple[str, Item]:
    """One row of a benchmark's file, and the whole name of its video.

    Raises:
        UsageError: it has another form.
    """
    try:
        name = next((str(row[key]) for key in _NAMES if row.get(key) is not None), "")
        events = (row.get("events") or []) if form == "events" else []
        if not isinstance(events, list) or not all(isinstance(item, str) for item in events):
            raise TypeError("events are no list of texts")
        pairs = row.get("qa") or row.get("questions") or ()
        questions = tuple((str(item["question"]), str(item["answer"])) for item in pairs)
        reference = str(row.get("description") or row.get("caption") or "")
    except (TypeError, KeyError, AttributeError) as error:
        raise UsageError(whose, f"is no video of a benchmark ({error!r})", _FORM) from error
    if not name or not (events if form == "events" else questions):
        raise UsageError(whose, f"has no name or no {form}", _FORM)
    return name, Item(Path(name).name, reference, tuple(events), questions)


def load_captions(path: Path) -> dict[str, str]:
    """Dense captions by file name, from what `caption --json` printed; of several the accepted one.

    Raises:
        IntegrityError: the file holds something else.
        UsageError: two videos have one name.
    """
    step = "Give what `rushes caption --json` printed."
    rows = parse_json(path.read_bytes(), str(path), step)
    try:
        ranked = sorted(rows, key=lambda row: bool(row["verdict"]["status"] == "accepted"))
        found = {str(row["file"]): str(row["text"]) for row in ranked if row["kind"] == "dense"}
    except (TypeError, KeyError) as error:
        raise IntegrityError(str(path), f"is no list of captions ({error!r})", step) from error
    names = Counter(Path(file).name for file in found)
    for name, count in names.items():
        if count > 1:
            raise UsageError(str(path), f"has {count} videos named {name}", "Judge them apart.")
    return {Path(file).name: text for file, text in found.items()}


def read_vote(answer: str) -> bool | None:
    """Whether an answer says yes; None where it is neither yes nor no.

    What a model thinks aloud before it answers is no answer.
    """
    said = without_thought(answer).lower()
    first = _FIRST.match(said)
    votes = {first[1]} if first else set(_VOTE.findall(said))
    return votes == {"yes"} if len(votes) == 1 else None


class Verdicts:
    """Asks for verdicts and keeps how they came.

    Attributes:
        steady: of each verdict, whether all of its runs said so.
        num_votes, num_unreadable: answers, and those that were neither yes nor no.
    """

    def __init__(self, ask: Ask, runs: int) -> None:
        self._ask, self._runs = ask, runs
        self.steady = list[bool]()
        self.num_votes = self.num_unreadable = 0

    def of(self, text: str) -> bool:
        """What most of the readable answers say."""
        answers = [read_vote(self._ask(text)) for _ in range(self._runs)]
        votes = [vote for vote in answers if vote is not None]
        self.num_votes, self.num_unreadable = (
            self.num_votes + len(answers),
            self.num_unreadable + len(answers) - len(votes),
        )
        self.steady.append(len(set(answers)) == 1 and answers[0] is not None)
        return sum(votes) * 2 > len(votes)

    def check(self) -> None:
        """Refuse a judge that cannot be read.

        Raises:
            RushesError: most answers are neither yes nor no.
        """
        if self.num_unreadable * 2 > self.num_votes:
            raise RushesError(
                "the judge",
                f"answered neither yes nor no in {self.num_unreadable} of {self.num_votes} cases",
                "Take a model that answers in a word, or give it more room to think.",
            )


def _told(items: Sequence[Item]) -> Iterator[Item]:
    """The items, each told as it is done."""
    for number, item in enumerate(items, 1):
        yield item
        say(f"judge: {number} of {len(items)} videos, {item.name}")


def named_alike(items: Sequence[Item], captions: dict[str, str]) -> dict[str, str]:
    """The captions by the names that the items have: with or without their endings.

    Raises:
        UsageError: none of them has a caption, or one has two.
    """
    by_stem: dict[str, list[str]] = {}
    for name in captions:
        by_stem.setdefault(Path(name).stem, []).append(name)
    found = {}
    for item in items:
        alike = [item.name] if item.name in captions else by_stem.get(Path(item.name).stem, [])
        if len(alike) > 1:
            raise UsageError(
                f"video {item.name}", f"has captions of {' and '.join(sorted(alike))}", "Give one of them."
            )
        if alike:
            found[item.name] = captions[alike[0]]
    if not found:
        some = ", ".join(sorted(captions)[:2]) or "none"
        raise UsageError(
            f"video {items[0].name}",
            f"has no caption, nor has any other of the {len(items)}; those at hand are of {some}",
            "Caption the benchmark's own files.",
        )
    return found


def judge_events(items: Sequence[Item], captions: dict[str, str], ask: Ask, runs: int) -> dict[str, Any]:
    """AutoDQ: recall of true events in the caption, precision of the caption's events by the reference.

    A video whose list of events cannot be read counts for recall alone.
    """
    rows, missing, verdicts, num_unlisted = list[tuple[float, float]](), 0, Verdicts(ask, runs), 0
    for item in _told(items):
        caption = captions.get(item.name, "")
        if not caption:
            missing += 1
            rows.append((0.0, 0.0))
            continue
        votes = [verdicts.of(_ENTAILED.format(caption=caption, event=event)) for event in item.events]
        lines = (line.strip(" -*") for line in ask(_EVENTS.format(caption=caption)).splitlines())
        told = [line for line in lines if line]
        if not 0 < len(told) <= _MOST_EVENTS:
            num_unlisted += 1
            say(f"judge: {item.name}: a list of {len(told)} events cannot be judged: no precision of it")
            rows.append((float(np.mean(votes)), math.nan))
            continue
        reference = item.reference or " ".join(item.events)
        back = [verdicts.of(_ENTAILED.format(caption=reference, event=event)) for event in told]
        rows.append((float(np.mean(votes)), float(np.mean(back))))
    if num_unlisted * 2 > len(items) - missing:
        raise RushesError(
            "the judge",
            f"gave no list of events that can be judged for {num_unlisted} of {len(items) - missing} videos",
            "Take another model, or give it more room to think.",
        )
    found = np.array(rows)
    recall, precision = _means(found)
    result = {"recall": round(recall, 4), "precision": round(precision, 4), "f1": round(_f1(found), 4)}
    return _summary(found, _f1, verdicts, result | {"num_without_list": num_unlisted}, missing)


def _means(rows: np.ndarray) -> tuple[float, float]:
    """Mean recall and precision, which is not a number where no video has one."""
    known = rows[~np.isnan(rows[:, 1]), 1]
    return float(rows[:, 0].mean()), float(known.mean()) if len(known) else math.nan


def _f1(rows: np.ndarray) -> float:
    recall, precision = _means(rows)
    return 2 * recall * precision / (recall + precision) if recall + precision else 0.0


def judge_questions(items: Sequence[Item], captions: dict[str, str], ask: Ask, runs: int) -> dict[str, Any]:
    """VDC: the share of questions whose true answer the caption gives."""
    scores, missing, verdicts = list[float](), 0, Verdicts(ask, runs)
    for item in _told(items):
        caption = captions.get(item.name, "")
        missing += not caption
        votes = [
            verdicts.of(_QUESTION.format(caption=caption, question=question, answer=answer))
            for question, answer in (item.questions if caption else ())
        ]
        scores.append(float(np.mean(votes)) if votes else 0.0)
    found = np.array(scores)
    accuracy = round(float(found.mean()), 4)
    return _summary(found, lambda rows: float(rows.mean()), verdicts, {"accuracy": accuracy}, missing)


def _summary(
    rows: np.ndarray,
    score: Callable[[np.ndarray], float],
    verdicts: Verdicts,
    result: dict[str, Any],
    missing: int,
) -> dict[str, Any]:
    """With a 95 % interval of the score over videos (bootstrap, seeded) and how many verdicts held.

    Raises:
        RushesError: the judge cannot be read.
    """
    verdicts.check()
    rng = np.random.default_rng(0)
    drawn = [score(rows[rng.integers(0, len(rows), len(rows))]) for _ in range(1000)]
    return {
        **result,
        "num_videos": len(rows),
        "num_without_caption": missing,
        "interval_95": [round(float(np.nanquantile(drawn, share)), 4) for share in (0.025, 0.975)],
        "steady_verdicts": round(float(np.mean(verdicts.steady)), 4) if verdicts.steady else None,
        "num_unreadable": verdicts.num_unreadable,
    }
