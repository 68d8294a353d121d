"""The `text` column: token embeddings of every accepted caption at their own lengths, in bf16."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from captioner.mixing import structured_variant
from captioner.registry import make_text_encoder
from manifests.fingerprint import fingerprint
from manifests.layout import Column, Dataset
from manifests.tables import records
from manifests.writing.commit import Account, ShardCommit
from pipeline.blame import blame
from pipeline.config import TextConfig, fingerprinted
from pipeline.stages.again import Again, by_clip
from pipeline.stages.batches import Fault
from pipeline.stages.journal import Journal
from pipeline.stages.rows import failure_row

if TYPE_CHECKING:
    from torch import Tensor

CODE_VERSION = 2
_CLIPS_AT_ONCE = 200
_PART_LIMIT_S = 3600.0


class Failure(Fault):
    """Why the texts of a clip have no embeddings."""

    def row(self, clip: dict, shard: int, attempt: int) -> dict:
        return failure_row(clip, TextStage.name, shard, self.error, self.cause, attempt)


class TextStage:
    """Stage `text`: a member `<clip>.text.safetensors` per clip, a tensor [num_tokens, width] per caption.

    Each is named by its caption's id.
    """

    name = "text"

    def __init__(self, config: TextConfig, caption: Column, preview: Column) -> None:
        """Args: preview: the column of the clips that captions are of, for rows of those that fail."""
        self.config, self.caption, self.preview = config, caption, preview
        self.needs: tuple[Column, ...] = (caption,)
        settings = fingerprinted(config) | {
            "version": make_text_encoder(config.encoder, config.model).version
        }
        self.column = Column(
            self.name, fingerprint(self.name, CODE_VERSION, settings, {"caption": caption.fingerprint})
        )

    def setup(self) -> None:
        self.encoder = make_text_encoder(self.config.encoder, self.config.model)
        self.encoder.setup()

    def process(
        self, dataset: Dataset, shard: int, generation: int, journal: Journal, progress: Callable[[str], None]
    ) -> Account:
        import torch
        from safetensors.torch import save

        captions = [
            row
            for row in records.rows_of_shard(dataset, "captions", self.caption, shard)
            if row["status"] == "accepted" and row["kind"] != "window"
        ]
        again = Again(dataset, self.column, shard, self.caption, "captions", captions)
        before = again.rows("text")
        rows, failures, clips_of = list[dict](), list[dict](), dict[str, dict]()
        clips = list(by_clip(captions).items())
        with ShardCommit(dataset, self.column, shard, generation) as commit:
            for begin in range(0, len(clips), _CLIPS_AT_ONCE):
                part = {
                    clip_id: [variant for row in found for variant in (row, *self._variants(row))]
                    for clip_id, found in clips[begin : begin + _CLIPS_AT_ONCE]
                }
                kept = {clip_id: members for clip_id in part if (members := again.members(clip_id))}
                new = {
                    clip_id: [row["text"] for row in found]
                    for clip_id, found in part.items()
                    if clip_id not in kept
                }
                known = self._encode(new, journal)
                for clip_id, found in part.items():
                    if clip_id in kept:
                        rows += before[clip_id]
                        for name, data in kept[clip_id]:
                            commit.add(name, data)
                        continue
                    if isinstance(texts := known[clip_id], Failure):
                        clips_of = clips_of or {
                            row["clip_id"]: row
                            for row in records.rows_of_shard(dataset, "clips", self.preview, shard)
                        }
                        failures.append(texts.row(clips_of[clip_id], shard, again.attempt(clip_id)))
                        continue
                    tensors = {}
                    for row in found:
                        embedding = texts[row["text"]]
                        tensors[row["caption_id"]] = embedding.to(torch.bfloat16).contiguous().clone()
                        size = {"num_tokens": embedding.shape[0], "width": embedding.shape[1]}
                        same = {key: row[key] for key in ("caption_id", "kind", "source")}
                        rows.append({"clip_id": clip_id, "shard": shard, **same, **size})
                    commit.add(f"{clip_id}.text.safetensors", save(tensors))
                progress(f"{begin + len(part)}/{len(clips)} clips")
            journal.rest()
            account = Account(len(clips), len(clips) - len(failures), 0, len(failures))
            commit.commit({"text": rows, "drops": [], "failures": failures}, account)
        return account

    def _encode(
        self, clips: dict[str, list[str]], journal: Journal
    ) -> dict[str, dict[str, Tensor] | Failure]:
        """Embeddings of the texts of each clip, each text once; or why a clip has none."""
        found: dict[str, dict[str, Tensor] | Failure] = {
            clip_id: Failure("poison", why) for clip_id in clips if (why := journal.poison(clip_id))
        }
        alive = [clip_id for clip_id in clips if clip_id not in found]
        suspects = [clip_id for clip_id in alive if journal.is_suspect(clip_id)]
        for group in (
            [clip_id for clip_id in alive if clip_id not in suspects],
            *([one] for one in suspects),
        ):
            if not group:
                continue
            with journal.item(*group, limit_s=_PART_LIMIT_S):
                try:
                    texts = list(dict.fromkeys(text for clip_id in group for text in clips[clip_id]))
                    known = self._encoded(texts)
                    found |= dict.fromkeys(group, known)
                except Exception:  # noqa: BLE001 - whose fault it is shows when each is encoded alone
                    for clip_id in group:
                        found[clip_id] = self._encode_one(clips[clip_id])
        return found

    def _encoded(self, texts: list[str]) -> dict[str, Tensor]:
        """
        Raises:
            ValueError: an embedding is not finite: a step of a training that read it would be lost.
        """
        found = dict(zip(texts, self.encoder.encode(texts), strict=True))
        for text, embedding in found.items():
            if not embedding.isfinite().all():
                raise ValueError(f"the embedding of {text[:60]!r} is not finite")
        return found

    def _encode_one(self, texts: list[str]) -> dict[str, Tensor] | Failure:
        try:
            return self._encoded(texts)
        except Exception as error:  # noqa: BLE001 - this clip fails, the others go on
            return Failure(*blame(error))

    def _variants(self, row: dict) -> list[dict]:
        """A structured caption with fields left out and in other orders, the same ones each time."""
        fields = json.loads(row["fields_json"] or "{}")
        if row["kind"] != "structured" or not fields:
            return []
        found = []
        for number in range(1, self.config.structured_variants + 1):
            rng = np.random.default_rng([int(row["caption_id"], 16), number])
            found.append(
                {
                    **row,
                    "caption_id": f"{row['caption_id']}~{number}",
                    "text": structured_variant(fields, rng),
                }
            )
        return found
