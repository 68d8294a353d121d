"""What a server answers: the words of a message in the chat protocol, their cost, and when to ask again."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from captioner.gates.answers import readable, without_thought
from captioner.protocol import Usage

_MOST_TOKENS = 1 << 40


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What came of asking once.

    Attributes:
        text: the answer; empty if there is none.
        is_cut: whether the answer ended at its most tokens.
        error: why there is no answer.
        is_passing: whether asking again may help.
        is_away: whether the fault is the server's or the key's, whatever the clip.
        asks_again_now: whether to ask again without a wait.
        retry_after_s: the server's Retry-After.
    """

    text: str = ""
    is_cut: bool = False
    cost: Usage = field(default_factory=Usage)
    error: str = ""
    is_passing: bool = True
    is_away: bool = False
    asks_again_now: bool = False
    retry_after_s: float | None = None


def reply_of(answer: dict[str, Any]) -> Reply:
    """What a server's answer says.

    Raises:
        KeyError, TypeError, AttributeError: it is none of the chat protocol.
    """
    used = answer.get("usage")
    prompt, output = (
        _count(used.get(name)) if isinstance(used, dict) else 0
        for name in ("prompt_tokens", "completion_tokens")
    )
    cost = Usage(prompt_tokens=prompt, output_tokens=output)
    first = answer["choices"][0] if answer["choices"] else None
    text = _text(first["message"].get("content")) or _text(first["message"].get("refusal")) if first else ""
    text = without_thought(readable(text))
    is_cut = first is not None and first.get("finish_reason") == "length"
    return Reply(text=text, is_cut=is_cut, cost=cost, error="an answer without text")


def _count(value: Any) -> int:
    """A number of tokens; 0 for what is none, as that costs no caption."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < _MOST_TOKENS
    return int(value) if is_number else 0


def _text(content: Any) -> str:
    """The words of a message, which some servers give in parts."""
    if isinstance(content, list):
        said = (None, "text", "output_text")  # and not what it thought
        parts = [part for part in content if isinstance(part, dict) and part.get("type") in said]
        return "".join(text for part in parts if isinstance(text := part.get("text"), str))
    return content if isinstance(content, str) else ""


def retry_after_s(headers: Any) -> float | None:
    """Seconds that a server asks to wait: a number, or a date."""
    said = headers.get("retry-after", "")
    with contextlib.suppress(ValueError):
        return max(0.0, float(said))
    with contextlib.suppress(TypeError, ValueError):
        until = parsedate_to_datetime(said)
        return max(0.0, (until - datetime.now(until.tzinfo or UTC)).total_seconds())
    return None
