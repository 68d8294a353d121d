"""Training examples of the captioner: (clip, captions) of films or of a dataset, in batches of one shape.

A batch is a function of (seed, step): a run that is killed and resumed sees what it would have seen.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from captioner.coca.config import CocaConfig
from captioner.coca.inputs import clip_input, looked_at
from captioner.film_clips import PREVIEW_FPS, frames_at, sample_clip, times_of
from manifests.errors import UsageError
from manifests.layout import Dataset
from manifests.store.shards import read_member
from manifests.tables import scans
from manifests.views import View
from media.decode.images import decode_image, encode_jpeg
from world import captions as words
from world.counterfactuals import mirrored, reversed_shot
from world.scene import Shot

JPEG_SHARE = 0.5  # of the film-world clips go through a JPEG, as previews do


@dataclass(frozen=True)
class Example:
    """One clip and what may be said of it.

    Attributes:
        frames: [T, h, w, 3] uint8 at input size.
        texts: captions by kind.
        shot: the facts behind it, in the film world.
    """

    frames: np.ndarray
    texts: dict[str, list[str]]
    shot: Shot | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.frames.shape


def _film_example(seed: int, config: CocaConfig, several: float | None) -> Example:
    clip = sample_clip(seed)
    if several is not None:
        is_several = np.random.default_rng([seed, 2]).random() < several
        tries = (
            sample_clip(int(number))
            for number in np.random.default_rng([seed, 3]).integers(1 << 40, size=1000)
        )
        clip = next(own for own in itertools.chain([clip], tries) if (len(own.shot.things) > 1) == is_several)
    rng = np.random.default_rng([seed, 1])
    times = times_of(clip, PREVIEW_FPS)
    frames = list(frames_at(clip, [times[index] for index in looked_at(len(times), config)]))
    if rng.random() < JPEG_SHARE:
        quality = int(rng.integers(55, 95))
        frames = [decode_image(encode_jpeg(frame, quality)) for frame in frames]
    return Example(clip_input(frames, config), film_texts(clip.shot), clip.shot)


def film_texts(shot: Shot) -> dict[str, list[str]]:
    """Captions of a shot by kind, junk and half-right alt text among them."""
    return {"alt": [words.alt([shot], shot.seed)], "short": [words.short(shot)], "dense": [words.dense(shot)]}


def film_examples(
    count: int,
    seed: int,
    config: CocaConfig,
    workers: int = 2,
    several: float | None = None,
    part: tuple[int, int] = (0, 1),
) -> list[Example]:
    """Clips of the film world, drawn by `workers` processes.

    Args:
        several: share of clips that show more than one thing; None: as the film world has them.
        part: (first, step) of those to draw.
    """
    draw = functools.partial(_film_example, config=config, several=several)
    seeds = [seed * 1_000_003 + index for index in range(count)][part[0] :: part[1]]
    if workers < 2:
        return list(map(draw, seeds))
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(draw, seeds, chunksize=32))


def dataset_examples(address: str, view_name: str, config: CocaConfig) -> list[Example]:
    """Clips of a dataset: its previews and the accepted captions of the view.

    Raises:
        UsageError: no clip has an accepted caption.
    """
    dataset = Dataset(address)
    view = View.load(dataset, view_name)
    texts: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for row in scans.table(
        dataset, "captions", view.column("caption"), ["clip_id", "kind", "status", "text"]
    ).to_pylist():
        if row["status"] == "accepted":
            texts[row["clip_id"]][row["kind"]].append(row["text"])
    kept = view.kept(dataset)
    found = []
    for _, (tar, members) in sorted(scans.members(dataset, view.column("preview")).items()):
        pictures = defaultdict(list)
        for member in members:
            if member.field.startswith("frame") and member.key in kept and member.key in texts:
                pictures[member.key].append(member)
        for clip_id, frames in pictures.items():
            decoded = [decode_image(read_member(dataset.filesystem, tar, member)) for member in frames]
            found.append(Example(clip_input(decoded, config), dict(texts[clip_id])))
    if not found:
        raise UsageError(
            address,
            f"no clip of view {view_name} has previews and an accepted caption",
            "Ingest footage with captions first.",
        )
    return found


def changed(example: Example, rng: np.random.Generator) -> Example:
    """The example as it is, in a mirror, backwards, or both: exact new data, where its facts are known."""
    if example.shot is None:
        return example
    shot, frames = example.shot, example.frames
    if not shot.title and rng.random() < 0.5:
        shot, frames = mirrored(shot), frames[:, :, ::-1]
    if len(frames) > 1 and rng.random() < 0.5:
        shot, frames = reversed_shot(shot), frames[::-1]
    return Example(np.ascontiguousarray(frames), film_texts(shot), shot)


def as_still(example: Example) -> Example:
    """The middle picture of a clip with captions of a picture; the example itself if facts are unknown."""
    if example.shot is None or len(example.frames) == 1:
        return example
    middle, shot = len(example.frames) // 2, replace(example.shot, duration_s=0.0)
    return Example(example.frames[middle : middle + 1], film_texts(shot), shot)


class Lesson(NamedTuple):
    """How a step sees its clips."""

    is_words: bool = False
    """The words are guessed by the stems (`VideoCoCa.short_logits`), for the stems to learn."""
    still_share: float = 0.0
    """Share of such steps in which clips are seen as pictures."""


class Batches:
    """Batches of equal shape, each drawn by (seed, step) alone."""

    def __init__(
        self,
        examples: list[Example],
        kind: str,
        batch: int,
        seed: int,
        lesson: Callable[[int], Lesson] = lambda step: Lesson(),
        changes: Callable[[Example, np.random.Generator], Example] = changed,
    ) -> None:
        """`lesson`: of a step counted from 0."""
        self.examples = [example for example in examples if example.texts.get(kind)]
        if not self.examples:
            raise UsageError(
                f"captions of kind {kind}",
                "are in none of the examples",
                "They come from sidecars and lists, no captioner writes them. Train --stage base on the film "
                "world (--films 2000), then the others on the dataset."
                if kind == "alt"
                else "Train on the film world, or caption the dataset first.",
            )
        self.kind, self.batch, self.seed, self.lesson, self.changes = kind, batch, seed, lesson, changes
        self._groups: dict[bool, list[list[int]]] = {}
        for is_still in (False, True):
            groups = defaultdict(list)
            for index, example in enumerate(self.examples):
                groups[
                    (1, *example.shape[1:]) if is_still and example.shot is not None else example.shape
                ].append(index)
            self._groups[is_still] = [groups[shape] for shape in sorted(groups)]
        self.digest = self._digest()

    def _digest(self) -> str:
        """Names the data: a run is resumed on the same data or not at all."""
        seen = hashlib.sha256()
        for example in self.examples:
            seen.update(example.frames.tobytes()[:4096])
            seen.update(json.dumps(example.texts, sort_keys=True).encode())
        return seen.hexdigest()[:16]

    def at(self, step: int) -> tuple[np.ndarray, list[str]]:
        """Clips [B, T, h, w, 3] uint8 and their texts at a step counted from 0."""
        rng, lesson = np.random.default_rng([self.seed, step]), self.lesson(step)
        is_still = bool(rng.random() < lesson.still_share)
        groups = self._groups[is_still]
        sizes = np.array([len(group) for group in groups], dtype=float)
        group = groups[int(rng.choice(len(groups), p=sizes / sizes.sum()))]
        clips, texts = [], []
        for index in rng.choice(group, min(self.batch, len(group)), replace=False):
            example = self.examples[index]
            example = self.changes(as_still(example) if is_still else example, rng)
            options = example.texts[self.kind]
            clips.append(example.frames)
            texts.append(options[int(rng.integers(len(options)))])
        return np.stack(clips), texts
