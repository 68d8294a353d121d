"""The `embed` column: one open_clip image embedding per clip, of whole frames padded to a square."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from captioner.backends.weights import folder_digest
from manifests.fingerprint import fingerprint
from manifests.layout import Column, Dataset
from manifests.store.shards import read_member
from manifests.tables import records
from manifests.writing.commit import Account, ShardCommit
from media.decode.images import decode_image
from pipeline.config import EmbedConfig, fingerprinted
from pipeline.scores.open_clip_model import ImageEncoder
from pipeline.stages.again import Again
from pipeline.stages.batches import Fault, halving
from pipeline.stages.journal import Journal
from pipeline.stages.previews import preview_frames, spread_members
from pipeline.stages.rows import failure_row

CODE_VERSION = 1
_ITEM_LIMIT_S, _CLIPS_AT_ONCE = 600.0, 16


def model_digest(config: EmbedConfig) -> str:
    """Names the model: of what lies here, all of its bytes; of an architecture or a tag, its word."""
    words = [word for word in (config.model, config.pretrained) if word]
    places = [Path(word.removeprefix("local-dir:")) for word in words]
    named = [
        folder_digest(place) if place.exists() else word for word, place in zip(words, places, strict=True)
    ]
    return hashlib.sha256("|".join(named).encode()).hexdigest()[:16]


class Embed:
    """Stage `embed`: table embeddings, a unit vector per clip: the mean over spread previews."""

    name = "embed"

    def __init__(self, config: EmbedConfig, preview: Column) -> None:
        self.config, self.preview = config, preview
        self.needs: tuple[Column, ...] = (preview,)
        settings = {"frames": config.frames, "weights": model_digest(config)}
        assert set(settings) | {"model", "pretrained"} >= set(fingerprinted(config))
        self.column = Column(
            self.name, fingerprint(self.name, CODE_VERSION, settings, {"preview": preview.fingerprint})
        )

    def setup(self) -> None:
        self.encoder = ImageEncoder(self.config.model, self.config.pretrained, "--embed.model")

    def process(
        self, dataset: Dataset, shard: int, generation: int, journal: Journal, progress: Callable[[str], None]
    ) -> Account:
        clips = records.rows_of_shard(dataset, "clips", self.preview, shard)
        tar, frames = preview_frames(dataset, self.preview, shard)
        again = Again(dataset, self.column, shard, self.preview, "clips", clips)
        before = again.rows("embeddings")
        failures: list[dict] = []
        new = [clip for clip in clips if clip["clip_id"] not in before]
        rows = [row for found in before.values() for row in found]

        def embedded(batch: Sequence[dict]) -> list[dict]:
            picks = [spread_members(frames[clip["clip_id"]], self.config.frames) for clip in batch]
            pictures = [
                decode_image(read_member(dataset.filesystem, tar, one)) for own in picks for one in own
            ]
            units, counts = self.encoder.units(pictures), [len(own) for own in picks]
            means = [own.mean(0) for own in np.split(units, np.cumsum(counts)[:-1])]
            vectors = [mean / max(float(np.linalg.norm(mean)), 1e-12) for mean in means]
            if not np.isfinite(vectors).all():
                raise ValueError("its embedding is not finite")
            return [
                {"clip_id": clip["clip_id"], "shard": shard, "num_frames": count, "vector": vector.tolist()}
                for clip, count, vector in zip(batch, counts, vectors, strict=True)
            ]

        # alone on a processor: a batch's bits are not those of its clips
        at_once = _CLIPS_AT_ONCE if self.encoder.device.type == "cuda" else 1
        for begin in range(0, len(new), at_once):
            batch = new[begin : begin + at_once]
            made = halving(batch, lambda clip: clip["clip_id"], embedded, journal, _ITEM_LIMIT_S)
            for clip, found in zip(batch, made, strict=True):
                if isinstance(found, Fault):
                    attempt = again.attempt(clip["clip_id"])
                    failures.append(failure_row(clip, self.name, shard, found.error, found.cause, attempt))
                else:
                    rows.append(found)
            progress(f"{len(rows)}/{len(clips)} clips")
        place = {clip["clip_id"]: number for number, clip in enumerate(clips)}
        rows.sort(key=lambda row: place[row["clip_id"]])
        journal.rest()
        account = Account(len(clips), len(rows), 0, len(failures))
        with ShardCommit(dataset, self.column, shard, generation) as commit:
            commit.commit({"embeddings": rows, "drops": [], "failures": failures}, account)
        return account
