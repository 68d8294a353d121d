"""Prompt upsampling: a user's few words to a prompt like the captions a model was trained on.

DALL-E 3's rule: 15 to 80 words, refactor rather than pile on.

`PhraseUpsampler` needs no model: fitted on dense captions, it adds only what they say of camera and light and
a prompt does not, and keeps every word of the user's. `model_upsampler` asks any server; its answer is taken
only if no content word of the user's is lost.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from captioner.windows import sentences
from manifests.store import storage
from manifests.store.json_files import read_local_object

MIN_WORDS, MAX_WORDS = 15, 80
MOST_PHRASES = 24
_LIGHT = re.compile(r"\bin ((?:\w+ )?(?:light|daylight|moonlight|sunlight))\b", re.IGNORECASE)
_LIGHT_WORDS = re.compile(
    r"\b((day|sun|moon|back|lamp|candle|fire|spot|flood|head|street|torch|star)?(light(s|ed|ing)?|lit)"
    r"|dark(ness|er)?|dim(ly|med)?|bright(ly|ness|er)?|sun(set|rise|ny|shine)?s?|(mid)?nights?|night-?time"
    r"|neon|shadow(s|y)?|dawn|dusk|noon|midday|mornings?|afternoons?|evenings?|twilight|candles?"
    r"|golden hour|overcast)\b",
    re.IGNORECASE,
)
_CAMERA_WORDS = re.compile(
    r"\b(camera|pan(s|ned|ning)?|tilt(s|ed|ing)?|zoom(s|ed|ing)?|dolly|tracking shot|hand-?held|close-?up)\b",
    re.IGNORECASE,
)
_STYLE_WORDS = re.compile(
    r"\b(style|animation|cartoon|photo\w*|film|painting|render\w*|anime|sketch|cinematic)\b", re.IGNORECASE
)
_STOP = frozenset(
    """
    a an the of in on at to from with and or is are was be by for as it its this that there
    into over under through while then up down off out very
    """.split()  # noqa: SIM905
)


def content_words(text: str) -> list[str]:
    """Words that carry the meaning, lower case, in order."""
    return [word for word in re.findall(r"[\w'-]+", text.lower()) if word not in _STOP]


def lost_words(prompt: str, result: str) -> list[str]:
    """Content words of the prompt that the result no longer has."""
    left = Counter(content_words(result))
    return [word for word in dict.fromkeys(content_words(prompt)) if not left[word]]


@dataclass(frozen=True, kw_only=True)
class PhraseUpsampler:
    """What to add where a prompt is silent, most usual first.

    camera: whole sentences; light: phrases behind "in"; style: a sentence. What is empty is not added.
    """

    camera: tuple[str, ...] = ("The camera is static.",)
    light: tuple[str, ...] = ("daylight",)
    style: str = "It is one continuous shot with clear colours and smooth movement."
    still_style: str = "It is one picture with clear colours and sharp edges everywhere."

    @staticmethod
    def fit(captions: Iterable[str]) -> PhraseUpsampler:
        """Camera sentences and light phrases of dense captions, most frequent first, a static camera first.

        A prompt that says nothing of the camera most often means a static one. Where the captions say nothing
        of them, nothing is added.
        """
        camera: Counter[str] = Counter()
        light: Counter[str] = Counter()
        for caption in captions:
            camera.update(part for part in sentences(caption) if part.lower().startswith("the camera "))
            light.update(hit.lower() for hit in _LIGHT.findall(caption))
        ranked = sorted(camera, key=lambda text: ("static" not in text, -camera[text], text))
        return PhraseUpsampler(
            camera=tuple(ranked[:MOST_PHRASES]),
            light=tuple(sorted(light, key=lambda text: (-light[text], text))[:MOST_PHRASES]),
        )

    @staticmethod
    def load(path: Path) -> PhraseUpsampler:
        return PhraseUpsampler.of(read_local_object(path))

    @staticmethod
    def of(values: Mapping[str, Any]) -> PhraseUpsampler:
        """From what `to_json` gave."""
        said = {name: values[name] for name in ("style", "still_style") if name in values}
        return PhraseUpsampler(camera=tuple(values["camera"]), light=tuple(values["light"]), **said)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def save(self, path: Path) -> None:
        storage.write_local(path, (json.dumps(self.to_json(), indent=2) + "\n").encode())

    def __call__(
        self, prompt: str, is_video: bool = True, choice: int = 0, beside: Sequence[str] = ()
    ) -> str:
        """The prompt with light, camera and style filled in where it names none.

        Args:
            choice: 0 for the most usual phrases, other numbers for others; the same number gives the same
                words.
            beside: prompts that lead to one sample with this one, such as those of both ends of a blend: a
                kind of phrase comes to all of them or to none, else the sample would show what it differs in.
        """
        text = " ".join(prompt.split()).strip()
        texts = [text, *beside]
        if any(not _has_words(one) or len(one.split()) >= MAX_WORDS for one in texts):
            return text
        said = " ".join(texts)
        has_light = _LIGHT_WORDS.search(said) or not self.light
        light = "" if has_light else f", in {self.light[choice % len(self.light)]}"
        body = text.rstrip(" .,;!?" if light else " .,;")
        first = body.split()[0]  # of a name, as iPhone, it stays as it is
        body = body[:1].upper() + body[1:] if first == first.lower() else body
        result = f"{body}{light}{text[-1] if text[-1] in '!?' and not light else '.'}"
        extra = (
            [self.camera[choice % len(self.camera)]]
            if is_video and self.camera and not _CAMERA_WORDS.search(said)
            else []
        )
        num_more = len(f"{result} {' '.join(extra)}".split()) - len(text.split())
        is_short = all(len(one.split()) + num_more < MIN_WORDS for one in texts)
        if is_short and not _STYLE_WORDS.search(said):
            extra.append(self.style if is_video else self.still_style)
        longest = max(len(one.split()) for one in texts) - len(text.split())
        for part in filter(None, extra):
            if len(f"{result} {part}".split()) + longest <= MAX_WORDS:
                result = f"{result} {part}"
        return result


def _has_words(text: str) -> bool:
    return any(char.isalnum() for char in text)


INSTRUCTION = (
    "Rewrite this prompt for a video generator as one description of {low} to {high} words, in the style of "
    "a detailed caption: subjects, what they do, setting, light, style, "
    "camera. Keep every noun, colour, number and action of the user's own words. Where the prompt is long "
    "already, reorder rather than lengthen. Add no new subject. Answer with the "
    "description alone.\n\n{prompt}"
)


def model_upsampler(
    ask: Callable[[str], str], fallback: PhraseUpsampler, tries: int = 2
) -> Callable[..., str]:
    """An upsampler by a language model, with phrases where its answer loses a word or breaks the length."""

    def upsample(prompt: str, is_video: bool = True, choice: int = 0, beside: Sequence[str] = ()) -> str:
        for _ in range(0 if beside else tries):  # it could not be held to the same additions
            answer = " ".join(
                ask(INSTRUCTION.format(low=MIN_WORDS, high=MAX_WORDS, prompt=prompt)).split()
            ).strip("\"' ")
            if MIN_WORDS <= len(answer.split()) <= max(MAX_WORDS, len(prompt.split())) and not lost_words(
                prompt, answer
            ):
                return answer
        return fallback(prompt, is_video, choice, beside)

    return upsample
