"""Quality gates, cheap ones first.

A rejected caption stays in the table with its reasons; the trainer never draws it.

What is checked: empty or cut off, refusals and talk about the task, repetition, length for its kind,
language, schema of structured ones, contradiction of what was measured. Over a whole run: one caption on many
unrelated clips.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from captioner.gates.contradictions import contradictions
from captioner.protocol import Caption, Verdict
from manifests.tables.ids import source_of

WORDS = {"short": (2, 40), "dense": (5, 400), "structured": (2, 400), "alt": (1, 400), "window": (2, 400)}
FIELDS = ("subjects", "actions", "setting", "camera", "shot_type", "lighting", "style")
DUPLICATE_CLIPS = 20
"""A caption on more clips than this, of more sources than half as many, is an alarm."""
MAX_REPETITION = 0.3
_REFUSAL = re.compile(
    r"\b(i (cannot|can't|can not|am unable|won't)|i'm (sorry|unable)|i am sorry|as an ai|as a language "
    r"model|cannot (assist|describe)|unable to (view|see|process))\b",
    re.IGNORECASE,
)
_META = re.compile(
    r"(does not contain any imaginary|based on the (visible|provided) (content|frames)|the (image|frame)s? "
    r"(you|that you) (provided|sent)|here is (a|the) (detailed )?"
    r"(caption|description)|in (this|the) (response|caption)|\bcaption:)",
    re.IGNORECASE,
)
_OPENING = re.compile(
    r"^\s*(?:(?:sure|certainly|of course)[,!.]\s*)?(?:in (?:this|the) "
    r"(?:video|clip|image|scene)[,:]?\s+(?:we (?:can )?see\s+)?|(?:the|this) "
    r"(?:video|clip|footage|image|picture)"
    r"(?: clip)? (?:depicts|shows|presents|features|captures|displays|begins with|opens with|starts with|is "
    r"of)\s+)",
    re.IGNORECASE,
)
_BROKEN_ANSWER = re.compile(r"\s*(?:```\w*\s*)?[{\[]\s*[\"'{]")
"""An object or a list of them that could not be read as the one asked for: no caption, whatever is in it."""


def stripped(caption: Caption) -> Caption:
    """Without a stock opening ("The video depicts"), which would become a habit of the generator."""
    text = _OPENING.sub("", caption.text.strip())
    return replace(caption, text=text[:1].upper() + text[1:]) if text != caption.text else caption


def repetition(text: str, n: int = 3) -> float:
    """Share of word n-grams that have occurred before, 0 to 1."""
    words = text.lower().split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def tail_repeats(text: str) -> int:
    """How often the shortest repeated run of words at the end occurs; 1 for a sound ending."""
    words, most = text.lower().split(), 1
    for length in range(1, min(12, len(words) // 2) + 1):
        count = 1
        while words[-length * (count + 1) : -length * count or None] == words[-length:] and length * (
            count + 1
        ) <= len(words):
            count += 1
        most = max(most, count)
    return most


def foreign_share(text: str) -> float:
    """Share of letters outside the Latin script."""
    letters = [char for char in text if char.isalpha()]
    return sum(ord(char) > 0x24F for char in letters) / len(letters) if letters else 0.0


def schema_faults(fields: Mapping[str, Any]) -> list[str]:
    """What is missing of, or wrong with, structured fields."""
    faults = [f"schema:lacks {name}" for name in FIELDS if name not in fields]
    camera = fields.get("camera")
    if camera is not None and not (isinstance(camera, Mapping) and isinstance(camera.get("tag", ""), str)):
        faults.append("schema:camera")
    return faults + [
        f"schema:{name}"
        for name in ("subjects", "actions")
        if name in fields and not isinstance(fields[name], (list, tuple))
    ]


def judge(caption: Caption, facts: Mapping[str, Any] | None = None) -> Verdict:
    """The verdict on one caption. Alt text is judged by length alone: junk is what it is for.

    Args:
        facts: the clip's measurements, to check the caption against.
    """
    if caption.verdict.status == "out_of_domain":
        return caption.verdict
    low, high = WORDS[caption.kind]
    count = len(caption.text.split())
    reasons = []
    if count < low:
        reasons.append(f"too_short:{count}<{low}")
    if count > high:
        reasons.append(f"too_long:{count}>{high}")
    if caption.kind != "alt":
        reasons += _faults(caption)
        if caption.source not in {"ground_truth", "alt"} and facts:
            reasons += contradictions(caption, facts)
    return Verdict(status="rejected" if reasons else "accepted", reasons=tuple(reasons))


def _faults(caption: Caption) -> list[str]:
    reasons = []
    if caption.finish_reason == "length":
        reasons.append("cut_off")
    if _BROKEN_ANSWER.match(caption.text):
        reasons.append("schema:an answer that cannot be read")
    if "\ufffd" in caption.text:
        reasons.append("unreadable")
    if _REFUSAL.search(caption.text):
        reasons.append("refusal")
    if _META.search(caption.text):
        reasons.append("meta")
    if (share := repetition(caption.text)) > MAX_REPETITION:
        reasons.append(f"repetition:{share:.2f}>{MAX_REPETITION:.2f}")
    elif (times := tail_repeats(caption.text)) > 3:
        reasons.append(f"repeated_ending:{times}>3")
    if (share := foreign_share(caption.text)) > 0.2:
        reasons.append(f"language:{share:.2f}>0.20")
    if caption.kind == "structured" and caption.source not in {"ground_truth", "measured"}:
        reasons += schema_faults(caption.fields)
    return reasons


def lowest_aligned(scores: Mapping[str, float], share: float) -> set[str]:
    """Ids of the captions whose alignment with their clips is in the lowest `share` of a run."""
    count = int(len(scores) * share)
    return set(sorted(scores, key=lambda name: (scores[name], name))[:count])


def duplicates(rows: Iterable[Mapping[str, Any]], most: int = DUPLICATE_CLIPS) -> list[dict[str, Any]]:
    """Texts that a backend wrote for more than `most` clips of unrelated sources.

    The sign of a captioner that no longer looks.

    Args:
        rows: of the captions table, with `clip_id`, whose part before the last dash names the source.
    """
    clips: dict[tuple[str, str], set[str]] = defaultdict(set)
    for row in rows:
        if row["kind"] == "dense" and row["source"] not in {"ground_truth", "alt", "measured"}:
            clips[row["source"], row["text"]].add(row["clip_id"])
    found = []
    for (source, text), names in clips.items():
        num_sources = len({source_of(name) for name in names})
        if len(names) > most and num_sources > most / 2:
            found.append(
                {"source": source, "text": text, "num_clips": len(names), "num_sources": num_sources}
            )
    return sorted(found, key=lambda item: -item["num_clips"])
