"""Parquet parts: one read whole, many read as one table, and the rows of one shard out of a merged file."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import posixpath
from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from pyarrow import fs

from manifests.errors import IntegrityError
from manifests.layout import Dataset
from manifests.schemas import check_version, is_of_today, schema
from manifests.snapshots import Merged
from manifests.store import storage

_FOOTERS = 256
"""Footers of merged files that a process keeps; they are never changed."""
_RESTORE_PLAN = "Restore the file. `rushes verify --deep` lists all damage."
_RESTORE = (
    "Restore the file, or take the commit back with `rushes withdraw` and ingest. `rushes verify --deep` "
    "lists all damage."
)
_NO_DAMAGE = (MemoryError, pa.ArrowNotImplementedError, pa.ArrowCancelled)
_FEW = 8
"""So many files are read one after another: a scan spends three times the CPU on many small row groups."""


def read_part(dataset: Dataset, path: str, fields: Sequence[str] | None = None) -> pa.Table:
    """One Parquet part, its format version checked.

    Args:
        fields: only these.

    Raises:
        IntegrityError: it is damaged, or of another format version.
    """
    with named(path), dataset.filesystem.open_input_file(path) as file:
        parquet = pq.ParquetFile(file, pre_buffer=True, page_checksum_verification=True)
        check_version(parquet.schema_arrow, path)
        return parquet.read(columns=None if fields is None else list(fields), use_threads=False)


def check_bytes(path: str, digest: str, committed: str) -> None:
    """Refuse a part whose bytes are not those that were committed: nothing may be made of them.

    Args:
        digest, committed: SHA-256 in hex, as they are and as they should be.

    Raises:
        IntegrityError: they differ.
    """
    if digest != committed:
        raise IntegrityError(path, "bytes have changed (sha256)", _RESTORE)


def read_committed(dataset: Dataset, name: str, path: str, sha256: str) -> pa.Table:
    """All rows of a small part, of the bytes that were committed.

    Args:
        sha256: of them; empty for a record, which nothing names by its bytes.

    Raises:
        IntegrityError: it is damaged; the error names it.
    """
    data = storage.read_bytes(dataset.filesystem, path)
    if sha256:
        check_bytes(path, hashlib.sha256(data).hexdigest(), sha256)
    with named(path):
        parquet = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        check_version(parquet.schema_arrow, path)
        if is_of_today(parquet.schema_arrow) and not parquet.schema_arrow.equals(schema(name)):
            raise ValueError("its fields are not those of the format that it says it is of")
        return _as(parquet.read(use_threads=False), schema(name))


@contextlib.contextmanager
def named(path: str) -> Iterator[None]:
    """What is wrong with a Parquet file as an error that names it.

    Damage that Arrow finds is of its own kind, or an OSError without a number; others are the disk's.
    """
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) or getattr(error, "errno", None) is not None:
            raise
        raise _unreadable(path, error) from error


def _unreadable(path: str, error: Exception) -> IntegrityError:
    first = str(error).strip().splitlines()[0]
    is_plan = "/plan/" in path  # which nothing can make anew: ids of clips follow from it
    return IntegrityError(path, f"is not readable Parquet ({first})", _RESTORE_PLAN if is_plan else _RESTORE)


def dataset_of(dataset: Dataset, name: str, paths: list[str]) -> pads.Dataset:
    """The rows of a table's parts, none of them read yet."""
    if not paths:
        return pads.dataset(schema(name).empty_table())
    checked = pads.ParquetFragmentScanOptions(page_checksum_verification=True)
    form = pads.ParquetFileFormat(default_fragment_scan_options=checked)
    return pads.dataset(paths, filesystem=dataset.filesystem, schema=schema(name), format=form)


def read_parts(
    dataset: Dataset,
    name: str,
    paths: list[str],
    fields: Sequence[str] | None = None,
    where: pc.Expression | None = None,
) -> pa.Table:
    """The rows of a table's parts, in the order of the paths.

    Args:
        fields: only these.
        where: only rows for which it is true.

    Raises:
        IntegrityError: a part is damaged; the error names it.
    """
    if not paths:
        empty = schema(name).empty_table()
        return empty.select(list(fields)) if fields is not None else empty
    if where is None and len(paths) <= _FEW:
        known = schema(name) if fields is None else schema(name).empty_table().select(list(fields)).schema
        return pa.concat_tables([_as(read_part(dataset, path, fields), known) for path in paths])
    with naming(dataset, paths):
        return dataset_of(dataset, name, paths).to_table(
            columns=None if fields is None else list(fields), filter=where
        )


def _as(rows: pa.Table, known: pa.Schema) -> pa.Table:
    """Rows with the fields of a schema; those that the file's writer did not know are null."""
    for field in known:
        if field.name not in rows.column_names:
            rows = rows.append_column(field, pa.nulls(rows.num_rows, field.type))
    return rows.select(known.names).cast(known)


@contextlib.contextmanager
def naming(dataset: Dataset, paths: list[str]) -> Iterator[None]:
    """Where reading several parts fails, look which one it is.

    Raises:
        IntegrityError: a part is damaged; the error names it.
    """
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:
        if getattr(error, "errno", None) is not None or isinstance(error, _NO_DAMAGE) or not paths:
            raise
        for path in paths:
            read_part(dataset, path)
        raise IntegrityError(
            posixpath.dirname(paths[0]), "has parts that could not be read once, and can now", "Run it again."
        ) from error


@functools.lru_cache(_FEW)
def _filesystem(uri: str) -> fs.FileSystem:
    return Dataset(uri).filesystem


@functools.lru_cache(_FOOTERS)
def _cached(uri: str, path: str, stamp: str) -> pq.FileMetaData:
    with named(path), _filesystem(uri).open_input_file(path) as file:
        found = pq.ParquetFile(file)
        check_version(found.schema_arrow, path)
        return found.metadata


def footer_of(dataset: Dataset, path: str) -> pq.FileMetaData:
    """The footer of a part of the plan, which is read once as long as the file is the same."""
    return _cached(dataset.uri, path, _stamp(dataset, path))


def _stamp(dataset: Dataset, path: str) -> str:
    info = dataset.filesystem.get_file_info(path)
    return f"{info.size}-{info.mtime_ns}"


@functools.lru_cache(_FOOTERS)
def _footer(uri: str, path: str, stamp: str) -> tuple[pq.FileMetaData, list[tuple[int, int]]]:
    """A file's footer, and the first and the last shard of each of its row groups."""
    footer = _cached(uri, path, stamp)
    place = next(i for i in range(footer.num_columns) if footer.schema.column(i).path == "shard")
    spans = []
    for group in range(footer.num_row_groups):
        stats = footer.row_group(group).column(place).statistics
        spans.append((stats.min, stats.max))
    return footer, spans


def rows_in(
    dataset: Dataset, files: Sequence[Merged], shard: int, fields: Sequence[str] | None = None
) -> pa.Table | None:
    """The rows of one shard in merged files of a table; None where there is none.

    Raises:
        IntegrityError: a file is damaged.
        FileNotFoundError: it has been merged with others since.
    """
    found = []
    for merged in files:
        path = dataset.path(*merged.path.split("/"))
        rows = _rows_of(dataset, path, merged.sha256, shard, fields)
        if rows is not None:
            found.append(rows)
    return pa.concat_tables(found) if found else None


def rows_in_plan(dataset: Dataset, path: str, shard: int) -> pa.Table:
    """The segments of one shard in a generation of the plan; none where it has none."""
    rows = _rows_of(dataset, path, _stamp(dataset, path), shard, None)
    return schema("segments").empty_table() if rows is None else rows


def _rows_of(
    dataset: Dataset, path: str, stamp: str, shard: int, fields: Sequence[str] | None
) -> pa.Table | None:
    footer, spans = _footer(dataset.uri, path, stamp)
    groups = [place for place, (first, last) in enumerate(spans) if first <= shard <= last]
    if not groups:
        return None
    with named(path), dataset.filesystem.open_input_file(path) as file:
        wanted = None if fields is None else list(dict.fromkeys([*fields, "shard"]))
        # a few thousand rows: handing columns to threads and back costs more than reading them
        parquet = pq.ParquetFile(file, metadata=footer, page_checksum_verification=True)
        rows = parquet.read_row_groups(groups, wanted, use_threads=False)
    rows = rows.filter(pc.equal(rows["shard"], shard))
    return rows if fields is None else rows.select(list(fields))
