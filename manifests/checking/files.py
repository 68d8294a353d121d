"""Files beside what is known of them: a tar and its index, a part and its rows, what no other file names."""

from __future__ import annotations

import io
import re
import tarfile
import zlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from manifests.layout import Dataset
from manifests.schemas import is_of_today, parts_of, to_table, with_parts
from manifests.store import storage
from manifests.store.shards import Member
from manifests.writing.commit import parquet_bytes

_WRITER = re.compile(r"parquet-cpp-arrow version [0-9.]+")


def check_members(dataset: Dataset, path: str, members: list[Member]) -> Iterator[str]:
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


def check_rows(dataset: Dataset, path: str, rows: int) -> Iterator[str]:
    """Compare a part's footer with the number of rows that were committed."""
    try:
        with dataset.filesystem.open_input_file(path) as file:
            found = pq.ParquetFile(file).metadata.num_rows
    except (pa.ArrowException, OSError) as error:
        yield f"{path}: is no readable Parquet ({error})"
    else:
        if found != rows:
            yield f"{path}: has {found} rows, {rows} were committed"


def check_alone(dataset: Dataset, name: str, path: str) -> Iterator[str]:
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
