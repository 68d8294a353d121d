"""The `score` column: numbers by models for each clip, from its previews; see `pipeline/scores/`.

What a scorer has said of the same previews in another version of the column, made with other scorers beside
it, is copied and not made again.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, SupportsFloat

import numpy as np
import pyarrow.compute as pc

from manifests.errors import RushesError, UsageError
from manifests.fingerprint import fingerprint
from manifests.layout import Column, Dataset
from manifests.store.shards import Member, read_member
from manifests.tables import records, scans
from manifests.text import valid
from manifests.writing.commit import Account, ShardCommit
from media.decode.images import decode_image
from pipeline.blame import HopelessError
from pipeline.config import ScoreConfig
from pipeline.scores.protocol import Score, Scorer
from pipeline.scores.registry import make_scorers
from pipeline.stages.again import Again
from pipeline.stages.batches import Fault, halving
from pipeline.stages.journal import Journal
from pipeline.stages.previews import preview_frames, spread_members
from pipeline.stages.rows import failure_row

CODE_VERSION = 1
_ITEM_LIMIT_S = 600.0
MOST_DEADLY = 5
"""Clips of a shard that may each end the process of a scorer which has scored none of it."""
_MORE_DEADLY = 4
"""So many times more where it has scored clips of other shards."""


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
            try:
                scorer.setup()
            except UsageError:
                raise
            except (Exception, SystemExit) as error:  # whatever a user's own class does
                raise UsageError(
                    f"scorer {scorer.name}",
                    f"cannot be set up ({type(error).__name__}: {' '.join(str(error).split())})",
                    f"Mend its setup, in {type(scorer).__module__}.",
                ) from error

    def process(
        self, dataset: Dataset, shard: int, generation: int, journal: Journal, progress: Callable[[str], None]
    ) -> Account:
        stored = records.rows_of_shard(dataset, "clips", self.preview, shard)
        clips = [stored[index] for index in spread_order(len(stored))]
        tar, frames = preview_frames(dataset, self.preview, shard)
        again = Again(dataset, self.column, shard, self.preview, "clips", clips)
        before = self._made(dataset, shard, again)
        rows, failures = list[dict](), list[dict]()
        tried = {
            scorer.name: _Tried(scorer.name, journal, functools.partial(self._has_scored, dataset, scorer))
            for scorer in self.scorers
        }
        for begin in range(0, len(clips), self.config.batch):
            batch = clips[begin : begin + self.config.batch]
            copied = [row for clip in batch for row in before.get(clip["clip_id"], ())]
            rows += copied
            done = {(row["clip_id"], row["scorer"]) for row in copied}
            pictures = Pictures(dataset, tar, frames)
            faults = defaultdict[str, list[Fault]](list)
            for scorer in self.scorers:
                new = [clip for clip in batch if (clip["clip_id"], scorer.name) not in done]
                names = {clip["clip_id"]: f"{clip['clip_id']} {scorer.name}" for clip in new}
                tried[scorer.name].names += names.values()
                make = functools.partial(_scored, scorer, pictures, tried[scorer.name])
                made = _halved(new, names, make, journal) if new else []
                for clip, found in zip(new, made, strict=True):
                    if isinstance(found, Fault):
                        faults[clip["clip_id"]].append(Fault(found.error, f"{scorer.name}: {found.cause}"))
                    else:
                        rows.append(self._row(clip["clip_id"], shard, scorer.name, found))
            for clip in batch:
                if own := faults[clip["clip_id"]]:
                    cause, attempt = "; ".join(fault.cause for fault in own), again.attempt(clip["clip_id"])
                    failures.append(failure_row(clip, self.name, shard, own[0].error, cause, attempt))
            progress(f"{min(begin + self.config.batch, len(clips))}/{len(clips)} clips")
        journal.rest()
        place = {clip["clip_id"]: number for number, clip in enumerate(stored)}
        rows.sort(key=lambda row: (place[row["clip_id"]], row["scorer"]))  # whatever was copied
        failures.sort(key=lambda row: place[row["item_id"]])
        account = Account(len(clips), len(clips) - len(failures), 0, len(failures))
        with ShardCommit(dataset, self.column, shard, generation) as commit:
            commit.commit({"scores": rows, "drops": [], "failures": failures}, account)
        return account

    def _made(self, dataset: Dataset, shard: int, again: Again) -> dict[str, list[dict]]:
        """Rows that were made of these previews by these scorers, in any version of the column, by clip.

        A clip that failed has those of the scorers that did not.
        """
        found = defaultdict[str, dict[str, dict]](dict)
        rows = [row for row in again.before.rows("scores") if again.is_same(row["clip_id"])]
        for column in dataset.columns():
            if column.name == self.name and column != self.column and dataset.is_committed(column, shard):
                rows = [*records.rows_of_shard(dataset, "scores", column, shard), *rows]
        for row in rows:
            if row["scorer_version"] == self._version(row["scorer"]):
                found[row["clip_id"]][row["scorer"]] = row
        return {clip_id: list(rows.values()) for clip_id, rows in found.items()}

    def _has_scored(self, dataset: Dataset, scorer: Scorer) -> bool:
        """Whether there is a score by it in what is committed of this column."""
        where = pc.field("scorer") == scorer.name
        return bool(scans.table(dataset, "scores", self.column, ["shard"], where).num_rows)

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


def spread_order(count: int) -> list[int]:
    """Numbers below `count` so that few of them in a row are of clips that lie side by side.

    Those of one odd file do; what is said of a scorer after a few clips must not be said for such a file.
    """
    bits = max(1, (count - 1).bit_length())
    return sorted(range(count), key=lambda index: int(f"{index:0{bits}b}"[::-1], 2))


def _halved(
    clips: Sequence[dict],
    names: Mapping[str, str],
    make: Callable[[Sequence[dict]], list[Score]],
    journal: Journal,
) -> list[Score | Fault]:
    """Scores by one scorer; a death is told against the clip with that scorer alone."""
    return halving(clips, lambda clip: names[clip["clip_id"]], make, journal, _ITEM_LIMIT_S)


class Pictures:
    """The previews of a shard's clips, each decoded once."""

    def __init__(self, dataset: Dataset, tar: str, frames: dict[str, list[Member]]) -> None:
        self._read = functools.partial(read_member, dataset.filesystem, tar)
        self._frames, self._decoded = frames, dict[str, np.ndarray]()

    def of(self, clip_id: str, count: int) -> list[np.ndarray]:
        """At most so many pictures [H, W, 3] uint8 of a clip."""
        return [self._picture(member) for member in spread_members(self._frames[clip_id], count)]

    def _picture(self, member: Member) -> np.ndarray:
        if member.name not in self._decoded:
            self._decoded[member.name] = decode_image(self._read(member))
            self._decoded[member.name].setflags(write=False)  # other scorers see them too
        return self._decoded[member.name]


class _Tried:
    """What a scorer was given of a shard.

    Attributes:
        names: of the clips, as the journal has them.
        has_scored: it has said something of one of them.
    """

    def __init__(self, scorer: str, journal: Journal, elsewhere: Callable[[], bool]) -> None:
        """
        Args:
            elsewhere: whether it has scored clips of other shards.
        """
        self.scorer, self._journal, self._elsewhere = scorer, journal, elsewhere
        self.names, self.has_scored = list[str](), False

    def check(self) -> None:
        """
        Raises:
            HopelessError: it ends the process with every clip.
        """
        deadly = sum(self._journal.poison(name) is not None for name in self.names)
        if deadly < MOST_DEADLY or self.has_scored:
            return
        most = MOST_DEADLY * (_MORE_DEADLY if self._elsewhere() else 1)
        if deadly >= most:
            raise HopelessError(
                f"scorer {self.scorer}",
                f"has ended its process with each of {deadly} clips, and has scored none",
                "Mend it, or leave it out of --score.use: what was made so far is kept.",
            )


def _asked(scorer: Scorer, frames: list[list[np.ndarray]]) -> list[Any]:
    """What a scorer gives, one thing more than was asked for at most.

    Raises:
        RuntimeError: in place of what elsewhere is the machine's fault: here the scorer alone was at work.
    """
    try:
        given = scorer.score(frames)
        if isinstance(given, Iterable):
            return list(islice(given, len(frames) + 1))
    except SystemExit as error:  # of a library that takes this for its own program
        raise RuntimeError(f"it called sys.exit({error})") from error
    except (HopelessError, KeyboardInterrupt):
        raise
    except BaseException as error:
        if isinstance(error, Exception) and not isinstance(error, OSError | MemoryError | RushesError):
            raise
        raise RuntimeError(f"{type(error).__name__}: {error}") from error
    raise ValueError(f"it gave {given!r:.200}, which is no list of Score(value, (word, ...))")


def _scored(scorer: Scorer, pictures: Pictures, tried: _Tried, clips: Sequence[dict]) -> list[Score]:
    """What a scorer says of some clips.

    Raises:
        HopelessError: it ends the process with whatever it is given.
        ValueError: it gives another number of scores, one that is none, or one that is not finite.
    """
    tried.check()
    scores = _asked(scorer, [pictures.of(clip["clip_id"], scorer.frames) for clip in clips])
    if len(scores) != len(clips):
        raise ValueError(f"it gave {len(scores)} scores for {len(clips)} clips")
    found = list[Score]()
    for score in scores:
        if not isinstance(score, Score) or isinstance(score.words, str):
            raise ValueError(f"it gave {score!r:.200}, which is no Score(value, (word, ...))")
        if not isinstance(score.value, SupportsFloat) or np.iscomplexobj(score.value):
            raise ValueError(f"it gave the value {score.value!r:.200}, which is no number")
        if not np.isfinite(float(score.value)):
            raise ValueError(f"it gave {score.value}, which is not finite")
        found.append(Score(float(score.value), tuple(valid(str(word)) for word in score.words or ())))
    tried.has_scored = True
    return found


def words_of(dataset: Dataset, columns: Mapping[str, Column]) -> tuple[Column | None, str]:
    """The score column of a view that says which words are read in clips, and the version of what reads them;
    None where there is none."""
    if (column := columns.get(ScoreStage.name)) is None:
        return None, ""
    where = pc.field("scorer") == "text"
    rows = scans.table(dataset, "scores", column, ["scorer_version"], where).slice(0, 1).to_pylist()
    return (column, rows[0]["scorer_version"].partition(" of ")[0]) if rows else (None, "")
