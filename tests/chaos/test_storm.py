"""A storm: kills at random moments, stores that fail, bytes that change. `make chaos` is the long form.

Seeded by RUSHES_CHAOS_SEED; RUSHES_CHAOS is how many times longer than in CI.
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path

import pytest

from manifests.cli import INTERRUPTED
from manifests.layout import Dataset
from manifests.store import storage
from manifests.tables import scans
from manifests.verify import verify
from tests.chaos.shaky_store import ShakyStore
from tests.chaos.test_death import site
from tests.conftest import ingest_here
from tests.e2e.commands import INGEST, committed, run, start
from tests.e2e.test_s3 import stored_in

SCALE = int(os.environ.get("RUSHES_CHAOS", "1"))
SEED = int(os.environ.get("RUSHES_CHAOS_SEED", "0"))
pytestmark = pytest.mark.slow

SLOWER = """
import os, time
from manifests.writing.commit import ShardCommit
real = ShardCommit.commit
def commit(self, *arguments, **options):
    time.sleep(0.7)
    if os.environ.get("FULL_DISK"):
        raise OSError(28, "No space left on device")
    return real(self, *arguments, **options)
ShardCommit.commit = commit
"""


def family(process):
    """Ids of all processes below one, with their names: its Ray's and its workers'."""
    parents, names = {}, {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            name, _, rest = (place / "stat").read_text().rpartition(") ")
            parents[int(place.name)] = int(rest.split()[1])
            names[int(place.name)] = name.partition(" (")[2]
    found, todo = {}, [process.pid]
    while todo:
        children = [pid for pid, parent in parents.items() if parent in todo]
        found |= {pid: names[pid] for pid in children}
        todo = children
    return found


def alive(pid):
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[0] != "Z"
    return False


class Storm:
    """Kills of one ingest, begun again and again."""

    def __init__(self, films, path, seed):
        self.films, self.path, self.rng, self.told = films, path, random.Random(seed), []
        self.seen: set[int] = set()

    def begin(self, out, **extra):
        process = start(
            "ingest", self.films, "--out", out, *INGEST, "--plan.shard-s", 4, PYTHONPATH=self.path, **extra
        )
        lines: list[str] = []
        self.reader = threading.Thread(target=lambda: lines.extend(process.stdout), daemon=True)
        self.reader.start()
        return process, lines

    def blow(self, out):
        """One run of the ingest, and what happens to it."""
        deed = self.rng.choice(["kill", "kill", "worker", "terminate", "interrupt", "second", "full"])
        self.told.append(deed)
        process, lines = self.begin(out, **({"FULL_DISK": "1"} if deed == "full" else {}))
        until_s = time.monotonic() + self.rng.uniform(0.5, 14)
        while time.monotonic() < until_s and process.poll() is None:
            time.sleep(0.1)
        below = family(process)
        self.seen |= set(below)
        workers = sorted(pid for pid, name in below.items() if name.startswith("ray::"))
        if deed == "worker" and workers:
            os.kill(self.rng.choice(workers), signal.SIGKILL)
            time.sleep(self.rng.uniform(0, 4))
        if deed == "second" and process.poll() is None and any("[1/" in line for line in lines):
            refused = run("ingest", self.films, "--out", out, *INGEST, "--plan.shard-s", 4, check=None)
            assert refused.returncode == 2 or process.poll() is not None, refused.stderr
        if deed == "full":
            process.wait(120)
            assert process.returncode in {0, 1}, "".join(lines)  # 0: nothing was left to be written
        elif process.poll() is None and deed in {"interrupt", "terminate"}:
            number = signal.SIGINT if deed == "interrupt" else signal.SIGTERM
            for _ in range(2):  # whoever is impatient presses it again
                process.send_signal(number)
                time.sleep(self.rng.uniform(0, 2))
            early = {-number} if not lines else set()  # before Python had begun
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(60)
                self.reader.join(10)  # so that what it said last is told
            assert process.poll() in {INTERRUPTED, 0} | early, f"{self.told[-1]}: {''.join(lines)}"
        elif process.poll() is None:
            process.kill()
        process.wait(60)
        assert not verify(Dataset(str(out))).problems if (Path(out) / "dataset.json").exists() else True


@pytest.mark.ray
@pytest.mark.timeout(4000)
def test_kills_at_random_moments_change_no_byte_of_the_dataset_in_the_end(films, tmp_path):
    reference = committed(Path(ingest_here(films, tmp_path / "reference", shard_s=4).uri))
    storm = Storm(films, site(tmp_path / "site", SLOWER), SEED)
    for dataset in range(SCALE):
        out = tmp_path / f"ds{dataset}"
        for _ in range(3 if SCALE == 1 else 10):
            storm.blow(out)
        run("ingest", films, "--out", out, *INGEST, "--plan.shard-s", 4)
        made = {name: digest for name, digest in committed(out).items() if "/dedup@" not in name}
        assert made == {name: digest for name, digest in reference.items() if "/dedup@" not in name}
        assert verify(Dataset(str(out)), deep=True).is_sound
        shutil.rmtree(out)
    until_s = time.monotonic() + 30
    while any(map(alive, storm.seen)) and time.monotonic() < until_s:
        time.sleep(0.5)
    assert not [pid for pid in storm.seen if alive(pid)]  # nothing of Ray outlives its driver
    print(f"{len(storm.told)} storms: {', '.join(storm.told)}")


@pytest.mark.timeout(4000)
def test_a_store_that_fails_one_request_in_twenty_holds_the_same_bytes(films, dataset, bucket):
    address, _ = bucket
    port = int(address("x").partition("127.0.0.1:")[2].partition("&")[0])
    with ShakyStore(port, SEED) as shaky:
        uri = address("ds").replace(f":{port}", f":{shaky.port}")
        for number in range(max(1, SCALE // 10)):
            threading.Timer(2.0, shaky.pause, [3.0]).start()  # and is away for a while
            ingest_here(films, uri.replace("/ds", f"/ds{number}"))
            stored = stored_in(Dataset(address(f"ds{number}")))
            assert stored == committed(Path(dataset.uri))
    assert sum(shaky.faults.values()) - shaky.faults["none"] > 10
    print(dict(shaky.faults))


@pytest.mark.timeout(4000)
def test_every_flip_cut_and_deletion_of_a_tar_or_a_part_is_named(dataset, tmp_path):
    shutil.copytree(dataset.uri, tmp_path / "ds")
    copy, rng = Dataset(str(tmp_path / "ds")), random.Random(SEED)
    named = set()
    for row in scans.table(copy, "shards").to_pylist():
        named |= {row["tar"]} if row["tar"] else set()
    paths = sorted(
        [tmp_path / "ds" / name for name in named]
        + [path for folder in ("tables", "plan") for path in (tmp_path / "ds" / folder).rglob("*.parquet")]
    )
    assert verify(copy, deep=True).is_sound
    for _ in range(30 if SCALE == 1 else 100 * SCALE):
        path = rng.choice(paths)
        whole = path.read_bytes()
        is_record = "shards" in path.parts  # without its record a column is not there, and is made again
        deed = rng.choice(["flip", "cut"] if is_record else ["flip", "cut", "delete"])
        if deed == "delete":
            path.unlink()
        else:
            data = bytearray(whole)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            path.write_bytes(data if deed == "flip" else whole[: rng.randrange(len(whole))])
        found = verify(copy, deep=True)
        is_plan = path.relative_to(tmp_path / "ds").parts[0] == "plan"
        name = "of the plan" if is_plan and deed == "delete" else path.name
        assert any(name in problem for problem in found.problems), (deed, path, found.problems)
        path.write_bytes(whole)
    assert storage.is_local(copy.filesystem) and verify(copy, deep=True).is_sound
