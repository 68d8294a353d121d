"""Verify: is every committed byte still there, and is every item accounted for?

Cheap: files exist with their sizes, parts have their rows, accounts add up from stage to stage. Deep: also
sha256 of each tar and part, crc32 of each member, and the tar's own structure against the index.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from manifests import queries
from manifests.errors import RushesError
from manifests.layout import Column, Dataset
from manifests.schemas import is_of_today, parts_of, to_table, with_parts
from manifests.store import storage
from manifests.store.shards import Member
from manifests.views import View
from manifests.writing.commit import Account, parquet_bytes
from manifests.writing.events import run_ids


@dataclass(frozen=True)
class Checked:
    """What was found of one shard of a column version.

    Attributes:
        stamp: size and time of its commit record: one that was made again has another.
    """

    column: str
    shard: int
    depth: str  # cheap | deep
    ok: bool
    problems: list[str]
    stamp: str


@dataclass
class Report:
    """What `verify` looked at and what is wrong."""

    num_shards: int = 0
    num_members: int = 0
    num_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    checked: list[Checked] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not self.problems


def _hash_file(dataset: Dataset, path: str) -> str:
    digest = hashlib.sha256()
    with dataset.filesystem.open_input_stream(path, compression=None) as stream:
        while block := stream.read(storage.CHUNK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _check_members(dataset: Dataset, path: str, members: list[Member]) -> Iterator[str]:
    """Compare a tar's own headers and payloads with the index."""
    expected = {member.name: member for member in members}
    try:
        with (
            dataset.filesystem.open_input_stream(path, compression=None) as raw,
            tarfile.open(fileobj=raw, mode="r|") as tar,
        ):
            for header in tar:
                member = expected.pop(header.name, None)
                if member is None:
                    yield f"{path}: holds {header.name}, which the index does not know"
                    continue
                stream = tar.extractfile(header)
                data = stream.read() if stream else b""
                if header.offset_data != member.offset or len(data) != member.size_bytes:
                    yield (
                        f"{path}: {header.name} lies at {header.offset_data}+{len(data)}, the index says "
                        f"{member.offset}+{member.size_bytes}"
                    )
                elif zlib.crc32(data) != member.crc32:
                    yield f"{path}: {header.name} has changed (crc32)"
    except (tarfile.TarError, OSError, EOFError) as error:
        yield f"{path}: not a readable tar ({error})"
    yield from (f"{path}: {name} is missing" for name in expected)


def _check_rows(dataset: Dataset, path: str, rows: int) -> Iterator[str]:
    """Compare a part's footer with the number of rows that were committed."""
    try:
        with dataset.filesystem.open_input_file(path) as file:
            found = pq.ParquetFile(file).metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        yield f"{path}: is no readable Parquet ({error})"
    else:
        if found != rows:
            yield f"{path}: has {found} rows, {rows} were committed"


def _check_shard(dataset: Dataset, record: dict, deep: bool, report: Report) -> Iterator[str]:
    column = Column(record["column"], record["fingerprint"])
    try:
        Account(record["num_in"], record["num_kept"], record["num_dropped"], record["num_failed"])
    except ValueError as error:
        yield f"{column} shard {record['shard']}: {error}"
    for part in record["parts"]:
        path = dataset.committed_part(part["table"], column, record["shard"], part["sha256"])
        if not storage.exists(dataset.filesystem, path):
            yield f"{path}: is missing"
        elif deep and _hash_file(dataset, path) != part["sha256"]:
            yield f"{path}: bytes have changed (sha256)"
        else:
            yield from _check_rows(dataset, path, part["rows"])
    if record["tar"] is None:
        return
    path = dataset.path(*record["tar"].split("/"))
    info = dataset.filesystem.get_file_info(path)
    report.num_members += len(record["members"])
    report.num_bytes += record["tar_bytes"]
    if not info.is_file:
        yield f"{path}: is missing"
    elif info.size != record["tar_bytes"]:
        yield f"{path}: has {info.size} bytes, {record['tar_bytes']} were committed"
    elif deep:
        if _hash_file(dataset, path) != record["tar_sha256"]:
            yield f"{path}: bytes have changed (sha256)"
        yield from _check_members(dataset, path, [Member(**member) for member in record["members"]])


def _check_accounts(dataset: Dataset) -> Iterator[str]:
    """Every planned segment must have left a trace, and no source row may lack a verdict."""
    seen: dict[int, set[str]] = {}
    for column in dataset.columns():
        if column.name != "preview":
            continue
        for shard in dataset.committed_shards(column):
            rows = queries.rows_of_shard(dataset, "clips", column, shard)
            traces = {row["segment_id"] for row in rows}
            for name in ("drops", "failures"):
                for row in queries.rows_of_shard(dataset, name, column, shard):
                    traces.add(row["item_id"].split("/")[0])
            seen[shard] = traces
    segments = queries.plan(dataset).to_pylist()
    planned = {row["shard"] for row in segments}
    for shard in sorted(seen.keys() - planned if run_ids(dataset) else ()):  # what no run made has no plan
        yield f"{dataset.path('plan')}: shard {shard} is committed, and no generation of the plan has it"
    for row in segments:
        if row["shard"] in seen and row["segment_id"] not in seen[row["shard"]]:
            yield (
                f"segment {row['segment_id']} of {row['uri']} was curated but is neither kept, dropped nor "
                "failed"
            )
    for row in queries.table(dataset, "sources").to_pylist():
        if row["status"] not in {"kept", "dropped", "failed"} or (
            row["status"] != "kept" and not row["reason"]
        ):
            yield f"source {row['uri']}: has no verdict"


_WRITER = re.compile(r"parquet-cpp-arrow version [0-9.]+")


def _check_alone(dataset: Dataset, name: str, path: str) -> Iterator[str]:
    """A part that no other file names by its bytes: a record, or a generation's segments.

    By the checksums of its pages; where these versions of the format and of Arrow wrote it, also by writing
    its rows again.
    """
    try:
        data = storage.read_bytes(dataset.filesystem, path)
        file = pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True)
        rows, writer = to_table(name, file.read().to_pylist()), file.metadata.created_by
        if name == "segments":
            rows = with_parts(rows, parts_of(file.schema_arrow))
    except (pa.ArrowException, OSError, ValueError) as error:
        yield f"{path}: bytes have changed ({error})"
        return
    if not _WRITER.fullmatch(writer):
        yield f"{path}: bytes have changed (written by {writer!r})"
    elif (
        is_of_today(file.schema_arrow)
        and writer.endswith(f" {pa.__version__}")
        and parquet_bytes(rows) != data
    ):
        yield f"{path}: bytes have changed (its rows give others)"


def _check_plan(dataset: Dataset, deep: bool) -> Iterator[str]:
    """Every generation and the tables that it names."""
    for generation in dataset.generations():
        if deep:
            yield from _check_alone(dataset, "segments", dataset.plan_path(generation))
        try:
            digests = queries.plan_digests(dataset, generation)
        except RushesError as error:
            yield str(error)
            continue
        for name, digest in sorted(digests.items()):
            path = dataset.plan_part_path(name, generation, digest)
            if not storage.exists(dataset.filesystem, path):
                yield f"{path}: is missing"
            elif deep and _hash_file(dataset, path) != digest:
                yield f"{path}: bytes have changed (sha256)"


def _check_views(dataset: Dataset) -> Iterator[str]:
    """Every view can be read."""
    for info in storage.list_files(dataset.filesystem, dataset.path("views"), ".json"):
        try:
            View.load(dataset, info.base_name.removesuffix(".json"))
        except RushesError as error:
            yield str(error)


def note(dataset: Dataset, report: Report) -> str:
    """Keep what was found of each shard in `runs/verify-<time>.jsonl`, for the dashboard; gives its path."""
    name = time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + f"-{time.time_ns() % 10**6:06d}"
    path = dataset.path("runs", f"verify-{name}.jsonl")
    now_s = round(time.time(), 3)
    lines = [json.dumps({"time_s": now_s, **asdict(found)}) + "\n" for found in report.checked]
    storage.write_bytes(dataset.filesystem, path, "".join(lines).encode())
    return path


def verify(dataset: Dataset, deep: bool = False) -> Report:
    """Check every committed shard of every column, the plan, the views, and the accounts."""
    report = Report()
    for column in dataset.columns():
        for shard in dataset.committed_shards(column):
            report.num_shards += 1
            path, found = dataset.record_path(column, shard), list[str]()
            info = dataset.filesystem.get_file_info(path)
            try:
                if deep:
                    found += _check_alone(dataset, "shards", path)
                record = queries.record_of(dataset, column, shard)
                found += _check_shard(dataset, record, deep, report)
            except (OSError, ValueError, TypeError, KeyError, RushesError) as error:  # of a damaged record
                found.append(f"{path}: unreadable commit record ({error})")
            report.problems += found
            depth, stamp = "deep" if deep else "cheap", f"{info.size}-{info.mtime_ns}"
            report.checked.append(Checked(str(column), shard, depth, not found, found, stamp))
    report.problems += [*_check_plan(dataset, deep), *_check_views(dataset)]
    if report.is_sound:
        try:
            report.problems += _check_accounts(dataset)
        except (pa.ArrowException, OSError, RushesError) as error:
            report.problems.append(f"{dataset.uri}: a table of the plan cannot be read ({error})")
    return report
