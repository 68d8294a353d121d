"""Long clips: captioned in windows that share a frame, each told what was said before, then merged.

Cost grows with length and no faster.

Clips with cuts inside are parted at the cuts too. What was said of each window is kept beside the merged
captions.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from captioner.gates.answers import fields_text
from captioner.protocol import Caption, Captioner, ClipFrames, Provenance, Usage
from captioner.stored import some_of

MIN_WINDOW_S = 0.3
MOST_SHORT = 24
"""Words of a short caption that is put together from several."""


def bounds_s(start_s: float, end_s: float, cuts_s: Sequence[float], window_s: float) -> list[float]:
    """Bounds of windows of equal length, each at most 4/3 of `window_s`, between the cuts of a clip."""
    marks = [start_s]
    for cut in sorted(cuts_s):
        if marks[-1] + MIN_WINDOW_S < cut < end_s - MIN_WINDOW_S:
            marks.append(cut)
    found = [start_s]
    for low, high in itertools.pairwise([*marks, end_s]):
        count = max(1, math.ceil((high - low) / (window_s * 4 / 3) - 1e-6))
        found += [low + (high - low) * (index + 1) / count for index in range(count - 1)] + [high]
    return found


def windows(clip: ClipFrames, window_s: float) -> list[ClipFrames]:
    """The parts of a clip; the clip itself where it is short and uncut.

    A window begins with the last frame of the one before, unless a cut lies between.
    """
    if clip.is_image or len(clip.frames) < 2:
        return [clip]
    start_s, end_s, cuts_s = clip.facts["start_s"], clip.facts["end_s"], clip.facts.get("cuts_s") or []
    bounds = bounds_s(start_s, end_s, cuts_s, window_s)
    if len(bounds) == 2:
        return [clip]
    parts: list[ClipFrames] = []
    for low, high in itertools.pairwise(bounds):
        inside = [index for index, time_s in enumerate(clip.times_s) if low - 1e-6 <= time_s < high - 1e-6]
        if not inside:  # shorter than the rate of the previews: the frame nearest to it
            inside = [
                min(range(len(clip.times_s)), key=lambda index: abs(clip.times_s[index] - (low + high) / 2))
            ]
        shares = parts and inside[0] > 0 and all(abs(low - cut) > 1e-6 for cut in cuts_s)
        chosen = [inside[0] - 1, *inside] if shares else inside
        facts = {**clip.facts, "start_s": low, "end_s": high, "cuts_s": []}
        name = f"{clip.clip_id}#{round(low * 1000):08d}"
        parts.append(
            replace(
                clip,
                clip_id=name,
                frames=some_of(clip.frames, chosen),
                times_s=[clip.times_s[index] for index in chosen],
                facts=facts,
            )
        )
    return parts


class Windowed:
    """Any captioner, made to take clips of any length."""

    def __init__(self, inner: Captioner, window_s: float) -> None:
        self.inner, self.window_s = inner, window_s
        self.name = inner.name
        self.version = f"{inner.version}|windows-2:{window_s:g}"
        self.at_once = inner.at_once

    def setup(self) -> None:
        self.inner.setup()

    def caption(self, clips: Sequence[ClipFrames], attempt: int = 0) -> list[list[Caption]]:
        parts = [windows(clip, self.window_s) for clip in clips]
        said: list[list[list[Caption]]] = [[] for _ in clips]
        for turn in range(max(map(len, parts), default=0)):
            rows = [index for index, own in enumerate(parts) if turn < len(own)]
            batch = [replace(parts[index][turn], context=_summary(said[index])) for index in rows]
            for index, captions in zip(rows, self.inner.caption(batch, attempt), strict=True):
                said[index].append(
                    [_of_clip(caption, parts[index][turn], clips[index]) for caption in captions]
                )
        return [
            own[0] if len(own) == 1 else self._merged(clip, pieces, own)
            for clip, pieces, own in zip(clips, parts, said, strict=True)
        ]

    def _merged(self, clip: ClipFrames, pieces: list[ClipFrames], said: list[list[Caption]]) -> list[Caption]:
        cost = sum(
            (caption.usage for captions in said for caption in captions), Usage()
        )  # on the first caption, so that sums over captions are true
        kept = [
            replace(
                caption, kind="window", span_s=(piece.facts["start_s"], piece.facts["end_s"]), usage=Usage()
            )
            for piece, captions in zip(pieces, said, strict=True)
            for caption in captions
            if caption.kind == "dense"
        ]
        cuts_s = clip.facts.get("cuts_s") or []
        is_cut = [any(abs(piece.facts["start_s"] - cut) < 1e-6 for cut in cuts_s) for piece in pieces]
        join = getattr(self.inner, "merge", None)
        joined = (join(clip, [caption.text for caption in kept]) if join and kept else []) or merge(
            said, is_cut
        )
        return [replace(joined[0], usage=joined[0].usage + cost), *joined[1:], *kept]


def _of_clip(caption: Caption, piece: ClipFrames, clip: ClipFrames) -> Caption:
    """A window's caption, with the frames it saw counted in the whole clip."""
    made = caption.provenance
    if piece is clip or not made.frame_indices:
        return caption
    place = {time_s: index for index, time_s in enumerate(clip.times_s)}
    indices = tuple(place[piece.times_s[index]] for index in made.frame_indices)
    return replace(caption, provenance=replace(made, frame_indices=indices))


def _summary(said: list[list[Caption]]) -> str:
    """Context for the next window: the last dense caption, and the first if there are more."""
    texts = [caption.text for captions in said for caption in captions if caption.kind == "dense"]
    return " ... ".join(texts[:1] + texts[1:][-1:])


def merge(said: Sequence[Sequence[Caption]], is_cut: Sequence[bool]) -> list[Caption]:
    """Captions of the whole without a language model: sentences in order, none twice, changes of shot named.

    Nothing is added, and of dense ones nothing but repeats left out. A structured one has what any window
    has; a short one says what the first windows say, with as many words as `MOST_SHORT`. A window without an
    answer, or one cut off, makes the whole so.

    Args:
        said: captions of each window. is_cut: whether a cut lies before it.
    """
    by_kind: dict[str, list[tuple[Caption, bool]]] = defaultdict(list)
    for captions, cut in zip(said, is_cut, strict=True):
        for caption in captions:
            by_kind[caption.kind].append((caption, cut))
    found = []
    for kind, rows in by_kind.items():
        first = rows[0][0]
        bad = next((caption for caption, _ in rows if caption.verdict.status == "out_of_domain"), first)
        ends = sorted(
            (caption.finish_reason for caption, _ in rows),
            key=lambda end: (not end.startswith("error"), end != "length"),
        )  # the worst one first
        fields = _fields([caption.fields for caption, _ in rows])
        text = _joined(rows)
        if kind == "short":
            text = _short([caption.text for caption, _ in rows])
        elif kind == "structured":
            text = fields_text(fields) if fields else first.text
        made = _seen([caption.provenance for caption, _ in rows])
        whole = replace(first, text=text, fields=fields, provenance=made)
        found.append(replace(whole, verdict=bad.verdict, finish_reason=ends[0], usage=Usage()))
    return found


def _seen(made: Sequence[Provenance]) -> Provenance:
    """That of the first, with the frames that any of them saw."""
    pairs = (zip(one.frame_indices, one.frame_times_s, strict=False) for one in made)
    seen = dict(sorted(pair for own in pairs for pair in own))
    return (
        replace(made[0], frame_indices=tuple(seen), frame_times_s=tuple(seen.values())) if seen else made[0]
    )


def _short(texts: Sequence[str]) -> str:
    """What each window shows, in order, none twice, as far as the words go; the first in any case."""
    told = [texts[0].strip()]
    for text in texts[1:]:
        more = text.strip()
        if more.lower().rstrip(".") in (one.lower().rstrip(".") for one in told):
            continue
        if sum(len(one.split()) + 1 for one in told) + len(more.split()) > MOST_SHORT:
            break
        told = [*(one.rstrip(".") for one in told), more]
    return ", then ".join(told)


def _fields(all_fields: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Structured fields of the whole: lists joined, texts side by side, none twice; of others the first."""
    found: dict[str, Any] = {}
    for fields in all_fields:
        for name, value in fields.items():
            before = found.get(name)
            if isinstance(value, list) and isinstance(before, list):
                found[name] = [*before, *(item for item in value if item not in before)]
            elif isinstance(value, str) and isinstance(before, str):
                is_new = value and value not in before.split(", then ")
                found[name] = ", then ".join(filter(None, [before, value])) if is_new else before
            elif name not in found:
                found[name] = list(value) if isinstance(value, list) else value
    return found


def _joined(rows: Sequence[tuple[Caption, bool]]) -> str:
    seen: set[str] = set()
    parts = list[str]()
    for caption, cut in rows:
        if not caption.text:
            continue
        if cut and parts:
            parts.append("Then the shot changes.")
            seen = set()
        for sentence in sentences(caption.text):
            if sentence not in seen:
                seen.add(sentence)
                parts.append(sentence)
    return " ".join(parts)


def sentences(text: str) -> list[str]:
    """A text cut behind its full stops."""
    parts = text.replace("! ", "!|").replace("? ", "?|").replace(". ", ".|").split("|")
    return [part.strip() for part in parts if part.strip()]
