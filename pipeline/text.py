"""The `text` column: ragged token embeddings of every accepted caption, several to a clip, in bf16 safetensors."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import torch
from safetensors.torch import save

from captioner import make_text_encoder
from manifests import queries
from manifests.commit import Account, ShardCommit
from manifests.fingerprint import fingerprint
from manifests.layout import Column, Dataset
from pipeline.config import TextConfig, fingerprinted
from pipeline.stage import Journal

CODE_VERSION = 1


class TextStage:
    """Stage `text`: one member per clip, `<clip>.text.safetensors`, with a tensor [num_tokens, width] named by each caption's id."""

    name = "text"

    def __init__(self, config: TextConfig, caption: Column) -> None:
        self.config, self.caption = config, caption
        self.needs: tuple[Column, ...] = (caption,)
        settings = fingerprinted(config) | {"version": make_text_encoder(config.encoder).version}
        self.column = Column(self.name, fingerprint(self.name, CODE_VERSION, settings, {"caption": caption.fingerprint}))

    def setup(self) -> None:
        self.encoder = make_text_encoder(self.config.encoder)
        self.encoder.setup()

    def process(self, dataset: Dataset, shard: int, generation: int, journal: Journal, progress: Callable[[str], None]) -> Account:
        by_clip: dict[str, list[dict]] = defaultdict(list)
        for row in queries.rows_of_shard(dataset, "captions", self.caption, shard):
            if row["status"] == "accepted":
                by_clip[row["clip_id"]].append(row)
        rows: list[dict] = []
        with ShardCommit(dataset, self.column, shard, generation) as commit:
            for number, (clip_id, captions) in enumerate(by_clip.items()):
                tensors = {}
                for caption, embedding in zip(captions, self.encoder.encode([caption["text"] for caption in captions]), strict=True):
                    tensors[caption["caption_id"]] = embedding.to(torch.bfloat16).contiguous()
                    size = {"num_tokens": embedding.shape[0], "width": embedding.shape[1]}
                    rows.append({"clip_id": clip_id, "shard": shard, "caption_id": caption["caption_id"], "kind": caption["kind"], **size})
                commit.add(f"{clip_id}.text.safetensors", save(tensors))
                if number % 200 == 199:
                    progress(f"{number + 1}/{len(by_clip)} clips")
            account = Account(len(by_clip), len(by_clip), 0, 0)
            commit.commit({"text": rows, "drops": [], "failures": []}, account)
        return account
