"""The map: clips of alike embeddings are neighbours, whether they are landmarks or not."""

import numpy as np
import pytest

from manifests import cli
from manifests.errors import IntegrityError, UsageError
from manifests.layout import Column, Dataset
from manifests.tables import scans
from manifests.views import View
from manifests.writing.commit import Account, ShardCommit
from manifests.writing.removing import remove
from pipeline.projection import MakeMap, laid_out, make_map

EMBED = Column("embed", "testvectors")
KINDS, A_SHARD = 6, 60


def clouds(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors [n, 32] around one of six directions, and which."""
    chance = np.random.default_rng(seed)
    kinds = np.arange(count) % KINDS
    vectors = np.eye(32)[kinds] + chance.normal(0, 0.08, (count, 32))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), kinds


@pytest.fixture
def embedded(tmp_path) -> Dataset:
    dataset = Dataset.create(str(tmp_path / "ds"))
    vectors, _ = clouds(5 * A_SHARD)
    for shard in range(5):
        rows = [
            {
                "clip_id": f"{at % 7:016x}-{at:08d}",
                "shard": shard,
                "num_frames": 1,
                "vector": vectors[at].tolist(),
            }
            for at in range(shard * A_SHARD, (shard + 1) * A_SHARD)
        ]
        with ShardCommit(dataset, EMBED, shard, 0) as commit:
            commit.commit({"embeddings": rows, "drops": [], "failures": []}, Account(A_SHARD, A_SHARD, 0, 0))
    View(columns={"embed": EMBED, "preview": Column("preview", "none")}).save(dataset)
    return dataset


def purity(places: np.ndarray, kinds: np.ndarray) -> float:
    """Share of clips whose five nearest on the plane are of their kind."""
    apart = np.linalg.norm(places[:, None] - places[None], axis=-1)
    near = np.argsort(apart, axis=1)[:, 1:6]
    return float((kinds[near] == kinds[:, None]).all(1).mean())


def test_neighbours_are_alike_and_a_column_of_all_clips_is_committed(embedded):
    assert MakeMap(dataset=embedded.uri, landmarks=120).run() == 0
    column = View.load(embedded).columns["map"]
    rows = scans.table(embedded, "map", column).to_pylist()
    assert len(rows) == 5 * A_SHARD == len({row["clip_id"] for row in rows})
    numbers = np.array([int(row["clip_id"].split("-")[1]) for row in rows])
    places = np.array([[row["x"], row["y"]] for row in rows])
    assert places.min() >= 0 and places.max() <= 1
    assert purity(places, clouds(5 * A_SHARD)[1][numbers]) > 0.95
    assert set(embedded.committed_shards(column)) == set(range(5))


def test_the_same_embeddings_have_the_same_map_and_others_another(embedded):
    column = make_map(embedded, EMBED, 120)
    assert make_map(embedded, EMBED, 120) == column
    assert make_map(embedded, EMBED, 100) != column
    vectors, _ = clouds(80)
    assert np.array_equal(laid_out(vectors), laid_out(vectors))


@pytest.mark.parametrize("count", [1, 2, 5, 13, 40])
def test_few_clips_have_places_too(count):
    places = laid_out(clouds(count)[0])
    assert places.shape == (count, 2) and np.isfinite(places).all()
    assert places.min() >= 0 and places.max() <= 1


def test_what_is_not_there_is_said(embedded):
    assert cli.main(arguments=["map", embedded.uri, "--landmarks", "1"]) == cli.USAGE
    View(columns={"preview": Column("preview", "none")}).save(embedded, "bare")
    with pytest.raises(UsageError, match="embed"):
        MakeMap(dataset=embedded.uri, view="bare").run()


def test_a_takedown_takes_its_clips_off_the_map(embedded):
    column = make_map(embedded, EMBED, 120)
    gone = f"{3:016x}"
    remove(embedded, {gone: "film.mp4"})
    rows = scans.table(embedded, "map", column).to_pylist()
    assert rows and not any(row["clip_id"].startswith(gone) for row in rows)


@pytest.mark.parametrize("odd", [[1.0, 0.0], [float("nan")] * 32, []])
def test_embeddings_that_are_none_are_said(embedded, odd):
    row = {"clip_id": f"{1:016x}-99999999", "shard": 5, "num_frames": 1, "vector": odd}
    with ShardCommit(embedded, EMBED, 5, 0) as commit:
        commit.commit({"embeddings": [row], "drops": [], "failures": []}, Account(1, 1, 0, 0))
    with pytest.raises(IntegrityError, match="embeddings"):
        make_map(embedded, EMBED, 400)
