"""Clips that were changed in one thing, and whether their captions change in it, and in nothing else."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from captioner.film_clips import frames_at, proxy_frames, with_shot
from captioner.gates.slots import Slots, read
from captioner.judging.film_truth import TestClip, as_clip, best, failure_of
from captioner.protocol import Caption, Captioner, ClipFrames
from captioner.writing import write_captions
from manifests.cli import say
from world.counterfactuals import counterfactual
from world.scene import Shot


@dataclass
class Counterfactual:
    """What a change of the clip did to the caption.

    Attributes:
        flips: of the objects whose direction the change turns round and that both captions name, those whose
            direction word turns too.
        changed: of the slots that must change, those that are right after the change.
        kept: of the slots that must stay, those that did.
        num_failed: clips that got no answer before or after; they count for nothing here.
    """

    kind: str
    num_clips: int = 0
    num_failed: int = 0
    flipped: int = 0
    flippable: int = 0
    changed: int = 0
    must_change: int = 0
    kept: int = 0
    must_stay: int = 0

    def to_json(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "num_clips": self.num_clips,
            "num_failed": self.num_failed,
            "direction_flips": _share(self.flipped, self.flippable),
            "num_directions": self.flippable,
            "changed_slots_right": _share(self.changed, self.must_change),
            "other_slots_kept": _share(self.kept, self.must_stay),
        }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None


def _changed_clip(test: TestClip, kind: str) -> tuple[ClipFrames, Shot]:
    times, frames = proxy_frames(test.film)
    shot, pictures = counterfactual(kind, test.film.shot, frames)
    if pictures is None:
        pictures = frames_at(with_shot(test.film, shot), times)
    return as_clip(f"{test.clip.clip_id}-{kind}", np.ascontiguousarray(pictures), times), shot


def counterfactuals(
    captioner: Captioner, clips: Sequence[TestClip], kind: str, workers: int = 2
) -> Counterfactual:
    """Caption moving one-shot clips and their changed twins; clips with a title are not mirrored."""
    chosen = [
        test
        for test in clips
        if len(test.shots) == 1 and test.film.shot.duration_s > 0 and not test.film.shot.title
    ]
    with ProcessPoolExecutor(workers) as pool:
        twins = list(pool.map(functools.partial(_changed_clip, kind=kind), chosen, chunksize=8))
    before = write_captions(captioner, [test.clip for test in chosen])
    after = write_captions(captioner, [clip for clip, _ in twins])
    result = Counterfactual(kind)
    for test, (_, shot), first, second in zip(chosen, twins, before, after, strict=True):
        if why := failure_of(first) or failure_of(second):  # silence would keep every slot
            if not result.num_failed:
                say(f"{kind}: clip {test.clip.clip_id} got no answer: {why}")
            result.num_failed += 1
            continue
        result.num_clips += 1
        _count(result, test.film.shot, shot, read(_dense(first)), read(_dense(second)))
    return result


def _dense(captions: Sequence[Caption]) -> str:
    caption = best(captions, "dense")
    return caption.text if caption else ""


def _count(result: Counterfactual, original: Shot, shot: Shot, first: Slots, second: Slots) -> None:
    """Add one pair. Objects are told apart by their true shape and colour before and after the change."""
    pairs = [
        (thing, next(other for other in shot.things if _is_same(thing, other, result.kind, original, shot)))
        for thing in original.things
    ]
    for thing, other in pairs:
        one = next(
            (item for item in first.things if (item.shape, item.color) == (thing.shape, thing.color)), None
        )
        two = next(
            (item for item in second.things if (item.shape, item.color) == (other.shape, other.color)), None
        )
        if one is None:
            continue
        _slot(result, "colour", other.color, two.color if two else "", thing.color, one.color)
        if two is None:
            continue
        if thing.motion not in {other.motion, "still"} and other.motion != "still":
            result.flippable += 1
            result.flipped += one.direction == thing.motion and two.direction == other.motion
        for name, value, now, was in (
            ("direction", other.motion, two.direction or "still", thing.motion),
            ("size", other.size, two.size, thing.size),
        ):
            _slot(
                result, name, value, now, was, (one.direction or "still") if name == "direction" else one.size
            )
    _slot(result, "camera", shot.camera, second.camera, original.camera, first.camera)
    _slot(result, "background", shot.background, second.background, original.background, first.background)


def _slot(
    result: Counterfactual, name: str, true_now: str, said_now: str, true_before: str, said_before: str
) -> None:
    if true_now != true_before:
        result.must_change += 1
        result.changed += said_now == true_now
    else:
        result.must_stay += 1
        result.kept += said_now == said_before


def _is_same(thing: Any, other: Any, kind: str, original: Shot, shot: Shot) -> bool:
    """Whether things of two shots are the same one: by place where colours change, else by colour."""
    return (
        original.things.index(thing) == shot.things.index(other)
        if kind == "recoloured"
        else thing.color == other.color
    )
