"""Writing captions: a backend, the gate behind it, and another try with other sampling for what was rejected.

Every clip comes out with its captions or an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from captioner.gates.gates import judge
from captioner.gates.told import stripped_of_camera, told
from captioner.protocol import Caption, Captioner, ClipFrames, Usage, with_verdict


def write_captions(backend: Captioner, clips: Sequence[ClipFrames], retries: int = 0) -> list[list[Caption]]:
    """Captions of each clip with their verdicts; dense ones say what is surely measured.

    A clip with a rejected caption is written anew, up to `retries` times; a kind keeps its first accepted
    caption, and all rejected ones stay beside it. What was accepted outlives a later try without an answer.
    """
    found = [_judged(captions, clip) for captions, clip in zip(backend.caption(clips), clips, strict=True)]
    for attempt in range(1, retries + 1):
        again = [index for index, captions in enumerate(found) if _lacking(captions)]
        if not again:
            break
        answers = backend.caption([clips[index] for index in again], attempt)
        for index, captions in zip(again, answers, strict=True):
            found[index] = _joined(found[index], _judged(captions, clips[index]))
    return found


def _lacking(captions: Sequence[Caption]) -> set[str]:
    """Kinds of which every caption so far was rejected; none if the backend had no answer.

    A backend without an answer has tried again itself.
    """
    if any(caption.finish_reason.startswith("error") for caption in captions):
        return set()
    kept = {caption.kind for caption in captions if caption.verdict.status != "rejected"}
    return {caption.kind for caption in captions} - kept


def _accepted(captions: Sequence[Caption]) -> bool:
    """Whether a clip has a caption that the trainer could draw."""
    return any(caption.verdict.status == "accepted" and caption.kind != "window" for caption in captions)


def _judged(captions: Sequence[Caption], clip: ClipFrames) -> list[Caption]:
    return [_told(caption, clip) for caption in captions]


def _told(caption: Caption, clip: ClipFrames) -> Caption:
    """A caption with its verdict; an accepted one says what is surely measured, others stay as they are."""
    own = stripped_of_camera(caption, clip.facts)
    verdict = judge(own, clip.facts)
    known = with_verdict(own, verdict)
    if known.verdict.status != "accepted":
        return with_verdict(caption, verdict)
    return told(known, clip.facts)


def _joined(before: list[Caption], after: list[Caption]) -> list[Caption]:
    """What was accepted before stays; of the new ones those are added whose kind had none.

    The cost of the others is added to what stays.
    """
    done = {caption.kind for caption in before if caption.verdict.status != "rejected"}
    if _accepted(before):
        unheard = [caption for caption in after if caption.finish_reason.startswith("error")]
        lost = sum((caption.usage for caption in unheard), Usage())
        after = [caption for caption in after if caption not in unheard]
        before = [replace(before[0], usage=before[0].usage + lost), *before[1:]]
    said = {old.text for old in before}
    new = [
        caption
        for caption in after
        if caption.kind not in done and (caption.verdict.status != "rejected" or caption.text not in said)
    ]
    lost = sum((caption.usage for caption in after if caption not in new), Usage())
    return [replace(before[0], usage=before[0].usage + lost), *before[1:], *new] if before else new
