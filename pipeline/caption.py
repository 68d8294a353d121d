"""The `caption` column: every caption a clip came with, and those of the captioner. Reads previews, never the video."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable

from captioner import Caption, ClipFrames, gate, make_captioner
from captioner.given import given_captions
from manifests import queries
from manifests.commit import Account, ShardCommit
from manifests.fingerprint import fingerprint
from manifests.layout import Column, Dataset
from manifests.shards import read_member
from media.images import decode_image
from pipeline.blame import blame
from pipeline.config import CaptionConfig, fingerprinted
from pipeline.stage import Journal

CODE_VERSION = 1
_ITEM_LIMIT_S = 1800.0


def caption_row(caption: Caption, clip_id: str, shard: int) -> dict:
    """A caption as a row of the `captions` table. Its id is a function of what it says and where it comes from."""
    reasons = gate(caption)
    name = hashlib.sha256(f"{clip_id}|{caption.kind}|{caption.source}|{caption.model}|{caption.text}".encode()).hexdigest()[:12]
    return {
        "caption_id": name, "clip_id": clip_id, "shard": shard, "kind": caption.kind, "source": caption.source, "text": caption.text,
        "fields_json": json.dumps(caption.fields, sort_keys=True), "status": "rejected" if reasons else "accepted", "reasons": reasons,
        "backend": caption.backend, "model": caption.model, "prompt_version": caption.prompt_version, "seed": caption.seed,
        "num_words": len(caption.text.split()),
    }  # fmt: skip


class CaptionStage:
    """Stage `caption`: table captions; drops clips whose every caption was rejected."""

    name = "caption"

    def __init__(self, config: CaptionConfig, preview: Column) -> None:
        self.config, self.preview = config, preview
        self.needs: tuple[Column, ...] = (preview,)
        settings = fingerprinted(config) | {"version": make_captioner(config.captioner).version}
        self.column = Column(self.name, fingerprint(self.name, CODE_VERSION, settings, {"preview": preview.fingerprint}))

    def setup(self) -> None:
        self.captioner = make_captioner(self.config.captioner)
        self.captioner.setup()

    def process(self, dataset: Dataset, shard: int, generation: int, journal: Journal, progress: Callable[[str], None]) -> Account:
        clips = queries.rows_of_shard(dataset, "clips", self.preview, shard)
        tar, members = queries.members(dataset, self.preview).get(shard, ("", []))
        frames = defaultdict(list)
        for member in members:
            if member.field.startswith("frame"):
                frames[member.key].append(member)
        rows: list[dict] = []
        drops: list[dict] = []
        failures: list[dict] = []
        for begin in range(0, len(clips), self.config.batch):
            batch: list[ClipFrames] = []
            for row in clips[begin : begin + self.config.batch]:
                pictures = [decode_image(read_member(dataset.filesystem, tar, member)) for member in frames[row["clip_id"]]]
                batch.append(ClipFrames(clip_id=row["clip_id"], frames=pictures, times_s=row["preview_times_s"], facts=row))
            item = f"{batch[0].clip_id}+{len(batch)}"
            written: list[list[Caption]] = [[] for _ in batch]
            if why := journal.poison(item):
                failures += [self._failure(clip.facts, shard, "poison", why) for clip in batch]
                continue
            with journal.item(item, _ITEM_LIMIT_S):
                try:
                    written = self.captioner.caption(batch)
                except Exception as error:  # noqa: BLE001 - whatever one batch does, the others go on
                    reason, cause = blame(error)
                    failures += [self._failure(clip.facts, shard, reason, cause) for clip in batch]
                    continue
            for clip, captions in zip(batch, written, strict=True):
                own = [caption_row(caption, clip.clip_id, shard) for caption in [*given_captions(clip.facts), *captions]]
                rows += own
                if not any(row["status"] == "accepted" for row in own):
                    drops.append(self._origin(clip.facts, shard) | {"reason": "no_caption_accepted", "value": float(len(own)), "threshold": 1.0})
            progress(f"{begin + len(batch)}/{len(clips)} clips, {len(rows)} captions")
        kept = len({row["clip_id"] for row in rows if row["status"] == "accepted"})
        account = Account(len(clips), kept, len(drops), len(failures))
        with ShardCommit(dataset, self.column, shard, generation) as commit:
            commit.commit({"captions": rows, "drops": drops, "failures": failures}, account)
        return account

    def _origin(self, clip: dict, shard: int) -> dict:
        return {"stage": self.name, "shard": shard, "item_id": clip["clip_id"]} | {key: clip[key] for key in ("source_id", "uri", "start_s", "end_s")}

    def _failure(self, clip: dict, shard: int, error: str, cause: str) -> dict:
        return self._origin(clip, shard) | {"error": error, "cause": cause, "attempt": 1}
