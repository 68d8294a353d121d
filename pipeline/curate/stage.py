"""The `preview` column: each segment decoded once, its clips measured, previewed and accounted for."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from manifests.fingerprint import fingerprint
from manifests.layout import Column, Dataset
from manifests.tables import planned
from manifests.writing.commit import Account, ShardCommit
from manifests.writing.withdrawn import Withdrawn
from media.bytes.access import held
from media.decode.geometry import pick_times
from media.decode.reader import EPSILON_S
from media.measure.clip import measure
from media.measure.videohash import video_hash
from pipeline.blame import blame
from pipeline.config import CurateConfig, fingerprinted
from pipeline.curate.before import Before
from pipeline.curate.cutting import Gap, pieces
from pipeline.curate.takes import Clip
from pipeline.footage.sources import changed, check_unchanged
from pipeline.stages.journal import Journal

CODE_VERSION = 20
HASH_FPS = 4.0  # at 2 fewer trimmed copies are found


class Curate:
    """Stage `preview`: one tar of previews, posters and proxies; tables clips, drops, failures."""

    name = "preview"
    needs: tuple[Column, ...] = ()

    def __init__(self, config: CurateConfig) -> None:
        self.config = config
        self.column = Column(self.name, fingerprint(self.name, CODE_VERSION, fingerprinted(config)))

    def setup(self) -> None:
        """Nothing to load."""

    def process(
        self, dataset: Dataset, shard: int, generation: int, journal: Journal, progress: Callable[[str], None]
    ) -> Account:
        segments, sources = planned.rows_of_shard(dataset, shard, generation)
        with ShardCommit(dataset, self.column, shard, generation) as commit:
            book = Book(commit, self.config, shard, Before(Withdrawn(dataset, self.column, shard)))
            for number, segment in enumerate(segments):
                book.open(segment, sources[segment["source_id"]])
                if book.copy():
                    continue
                if why := journal.poison(segment["segment_id"]):
                    book.fail(segment["segment_id"], "poison", why, book.num_unread)
                    continue
                with journal.item(
                    segment["segment_id"],
                    limit_s=self.config.item_limit_s,
                    limit_bytes=self.config.item_limit_bytes,
                ) as beat:
                    try:
                        with held(segment["uri"]):
                            for item in pieces(segment, book.source, self.config, beat):
                                check_unchanged(book.source)
                                book.note(item)
                        check_unchanged(book.source)
                    except Exception as error:  # noqa: BLE001 - whatever one file does, the others go on
                        told = blame(changed(book.source) or error)
                        book.fail(f"{segment['segment_id']}/rest", *told, book.num_unread)
                book.close()
                progress(f"{number + 1}/{len(segments)} segments, {len(book.clips)} clips")
            journal.rest()
            account = Account(
                len(book.clips) + len(book.drops) + len(book.failures),
                len(book.clips),
                len(book.drops),
                len(book.failures),
            )
            commit.commit(
                {"clips": book.clips, "hashes": book.hashes, "drops": book.drops, "failures": book.failures},
                account,
            )
        return account


_IN_TAR = (
    *("uri", "start_s", "end_s", "width_px", "height_px", "num_frames", "fps", "preview_times_s", "motion"),
    *("camera", "pan_per_s", "tilt_per_s", "zoom_per_s", "roll_deg_per_s", "shake", "object_motion"),
)
"""Columns of `clips` that a tar's `clip.json` repeats, for tools that read tars alone."""


class Book:
    """Collects what becomes of each item of a shard: rows of clips, drops, failures, tar members."""

    def __init__(self, commit: ShardCommit, config: CurateConfig, shard: int, before: Before) -> None:
        self.commit, self.config, self.shard, self.before = commit, config, shard, before
        self.clips: list[dict] = []
        self.hashes: list[dict] = []
        self.drops: list[dict] = []
        self.failures: list[dict] = []
        self._lost: Gap | None = None

    def open(self, segment: dict, source: dict) -> None:
        self.segment, self.source, self._num_before = segment, source, self._num
        self._lost, self._num_failed = None, len(self.failures)
        self._origin = {
            "source_id": segment["source_id"],
            "uri": segment["uri"],
            "stage": Curate.name,
            "shard": self.shard,
        }

    def copy(self) -> bool:
        """Take the segment over from what was committed before; whether that could be done."""
        members, name = self.before.members(self.segment), self.segment["segment_id"]
        if members is None:
            return False
        self.clips += self.before.clips[name]
        self.hashes += [self.before.hashes[row["clip_id"]] for row in self.before.clips[name]]
        self.drops += self.before.drops[name]
        for member, data in members:
            self.commit.add(member, data)
        return True

    @property
    def _num(self) -> int:
        return len(self.clips) + len(self.drops) + len(self.failures)

    def close(self) -> None:
        if self._lost is not None and len(self.failures) == self._num_failed:
            self._gap(self._lost)
        if (
            self._num == self._num_before
        ):  # what fills it began in an earlier segment, and is kept or failed there
            self._drop(
                self.segment["segment_id"],
                "no_shot_starts_here",
                self.segment["start_s"],
                self.segment["end_s"],
                num_frames=0,
            )

    def fail(self, item: str, error: str, cause: str, num_frames: int | None = None) -> None:
        attempt = self.before.attempt(self.segment["segment_id"])
        span = {key: self.segment[key] for key in ("start_s", "end_s")}
        self.failures.append(
            {
                **self._origin,
                **span,
                "item_id": item,
                "error": error,
                "cause": cause,
                "attempt": attempt,
                "num_frames": num_frames,
            }
        )

    def _drop(
        self,
        item: str,
        reason: str,
        start_s: float,
        end_s: float,
        num_frames: int,
        value: float | None = None,
        threshold: float | None = None,
    ) -> None:
        self.drops.append(
            {
                **self._origin,
                "item_id": item,
                "reason": reason,
                "start_s": start_s,
                "end_s": end_s,
                "value": value,
                "threshold": threshold,
                "num_frames": num_frames,
            }
        )

    @property
    def num_unread(self) -> int | None:
        """Frames of the segment that did not come; None where they cannot be counted."""
        if self._lost is not None:
            return self._lost.num_frames
        is_whole = self.segment["start_s"] == 0 and self.segment["end_s"] >= self.source["duration_s"]
        return int(self.source["num_packets"]) if is_whole and self._num == self._num_before else None

    def _gap(self, gap: Gap) -> None:
        name = f"{self.segment['segment_id']}/{gap.reason}-{round(gap.start_s * 1000):08d}"
        span = round(gap.start_s, 6), round(gap.end_s, 6)
        self._drop(name, gap.reason, *span, gap.num_frames, gap.num_frames, 0.0)

    def note(self, piece: Clip | Gap) -> None:
        """Keep a clip, or drop it with a reason; count a gap."""
        if isinstance(piece, Gap):
            if piece.reason == "lost_frames":
                self._lost = piece
            else:
                self._gap(piece)
            return
        is_image = self.source["kind"] == "image"
        start_s, end_s = round(piece.start_s, 6), 0.0 if is_image else round(piece.end_s, 6)
        clip_id = f"{self.segment['source_id']}-{round(start_s * 1000):08d}"
        item = f"{self.segment['segment_id']}/{clip_id}"
        is_whole_source = start_s == 0 and end_s >= self.source["duration_s"] - EPSILON_S
        if not is_image and piece.is_grey:
            self.fail(
                item,
                "grey_frames",
                f"{self.source['uri']}: all {len(piece.samples)} frames from {start_s} s are the grey of a "
                "decoder without data",
                len(piece.samples),
            )
        elif not is_image and not is_whole_source and end_s - start_s < self.config.min_clip_s:
            length_s = end_s - start_s
            num_frames = len(piece.samples)
            self._drop(item, "too_short", start_s, end_s, num_frames, length_s, self.config.min_clip_s)
        elif not piece.pictures:  # what follows it was lost, so that it seems to last
            self._drop(item, "no_picture", start_s, end_s, len(piece.samples))
        else:
            self._keep(piece, clip_id, start_s, end_s)

    def _keep(self, piece: Clip, clip_id: str, start_s: float, end_s: float) -> None:
        """Add a clip's row, hash and members; everything that can fail is done before the first is added."""
        proxy, proxy_fps = piece.proxy(self.config.proxy_fps)
        row = {
            "clip_id": clip_id,
            "shard": self.shard,
            "segment_id": self.segment["segment_id"],
            "source_id": self.segment["source_id"],
            "uri": self.segment["uri"],
            "start_s": start_s,
            "end_s": end_s,
            "proxy_fps": proxy_fps,
            **self._of_source(start_s, end_s),
            **_of_clip(piece, start_s, end_s),
        }
        times = [time_s for time_s, _ in piece.pictures]
        picks = pick_times(times, HASH_FPS)
        found = video_hash([piece.pictures[index][1] for index in picks], [times[index] for index in picks])
        members = _members(piece, proxy, row)
        self.hashes.append({"clip_id": clip_id, "shard": self.shard, "video_hash": found.to_bytes()})
        self.clips.append(row)
        for name, data in members.items():
            self.commit.add(f"{clip_id}.{name}", data)

    def _of_source(self, start_s: float, end_s: float) -> dict[str, Any]:
        """What a clip has from its source."""
        source = self.source
        is_image = source["kind"] == "image"
        timed = [
            caption
            for caption in json.loads(source["timed_captions_json"])
            if _overlaps(caption, start_s, end_s, is_image)
        ]
        return {
            **{name: source[name] for name in ("kind", "is_vfr", "has_audio", "alt")},
            "decoder": "pillow" if source["decoder"] == "pillow" else "pyav",
            "timed_captions_json": json.dumps(timed),
        }


def _of_clip(piece: Clip, start_s: float, end_s: float) -> dict[str, Any]:
    """What a clip's own frames show."""
    samples, pictures = piece.samples, piece.pictures
    width_px, height_px = samples[0].geometry.display_size_px
    return {
        "width_px": width_px,
        "height_px": height_px,
        "num_frames": len(samples),
        "fps": len(samples) / (end_s - start_s) if end_s > start_s else 0.0,
        "num_damaged_frames": piece.num_damaged,
        "starts_with": piece.starts_with,
        "preview_times_s": [time_s for time_s, _ in piece.previews],
        **measure(
            piece.looks,
            [small for _, small in pictures],
            [time_s for time_s, _ in pictures],
            piece.changes,
            samples[-1].time_s - samples[0].time_s,
            width_px,
        ),
    }


def _members(piece: Clip, proxy: bytes, row: dict[str, Any]) -> dict[str, bytes]:
    """Tar members of a clip by the end of their names: previews, poster, proxy, and some of its facts."""
    previews = [jpeg for _, jpeg in piece.previews]
    found = {f"frame{index:03d}.jpg": jpeg for index, jpeg in enumerate(previews)}
    found["poster.jpg"] = previews[len(previews) // 2]
    if proxy:
        found["proxy.webm"] = proxy
    found["clip.json"] = json.dumps({key: row[key] for key in _IN_TAR}, sort_keys=True).encode()
    return found


def _overlaps(caption: dict, start_s: float, end_s: float, is_image: bool) -> bool:
    return is_image or min(caption["end_s"], end_s) > max(caption["start_s"], start_s)
