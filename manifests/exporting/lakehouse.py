"""Export a view's tables into a lakehouse format by its own library: Lance datasets, or Iceberg tables.

Rows are of clips that the view keeps, of their sources and of what these lost; `members` says where each
clip's bytes lie (the tar's address, an offset, a size), so that other tools read pictures, captions'
embeddings and latents from the dataset's own tars. Tables are read and written in batches.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import resource
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import RushesError, UsageError
from manifests.layout import Dataset
from manifests.schemas import TABLES
from manifests.store import storage
from manifests.store.shards import Member
from manifests.tables import scans
from manifests.views import View
from manifests.writing.removing import check_none_went, gone, pending

NAMESPACE = "rushes"
_LEFT_OUT = ("shards", "events")
_ROWS = 1 << 16
Write = Callable[[str, pa.Schema, Iterator[pa.Table]], int]
"""From a table's name, schema and parts to the rows that were written."""
_MEMBERS = pa.schema(
    [
        pa.field("clip_id", pa.string()),
        pa.field("column", pa.string()),
        pa.field("name", pa.string()),
        pa.field("tar", pa.string()),
        pa.field("offset", pa.int64()),
        pa.field("size_bytes", pa.int64()),
        pa.field("crc32", pa.int64()),
    ]
)


_MARK, _ASIDE = ".rushes-unfinished", ".replaced"
"""A file that says how far an export came, and the folder with those of an earlier one meanwhile."""
_MOVING, _WRITING, _WRITTEN = "moving", "writing", "written"


def export_tables(
    dataset: Dataset, view: View, out: Path, to: str, overwrite: bool = False
) -> dict[str, int]:
    """Write the tables of a view: all of them, or nothing, wherever it is stopped or killed.

    Returns:
        Rows by table; tables without rows are not written.

    Raises:
        UsageError: the library is missing, something is there already, the folder's name is none that it
            can write, another process exports to it, or sources were taken down meanwhile.
    """
    if to == "iceberg" and (odd := sorted(set("?#%") & set(str(out.resolve())))):
        raise UsageError(
            str(out),
            f"has {odd[0]} in its path, which addresses of Iceberg give another meaning",
            "Name another folder.",
        )
    before = gone(dataset)
    try:
        kept = view.kept(dataset)  # a view that cannot be read replaces nothing
        if not kept:
            raise view.empty()
        with _alone(out):
            _settle(out)
            with _settled(out):
                _set_aside(out, to, _there_before(to, out, overwrite))
                found = _written(dataset, view, kept, _writer(to, out))
                check_none_went(dataset, before)
                return found
    except FileNotFoundError as error:
        raise RushesError(
            dataset.uri,
            "had files merged or taken out while they were read",
            "Run the same command again; nothing of this try is left.",
        ) from error


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """One process at a time.

    Raises:
        UsageError: another exports to the folder.
    """
    folder = os.open(out, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(str(out), "is being exported to by another", "Wait for its end.") from error
        yield
    finally:
        os.close(folder)


def _said(error: BaseException) -> int | None:
    """The number of what a library says of a disk in its own words."""
    if "disk is full" in str(error):  # SQLite
        return errno.ENOSPC
    if "disk I/O error" in str(error):  # SQLite, which has no words for a file over its limit
        is_limited = resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY
        return errno.EFBIG if is_limited else errno.EIO
    told = (
        number for number in (errno.ENOSPC, errno.EFBIG) if os.strerror(number).lower() in str(error).lower()
    )
    return next(told, getattr(error, "errno", None))


@contextlib.contextmanager
def _settled(out: Path) -> Iterator[None]:
    """Of an export that fails or is stopped nothing is left, and the one before is back.

    Raises:
        OSError: the disk is full or a file too large, in whatever words a library says so.
    """
    try:
        yield
        if (out / _MARK).exists():
            _note(out, _WRITTEN)
    except BaseException as error:
        _settle(out)
        if (number := _said(error)) in (errno.ENOSPC, errno.EFBIG, errno.EIO):
            raise OSError(number, os.strerror(number), str(out)) from error
        raise
    _settle(out)


def _set_aside(out: Path, to: str, before: Sequence[Path]) -> None:
    """Move what an earlier export wrote out of the way, and say that there is a new one."""
    names = [path.name for path in _names(to, out)]
    _note(out, _MOVING, names)
    if before:
        (out / _ASIDE).mkdir()
    for path in before:
        os.replace(path, out / _ASIDE / path.name)
    _note(out, _WRITING, names)


def _note(out: Path, state: str, names: Sequence[str] = ()) -> None:
    said = {"about": "an export that was not finished; the same command goes on", "state": state}
    storage.write_local(out / _MARK, json.dumps(said | {"names": [*names]}).encode())


def _settle(out: Path) -> None:
    """Bring a folder to where it was before an export that was cut short, or to its end.

    It may be killed itself: each step leaves what the next call goes on from.

    Raises:
        UsageError: the mark is not of an export.
    """
    mark, aside = out / _MARK, out / _ASIDE
    if not mark.exists():
        return
    try:
        said = json.loads(mark.read_bytes())
        state, names = said["state"], said["names"]
        known = {path.name for to in ("lance", "iceberg") for path in _names(to, out)}
        if state not in (_MOVING, _WRITING, _WRITTEN) or not known.issuperset(names):
            raise ValueError("it has other words")
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(str(mark), f"is not of an export ({error})", "Name another folder.") from error
    if state == _WRITING:
        for name in names:
            _gone(out / name)
        _note(out, _MOVING)
    if state == _WRITTEN:
        _gone(aside)
    elif aside.is_dir():
        for path in aside.iterdir():
            os.replace(path, out / path.name)
        aside.rmdir()
    for debris in out.glob(f".{_MARK}.*.tmp"):
        debris.unlink(missing_ok=True)
    mark.unlink()


def _gone(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _written(dataset: Dataset, view: View, names: Iterable[str], write: Write) -> dict[str, int]:
    kept = pa.array(sorted(names), pa.string())
    going = pa.array(sorted(pending(dataset)), pa.string())
    tables, found = scans.Tables(dataset), dict[str, int]()
    versions = list(view.columns.values())
    clips = tables.lazy("clips", versions).to_table(["source_id"], filter=pc.field("clip_id").isin(kept))
    sources = pc.unique(clips["source_id"])
    for name in TABLES:
        if name not in _LEFT_OUT:
            rows = tables.lazy(name, versions)
            wanted = pc.scalar(True)
            if "clip_id" in rows.schema.names:
                wanted &= pc.field("clip_id").isin(kept)
            if "source_id" in rows.schema.names:
                wanted &= pc.field("source_id").isin(sources)
                wanted &= ~pc.coalesce(pc.field("source_id").isin(going), False)
            scanned = rows.scanner(filter=wanted, batch_size=_ROWS)
            schema = rows.schema.remove_metadata()
            batches = (pa.Table.from_batches([batch], schema) for batch in _full(scanned.to_batches()))
            found[name] = write(name, schema, batches)
    found["members"] = write("members", _MEMBERS, _members(dataset, view, set(kept.to_pylist())))
    return {name: count for name, count in found.items() if count}


def _full(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    return (batch for batch in batches if batch.num_rows)


def _members(dataset: Dataset, view: View, kept: set[str]) -> Iterator[pa.Table]:
    for column in view.columns.values():
        for tar, members in scans.members(dataset, column).values():
            rows = [_row(member, str(column), tar) for member in members if member.key in kept]
            if rows:
                yield pa.Table.from_pylist(rows, _MEMBERS)


def _row(member: Member, column: str, tar: str) -> dict:
    where = {"offset": member.offset, "size_bytes": member.size_bytes, "crc32": member.crc32}
    return {"clip_id": member.key, "column": column, "name": member.field, "tar": tar, **where}


def _names(to: str, out: Path) -> list[Path]:
    """The files and folders that are written: what else lies there is not ours to replace."""
    if to == "lance":
        return [out / f"{name}.lance" for name in (*TABLES, "members")]
    return [out / "catalog.db", out / NAMESPACE]


def _there_before(to: str, out: Path, overwrite: bool) -> list[Path]:
    """Those of an earlier export.

    Raises:
        UsageError: they may not be replaced, or are not of one.
    """
    names = _names(to, out)
    if (out / _ASIDE).exists():
        raise UsageError(str(out / _ASIDE), "is not of an export", "Name another folder.")
    before = [path for path in names if path.exists()]
    if to != "lance" and len(before) == 1:
        raise UsageError(str(before[0]), "is not of an export", "Name another folder.")
    if before and not overwrite:
        raise UsageError(str(before[0]), "exists", "Name another folder, or add --overwrite.")
    return before


def _writer(to: str, out: Path) -> Write:
    """What writes a table."""
    extra = f"Install rushes with its extra `{to}`."
    try:
        return _lance(out) if to == "lance" else _iceberg(out)
    except ImportError as error:
        raise UsageError(f"--to {to}", f"needs {error.name}", extra) from error


def _lance(out: Path) -> Write:
    import lance

    def write(name: str, schema: pa.Schema, parts: Iterator[pa.Table]) -> int:
        count = 0

        def batches() -> Iterator[pa.RecordBatch]:
            nonlocal count
            for part in parts:
                count += part.num_rows
                yield from part.to_batches()

        first = next(found := batches(), None)
        if first is not None:
            both = (batch for lot in ([first], found) for batch in lot)
            reader = pa.RecordBatchReader.from_batches(schema, both)
            lance.write_dataset(reader, str(out / f"{name}.lance"))
        return count

    return write


def _iceberg(out: Path) -> Write:
    from pyiceberg.catalog.sql import SqlCatalog
    from sqlalchemy import URL

    root = out.resolve()
    file = URL.create("sqlite", database=str(root / "catalog.db")).render_as_string()
    catalog = SqlCatalog(NAMESPACE, uri=file, warehouse=f"file://{root}")
    catalog.create_namespace(NAMESPACE)

    def write(name: str, schema: pa.Schema, parts: Iterator[pa.Table]) -> int:
        count, table = 0, None
        for part in parts:
            address = f"file://{root / NAMESPACE / name}"  # its readers take %20 for three letters
            table = table or catalog.create_table(f"{NAMESPACE}.{name}", schema=schema, location=address)
            table.append(part)
            count += part.num_rows
        return count

    return write
