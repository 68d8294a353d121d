"""The `map` column: where each clip lies on a plane, next to the clips whose embeddings are alike.

Some of the clips, drawn by a hash of their ids, are landmarks: t-SNE (openTSNE) lays them out. Every other
clip lies among those landmarks that are most like it. So a million clips take minutes, and the memory of few.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import tyro

from manifests import cli
from manifests.cli.ranges import Ranges
from manifests.errors import IntegrityError, UsageError
from manifests.fingerprint import fingerprint
from manifests.layout import Column, Dataset
from manifests.schemas import to_table
from manifests.tables import scans
from manifests.views import View
from manifests.writing.compact import commit_version, record
from manifests.writing.lease import Lease

CODE_VERSION = 1
LANDMARKS = 20_000
NEIGHBOURS, SHARPNESS = 8, 60.0
"""Landmarks next to a clip, and how fast their weight falls with the cosine."""
_PERPLEXITY, _FEW, _SHARDS_AT_ONCE = 30, 12, 256


def laid_out(vectors: np.ndarray) -> np.ndarray:
    """Places [n, 2] of unit vectors [n, d], from 0 to 1 along each axis.

    By t-SNE: van der Maaten and Hinton, "Visualizing Data using t-SNE", 2008; Policar, Strazar and Zupan,
    "openTSNE", 2024. The same vectors give the same places.

    Raises:
        UsageError: openTSNE is not installed.
    """
    if len(vectors) <= _FEW:
        centred = vectors - vectors.mean(0)
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        found = np.zeros((len(vectors), 2))
        found[:, : min(2, len(axes))] = centred @ axes[:2].T
        return _unit_square(found)
    try:
        from openTSNE import TSNE
    except ImportError as error:
        raise UsageError("rushes map", "needs openTSNE", "Install it: pip install 'rushes[map]'.") from error
    perplexity = min(_PERPLEXITY, (len(vectors) - 1) // 3)
    projection = TSNE(perplexity=perplexity, metric="cosine", random_state=1, n_jobs=1)
    return _unit_square(np.asarray(projection.fit(np.ascontiguousarray(vectors, np.float32))))


def _unit_square(places: np.ndarray) -> np.ndarray:
    low, high = places.min(0), places.max(0)
    found: np.ndarray = (places - low) / np.where(high > low, high - low, 1.0)
    return found


class Landmarks:
    """Clips that are laid out, by which others find their places."""

    def __init__(self, ids: list[str], vectors: np.ndarray) -> None:
        """Args: vectors: unit vectors [n, d] of the clips."""
        import faiss

        self.places = laid_out(vectors)
        self._own = dict(zip(ids, self.places, strict=True))
        self._near = faiss.IndexFlatIP(vectors.shape[1])
        self._near.add(np.ascontiguousarray(vectors, np.float32))

    def place(self, ids: list[str], vectors: np.ndarray) -> np.ndarray:
        """Places [n, 2] of clips: their own of landmarks, else the weighed mean of the nearest landmarks."""
        most = min(NEIGHBOURS, len(self.places))
        cosines, near = self._near.search(np.ascontiguousarray(vectors, np.float32), most)
        weights = np.exp(SHARPNESS * (cosines - cosines[:, :1]))
        found = (self.places[near] * weights[..., None]).sum(1) / weights.sum(1, keepdims=True)
        for at, name in enumerate(ids):
            if name in self._own:
                found[at] = self._own[name]
        return found


def _drawn(ids: list[str], most: int) -> list[str]:
    """So many of them, by a hash: with new clips beside them mostly the same ones."""
    return sorted(ids, key=lambda name: hashlib.sha256(name.encode()).digest())[:most]


def _vectors(rows: pa.Table) -> np.ndarray:
    """Of rows, as one array [n, d].

    Raises:
        IntegrityError: they differ in length, or have values that are no numbers.
    """
    column = rows["vector"].combine_chunks()
    flat, lengths = pc.list_flatten(column).to_numpy().astype(np.float32), pc.list_value_length(column)
    if len(pc.unique(pc.fill_null(lengths, -1))) != 1 or not len(flat) or not np.isfinite(flat).all():
        raise IntegrityError(
            "embeddings", "differ in length or have values that are no numbers", "Make them again."
        )
    vectors: np.ndarray = flat.reshape(rows.num_rows, -1)
    return vectors


def make_map(dataset: Dataset, embed: Column, landmarks: int = LANDMARKS) -> Column:
    """Commit the places of all clips that have an embedding.

    Raises:
        UsageError: none has.
    """
    records = scans.table(dataset, "shards", embed, ["shard", "generation", "parts"]).to_pylist()
    records.sort(key=lambda row: row["shard"])
    read = [part["sha256"] for row in records for part in row["parts"] if part["table"] == "embeddings"]
    inputs = {"embed": embed.fingerprint, "clips": hashlib.sha256("|".join(read).encode()).hexdigest()}
    column = Column("map", fingerprint("map", CODE_VERSION, {"landmarks": landmarks}, inputs))
    if records and {row["shard"] for row in records} <= set(dataset.committed_shards(column)):
        return column
    ids = scans.table(dataset, "embeddings", embed, ["clip_id"])["clip_id"].to_pylist()
    if not ids:
        raise UsageError(
            str(embed),
            "has no embeddings",
            "Make them: `rushes ingest FOOTAGE --out DATASET --embed.model M`.",
        )
    where = pc.field("clip_id").isin(pa.array(_drawn(ids, landmarks)))
    rows = scans.table(dataset, "embeddings", embed, ["clip_id", "vector"], where).sort_by("clip_id")
    among = Landmarks(rows["clip_id"].to_pylist(), _vectors(rows))
    found, shards = [], [row["shard"] for row in records]
    for begin in range(0, len(shards), _SHARDS_AT_ONCE):
        where = pc.field("shard").isin(pa.array(shards[begin : begin + _SHARDS_AT_ONCE], pa.int32()))
        rows = scans.table(dataset, "embeddings", embed, ["clip_id", "shard", "vector"], where)
        if not rows.num_rows:
            continue
        rows = rows.sort_by([("shard", "ascending"), ("clip_id", "ascending")])
        places = among.place(rows["clip_id"].to_pylist(), _vectors(rows))
        xy = {name: pa.array(places[:, at]) for at, name in enumerate(("x", "y"))}
        found.append(pa.table({"clip_id": rows["clip_id"], "shard": rows["shard"], **xy}))
        cli.say(f"map: {begin + len(shards[begin : begin + _SHARDS_AT_ONCE])}/{len(shards)} shards")
    table = pa.concat_tables(found).cast(to_table("map", []).schema)
    count = Counter(table["shard"].to_pylist())
    made = [
        record(
            column,
            row["shard"],
            row["generation"],
            (count[row["shard"]],) * 2 + (0, 0),
            {"map": count[row["shard"]]},
        )
        for row in records
    ]
    commit_version(dataset, column, {"shards": to_table("shards", made), "map": table})
    return column


@dataclass(frozen=True, kw_only=True)
class MakeMap:
    """Lay all clips out on a plane by their embeddings: the dashboard's page Map shows it.

    Clips that look alike lie together; a line drawn around some of them is a filter. Needs embeddings
    (`rushes ingest --embed.model`) and openTSNE (`pip install 'rushes[map]'`).

    Example: rushes map DATASET
    """

    ranges: ClassVar[Ranges] = {"landmarks": (2, 200_000, True)}

    dataset: Annotated[str, tyro.conf.Positional]
    """Dataset folder or address."""
    view: str = "default"
    """View whose embeddings are taken, and that gets the map."""
    landmarks: int = LANDMARKS
    """Clips that are laid out by t-SNE; the others are placed among them."""

    def run(self) -> int:
        dataset = Dataset(self.dataset)
        with Lease(dataset):
            view = View.load(dataset, self.view)
            if "embed" not in view.columns:
                raise UsageError(
                    f"view {self.view}",
                    "has no embeddings to lay out",
                    "Make them: rushes ingest ... --embed.model local-dir:FOLDER (an open_clip model).",
                )
            column = make_map(dataset, view.column("embed"), self.landmarks)
            replace(view, columns={**view.columns, "map": column}).save(dataset, self.view)
        cli.print_line(f"{column}: view {self.view} has it; see the page Map of `rushes dashboard`")
        return cli.DONE
