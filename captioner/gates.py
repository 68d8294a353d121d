"""Quality gates, cheap ones first. A rejected caption stays in the table with its reasons; the trainer never draws it."""

from __future__ import annotations

import re

from captioner.protocol import Caption

WORDS = {"short": (2, 40), "dense": (5, 400), "structured": (2, 400), "alt": (1, 400)}
_REFUSAL = re.compile(r"\b(i (cannot|can't|am unable)|i'm sorry|as an ai|cannot (assist|describe))\b", re.IGNORECASE)


def repetition(text: str, n: int = 3) -> float:
    """Share of word n-grams that have occurred before, 0 to 1."""
    words = text.lower().split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def gate(caption: Caption) -> list[str]:
    """Reasons to reject a caption; empty if it passes. Alt text is judged by length alone: junk is what it is for."""
    low, high = WORDS[caption.kind]
    count = len(caption.text.split())
    reasons = []
    if count < low:
        reasons.append(f"too_short:{count}<{low}")
    if count > high:
        reasons.append(f"too_long:{count}>{high}")
    if caption.kind == "alt":
        return reasons
    if _REFUSAL.search(caption.text):
        reasons.append("refusal")
    if (share := repetition(caption.text)) > 0.3:
        reasons.append(f"repetition:{share:.2f}>0.30")
    return reasons
