"""Rows that every stage over clips writes alike."""

from __future__ import annotations


def origin_of(clip: dict, stage: str, shard: int) -> dict:
    """Where a clip is from: the first columns of a row in `drops` or `failures`."""
    return {"stage": stage, "shard": shard, "item_id": clip["clip_id"]} | {
        key: clip[key] for key in ("source_id", "uri", "start_s", "end_s", "num_frames")
    }


def failure_row(clip: dict, stage: str, shard: int, error: str, cause: str, attempt: int = 1) -> dict:
    """A row of `failures`."""
    return origin_of(clip, stage, shard) | {"error": error, "cause": cause, "attempt": attempt}
