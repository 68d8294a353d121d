"""The `score` column: numbers by models for each clip, from its previews; see `pipeline/scores/`.

What a scorer has said of the same previews in another version of the column, made with other scorers beside
it, is copied and not made again.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pyarrow.compute as pc

from manifests.fingerprint import fingerprint
from manifests.layout import Column, Dataset
from manifests.store.shards import Member, read_member
from manifests.tables import records, scans
from manifests.text import valid
from manifests.writing.commit import Account, ShardCommit
from media.decode.images import decode_image
from pipeline.config import ScoreConfig
from pipeline.scores.protocol import Score, Scorer
from pipeline.scores.registry import make_scorers
from pipeline.stages.again import Again
from pipeline.stages.batches import Fault, halving
from pipeline.stages.journal import Journal
from pipeline.stages.previews import preview_frames, spread
from pipeline.stages.rows import failure_row

CODE_VERSION = 1
_ITEM_LIMIT_S = 600.0


class ScoreStage:
    """Stage `score`: table scores, a row for each clip and scorer."""

    name = "score"

    def __init__(self, config: ScoreConfig, preview: Column) -> None:
        self.config, self.preview = config, preview
        self.needs: tuple[Column, ...] = (preview,)
        self.scorers: list[Scorer] = make_scorers(config.use)
        self.versions = {scorer.name: f"{scorer.version}+{scorer.frames}" for scorer in self.scorers}
        self.column = Column(
            self.name, fingerprint(self.name, CODE_VERSION, self.versions, {"preview": preview.fingerprint})
        )

    def setup(self) -> None:
        for scorer in self.scorers:
            scorer.setup()

    def process(
        self, dataset: Dataset, shard: int, generation: int, journal: Journal, progress: Callable[[str], None]
    ) -> Account:
        clips = records.rows_of_shard(dataset, "clips", self.preview, shard)
        tar, frames = preview_frames(dataset, self.preview, shard)
        again = Again(dataset, self.column, shard, self.preview, "clips", clips)
        before = self._of_others(dataset, shard) | again.rows("scores")
        rows, failures = list[dict](), list[dict]()
        for begin in range(0, len(clips), self.config.batch):
            batch = clips[begin : begin + self.config.batch]
            copied = [row for clip in batch for row in before.get(clip["clip_id"], ())]
            rows += copied
            done = {(row["clip_id"], row["scorer"]) for row in copied}
            wanted = {clip["clip_id"]: {(clip["clip_id"], name) for name in self.versions} for clip in batch}
            new = [clip for clip in batch if wanted[clip["clip_id"]] - done]
            make = functools.partial(self._together, dataset, tar, frames, done)
            made = halving(new, lambda clip: clip["clip_id"], make, journal, _ITEM_LIMIT_S) if new else []
            for clip, found in zip(new, made, strict=True):
                if isinstance(found, Fault):
                    rows = [row for row in rows if row["clip_id"] != clip["clip_id"]]
                    attempt = again.attempt(clip["clip_id"])
                    failures.append(failure_row(clip, self.name, shard, found.error, found.cause, attempt))
                else:
                    rows += [self._row(clip["clip_id"], shard, name, score) for name, score in found.items()]
            progress(f"{min(begin + self.config.batch, len(clips))}/{len(clips)} clips")
        journal.rest()
        place = {clip["clip_id"]: number for number, clip in enumerate(clips)}
        rows.sort(key=lambda row: (place[row["clip_id"]], row["scorer"]))  # whatever was copied
        account = Account(len(clips), len(clips) - len(failures), 0, len(failures))
        with ShardCommit(dataset, self.column, shard, generation) as commit:
            commit.commit({"scores": rows, "drops": [], "failures": failures}, account)
        return account

    def _of_others(self, dataset: Dataset, shard: int) -> dict[str, list[dict]]:
        """Rows of other versions of the column whose scorer and previews are those of now, by clip."""
        found = defaultdict[str, dict[str, dict]](dict)
        for column in dataset.columns():
            if column.name == self.name and column != self.column and dataset.is_committed(column, shard):
                for row in records.rows_of_shard(dataset, "scores", column, shard):
                    if row["scorer_version"] == self._version(row["scorer"]):
                        found[row["clip_id"]][row["scorer"]] = row
        return {clip_id: list(rows.values()) for clip_id, rows in found.items()}

    def _version(self, scorer: str) -> str:
        """What a row of a scorer depends on."""
        return f"{self.versions.get(scorer, '')} of {self.preview}"

    def _row(self, clip_id: str, shard: int, scorer: str, score: Score) -> dict:
        return {
            "clip_id": clip_id,
            "shard": shard,
            "scorer": scorer,
            "value": score.value,
            "words": list(score.words),
            "scorer_version": self._version(scorer),
        }

    def _together(
        self,
        dataset: Dataset,
        tar: str,
        frames: dict[str, list[Member]],
        done: set[tuple[str, str]],
        clips: Sequence[dict],
    ) -> list[dict[str, Score]]:
        """Scores of clips as one batch, by scorer; those that are done are left out.

        Raises:
            ValueError: a scorer gives another number of scores, or one that is not finite.
        """
        decoded = dict[str, np.ndarray]()

        def picture(member: Member) -> np.ndarray:
            if member.name not in decoded:
                decoded[member.name] = decode_image(read_member(dataset.filesystem, tar, member))
            return decoded[member.name]

        names = [clip["clip_id"] for clip in clips]
        found: list[dict[str, Score]] = [{} for _ in names]
        for scorer in self.scorers:
            at = [place for place, name in enumerate(names) if (name, scorer.name) not in done]
            lots = [[picture(pick) for pick in spread(frames[names[place]], scorer.frames)] for place in at]
            scores = scorer.score(lots) if lots else []
            if len(scores) != len(at) or not np.isfinite([score.value for score in scores]).all():
                raise ValueError(f"{scorer.name} gave {scores} for {len(at)} clips")
            for place, score in zip(at, scores, strict=True):
                words = tuple(valid(str(word)) for word in score.words or ())
                found[place][scorer.name] = Score(float(score.value), words)
        return found


def words_of(dataset: Dataset, columns: Mapping[str, Column]) -> tuple[Column | None, str]:
    """The score column of a view that says which words are read in clips, and the version of what reads them;
    None where there is none."""
    if (column := columns.get(ScoreStage.name)) is None:
        return None, ""
    where = pc.field("scorer") == "text"
    rows = scans.table(dataset, "scores", column, ["scorer_version"], where).slice(0, 1).to_pylist()
    return (column, rows[0]["scorer_version"].partition(" of ")[0]) if rows else (None, "")
