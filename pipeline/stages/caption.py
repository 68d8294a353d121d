"""The `caption` column: given and written captions with verdicts and provenance.

It reads previews, never the video.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TypeVar

from captioner.backends.given import given_captions
from captioner.gates import told
from captioner.gates.gates import judge, lowest_aligned
from captioner.protocol import BudgetSpentError, Caption, ClipFrames, Usage, with_verdict
from captioner.registry import make_captioner
from captioner.stored import StoredFrames
from captioner.writing import write_captions
from manifests.fingerprint import fingerprint
from manifests.layout import Column, Dataset
from manifests.store.shards import read_member
from manifests.tables import records
from manifests.text import valid, valid_json
from manifests.writing.commit import Account, ShardCommit
from pipeline.config import CaptionConfig
from pipeline.stages.again import Again
from pipeline.stages.batches import Fault, halving
from pipeline.stages.journal import Journal
from pipeline.stages.previews import preview_frames
from pipeline.stages.rows import failure_row, origin_of

Result = TypeVar("Result")
CODE_VERSION = 2
_ITEM_LIMIT_S = 1800.0
_LOW = "alignment_percentile:"
COST_COLUMNS = ("prompt_tokens", "output_tokens", "num_requests")


def caption_row(caption: Caption, clip_id: str, shard: int) -> dict:
    """A caption as a row of the `captions` table.

    Its id is a function of what it says and where it comes from.
    """
    made, span, text = caption.provenance, caption.span_s or (None, None), valid(caption.text)
    origin = (clip_id, caption.kind, caption.source, made.model, made.weights, made.prompt_id, made.seed)
    key = "|".join(map(str, (*origin, span[0], text)))
    return {
        "caption_id": hashlib.sha256(key.encode()).hexdigest()[:12],
        "clip_id": clip_id,
        "shard": shard,
        "kind": caption.kind,
        "source": caption.source,
        "text": text,
        "fields_json": json.dumps(valid_json(caption.fields), sort_keys=True),
        "status": caption.verdict.status,
        "reasons": list(caption.verdict.reasons),
        "num_words": len(text.split()),
        "start_s": span[0],
        "end_s": span[1],
        "finish_reason": caption.finish_reason,
        "scores_json": json.dumps(caption.scores, sort_keys=True),
        "backend": made.backend,
        "model": made.model,
        "weights": made.weights,
        "prompt_id": made.prompt_id,
        "prompt_sha256": made.prompt_sha256,
        "sampling_json": json.dumps(made.sampling, sort_keys=True),
        "seed": made.seed,
        "frame_indices": list(made.frame_indices),
        "frame_times_s": list(made.frame_times_s),
        "code_version": made.code_version,
        "prompt_tokens": caption.usage.prompt_tokens,
        "output_tokens": caption.usage.output_tokens,
        "num_requests": caption.usage.requests,
    }


@dataclass(frozen=True)
class Spent(Fault):
    """The budget did not allow to ask."""

    by: BudgetSpentError


@dataclass
class Captioned:
    """What was made for the clips of a shard so far."""

    before: dict[str, list[dict]] = field(default_factory=dict)
    """Rows of `captions` by clip that are copied from an earlier attempt."""
    written: dict[str, list[dict]] = field(default_factory=dict)
    """Those made now."""
    failed: dict[str, Fault] = field(default_factory=dict)
    cost: Usage = field(default_factory=Usage)

    def __len__(self) -> int:
        return len(self.before) + len(self.written) + len(self.failed)

    def __str__(self) -> str:
        cost = f"{self.cost.output_tokens} tokens, {self.cost.requests} requests, {self.cost.seconds:.1f} s"
        return f"{sum(map(len, self.written.values()))} captions, {cost}"


class Previews:
    """The preview frames of a shard's clips, decoded when they are looked at."""

    def __init__(self, dataset: Dataset, column: Column, shard: int) -> None:
        self.filesystem = dataset.filesystem
        self.tar, self.members = preview_frames(dataset, column, shard)

    def clip(self, row: dict) -> ClipFrames:
        """A row of `clips` with its decoded previews."""
        members = self.members[row["clip_id"]]
        pictures = StoredFrames([read_member(self.filesystem, self.tar, member) for member in members])
        return ClipFrames(clip_id=row["clip_id"], frames=pictures, times_s=row["preview_times_s"], facts=row)


class CaptionStage:
    """Stage `caption`: table captions; drops clips whose every caption was rejected.

    What it cost is in the events and in the commit record's statistics.
    """

    name = "caption"

    def __init__(
        self, config: CaptionConfig, preview: Column, words: Column | None = None, words_version: str = ""
    ) -> None:
        """
        Args:
            words: the `score` column that says which words can be read in a clip, where there is one.
            words_version: of the scorer that reads them.
        """
        self.config, self.preview, self.words = config, preview, words
        self.needs: tuple[Column, ...] = (preview, words) if words else (preview,)
        backend = make_captioner(config)
        settings = {
            "version": backend.version,
            "retries": config.retries,
            "low_alignment_share": config.low_alignment_share,
        }
        if backend.name != "measured" or words:
            settings["told"] = told.VERSION
        # what was read, and not which other scorers stand beside it
        inputs = {"preview": preview.fingerprint} | ({"words": words_version} if words else {})
        self.column = Column(self.name, fingerprint(self.name, CODE_VERSION, settings, inputs))

    def setup(self) -> None:
        self.captioner = make_captioner(self.config)
        self.captioner.setup()

    def process(
        self, dataset: Dataset, shard: int, generation: int, journal: Journal, progress: Callable[[str], None]
    ) -> Account:
        clips = stored = records.rows_of_shard(dataset, "clips", self.preview, shard)
        if self.words:
            scores = records.rows_of_shard(dataset, "scores", self.words, shard)
            read = {row["clip_id"]: row["words"] for row in scores if row["scorer"] == "text"}
            clips = [{**row, "words": read.get(row["clip_id"]) or []} for row in clips]
        previews = Previews(dataset, self.preview, shard)
        again = Again(dataset, self.column, shard, self.preview, "clips", stored)
        made = Captioned(before=_unjudged(again.rows("captions")))
        new = [row for row in clips if row["clip_id"] not in made.before]
        for batch, found in self._written(new, previews, journal, made):
            for clip, written in zip(batch, found, strict=True):
                if isinstance(written, Fault):
                    made.failed[clip.clip_id] = written
                else:
                    self._add(made, clip, written, shard)
            progress(f"{len(made)}/{len(clips)} clips, {made}")
        spent = [fault.by for fault in made.failed.values() if isinstance(fault, Spent)]
        if spent and not made.cost.requests:  # nothing of the shard is paid for: it waits for another budget
            raise spent[0]
        journal.rest()
        return self._commit(ShardCommit(dataset, self.column, shard, generation), clips, made, again)

    def _written(
        self, rows: list[dict], previews: Previews, journal: Journal, made: Captioned
    ) -> Iterator[tuple[list[ClipFrames], list[list[Caption] | Fault]]]:
        """Clips with their captions, in order.

        To a backend that takes several at once, each clip goes as soon as there is room, with its windows and
        second tries; to others they go in batches, of which the next one is read meanwhile.
        """
        at_once, known = self.captioner.at_once, {row["clip_id"]: row for row in rows}
        batches = _batches(list(known), 1 if at_once > 1 else self.config.batch, journal)

        def read(names: list[str]) -> list[ClipFrames]:
            return [previews.clip(known[name]) for name in names]

        def captioned(names: list[str]) -> tuple[list[ClipFrames], list[list[Caption] | Fault]]:
            batch = read(names)
            found = self._caption(batch, journal)
            # without the pictures, which would pile up behind a slow clip
            return [replace(clip, frames=()) for clip in batch], found

        if at_once > 1:
            together = [names for names in batches if not any(map(journal.is_suspect, names))]
            yield from _ahead(captioned, together, at_once)
            yield from map(captioned, batches[len(together) :])
            return
        with ThreadPoolExecutor(1) as pool:
            reading = [pool.submit(read, names) for names in batches[:1]]
            for following in [*batches[1:], None]:
                if not reading:
                    return
                batch = reading.pop().result()
                if following is not None:
                    reading.append(pool.submit(read, following))
                yield batch, self._caption(batch, journal)

    def _caption(self, batch: list[ClipFrames], journal: Journal) -> list[list[Caption] | Fault]:
        """Captions of each clip, or why it has none.

        Raises:
            Exception: the machine is at fault and not the batch (`blame`).
        """

        def write(clips: Sequence[ClipFrames]) -> Sequence[list[Caption] | Fault]:
            try:
                return write_captions(self.captioner, clips, self.config.retries)
            except BudgetSpentError as error:
                return [Spent("no_answer", str(error), error)] * len(clips)

        return halving(batch, lambda clip: clip.clip_id, write, journal, _ITEM_LIMIT_S)

    def _add(self, made: Captioned, clip: ClipFrames, captions: list[Caption], shard: int) -> None:
        """Add the captions a clip came with and those written for it, or its failure."""
        made.cost = sum((caption.usage for caption in captions), made.cost)
        given = [with_verdict(caption, judge(caption)) for caption in given_captions(clip.facts)]
        rows = _once([caption_row(caption, clip.clip_id, shard) for caption in [*given, *captions]])
        errors = [row["finish_reason"] for row in rows if row["finish_reason"].startswith("error")]
        if errors:
            made.failed[clip.clip_id] = Fault("no_answer", errors[0])
        else:
            made.written[clip.clip_id] = rows

    def _commit(self, commit: ShardCommit, clips: list[dict], made: Captioned, again: Again) -> Account:
        """Write the shard's tables; every clip is kept, dropped or failed."""
        by_clip = made.before | made.written
        rows = [row for clip in clips for row in by_clip.get(clip["clip_id"], ())]
        self._reject_low(rows)
        failures = [
            failure_row(clip, self.name, commit.shard, why.error, why.cause, again.attempt(clip["clip_id"]))
            for clip in clips
            if (why := made.failed.get(clip["clip_id"]))
        ]
        drops = [
            origin_of(clip, self.name, commit.shard) | drop
            for clip in clips
            if clip["clip_id"] in by_clip and (drop := _drop(by_clip[clip["clip_id"]]))
        ]
        num_lost = len(drops) + len(failures)
        account = Account(len(clips), len(clips) - num_lost, len(drops), len(failures))
        stats = {name: sum(row[name] for row in rows) for name in COST_COLUMNS}
        with commit:
            commit.commit({"captions": rows, "drops": drops, "failures": failures}, account, stats)
        return account

    def _reject_low(self, rows: list[dict]) -> None:
        """Reject the captions of the shard that fit their clips worst, if the backend scores the fit."""
        scores = {
            row["caption_id"]: json.loads(row["scores_json"]).get("alignment")
            for row in rows
            if row["status"] == "accepted"
        }
        known = {name: score for name, score in scores.items() if score is not None}
        low = lowest_aligned(known, self.config.low_alignment_share)
        for row in rows:
            if row["caption_id"] in low:
                row["status"], row["reasons"] = (
                    "rejected",
                    [f"{_LOW}{known[row['caption_id']]:.3f}"],
                )


def _ahead(work: Callable[[list[str]], Result], jobs: list[list[str]], at_once: int) -> Iterator[Result]:
    """What each job gives, in order, so many at a time and as many waiting to be handed on."""
    pool, waiting = ThreadPoolExecutor(at_once), deque[Future[Result]]()
    try:
        for job in jobs:
            waiting.append(pool.submit(work, job))
            if len(waiting) >= 2 * at_once:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=not waiting, cancel_futures=True)


def _batches(clips: list[str], size: int, journal: Journal) -> list[list[str]]:
    """Clips to be captioned together; those that were in hand at a death each alone, after the others."""
    alone = [name for name in clips if journal.is_suspect(name)]
    others = [name for name in clips if not journal.is_suspect(name)]
    together = [others[begin : begin + size] for begin in range(0, len(others), size)]
    return together + [[name] for name in alone]


def _unjudged(by_clip: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """Without the verdicts that depend on the shard's other captions; they are given anew."""
    for rows in by_clip.values():
        for row in rows:
            if any(reason.startswith(_LOW) for reason in row["reasons"]):
                row |= {"status": "accepted", "reasons": []}
    return by_clip


def _drop(rows: list[dict]) -> dict | None:
    """Why a captioned clip has no caption the trainer could draw; None where it has one."""
    if any(row["status"] == "accepted" and row["kind"] != "window" for row in rows):
        return None
    is_foreign = bool(rows) and all(row["status"] == "out_of_domain" for row in rows)
    reason = "out_of_domain" if is_foreign else "no_caption_accepted"
    return {"reason": reason, "value": float(len(rows)), "threshold": 1.0}


def _once(rows: list[dict]) -> list[dict]:
    """Without rows that say the same of the same clip twice."""
    return list({row["caption_id"]: row for row in rows}.values())
