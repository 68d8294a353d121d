"""Prompts by name.

A prompt never changes once it is used: a better one gets a new name, and with it captions of their own.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from captioner.protocol import ClipFrames
from manifests.errors import UsageError

LIST_FIELDS, TEXT_FIELDS = ("subjects", "actions"), ("setting", "shot_type", "lighting", "style")
ANSWER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "short": {"type": "string"},
        "dense": {"type": "string"},
        **{name: {"type": "array", "items": {"type": "string"}} for name in LIST_FIELDS},
        **{name: {"type": "string"} for name in TEXT_FIELDS},
        "camera": {"type": "string"},
    },
    "required": ["short", "dense", *LIST_FIELDS, *TEXT_FIELDS, "camera"],
    "additionalProperties": False,
}
"""What a model is asked to answer with: one object, from which all kinds of captions of the clip are made."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """What a vision-language model is told."""

    prompt_id: str
    system: str
    video: str
    image: str
    continued: str
    """Added for a part of a longer clip; `{context}` is what was said before."""
    merge: str
    """To join what was said of the parts; `{parts}`."""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(
            json.dumps([self.system, self.video, self.image, self.continued, self.merge]).encode()
        ).hexdigest()[:16]

    def ask(self, clip: ClipFrames) -> str:
        """The request for one clip."""
        text = self.image if clip.is_image else self.video
        return text + ("\n" + self.continued.format(context=clip.context) if clip.context else "")


_FIELDS = (
    "Answer with one JSON object and nothing else. Its keys: short (the main subject and what it does, at "
    "most 12 words), dense (the caption), subjects (list), "
    "actions (list), setting, shot_type, lighting, style, camera (how the camera moves, or static)."
)
_RULES = (
    "State only what can be seen. Do not guess at names, places or feelings, and do not use words such as "
    "possibly or suggests. Begin with the content itself: never "
    "with 'The video'. Name text exactly as it is written. No line breaks."
)
VIDEO_1 = Prompt(
    prompt_id="video-1",
    system="You describe footage for a library. You are exact and leave out what you cannot see.",
    video=(
        "Describe this video in detail and in the order of time: each subject with its look and place, what "
        "it does and in which direction it moves, the setting, the light, the style, and how the camera "
        f"moves. {_RULES} {_FIELDS}"
    ),
    image=(
        "Describe this picture in detail: each subject with its look and place, the setting, the light and "
        f"the style. {_RULES} {_FIELDS}"
    ),
    continued=(
        "This is the next part of a longer take. Before it: {context}\nDescribe what is new and do not "
        "repeat what stays."
    ),
    merge=(
        "These describe parts of one take in order of time. Join them into one account of the whole, in "
        "order. Leave nothing out and add nothing that is not in them. " + _FIELDS + "\n{parts}"
    ),
)
VIDEO_2 = Prompt(
    prompt_id="video-2",
    system=(
        "You describe footage for a library. You are exact and leave out what you cannot see. Describe what "
        "you are shown in detail: each subject with its look and place, the setting, the light, the style; "
        "of a video also, in the order of time, what each subject does and in which direction it moves, and "
        f"how the camera moves. {_RULES} {_FIELDS}"
    ),
    video="Describe this video.",
    image="Describe this picture. It is a still: its camera is static, and nothing in it moves.",
    continued=VIDEO_1.continued,
    merge=(
        "These describe parts of one take in order of time. Join them into one account of the whole, in "
        "order. Leave nothing out and add nothing that is not in them.\n{parts}"
    ),
)
"""All that is the same for every clip stands before the frames, where servers keep it (prefix caching)."""
PLAIN_1 = Prompt(
    prompt_id="plain-1",
    system="",
    video=f"Describe this video in detail. {_RULES}",
    image=f"Describe this picture in detail. {_RULES}",
    continued="Before this part: {context}\nDescribe what is new.",
    merge=(
        "Join these descriptions of parts of one take, in order, leaving nothing out and adding "
        "nothing.\n{parts}"
    ),
)
PROMPTS = {prompt.prompt_id: prompt for prompt in (VIDEO_1, VIDEO_2, PLAIN_1)}


def make_prompt(name: str) -> Prompt:
    """The prompt of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in PROMPTS:
        raise UsageError(f"prompt {name}", "is not known", f"Prompts: {', '.join(PROMPTS)}.")
    return PROMPTS[name]


def parse_answer(text: str) -> dict[str, Any] | None:
    """The object in a model's answer, checked against the schema's types; None where there is none.

    Text around it and code fences are allowed.
    """
    begin, end = text.find("{"), text.rfind("}")
    if begin < 0 or end < begin:
        return None
    try:
        value = json.loads(text[begin : end + 1])
    except (ValueError, RecursionError):  # also of numbers of thousands of digits
        return None
    return value if isinstance(value, dict) and not answer_faults(value) else None


def answer_faults(value: Mapping[str, Any]) -> list[str]:
    """What is wrong with an answer's object."""
    faults = [f"lacks {name}" for name in ANSWER_SCHEMA["required"] if name not in value]
    faults += [
        f"{name} is no text"
        for name in ("short", "dense", "camera", *TEXT_FIELDS)
        if name in value and not isinstance(value[name], str)
    ]
    return faults + [
        f"{name} is no list of texts" for name in LIST_FIELDS if name in value and not _is_texts(value[name])
    ]


def _is_texts(value: Any) -> bool:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(item, str) for item in value)
    )


def camera_fields(facts: Mapping[str, Any], said: str, sure: float = 0.5) -> dict[str, Any]:
    """The camera slot: what was measured where the measurement is sure, else what the model says."""
    if (facts.get("camera") or "unknown") not in {"unknown", "moving"} and (
        facts.get("camera_confidence") or 0.0
    ) >= sure:
        return {"tag": facts["camera"], "confidence": facts["camera_confidence"], "source": "measured"}
    return {"tag": said, "confidence": None, "source": "model"}
