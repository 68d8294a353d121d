"""Export a view's tables into a lakehouse format by its own library: Lance datasets, or Iceberg tables.

Rows of clips are those that the view keeps; `members` says where each clip's bytes lie (the tar's address, an
offset, a size), so that other tools read pictures, captions' embeddings and latents from the dataset's own
tars. Tables are read and written in batches.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from manifests.errors import RushesError, UsageError
from manifests.layout import Dataset
from manifests.schemas import TABLES
from manifests.store.shards import Member
from manifests.tables import scans
from manifests.views import View
from manifests.writing.removing import pending

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


_UNFINISHED = ".unfinished"
"""Lies beside what is being written. One process at a time exports to a folder."""
_ASIDE, _DONE = ".replaced", ".replaced.done"
"""Folders of an earlier export: until the new one is whole, and then until it is gone."""


def export_tables(
    dataset: Dataset, view: View, out: Path, to: str, overwrite: bool = False
) -> dict[str, int]:
    """Write the tables of a view.

    Returns:
        Rows by table; tables without rows are not written.

    Raises:
        UsageError: the library is missing, or something is there already.
    """
    try:
        kept = view.kept(dataset)  # a view that cannot be read replaces nothing
        _clear_unfinished(to, out)
        with _set_aside(_there_before(to, out, overwrite)), _whole_or_gone(out, _names(to, out)):
            return _written(dataset, view, kept, _writer(to, out))
    except FileNotFoundError as error:
        raise RushesError(
            dataset.uri,
            "had files merged or taken out while they were read",
            "Run the same command again; nothing of this try is left.",
        ) from error


@contextlib.contextmanager
def _whole_or_gone(out: Path, written: Sequence[Path]) -> Iterator[None]:
    """Of an export that fails or is stopped nothing is left, so that the same command begins anew.

    Raises:
        OSError: the disk is full, in whatever words a library says so.
    """
    try:
        with _held(out / _UNFINISHED):
            yield
    except BaseException as error:
        for path in written:
            _gone(path)
        is_full = os.strerror(errno.ENOSPC).lower() in str(error).lower() or "disk is full" in str(error)
        if is_full or getattr(error, "errno", None) == errno.ENOSPC:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out)) from error
        raise


@contextlib.contextmanager
def _set_aside(old: Sequence[Path]) -> Iterator[None]:
    """The files and folders of an earlier export, which come back where the new one is not made."""
    if not old:
        yield
        return
    aside = old[0].parent / _ASIDE
    aside.mkdir()
    for path in old:
        os.replace(path, aside / path.name)
    try:
        yield
    except BaseException:
        _put_back(aside)
        raise
    done = aside.with_name(_DONE)
    _gone(done)
    os.replace(aside, done)  # from here on the new ones count
    _gone(done)


def _put_back(aside: Path) -> None:
    for path in aside.iterdir():
        _gone(aside.parent / path.name)
        os.replace(path, aside.parent / path.name)
    aside.rmdir()


def _clear_unfinished(to: str, out: Path) -> None:
    """Remove what an export that was killed has written; that of the one before comes back.

    Raises:
        UsageError: it was not killed, but is at work.
    """
    if (mark := out / _UNFINISHED).is_file():
        with _held(mark):
            for path in _names(to, out):
                _gone(path)
            if (out / _ASIDE).is_dir():
                _put_back(out / _ASIDE)


@contextlib.contextmanager
def _held(mark: Path) -> Iterator[None]:
    """A mark of one process alone, gone in the end, and where the process is killed still there.

    Raises:
        UsageError: it is another's.
    """
    with open(mark, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(str(mark.parent), "is being exported to by another", "Wait for it.") from error
        try:
            yield
        finally:
            mark.unlink(missing_ok=True)


def _gone(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _written(dataset: Dataset, view: View, names: Iterable[str], write: Write) -> dict[str, int]:
    kept = pa.array(sorted(names), pa.string())
    gone = pa.array(sorted(pending(dataset)), pa.string())
    tables, found = scans.Tables(dataset), dict[str, int]()
    versions = list(view.columns.values())
    for name in TABLES:
        if name not in _LEFT_OUT:
            rows = tables.lazy(name, versions)
            wanted = pc.scalar(True)
            if "clip_id" in rows.schema.names:
                wanted &= pc.field("clip_id").isin(kept)
            if "source_id" in rows.schema.names:
                wanted &= ~pc.coalesce(pc.field("source_id").isin(gone), False)
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
    if (out / _ASIDE).is_dir():  # of an export that was killed
        _put_back(out / _ASIDE)
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

    root = out.resolve()
    catalog = SqlCatalog(NAMESPACE, uri=f"sqlite:///{root / 'catalog.db'}", warehouse=root.as_uri())
    catalog.create_namespace(NAMESPACE)

    def write(name: str, schema: pa.Schema, parts: Iterator[pa.Table]) -> int:
        count, table = 0, None
        for part in parts:
            address = f"{(root / NAMESPACE / name).as_uri()}"
            table = table or catalog.create_table(f"{NAMESPACE}.{name}", schema=schema, location=address)
            table.append(part)
            count += part.num_rows
        return count

    return write
