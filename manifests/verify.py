"""Verify: is every committed byte still there, and is every item accounted for?

Cheap: files exist with their sizes, parts have their rows, accounts add up from stage to stage. Deep: also
sha256 of each tar and part, crc32 of each member, and the tar's own structure against the index.
"""

from __future__ import annotations

import io
import json
import re
import tarfile
import time
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests import snapshots
from manifests.errors import RushesError
from manifests.layout import Column, Dataset, header_bytes
from manifests.runs.events import run_ids, stamp
from manifests.schemas import FORMAT_VERSION, is_of_today, parts_of, to_table, with_parts
from manifests.store import storage
from manifests.store.shards import Member
from manifests.tables import planned, records, scans
from manifests.tables.parts import named
from manifests.views import View
from manifests.writing.commit import Account, parquet_bytes
from manifests.writing.removing import pending
from manifests.writing.unnamed import lost_snapshot, lost_tars, unnamed_tars


@dataclass(frozen=True)
class Checked:
    """What was found of one shard of a column version.

    Attributes:
        stamp: size and time of its commit record: one that was made again has another.
        tar, tar_ns: its tar, and when that was written [unix time, ns]; none where it has none.
    """

    column: str
    shard: int
    depth: str  # cheap | deep
    ok: bool
    problems: list[str]
    stamp: str
    tar: str | None = None
    tar_ns: int = 0


@dataclass
class Report:
    """What `verify` looked at and what is wrong.

    Attributes:
        num_unnamed, unnamed_bytes: tars that no record and no named snapshot names.
    """

    num_shards: int = 0
    num_members: int = 0
    num_bytes: int = 0
    num_unnamed: int = 0
    unnamed_bytes: int = 0
    problems: list[str] = field(default_factory=list)
    checked: list[Checked] = field(default_factory=list)

    @property
    def is_sound(self) -> bool:
        return not self.problems


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


def _check_parts(dataset: Dataset, record: dict, deep: bool) -> Iterator[str]:
    """The small files that a record names."""
    column = Column(record["column"], record["fingerprint"])
    for part in record["parts"]:
        if not part["sha256"]:
            continue
        path = dataset.committed_part(part["table"], column, record["shard"], part["sha256"])
        if not storage.exists(dataset.filesystem, path):
            yield f"{path}: is missing"
        elif deep and storage.sha256_of(dataset.filesystem, path) != part["sha256"]:
            yield f"{path}: bytes have changed (sha256)"
        else:
            yield from _check_rows(dataset, path, part["rows"])


def _check_shard(
    dataset: Dataset, record: dict, sizes: dict[str, int], deep: bool, report: Report
) -> Iterator[str]:
    """A commit's account and its tar.

    Args:
        sizes: of the tars that the column has, by their path.
    """
    try:
        Account(record["num_in"], record["num_kept"], record["num_dropped"], record["num_failed"])
    except ValueError as error:
        yield f"{record['column']}@{record['fingerprint']} shard {record['shard']}: {error}"
    if record["tar"] is None:
        return
    path = dataset.path(*record["tar"].split("/"))
    report.num_members += len(record["members"])
    report.num_bytes += record["tar_bytes"]
    if path not in sizes:
        yield f"{path}: is missing"
    elif sizes[path] != record["tar_bytes"]:
        yield f"{path}: has {sizes[path]} bytes, {record['tar_bytes']} were committed"
    elif deep:
        if storage.sha256_of(dataset.filesystem, path) != record["tar_sha256"]:
            yield f"{path}: bytes have changed (sha256)"
        yield from _check_members(dataset, path, [Member(**member) for member in record["members"]])


def _check_accounts(dataset: Dataset) -> Iterator[str]:
    """Every planned segment must have left a trace, and no source row may lack a verdict."""
    planned_rows = planned.segments(dataset, fields=["shard", "segment_id", "source_id", "uri"])
    if going := pending(dataset):
        ends = "give `rushes compact` or `rushes remove` again"
        yield f"{dataset.path('removed')}: a takedown of {len(going)} sources has not ended: {ends}"
        planned_rows = planned_rows.filter(
            pc.invert(pc.is_in(planned_rows["source_id"], pa.array(sorted(going))))
        )
    in_plan = planned_rows["shard"].unique()
    for column in dataset.columns():
        if column.name != "preview":
            continue
        shards = pa.array(dataset.committed_shards(column), pa.int32())
        accounts = scans.table(dataset, "shards", column, ["shard", "num_in"])
        some = accounts.filter(pc.greater(accounts["num_in"], 0))["shard"]  # a takedown may leave nothing
        strange = some[:0] if going else some.filter(pc.invert(pc.is_in(some, in_plan)))
        for shard in strange.to_pylist() if run_ids(dataset) else ():  # what no run made has no plan
            yield f"{dataset.path('plan')}: shard {shard} is committed, and no generation of the plan has it"
        traces = [scans.table(dataset, "clips", column, ["segment_id"])["segment_id"]]
        for name in ("drops", "failures"):
            items = scans.table(dataset, name, column, ["item_id"])["item_id"]
            traces.append(pc.replace_substring_regex(items, "/.*", ""))
        seen = pa.chunked_array([chunk for found in traces for chunk in found.chunks], pa.string())
        curated = planned_rows.filter(pc.is_in(planned_rows["shard"], shards))
        lost = curated.filter(pc.invert(pc.is_in(curated["segment_id"], seen)))
        for row in lost.to_pylist():
            yield (
                f"segment {row['segment_id']} of {row['uri']} was curated but is neither kept, dropped nor "
                "failed"
            )
    sources = scans.table(dataset, "sources", None, ["uri", "status", "reason"])
    has_none = pc.or_(
        pc.invert(pc.is_in(sources["status"], pa.array(["kept", "dropped", "failed"]))),
        pc.and_(pc.not_equal(sources["status"], "kept"), pc.equal(pc.coalesce(sources["reason"], ""), "")),
    )
    for uri in sources.filter(pc.fill_null(has_none, True))["uri"].to_pylist():
        yield f"source {uri}: has no verdict"


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
            digests = planned.digests(dataset, generation)
        except RushesError as error:
            yield str(error)
            continue
        for name, digest in sorted(digests.items()):
            path = dataset.plan_part_path(name, generation, digest)
            if not storage.exists(dataset.filesystem, path):
                yield f"{path}: is missing"
            elif deep and storage.sha256_of(dataset.filesystem, path) != digest:
                yield f"{path}: bytes have changed (sha256)"


def _check_header(dataset: Dataset) -> Iterator[str]:
    """`dataset.json` is as a version up to this one writes it."""
    path = dataset.path("dataset.json")
    newest = int(FORMAT_VERSION.partition(".")[2])
    minor = str(dataset.header.get("format", "")).partition(".")[2]
    if minor not in {str(number) for number in range(newest + 1)}:
        yield f"{path}: has format {dataset.header.get('format')}, this version knows up to {FORMAT_VERSION}"
        return
    is_by_hand = dataset.header.keys() == {"format"}
    written = header_bytes(str(dataset.header["format"]))
    if not is_by_hand and storage.read_bytes(dataset.filesystem, path) != written:
        yield f"{path}: bytes have changed; it should be {written.decode()!r}"


def _check_views(dataset: Dataset) -> Iterator[str]:
    """Every view can be read."""
    for name in View.names(dataset):
        try:
            View.load(dataset, name)
        except RushesError as error:
            yield str(error)


def note(dataset: Dataset, report: Report) -> str:
    """Keep what was found of each shard in `runs/verify-<time>.jsonl`, for the dashboard; gives its path."""
    path = dataset.path("runs", f"verify-{stamp()}.jsonl")
    now_s = round(time.time(), 3)
    lines = [json.dumps({"time_s": now_s, **asdict(found)}) + "\n" for found in report.checked]
    storage.write_bytes(dataset.filesystem, path, "".join(lines).encode())
    return path


def _check_merged(dataset: Dataset, deep: bool) -> Iterator[str]:
    """The merged files of the snapshot, and the named snapshots."""
    checked = set[str]()
    for snapshot in [dataset.snapshot, *_named(dataset)]:
        if isinstance(snapshot, str):
            yield snapshot
            continue
        for merged in snapshot.files():
            path = dataset.path(*merged.path.split("/"))
            if path in checked:
                continue
            checked.add(path)
            info = dataset.filesystem.get_file_info(path)
            if not info.is_file:
                yield f"{path}: is missing"
            elif info.size != merged.size_bytes:
                yield f"{path}: has {info.size} bytes, {merged.size_bytes} were committed"
            elif deep and storage.sha256_of(dataset.filesystem, path) != merged.sha256:
                yield f"{path}: bytes have changed (sha256)"
            else:
                yield from _check_rows(dataset, path, merged.rows)
        if snapshot is not dataset.snapshot:
            yield from lost_tars(dataset, snapshot)


def _named(dataset: Dataset) -> Iterator[snapshots.Snapshot | str]:
    """Named snapshots, or what is wrong with one."""
    for name in snapshots.names(dataset.filesystem, dataset.root):
        try:
            yield snapshots.named(dataset.filesystem, dataset.root, name)[0]
        except RushesError as error:
            yield str(error)


def _check_column(dataset: Dataset, column: Column, deep: bool, report: Report) -> Iterator[Checked]:
    """Every commit of a column version: those in small files, and those that were merged."""
    folder = dataset.path("columns", str(column))
    try:
        tars = storage.list_files(dataset.filesystem, folder, ".tar", recursive=False)
    except OSError as error:  # of a key that no store of ours would write
        report.problems.append(f"{folder}: cannot be listed ({error}); remove what does not belong there")
        tars = []
    sizes, depth = {info.path: info.size for info in tars}, "deep" if deep else "cheap"
    times = {dataset.relative(info.path): info.mtime_ns for info in tars}
    seen = set[int]()
    for name in storage.list_folders(dataset.filesystem, dataset.path("tables", "shards", str(column))):
        if name.endswith(".parquet"):
            report.problems.append(f"{dataset.path('tables', 'shards', str(column), name)}: is a folder")
    for shard in dataset.loose_shards(column):
        report.num_shards += 1
        path, found, tar = dataset.record_path(column, shard), list[str](), None
        info = dataset.filesystem.get_file_info(path)
        try:
            if deep:
                found += _check_alone(dataset, "shards", path)
            record = records.record_of(dataset, column, shard)
            tar = record["tar"]
            found += _check_parts(dataset, record, deep)
            found += _check_shard(dataset, record, sizes, deep, report)
        except (OSError, ValueError, TypeError, KeyError, RushesError) as error:  # of a damaged record
            found.append(f"{path}: unreadable commit record ({error})")
        if found:
            dataset.refresh()
            if dataset.covers(column, shard):  # it has been merged meanwhile, and is looked at below
                report.num_shards -= 1
                continue
        seen.add(shard)
        yield Checked(
            str(column),
            shard,
            depth,
            not found,
            found,
            f"{info.size}-{info.mtime_ns}",
            tar,
            times.get(tar or "", 0),
        )
    for merged in dataset.snapshot.version(column).tables.get("shards", ()):
        path = dataset.path(*merged.path.split("/"))
        try:
            with named(path), dataset.filesystem.open_input_file(path) as file:
                for batch in pq.ParquetFile(file).iter_batches(64):
                    for record in batch.to_pylist():
                        if record["shard"] in seen:
                            continue
                        report.num_shards += 1
                        found = list(_check_shard(dataset, record, sizes, deep, report))
                        is_sound, tar = not found, record["tar"]
                        told = (merged.stamp, tar, times.get(tar or "", 0))
                        yield Checked(str(column), record["shard"], depth, is_sound, found, *told)
        except (OSError, RushesError) as error:
            report.problems.append(f"{path}: cannot be read ({error})")


def verify(dataset: Dataset, deep: bool = False) -> Report:
    """Check every committed shard of every column, the plan, the views, and the accounts."""
    report = Report()
    dataset.refresh()
    for column in dataset.columns():
        for checked in _check_column(dataset, column, deep, report):
            report.checked.append(checked)
            report.problems += checked.problems
    report.problems += [
        *_check_merged(dataset, deep),
        *_check_plan(dataset, deep),
        *_check_header(dataset),
        *_check_views(dataset),
    ]
    if not dataset.at:  # of a snapshot that is read by its name later files are no business
        report.problems += lost_snapshot(dataset)
        kept = [one for one in _named(dataset) if isinstance(one, snapshots.Snapshot)]
        sizes = unnamed_tars(dataset, {checked.tar for checked in report.checked}, kept)
        report.num_unnamed, report.unnamed_bytes = len(sizes), sum(sizes)
    if report.is_sound:
        try:
            report.problems += _check_accounts(dataset)
        except (pa.ArrowException, OSError, RushesError) as error:
            report.problems.append(f"{dataset.uri}: a table of the plan cannot be read ({error})")
    return report
