"""Reading latents: the trainer's loader beside `webdataset` with PyTorch's DataLoader, and beside bare reads,
on the same tars.

    python benchmarks/loading.py [GIGABYTES] [--latency MS]

The first three ways end with every latent copied into one buffer in bfloat16, which a packer must do anyway;
the last makes packs that one can train on of it. CPU seconds of all processes a gigabyte, warm, medians of
three rounds taken in turn.

`--latency` has each read wait so long, as an object store does, and prints tokens a second of packs to train
on by how many reads are under way: a sample is two reads, its latent and its words.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from pyarrow.fs import LocalFileSystem
from safetensors.torch import load, save

from manifests.store.reading import MemberReader
from manifests.store.shards import Member, TarWriter
from trainer.config import FitConfig
from trainer.data.catalogue.catalog import Catalog
from trainer.data.loader import Loader, PackReader
from trainer.data.packs import pack_settings
from trainer.data.plan_stream import PlanStream
from trainer.data.samples import Sample, SampleTable
from trainer.data.tensors import tensors_in

SHARD_SAMPLES, ROUNDS, WORKERS, TOKENS = 200, 3, 2, 65536


def write(folder: Path, gigabytes: float) -> list[tuple[str, list[Member]]]:
    """Tars of safetensors latents of 0.05 to 2 MB, as the pipeline writes them."""
    rng, written, shards = np.random.default_rng(0), 0, []
    while written < gigabytes * 1e9:
        path = folder / f"{len(shards):06d}.tar"
        with TarWriter(path) as tar:
            for index in range(SHARD_SAMPLES):
                cells = int(np.exp(rng.uniform(np.log(0.05e6), np.log(2e6))) / 64)
                t = int(rng.integers(1, 20))
                side = max(4, int((cells / t) ** 0.5))
                latent = torch.randn(16, t, side, side).to(torch.bfloat16)
                tar.add(
                    f"{len(shards):03d}{index:05d}.latent.safetensors",
                    save({"mean": latent, "logvar": latent.clone()}),
                )
        shards.append((str(path), tar.members))
        written += path.stat().st_size
    return shards


def cpu_s() -> float:
    """CPU seconds of this process and of its children that have ended."""
    return sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def ours(shards: list[tuple[str, list[Member]]], buffer: torch.Tensor) -> int:
    """Reads by the index, crc32 checked, in threads, one copy: what `trainer.data.loader` does first."""
    reader = MemberReader(LocalFileSystem())
    rooms = [torch.zeros_like(buffer) for _ in range(WORKERS)]

    def some(number: int) -> int:
        total = 0
        for path, members in shards[number::WORKERS]:
            for member in members:
                for tensor in tensors_in(reader.view(path, member), member.name).values():
                    rooms[number][: tensor.numel()].copy_(tensor.flatten())
                    total += tensor.numel() * 2
        return total

    with ThreadPoolExecutor(WORKERS) as pool:
        return sum(pool.map(some, range(WORKERS)))


class Latents(PackReader):
    """The trainer's reader on tars of latents alone: every sample without words."""

    def __init__(self, shards: list[tuple[str, list[Member]]]) -> None:
        rows, places = {}, {}
        for path, members in shards:
            for member in members:
                t, h, w = tensors_in(MemberReader(LocalFileSystem()).view(path, member), member.name)[
                    "mean"
                ].shape[1:]
                rows[member.key] = {
                    "num_frames": 1 + (t - 1) * 4,
                    "height_px": h * 8,
                    "width_px": w * 8,
                    "fps": 16.0,
                    "latent_t": t,
                    "latent_h": h,
                    "latent_w": w,
                }
                places[member.key] = path, member
        catalog = Catalog(
            SampleTable.of([]), [], rows, places, [], [0.0] * 16, [1.0] * 16, 16, (4, 8, 8), 8, ""
        )
        super().__init__(None, catalog, FitConfig(tokens=TOKENS))
        self.members = MemberReader(LocalFileSystem())

    def _text(self, sample: Sample, rng: np.random.Generator, dropout: float) -> tuple[torch.Tensor, str]:
        return torch.zeros(1, 8), "none"


def whole(shards: list[tuple[str, list[Member]]], buffer: torch.Tensor) -> int:
    """Packs ready to train on: read, checked, a draw of each latent's posterior, normalised, cut into
    patches, with positions and validity.
    """
    reader, size = (
        Latents(shards),
        {member.key: member.size_bytes for _, members in shards for member in members},
    )
    packs = [
        [
            Sample(name, 0, row["latent_t"], row["latent_h"], row["latent_w"])
            for name, row in list(reader.catalog.clips.items())[at : at + 16]
        ]
        for at in range(0, len(size), 16)
    ]
    with ThreadPoolExecutor(WORKERS) as pool:
        for pack in pool.map(lambda pack: reader.read(pack, 0), packs):
            assert not pack.corrupt
    return sum(size.values())


class FarLatents(Latents):
    """The same, whose reads wait first."""

    def __init__(self, shards: list[tuple[str, list[Member]]], latency_s: float) -> None:
        super().__init__(shards)
        self.latency_s = latency_s

    def whole_latent(self, sample: Sample) -> tuple[torch.Tensor, torch.Tensor]:
        time.sleep(self.latency_s)
        return super().whole_latent(sample)

    def _text(self, sample: Sample, rng: np.random.Generator, dropout: float) -> tuple[torch.Tensor, str]:
        time.sleep(self.latency_s)
        return super()._text(sample, rng, dropout)


def tokens_a_second(reader: PackReader, reads: int, seconds: float = 8.0) -> float:
    """Through the trainer's loader, planning and packing included, after the first step."""
    rows = reader.catalog.clips
    table = SampleTable.of(
        [Sample(name, 0, row["latent_t"], row["latent_h"], row["latent_w"]) for name, row in rows.items()]
    )
    steps = Loader(reader, PlanStream(table, pack_settings(reader.config)), reads=reads).steps_from(0)
    next(steps)
    begin, count = time.monotonic(), 0
    while time.monotonic() - begin < seconds:
        count += sum(pack.num_tokens for pack in next(steps)[2])
    found = count / (time.monotonic() - begin)
    steps.close()
    return found


def theirs(shards: list[tuple[str, list[Member]]], buffer: torch.Tensor) -> int:
    """webdataset streaming the same tars through a DataLoader's workers."""
    import webdataset

    data = webdataset.WebDataset([path for path, _ in shards], shardshuffle=False, empty_check=False).map(
        lambda sample: load(sample["latent.safetensors"])
    )
    total = 0
    for tensors in torch.utils.data.DataLoader(data, batch_size=None, num_workers=WORKERS):
        for tensor in (tensors["mean"], tensors["logvar"]):
            buffer[: tensor.numel()].copy_(tensor.flatten())
            total += tensor.numel() * 2
    return total


def bare(shards: list[tuple[str, list[Member]]], buffer: torch.Tensor) -> int:
    """`pread`, crc32 and a copy: what any reader must do."""
    total, into = 0, buffer.view(torch.uint8).numpy()
    for path, members in shards:
        file = os.open(path, os.O_RDONLY)
        for member in members:
            data = os.pread(file, member.size_bytes, member.offset)
            zlib.crc32(data)
            into[: len(data)] = np.frombuffer(data, np.uint8)
            total += len(data)
        os.close(file)
    return total


def far(shards: list[tuple[str, list[Member]]], latency_s: float) -> None:
    reader = FarLatents(shards, latency_s)
    sizes = [
        row["latent_t"] * -(-row["latent_h"] // 2) * -(-row["latent_w"] // 2)
        for row in reader.catalog.clips.values()
    ]
    print(f"{latency_s * 1e3:g} ms a read, packs of {TOKENS} tokens, samples of {statistics.mean(sizes):.0f}")
    for reads in (1, 4, 48):
        print(f"{reads:4} reads under way {tokens_a_second(reader, reads):10,.0f} tokens a second")


def main() -> None:
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("gigabytes", nargs="?", type=float, default=1.0)
    parser.add_argument("--latency", type=float, default=0.0, help="milliseconds of each read")
    options = parser.parse_args()
    buffer = torch.zeros(8 << 20, dtype=torch.bfloat16)
    with tempfile.TemporaryDirectory() as folder:
        shards = write(Path(folder), options.gigabytes)
        if options.latency:
            far(shards, options.latency / 1e3)
            return
        ways = {
            "rushes loader": ours,
            "webdataset + DataLoader": theirs,
            "pread + crc32 + copy": bare,
            "rushes packs to train on": whole,
        }
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                begin = cpu_s()
                total = way(shards, buffer)
                found[name].append((cpu_s() - begin) / total * 1e9)
        base = statistics.median(found["rushes loader"])
        for name, values in found.items():
            print(
                f"{name:28}{statistics.median(values):8.2f} CPU s a GB, "
                f"{statistics.median(values) / base:6.2f} x rushes"
            )


if __name__ == "__main__":
    main()
