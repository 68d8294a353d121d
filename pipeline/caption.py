"""The `caption` column: every caption a clip came with, and those of the captioner with their verdicts and provenance. Reads previews, never the video."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable

from captioner import Caption, ClipFrames, Usage, judge, make_captioner, write_captions
from captioner.gates import lowest_aligned
from captioner.given import given_captions
from captioner.protocol import with_verdict
from captioner.server import BudgetSpentError
from manifests import queries
from manifests.commit import Account, ShardCommit
from manifests.fingerprint import fingerprint
from manifests.layout import Column, Dataset
from manifests.shards import read_member
from media.images import decode_image
from pipeline.blame import blame
from pipeline.config import CaptionConfig
from pipeline.stage import Journal

CODE_VERSION = 2
_ITEM_LIMIT_S = 1800.0


def caption_row(caption: Caption, clip_id: str, shard: int) -> dict:
    """A caption as a row of the `captions` table. Its id is a function of what it says and where it comes from."""
    made, span = caption.provenance, caption.span_s or (None, None)
    origin = f"{clip_id}|{caption.kind}|{caption.source}|{made.model}|{made.weights}|{made.prompt_id}|{made.seed}|{span[0]}|{caption.text}"
    return {
        "caption_id": hashlib.sha256(origin.encode()).hexdigest()[:12], "clip_id": clip_id, "shard": shard, "kind": caption.kind, "source": caption.source,
        "text": caption.text, "fields_json": json.dumps(caption.fields, sort_keys=True), "status": caption.verdict.status,
        "reasons": list(caption.verdict.reasons), "num_words": len(caption.text.split()), "start_s": span[0], "end_s": span[1],
        "finish_reason": caption.finish_reason, "scores_json": json.dumps(caption.scores, sort_keys=True), "backend": made.backend, "model": made.model,
        "weights": made.weights, "prompt_id": made.prompt_id, "prompt_sha256": made.prompt_sha256, "sampling_json": json.dumps(made.sampling, sort_keys=True),
        "seed": made.seed, "frame_indices": list(made.frame_indices), "frame_times_s": list(made.frame_times_s), "code_version": made.code_version,
        "prompt_tokens": caption.usage.prompt_tokens, "output_tokens": caption.usage.output_tokens, "num_requests": caption.usage.requests,
    }  # fmt: skip


class CaptionStage:
    """Stage `caption`: table captions; drops clips whose every caption was rejected. What it cost is in the events and in the commit record's statistics."""

    name = "caption"

    def __init__(self, config: CaptionConfig, preview: Column) -> None:
        self.config, self.preview = config, preview
        self.needs: tuple[Column, ...] = (preview,)
        settings = {"version": make_captioner(config).version, "retries": config.retries, "low_alignment_share": config.low_alignment_share}
        self.column = Column(self.name, fingerprint(self.name, CODE_VERSION, settings, {"preview": preview.fingerprint}))

    def setup(self) -> None:
        self.captioner = make_captioner(self.config)
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
        cost = Usage()
        for begin in range(0, len(clips), self.config.batch):
            batch: list[ClipFrames] = []
            for row in clips[begin : begin + self.config.batch]:
                pictures = [decode_image(read_member(dataset.filesystem, tar, member)) for member in frames[row["clip_id"]]]
                batch.append(ClipFrames(clip_id=row["clip_id"], frames=pictures, times_s=row["preview_times_s"], facts=row))
            item = f"{batch[0].clip_id}+{len(batch)}"
            if why := journal.poison(item):
                failures += [self._failure(clip.facts, shard, "poison", why) for clip in batch]
                continue
            with journal.item(item, _ITEM_LIMIT_S):
                try:
                    written = write_captions(self.captioner, batch, self.config.retries)
                except BudgetSpentError as error:
                    if not cost.requests:
                        raise
                    failures += [self._failure(clip.facts, shard, "no_answer", str(error)) for clip in batch]  # what the shard has paid for is kept
                    continue
                except Exception as error:  # noqa: BLE001 - whatever one batch does, the others go on
                    reason, cause = blame(error)
                    failures += [self._failure(clip.facts, shard, reason, cause) for clip in batch]
                    continue
            for clip, captions in zip(batch, written, strict=True):
                cost = sum((caption.usage for caption in captions), cost)
                given = [with_verdict(caption, judge(caption)) for caption in given_captions(clip.facts)]
                own = _once([caption_row(caption, clip.clip_id, shard) for caption in [*given, *captions]])
                if error_text := next((row["finish_reason"] for row in own if row["finish_reason"].startswith("error")), ""):
                    failures.append(self._failure(clip.facts, shard, "no_answer", error_text))
                    continue
                rows += own
            progress(
                f"{begin + len(batch)}/{len(clips)} clips, {len(rows)} captions, {cost.output_tokens} tokens, {cost.requests} requests, {cost.seconds:.1f} s"
            )
        self._reject_low(rows)
        drops += self._without_caption(clips, rows, failures, shard)
        account = Account(len(clips), len(clips) - len(drops) - len(failures), len(drops), len(failures))
        stats = {name: sum(row[name] for row in rows) for name in ("prompt_tokens", "output_tokens", "num_requests")}
        with ShardCommit(dataset, self.column, shard, generation) as commit:
            commit.commit({"captions": rows, "drops": drops, "failures": failures}, account, stats)
        return account

    def _reject_low(self, rows: list[dict]) -> None:
        """Reject the captions of the shard that fit their clips worst, where the backend says how well they fit."""
        scores = {row["caption_id"]: json.loads(row["scores_json"]).get("alignment") for row in rows if row["status"] == "accepted"}
        known = {name: score for name, score in scores.items() if score is not None}
        low = lowest_aligned(known, self.config.low_alignment_share)
        for row in rows:
            if row["caption_id"] in low:
                row["status"], row["reasons"] = "rejected", [f"alignment_percentile:{known[row['caption_id']]:.3f}"]

    def _without_caption(self, clips: list[dict], rows: list[dict], failures: list[dict], shard: int) -> list[dict]:
        """Drops of the clips that were captioned and have no caption the trainer could draw."""
        own: dict[str, list[dict]] = defaultdict(list)
        for row in rows:
            own[row["clip_id"]].append(row)
        failed = {row["item_id"] for row in failures}
        drops = []
        for clip in clips:
            found = own[clip["clip_id"]]
            if clip["clip_id"] not in failed and not any(row["status"] == "accepted" and row["kind"] != "window" for row in found):
                reason = "out_of_domain" if found and all(row["status"] == "out_of_domain" for row in found) else "no_caption_accepted"
                drops.append(self._origin(clip, shard) | {"reason": reason, "value": float(len(found)), "threshold": 1.0})
        return drops

    def _origin(self, clip: dict, shard: int) -> dict:
        return {"stage": self.name, "shard": shard, "item_id": clip["clip_id"]} | {key: clip[key] for key in ("source_id", "uri", "start_s", "end_s")}

    def _failure(self, clip: dict, shard: int, error: str, cause: str) -> dict:
        return self._origin(clip, shard) | {"error": error, "cause": cause, "attempt": 1}


def _once(rows: list[dict]) -> list[dict]:
    """Without rows that say the same of the same clip twice."""
    return list({row["caption_id"]: row for row in rows}.values())
