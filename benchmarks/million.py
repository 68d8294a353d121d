"""The tables of a million clips: what each question costs, and how it grows.

    python benchmarks/million.py --clips 100000 300000 1000000 [--keep FOLDER] [--assert]

The datasets are made by our own planner and writers, about 100 clips a shard, with tiny members; FOLDER keeps
them. Each figure is taken in a process of its own, before and after compaction. Exponents say how a figure
grows with the number of clips: 1 is linear. With --assert, aims that are missed end it with 1.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
AIMS = {
    "plan": {"cpu_s": 60},
    "lookup": {"ms": 5},
    "resolve a view": {"s": 10, "mb": 1500},
    "info": {"s": 2},
    "compact": {"s": 300},
    "objects a shard": {"count": 8},
}
"""Of a million clips."""
ASKED = {
    "plan": """
import made
from manifests.layout import Dataset
made.plan(Dataset.create(given + "-plan"), clips)
""",
    "lookup": """
import random
from manifests.layout import Dataset
from manifests.tables import planned, records
import made
dataset = Dataset(given)
shards = list(planned.shards(dataset))
chance = random.Random(1)
def once():
    shard = chance.choice(shards)
    for name, question in {
        "members": lambda: records.members_of_shard(dataset, made.COLUMNS["preview"], shard),
        "clips": lambda: records.rows_of_shard(dataset, "clips", made.COLUMNS["preview"], shard),
        "plan": lambda: planned.rows_of_shard(dataset, shard, 0),
    }.items():
        begin = time.perf_counter()
        question()
        times.setdefault(name, []).append(time.perf_counter() - begin)
times = {}
for _ in range(100):
    once()
for name, taken in times.items():
    told[name + "_ms"] = sorted(taken)[50] * 1000
told["ms"] = max(told[name + "_ms"] for name in times)
""",
    "resolve a view": """
from manifests.layout import Dataset
from manifests.views import View
dataset = Dataset(given)
told["clips"] = len(View.load(dataset).kept(dataset))
""",
    "info": """
import contextlib, io
from manifests import cli
with contextlib.redirect_stdout(io.StringIO()):
    begin = time.perf_counter(); assert cli.main(arguments=["info", given]) == 0
""",
    "verify": """
from manifests.layout import Dataset
from manifests.verify import verify
report = verify(Dataset(given))
assert report.is_sound, report.problems[:3]
""",
    "compact": """
from manifests.layout import Dataset
from manifests.writing.compact import compact
compact(Dataset(given))
""",
}
_FRAME = """
import json, sys, time
sys.path[:0] = [{here!r}, {root!r}]
given, clips, told = sys.argv[1], int(sys.argv[2]), {{}}
begin, begin_cpu = time.perf_counter(), time.process_time()
{code}
told.setdefault("s", time.perf_counter() - begin)
told["cpu_s"] = time.process_time() - begin_cpu
status = open("/proc/self/status").read()
told["mb"] = int(status.split("VmHWM:")[1].split()[0]) / 1000
print(json.dumps(told))
"""


def ask(name: str, dataset: Path, clips: int) -> dict[str, float]:
    """One figure, in a process of its own."""
    code = _FRAME.format(here=str(HERE), root=str(HERE.parent), code=ASKED[name])
    command = [sys.executable, "-c", code, str(dataset), str(clips)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return told


def measure(folder: Path, clips: int) -> dict[str, dict[str, float]]:
    """All figures of one size."""
    from made import make

    dataset = folder / f"clips-{clips}"
    begin = time.perf_counter()
    make(dataset, clips)
    print(f"{clips:,} clips: made in {time.perf_counter() - begin:.0f} s", flush=True)
    found = {"plan": ask("plan", dataset, clips)}
    shutil.rmtree(f"{dataset}-plan")
    if list((dataset / "tables" / "shards").glob("*/0*.parquet")):
        for name in ("lookup", "resolve a view", "info"):
            found[f"{name}, small files"] = ask(name, dataset, clips)
        found["compact"] = ask("compact", dataset, clips)
    for name in ("lookup", "resolve a view", "info", "verify"):
        found[name] = ask(name, dataset, clips)
    num_files = sum(path.is_file() for path in dataset.rglob("*"))
    found["objects a shard"] = {"count": num_files / max(1, clips // 100)}
    for name, told in found.items():
        words = "  ".join(f"{key} {value:.4g}" for key, value in told.items())
        print(f"  {name:28}{words}", flush=True)
    return found


def main() -> int:
    """Make, measure, print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, nargs="+", default=[20_000, 60_000])
    parser.add_argument("--keep", type=Path)
    parser.add_argument("--assert", dest="asserts", action="store_true")
    given = parser.parse_args()
    sys.path.insert(0, str(HERE.parent))
    scratch = Path(tempfile.mkdtemp(prefix="rushes-bench-"))
    try:
        found = {clips: measure(given.keep or scratch, clips) for clips in sorted(given.clips)}
    finally:
        shutil.rmtree(scratch)
    small, large = min(found), max(found)
    missed = []
    for name, told in found[large].items():
        for key, aim in AIMS.get(name, {}).items():
            if told[key] > aim:
                missed.append(f"{name} {key} {told[key]:.4g} (aim {aim})")
        before = found[small].get(name, {})
        if small < large and before.get("cpu_s"):
            growth = math.log(told["cpu_s"] / before["cpu_s"]) / math.log(large / small)
            print(f"growth of {name}: {growth:.2f}")
    print(f"over the aim: {', '.join(missed) or 'nothing'}")
    return int(given.asserts and bool(missed))


if __name__ == "__main__":
    sys.exit(main())
