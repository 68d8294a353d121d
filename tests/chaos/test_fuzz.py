"""Mutants: media, tars, lists, sidecars and files of a dataset with changed bytes.

Nothing crashes the driver, and each file is accounted for.
"""

import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from manifests.errors import RushesError
from manifests.layout import Dataset
from manifests.tables import scans
from manifests.verify import verify
from manifests.views import View
from pipeline.footage.sources import list_sources
from tests.chaos.test_storm import SCALE, SEED
from tests.e2e.commands import run

REAL = Path(os.environ.get("RUSHES_REAL_VIDEOS", "../shared/videos"))
pytestmark = pytest.mark.slow
MOST_BYTES = 300_000


def mutant(data: bytes, rng: random.Random) -> bytes:
    """The bytes with a few changed, cut off, zeroed, doubled or exchanged."""
    found = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(found)) if found else 0
        size = rng.choice([1, 2, 4, 16, 256, 4096])
        deed = rng.choice(["flip", "flip", "cut", "zero", "noise", "double", "large"])
        if deed == "flip" and found:
            found[at] ^= 1 << rng.randrange(8)
        elif deed == "cut":
            del found[at:]
        elif deed == "zero":
            found[at : at + size] = bytes(min(size, len(found) - at))
        elif deed == "noise":
            found[at : at + size] = rng.randbytes(min(size, len(found) - at))
        elif deed == "double":
            found[at:at] = found[at : at + size]
        elif deed == "large":
            found[at : at + 4] = b"\xff\xff\xff\x7f"[: len(found) - at]
    return bytes(found)


@pytest.mark.ray
@pytest.mark.timeout(4000)
def test_mutated_media_are_each_accounted_for(films, tmp_path):
    if not REAL.is_dir():
        pytest.skip("RUSHES_REAL_VIDEOS names no folder of real videos")
    rng, folder = random.Random(SEED), tmp_path / "mutants"
    folder.mkdir()
    real = [path for path in sorted(REAL.rglob("*")) if path.is_file() and path.stat().st_size < MOST_BYTES]
    sound = [
        path for path in [*real, *sorted(films.iterdir())] if path.suffix not in {".tsv", ".json", ".md"}
    ]
    for number in range(40 * SCALE):
        path = rng.choice(sound)
        (folder / f"m{number:05d}{path.suffix}").write_bytes(mutant(path.read_bytes(), rng))
    began = time.monotonic()
    done = run("ingest", folder, "--out", tmp_path / "ds", "--encode.max-pixels", 2048, check=None)
    assert done.returncode in {0, 3}, done.stdout + done.stderr
    made = Dataset(str(tmp_path / "ds"))
    assert verify(made).is_sound
    sources = scans.table(made, "sources").to_pylist()
    members = {row["uri"].partition("#")[0] for row in sources}
    assert members == {str(path) for path in folder.iterdir()}
    frames: Counter[str] = Counter()
    uncounted = set()
    for name in ("clips", "drops", "failures"):
        for row in scans.table(made, name).to_pylist():
            if row.get("stage", "preview") == "preview":
                frames[row["source_id"]] += row["num_frames"] or 0
                uncounted |= {row["source_id"]} if row["num_frames"] is None else set()
    for row in sources:
        if row["status"] == "kept" and row["source_id"] not in uncounted:
            assert frames[row["source_id"]] == row["num_packets"], row["uri"]
    states = dict(Counter(row["status"] for row in sources))
    print(f"{len(sources)} mutants in {time.monotonic() - began:.0f} s: {states}, {len(uncounted)} uncounted")


def listing(path):
    """What the footage at a path holds, or a refusal that names the cause."""
    try:
        return list_sources([str(path)])
    except RushesError as error:
        assert str(error)
        return []


def test_mutated_lists_sidecars_and_tars_end_no_listing(films, tmp_path):
    rng, folder = random.Random(SEED), tmp_path / "footage"
    folder.mkdir()
    film = next(path for path in sorted(films.glob("film-*.mp4")))
    shutil.copy(film, folder / "a.mp4")
    shutil.make_archive(str(tmp_path / "whole"), "tar", folder)
    texts = {
        "list.jsonl": b'{"uri": "a.mp4", "alt": "a red ball"}\n{"uri": "b.mp4"}\n',
        "list.csv": b"uri,alt\na.mp4,a red ball\nb.mp4,\n",
        "list.txt": b"a.mp4\nb.mp4\n",
        "whole.tar": (tmp_path / "whole.tar").read_bytes(),
    }
    sidecars = {"a.json": b'{"alt": "a red ball", "captions": [{"text": "x"}]}', "a.txt": b"a red ball"}
    for _ in range(100 * SCALE):
        name = rng.choice([*texts, *sidecars])
        target = folder / name if name in sidecars else tmp_path / f"mutated-{name}"
        target.write_bytes(mutant((texts | sidecars)[name], rng))
        found = listing(folder if name in sidecars else target)
        if name in sidecars:
            assert str(folder / "a.mp4") in {item.uri for item in found}
            target.unlink()


def test_mutated_files_of_a_dataset_are_named_or_harmless(dataset, tmp_path):
    shutil.copytree(dataset.uri, tmp_path / "ds")
    rng = random.Random(SEED)
    paths = sorted(path for path in (tmp_path / "ds").rglob("*") if path.is_file() and path.suffix != ".tar")
    for _ in range(30 * SCALE):
        path = rng.choice(paths)
        whole = path.read_bytes()
        path.write_bytes(mutant(whole, rng))
        try:
            made = Dataset(str(tmp_path / "ds"))
            verify(made)
            View.load(made).clips(made)
            scans.table(made, "captions")
        except RushesError as error:
            assert str(error)
        path.write_bytes(whole)
