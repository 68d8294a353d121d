"""What the catalogue of a training run takes of a node: bytes a clip, shared by its processes.

    python benchmarks/catalogue.py [--clips 1000000] [--processes 4] [--latents 6]

Tables of so many clips are made in memory in place of a dataset's (two captions a clip, a hundred clips a
shard, slabs of time in every latent); all else is the trainer's own code. Each process looks up ten thousand
clips and plans a step, then says what it holds. Memory is proportional set size: what is shared counts once.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pyarrow as pa

from learning import processes
from learning.launching import run_processes
from learning.sharing import shared
from trainer.config import FitConfig
from trainer.data.catalogue import catalog as catalogs
from trainer.data.catalogue import gathering
from trainer.data.packs import pack_settings
from trainer.data.plan_stream import PlanStream

PER_SHARD, CAPTIONS, LOOKUPS = 100, 2, 10_000


def names(count: int) -> np.ndarray:
    """Ids as they are: sixteen digits of a source and eight of milliseconds."""
    numbers = np.arange(count, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    return np.array([b"%016x-%08d" % (number, 4000) for number in numbers.tolist()])


def text(values: np.ndarray) -> pa.Array:
    found = pa.array(values, pa.binary()).cast(pa.string())
    return found.combine_chunks() if isinstance(found, pa.ChunkedArray) else found


def made(count: int, latents: int) -> dict[str, pa.Table]:
    """Tables `latents`, `shards` and `text` of so many clips."""
    rng, ids = np.random.default_rng(0), names(count)
    length = rng.integers(1, 2 * latents, count).astype(np.int32)
    offsets = pa.array(np.concatenate([[0], np.cumsum(length)]).astype(np.int32))
    numbers = {name: pa.array(rng.integers(16, 64, count).astype(np.int32)) for name in gathering.NUMBERS}
    numbers["shard"] = pa.array((np.arange(count) // PER_SHARD).astype(np.int32))
    numbers["latent_t"], numbers["fps"] = pa.array(length), pa.array(np.full(count, 24.0))
    same = {"num_channels": 16, "factor_t": 4, "factor_px": 8}
    rows = {
        "clip_id": text(ids),
        **numbers,
        **{name: pa.array(np.full(count, value, dtype=np.int32)) for name, value in same.items()},
        "slab_crc32": pa.ListArray.from_arrays(offsets, pa.array(rng.integers(0, 1 << 32, length.sum()))),
    }
    shards = count // PER_SHARD
    found = {"latents": pa.table(rows)}
    for column in ("latent", "text"):
        member = pa.StructArray.from_arrays(
            [
                text(np.char.add(ids, f".{column}.safetensors".encode())),
                *(pa.array(rng.integers(0, 1 << 30, count)) for _ in range(3)),
            ],
            ["name", "offset", "size_bytes", "crc32"],
        )
        lists = pa.ListArray.from_arrays(pa.array(np.arange(shards + 1, dtype=np.int32) * PER_SHARD), member)
        tars = pa.array([f"columns/{column}/bench/{shard:09d}.tar" for shard in range(shards)])
        found[f"shards {column}"] = pa.table({"tar": tars, "members": lists})
    captions = [b"%016x" % number for number in range(CAPTIONS * count)]
    found["text"] = pa.table(
        {
            "clip_id": text(np.repeat(ids, CAPTIONS)),
            "caption_id": text(np.array(captions)),
            "kind": pa.array(["dense", "short"] * count),
            "source": pa.array(["captioner"] * (CAPTIONS * count)),
            "width": pa.array(np.full(CAPTIONS * count, 4096, dtype=np.int32)),
        }
    )
    return found


def held_bytes() -> float:
    """Proportional set size of this process."""
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024.0
    return 0.0


def gather(count: int, latents: int) -> tuple[dict, dict]:
    """The catalogue's columns, by the trainer's own code, from tables in memory."""
    tables = made(count, latents)
    begin, first = time.process_time(), held_bytes()

    def table(_dataset: object, name: str, column: str, fields: list[str], *_: object) -> pa.Table:
        found = tables[f"shards {column}" if name == "shards" else name]
        return found.select(fields)

    view = SimpleNamespace(
        column=lambda name: name,
        clips=lambda _dataset, fields: tables["latents"].select(fields),
        columns={},
        digest="bench",
    )
    dataset = SimpleNamespace(path=lambda *parts: "/".join(parts), address="bench")
    with mock.patch.object(gathering.scans, "table", table):
        arrays, told = gathering.gathered(dataset, [view], FitConfig(), ())  # type: ignore[arg-type, list-item]
    size = sum(value.nbytes for value in arrays.values())
    print(
        f"{count:,} clips of {latents} latents on average: {size / count:.0f} bytes a clip, gathered in "
        f"{time.process_time() - begin:.0f} CPU s; the tables that are read here take {first / 1e9:.2f} GB",
        flush=True,
    )
    return arrays, told


def work(options: argparse.Namespace) -> None:
    """One process of a node."""
    processes.join()
    before = held_bytes()
    arrays, told = shared("the catalogue", lambda: gather(options.clips, options.latents))
    stats = {"mean": [0.0] * 16, "std": [1.0] * 16}
    catalog = catalogs._catalog(arrays, told, stats)
    rng, begin = np.random.default_rng(processes.dist.get_rank()), time.process_time()
    for row in rng.integers(0, len(catalog.table), LOOKUPS).tolist():
        name = catalog.table.clip_ids[row]
        _ = catalog.clips[name], catalog.latents[name], catalog.views[0].captions[name]
    each = (time.process_time() - begin) / LOOKUPS
    processes.wait_for_all()
    own = held_bytes() - before
    total = sum(processes.exchanged(own))
    if processes.leads_node():
        print(
            f"{options.processes} processes of a node hold {total / 1e9:.2f} GB in all, "
            f"{total / options.clips:.0f} bytes a clip; {each * 1e6:.0f} us a clip looked up",
            flush=True,
        )
    stream = PlanStream(catalog.table, pack_settings(FitConfig(tokens=32768)))
    stream.at(0)
    total = sum(processes.exchanged(held_bytes() - before))
    if processes.leads_node():
        print(f"with a plan under way {total / 1e9:.2f} GB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--clips", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--latents", type=int, default=6)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        work(options)
    else:
        sys.exit(run_processes([sys.executable, *sys.argv, "--one"], options.processes))


if __name__ == "__main__":
    main()
