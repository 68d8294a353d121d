"""The `text` column: token embeddings of every accepted caption at their own lengths, in bf16."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable

import numpy as np
import torch
from safetensors.torch import save

from captioner.mixing import structured_variant
from captioner.registry import make_text_encoder
from manifests import queries
from manifests.commit import Account, ShardCommit
from manifests.fingerprint import fingerprint
from manifests.layout import Column, Dataset
from pipeline.config import TextConfig, fingerprinted
from pipeline.stages.protocol import Journal

CODE_VERSION = 2
_CLIPS_AT_ONCE = 200


class TextStage:
    """Stage `text`: a member `<clip>.text.safetensors` per clip, a tensor [num_tokens, width] per caption.

    Each is named by its caption's id.
    """

    name = "text"

    def __init__(self, config: TextConfig, caption: Column) -> None:
        self.config, self.caption = config, caption
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
        by_clip: dict[str, list[dict]] = defaultdict(list)
        for row in queries.rows_of_shard(dataset, "captions", self.caption, shard):
            if row["status"] == "accepted" and row["kind"] != "window":
                by_clip[row["clip_id"]] += [row, *self._variants(row)]
        rows: list[dict] = []
        clips = list(by_clip.items())
        with ShardCommit(dataset, self.column, shard, generation) as commit:
            for begin in range(0, len(clips), _CLIPS_AT_ONCE):
                part = clips[begin : begin + _CLIPS_AT_ONCE]
                texts = list(
                    dict.fromkeys(caption["text"] for _, captions in part for caption in captions)
                )  # each text once
                known = dict(zip(texts, self.encoder.encode(texts), strict=True))
                for clip_id, captions in part:
                    tensors = {}
                    for caption in captions:
                        embedding = known[caption["text"]]
                        tensors[caption["caption_id"]] = embedding.to(torch.bfloat16).contiguous().clone()
                        size = {"num_tokens": embedding.shape[0], "width": embedding.shape[1]}
                        same = {key: caption[key] for key in ("caption_id", "kind", "source")}
                        rows.append({"clip_id": clip_id, "shard": shard, **same, **size})
                    commit.add(f"{clip_id}.text.safetensors", save(tensors))
                progress(f"{begin + len(part)}/{len(clips)} clips")
            account = Account(len(by_clip), len(by_clip), 0, 0)
            commit.commit({"text": rows, "drops": [], "failures": []}, account)
        return account

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
