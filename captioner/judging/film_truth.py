"""Evaluation on exact truth: held-out films by attribute, with chance and a weightless baseline.

For each attribute: recall (true facts said), precision (facts said that are true) and assertion rate (facts
said per fact there is): a captioner that guesses fluently shows in precision, one that says little in the
rate. CIDEr and the contrastive score are printed for the curious and are not for ranking: CIDEr puts a
half-false template above a true paraphrase.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np

from captioner.facts import CUT_THRESHOLD, facts_of_frames
from captioner.film_clips import (
    FilmClip,
    previews_of,
    proxy_frames,
    sample_clip,
    with_shot,
)
from captioner.gates.slots import CHANCE, Slots, Tally, compare, new_tallies, read, truth
from captioner.judging.cider import cider
from captioner.protocol import Caption, Captioner, ClipFrames
from captioner.writing import write_captions
from manifests.cli import say
from media.decode.images import decode_image, encode_jpeg
from media.shots.detector import GLANCE_PX, ShotDetector
from world import captions as words
from world.scene import Shot, sample_shot

HELD_OUT_SEED = 900_000_000
"""Seeds from here on are never trained on."""
CUT_SHARE = 0.08
_JPEG_QUALITY = 88
_PROXY_FPS = 8.0


@dataclass(frozen=True)
class TestClip:
    """A clip and the shots it shows."""

    clip: ClipFrames
    shots: tuple[Shot, ...]
    film: FilmClip

    __test__ = False


def held_out_clip(seed: int) -> TestClip:
    """A held-out clip with its measured facts: a tenth are stills, some have a cut inside."""
    film = sample_clip(seed)
    times, frames = proxy_frames(film)
    shots = [film.shot]
    rng = np.random.default_rng([seed, 2])
    if film.shot.duration_s > 0 and rng.random() < CUT_SHARE:
        second = sample_shot(
            int(rng.integers(1 << 31)), film.width_px / film.height_px, float(rng.uniform(1.2, 3.4))
        )
        while second.background == film.shot.background:
            second = sample_shot(
                int(rng.integers(1 << 31)), film.width_px / film.height_px, second.duration_s
            )
        more, pictures = proxy_frames(with_shot(film, second))
        times, frames = (
            times + [times[-1] + 1 / _PROXY_FPS + time_s for time_s in more],
            np.concatenate([frames, pictures]),
        )
        shots.append(second)
    return TestClip(as_clip(f"held-out-{seed}", frames, times), tuple(shots), film)


def as_clip(name: str, frames: np.ndarray, times: list[float]) -> ClipFrames:
    """A captioner's input from frames [T, H, W, 3] at the proxy's rate: JPEG previews and measured facts."""
    picks = previews_of(times)
    end_s = times[-1] + 1 / _PROXY_FPS if len(times) > 1 else 0.0
    facts = facts_of_frames(list(frames), times, picks, end_s)
    facts["cuts_s"] = cuts_s(frames, times) if len(times) > 1 else []
    if facts["cuts_s"]:  # a preview at the cut shows the shot that begins there
        picks = sorted({*picks, *(times.index(cut) for cut in facts["cuts_s"])})
    return ClipFrames(
        clip_id=name,
        frames=[decode_image(encode_jpeg(frames[index], _JPEG_QUALITY)) for index in picks],
        times_s=[times[index] for index in picks],
        facts=facts,
    )


def cuts_s(frames: np.ndarray, times: list[float]) -> list[float]:
    """Times of the cuts that the shot detector finds."""
    small = [
        (time_s, cv2.resize(frame, (GLANCE_PX, GLANCE_PX), interpolation=cv2.INTER_AREA))
        for time_s, frame in zip(times, frames, strict=True)
    ]
    labels = ShotDetector[float](CUT_THRESHOLD, _PROXY_FPS).labelled(small)
    return [time_s for time_s, label in labels if label.is_cut and time_s > 0]


def held_out(count: int, seed: int = 0, workers: int = 2) -> list[TestClip]:
    """The first `count` held-out clips of a world."""
    seeds = [HELD_OUT_SEED + 100_003 * seed + index for index in range(count)]
    if workers < 2:
        return [held_out_clip(item) for item in seeds]
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(held_out_clip, seeds, chunksize=8))


@dataclass
class Report:
    """How one captioner did on held-out clips, in one kind of caption."""

    name: str
    kind: str
    tallies: dict[str, Tally] = field(default_factory=new_tallies)
    num_clips: int = 0
    num_abstained: int = 0
    num_rejected: int = 0
    num_failed: int = 0
    """Clips that got no answer: their captions are empty, and count so."""
    main_subject: float = float("nan")
    num_words: float = 0.0
    max_words: int = 0
    cider: float = float("nan")
    alignment: float = float("nan")
    wrong: list[tuple[int, str, set[str]]] = field(default_factory=list)
    """(index of clip, caption, attributes at fault), worst first."""

    @property
    def mean_recall(self) -> float:
        known = [tally.recall for tally in self.tallies.values() if not np.isnan(tally.recall)]
        return float(np.mean(known)) if known else float("nan")

    @property
    def mean_precision(self) -> float:
        known = [tally.precision for tally in self.tallies.values() if tally.said]
        return float(np.mean(known)) if known else float("nan")

    def to_json(self) -> dict[str, Any]:
        attributes = {
            name: {
                "facts": tally.true,
                "recall": _rounded(tally.recall),
                "precision": _rounded(tally.precision),
                "assertion_rate": _rounded(tally.assertion),
                "chance": round(CHANCE[name], 3),
            }
            for name, tally in self.tallies.items()
        }
        return {
            "captioner": self.name,
            "kind": self.kind,
            "num_clips": self.num_clips,
            "num_abstained": self.num_abstained,
            "num_rejected": self.num_rejected,
            "num_failed": self.num_failed,
            "mean_recall": _rounded(self.mean_recall),
            "mean_precision": _rounded(self.mean_precision),
            "main_subject": _rounded(self.main_subject),
            "mean_words": round(self.num_words, 1),
            "max_words": self.max_words,
            "attributes": attributes,
            "not_for_ranking": {"cider": _rounded(self.cider), "contrastive_score": _rounded(self.alignment)},
        }


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def evaluate(
    captioner: Captioner,
    clips: Sequence[TestClip],
    kind: str,
    name: str = "",
    retries: int = 0,
    batch: int = 64,
) -> Report:
    """Caption the clips and read what the captions of one kind assert.

    A caption that was rejected or withheld counts as read: silence must not flatter.
    """
    report = Report(name or captioner.name, kind, num_clips=len(clips))
    texts: list[str] = []
    scores, right_subject, counts = [], 0, []
    for begin in range(0, len(clips), batch):
        part = clips[begin : begin + batch]
        for offset, captions in enumerate(write_captions(captioner, [item.clip for item in part], retries)):
            if why := failure_of(captions):
                if not report.num_failed:
                    say(f"{report.name}: clip {part[offset].clip.clip_id} got no answer: {why}")
                report.num_failed += 1
            caption = best(captions, kind)
            text = caption.text if caption else ""
            texts.append(text)
            counts.append(len(text.split()))
            if caption:
                report.num_abstained += caption.verdict.status == "out_of_domain"
                report.num_rejected += caption.verdict.status == "rejected"
                scores += [caption.scores["alignment"]] if "alignment" in caption.scores else []
            test = part[offset]
            said = read(text)
            right_subject += _names_subject(said, test.shots[0])
            wrong = compare(said, truth(test.shots), report.tallies)
            report.wrong.append((begin + offset, text, wrong))
    report.wrong.sort(key=lambda item: (-len(item[2]), item[0]))
    report.main_subject = right_subject / max(1, len(clips))
    report.num_words, report.max_words = float(np.mean(counts)), max(counts, default=0)
    report.cider = cider(
        texts,
        [[words.dense(test.shots[0]) if kind == "dense" else words.short(test.shots[0])] for test in clips],
    )
    report.alignment = float(np.mean(scores)) if scores else float("nan")
    return report


def failure_of(captions: Sequence[Caption]) -> str:
    """Why there is no answer; empty where there is one."""
    return next((item.finish_reason for item in captions if item.finish_reason.startswith("error")), "")


def best(captions: Sequence[Caption], kind: str) -> Caption | None:
    own = [caption for caption in captions if caption.kind == kind]
    return next((caption for caption in own if caption.verdict.status == "accepted"), own[0] if own else None)


def _names_subject(said: Slots, shot: Shot) -> bool:
    return bool(said.things) and (said.things[0].shape, said.things[0].color) == (
        shot.things[0].shape,
        shot.things[0].color,
    )
