"""Benchmarks that need a judge: DREAM-1K's events (arXiv:2407.00634), VDC's questions (2410.03051).

A judge is a language model and changes its mind: every verdict is asked for several times, and the share of
verdicts that held is part of the result.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from captioner.language.asking import Ask
from manifests.errors import IntegrityError, UsageError
from manifests.store.json_files import parse_json, parse_lines

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
        UsageError: a row has no name, or no events or questions.
    """
    text = path.read_text(errors="replace")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = parse_lines(text + "\n", str(path), "It should be JSON or JSON lines.")
    if isinstance(value, dict) and not any(key in value for key in _NAMES):
        value = [
            {"video": key, **(item if isinstance(item, dict) else {"qa": item})}
            for key, item in value.items()
        ]
    rows = value if isinstance(value, list) else [value]
    found = []
    for number, row in enumerate(rows):
        name = next((str(row[key]) for key in _NAMES if row.get(key) is not None), "")
        events = tuple(str(item) for item in row.get("events") or ())
        pairs = row.get("qa") or row.get("questions") or ()
        questions = tuple((str(item["question"]), str(item["answer"])) for item in pairs)
        if not name or not (events if form == "events" else questions):
            raise UsageError(
                f"{path}, row {number}",
                f"has no name or no {form}",
                "It should have video_file and events, or video and qa.",
            )
        found.append(
            Item(Path(name).name, str(row.get("description") or row.get("caption") or ""), events, questions)
        )
    return found


def load_captions(path: Path) -> dict[str, str]:
    """Dense captions by file name, from what `caption --json` printed; of several the accepted one.

    Raises:
        IntegrityError: the file holds something else.
    """
    step = "Give what `rushes caption --json` printed."
    rows = parse_json(path.read_bytes(), str(path), step)
    try:
        ranked = sorted(rows, key=lambda row: bool(row["verdict"]["status"] == "accepted"))
        return {Path(row["file"]).name: str(row["text"]) for row in ranked if row["kind"] == "dense"}
    except (TypeError, KeyError) as error:
        raise IntegrityError(str(path), f"is no list of captions ({error!r})", step) from error


def _verdict(ask: Ask, text: str, runs: int) -> tuple[bool, bool]:
    """(what most runs say, whether all runs say so)."""
    votes = [ask(text).strip().lower().startswith("yes") for _ in range(runs)]
    return sum(votes) * 2 > len(votes), len(set(votes)) == 1


def judge_events(items: Sequence[Item], captions: dict[str, str], ask: Ask, runs: int) -> dict[str, Any]:
    """AutoDQ: recall of true events in the caption, precision of the caption's events by the reference."""
    recalls, precisions, steady, missing = [], [], [], 0
    for item in items:
        caption = captions.get(item.name, "")
        missing += not caption
        votes = [
            _verdict(ask, _ENTAILED.format(caption=caption, event=event), runs) if caption else (False, True)
            for event in item.events
        ]
        recalls.append(float(np.mean([vote for vote, _ in votes])))
        steady += [held for _, held in votes]
        if not caption:
            precisions.append(0.0)
            continue
        told = [
            line.strip(" -*")
            for line in ask(_EVENTS.format(caption=caption)).splitlines()
            if line.strip(" -*")
        ]
        reference = item.reference or " ".join(item.events)
        back = [_verdict(ask, _ENTAILED.format(caption=reference, event=event), runs) for event in told]
        precisions.append(float(np.mean([vote for vote, _ in back])) if back else 0.0)
        steady += [held for _, held in back]
    recall, precision = float(np.mean(recalls)), float(np.mean(precisions))
    f1 = 2 * recall * precision / (recall + precision) if recall + precision else 0.0
    return _summary(
        recalls,
        steady,
        missing,
        {"recall": round(recall, 4), "precision": round(precision, 4), "f1": round(f1, 4)},
    )


def judge_questions(items: Sequence[Item], captions: dict[str, str], ask: Ask, runs: int) -> dict[str, Any]:
    """VDC: the share of questions whose true answer the caption gives."""
    scores, steady, missing = [], [], 0
    for item in items:
        caption = captions.get(item.name, "")
        missing += not caption
        votes = [
            _verdict(ask, _QUESTION.format(caption=caption, question=question, answer=answer), runs)
            if caption
            else (False, True)
            for question, answer in item.questions
        ]
        scores.append(float(np.mean([vote for vote, _ in votes])))
        steady += [held for _, held in votes]
    return _summary(scores, steady, missing, {"accuracy": round(float(np.mean(scores)), 4)})


def _summary(
    scores: Sequence[float], steady: Sequence[bool], missing: int, result: dict[str, Any]
) -> dict[str, Any]:
    """With a 95 % interval over videos (bootstrap, seeded) and how many verdicts held over the runs."""
    rng = np.random.default_rng(0)
    means = [float(np.mean(rng.choice(scores, len(scores)))) for _ in range(1000)]
    return {
        **result,
        "num_videos": len(scores),
        "num_without_caption": missing,
        "interval_95": [round(float(np.quantile(means, share)), 4) for share in (0.025, 0.975)],
        "steady_verdicts": round(float(np.mean(steady)), 4) if steady else None,
    }
