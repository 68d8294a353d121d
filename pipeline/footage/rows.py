"""Rows of list files: lines of `.txt`, rows of `.csv`, `.tsv`, `.jsonl`, `.parquet`; streamed, bounded."""

from __future__ import annotations

import codecs
import csv
import io
import json
import re
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from itertools import chain
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from manifests.cli import say
from manifests.errors import UsageError
from manifests.text import WIDE
from media.bytes.access import open_binary
from media.errors import MediaError, shown
from pipeline.footage.found import URI_COLUMNS, suffix_of

LIST_SUFFIXES = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")
_LOOKED_AT_BYTES = 1 << 16
MAX_ROWS = 20_000_000
MAX_LINE_BYTES = 4 << 20
_MAX_GROUP_BYTES = 1 << 30

_MOST_HELD_BYTES = 64 << 20
"""Of rows of a parquet file that are unpacked at a time: a few bytes may say much, many times."""

Row = dict[str, Any]


class BrokenRow(dict[str, Any]):
    """A line of a list that says nothing which can be read, and why; the others hold."""

    def __init__(self, why: str) -> None:
        super().__init__()
        self.why = why


class _Recoded(io.RawIOBase):
    """Bytes of another text file: what `read` gives of at most so many."""

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def _as_utf8(file: Any) -> Any:
    """The same bytes; those of UTF-16 and UTF-32, as their marks say, as UTF-8; lines that end as on old
    Macs, in CR alone, as others do."""
    head = file.peek(_LOOKED_AT_BYTES)
    if encoding := next((name for mark, name in WIDE.items() if head.startswith(mark)), ""):
        text = codecs.getreader(encoding)(file, "replace")
        recoded = _Recoded(lambda most: text.read(most // 4, most // 4).encode("utf-8", "replace"))
        return io.BufferedReader(recoded, 1 << 18)
    if b"\r" in head and b"\n" not in head:
        return io.BufferedReader(_Recoded(lambda most: file.read(most).replace(b"\r", b"\n")), 1 << 18)
    return file


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[int, str]]:
    number, bad = 0, list[int]()
    while line := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES:
            raise UsageError(
                f"{name} line {number}",
                f"is longer than {MAX_LINE_BYTES} bytes",
                "Check that the file is a list, and break it into lines.",
            )
        if number > MAX_ROWS:
            raise UsageError(name, f"has more than {MAX_ROWS} lines", "Split it into several lists.")
        encoding = "utf-8-sig" if number == 1 else "utf-8"
        try:
            text = line.decode(encoding)
        except UnicodeDecodeError:
            bad.append(number)
            text = line.decode(encoding, "replace")
        yield number, text
    if bad:
        say(
            f"{name}: {len(bad)} lines are not UTF-8 (line {bad[0]} is the first); what of them cannot be "
            "read is U+FFFD. Save the list as UTF-8 or UTF-16."
        )


def _twice(names: list[str]) -> list[str]:
    """The names that stand there more than once."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def _delimiter_of(header: str) -> str:
    """The one by which a header names the files; a comma where none does."""
    for delimiter in (",", ";", "\t", "|"):
        if {cell.strip().strip('"').lower() for cell in header.split(delimiter)} & {*URI_COLUMNS}:
            return delimiter
    return ","


def _csv_rows(file: BinaryIO, name: str, delimiter: str = ",") -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(MAX_LINE_BYTES)
    lines: Iterator[str] = (line for _, line in _lines(file, name))
    first, num_before = next(lines, ""), 0
    while first and (not first.strip() or first.lower().startswith("sep=")):  # as spreadsheets write it
        first, num_before = next(lines, ""), num_before + 1
    if delimiter == ",":
        delimiter = _delimiter_of(first)
    if delimiter == "\t":
        lines = _quoted_by_cells(chain([first], lines))
        first = next(lines, "")
    reader = csv.DictReader(chain([first], lines), strict=True, delimiter=delimiter)
    try:
        columns = [key.strip().lower() for key in reader.fieldnames or ()]
        if twice := [column for column in _twice(columns) if column]:
            raise UsageError(
                f"{name} line {num_before + 1}",
                f"names {', '.join(twice)} twice",
                "Give each column its own name.",
            )
        for row in reader:
            if None in row:
                why = "has more cells than the first line has names. Quote cells that hold commas"
                yield num_before + reader.reader.line_num, BrokenRow(why)
                continue
            yield (
                num_before + reader.reader.line_num,
                {key: value for key, value in row.items() if value is not None},
            )
    except csv.Error as error:
        raise UsageError(
            f"{name} line {num_before + reader.reader.line_num}", f"is not CSV ({error})", "Check its quotes."
        ) from error


def _quoted_by_cells(lines: Iterator[str]) -> Iterator[str]:
    """Lines of cells with tabs between, of which tools seldom quote one: a quote is a letter, unless quotes
    hold a whole cell. Such a cell may hold tabs, and ends of lines where no tab follows them in it."""
    held, num_cells = deque[str](), 0
    while held or (line := next(lines, "")):
        line = held.popleft() if held else line
        if not line.strip():
            yield line
            continue
        line = _closed(line, held, lines)
        plain = line.rstrip("\r\n").split("\t")
        cells = _cells(line.rstrip("\r\n"))
        num_cells = num_cells or len(cells)
        if len(cells) != num_cells == len(plain):
            cells = plain
        yield "\t".join(map(_quoted, cells)) + "\n"


def _cells(line: str) -> list[str]:
    found = [""]
    for match in _PIECE.finditer(line):
        if match[0] == "\t":
            found.append("")
        else:
            found[-1] = match[0]
    return found


_PIECE = re.compile(r'\t|(?:(?<=\t)|^)"(?:[^"]|"")*"(?=\t|$)|[^\t]+')
"""A tab, a cell that quotes hold, or another."""
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_OPEN = re.compile(r'(?:^|\t)"(?:[^"\t]|"")*$')
"""A last cell whose quote is not closed in its line."""
_CLOSING = re.compile(r'((?:[^"]|"")*)"(?=\t|\r?\n?$)')
_MOST_JOINED = 64
"""Lines that a cell may have."""


def _closed(line: str, held: deque[str], lines: Iterator[str]) -> str:
    """A line with those that its last cell goes on in, where a quote closes it before a tab comes; else the
    line alone.

    Args:
        held: lines that were read ahead, which come next.
    """
    if not _OPEN.search(line.rstrip("\r\n")):
        return line
    for place in range(_MOST_JOINED):
        if place == len(held):
            if not (more := next(lines, "")):
                break
            held.append(more)
        if (end := _CLOSING.match(held[place])) and "\t" not in end[1]:
            return line + "".join(held.popleft() for _ in range(place + 1))
        if "\t" in held[place]:  # a row of its own
            break
    return line


def _quoted(cell: str) -> str:
    return cell if _QUOTED.fullmatch(cell) else '"' + cell.replace('"', '""') + '"'


def _jsonl_rows(file: BinaryIO, name: str) -> Iterator[tuple[int, Row]]:
    for number, line in _lines(file, name):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            row = BrokenRow(f"is not JSON ({error})")
        if not isinstance(row, dict):
            row = BrokenRow(f"is JSON but no object ({type(row).__name__})")
        yield number, row


def _has_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return True
    return any(_has_bytes(kind.field(index).type) for index in range(kind.num_fields))


def _rows_of(batch: pa.RecordBatch) -> list[Row]:
    """Rows as Python has them. Text that is no UTF-8 is made valid; what Python has no value for, as dates of
    the year 200,000 are, is left out of its row."""
    try:
        rows: list[Row] = batch.to_pylist()
    except (ValueError, OverflowError, KeyError, pa.ArrowException):
        names = batch.schema.names
        rows = [
            {name: _value(batch.column(place)[number]) for place, name in enumerate(names)}
            for number in range(batch.num_rows)
        ]
    return rows


def _decoded(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The same with texts as they are: Python has those faster than entries of dictionaries."""
    columns = [
        column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _largest(values: pa.Array) -> int:
    """Bytes that one value of a column takes at most, about."""
    if not len(values):
        return 0
    kind = values.type
    if pa.types.is_dictionary(kind):
        return _largest(values.dictionary)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return int(pc.max(pc.binary_length(values)).as_py() or 0)
    if pa.types.is_struct(kind):
        return sum(map(_largest, values.flatten()))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return int(pc.max(pc.list_value_length(values)).as_py() or 0) * _largest(values.flatten())
    return values.nbytes if pa.types.is_nested(kind) else 16


def _value(cell: pa.Scalar) -> Any:
    if isinstance(cell, pa.DictionaryScalar):
        return _value(cell.value)
    try:
        return cell.as_py()
    except UnicodeDecodeError:
        is_text = pa.types.is_string(cell.type) or pa.types.is_large_string(cell.type)
        return cell.as_buffer().to_pybytes().decode("utf-8", "replace") if is_text else None
    except (ValueError, OverflowError, KeyError, pa.ArrowException):
        return None


def _parquet_rows(file: BinaryIO, name: str) -> Iterator[tuple[int, Row]]:
    """Rows of a parquet file; columns that hold bytes are not read."""
    try:
        source = pa.PythonFile(file, mode="r")
        table = pq.ParquetFile(source)
        if table.metadata.num_rows > MAX_ROWS:
            raise UsageError(
                name,
                f"has {table.metadata.num_rows} rows, more than {MAX_ROWS}",
                "Split it into several lists.",
            )
        columns = [item.name for item in table.schema_arrow if not _has_bytes(item.type)]
        if not columns:
            names = ", ".join(table.schema_arrow.names[:5])
            raise UsageError(name, f"has bytes and no text in its columns ({names})", "Write them as text.")
        if twice := _twice(columns):
            raise UsageError(name, f"has columns {', '.join(twice)} twice", "Write it with a name for each.")
        leaves = (table.schema.column(place) for place in range(len(table.schema)))
        texts = [leaf.path for leaf in leaves if leaf.physical_type == "BYTE_ARRAY"]
        table = pq.ParquetFile(source, read_dictionary=texts)  # a text that stands there often is held once
        number, read = 0, set(columns)
        for group in range(table.num_row_groups):
            facts = table.metadata.row_group(group)
            size = sum(
                chunk.total_uncompressed_size
                for chunk in map(facts.column, range(facts.num_columns))
                if chunk.path_in_schema.split(".")[0] in read
            )
            if size > _MAX_GROUP_BYTES:
                raise UsageError(
                    name, f"row group {group} unpacks to {size} bytes", "Write it with smaller row groups."
                )
            for batch in table.iter_batches(batch_size=4096, row_groups=[group], columns=columns):
                step = max(1, _MOST_HELD_BYTES // max(1, sum(map(_largest, batch.columns))))
                held = _decoded(batch) if step >= batch.num_rows else batch
                for begin in range(0, held.num_rows, step):
                    for row in _rows_of(held.slice(begin, step)):
                        number += 1
                        yield number, row
    except (pa.ArrowException, OSError) as error:
        raise UsageError(name, f"is not a whole parquet file ({error})", "Write it again.") from error


_READERS: dict[str, Callable[[BinaryIO, str], Iterator[tuple[int, Row]]]] = {
    ".csv": _csv_rows,
    ".tsv": lambda file, name: _csv_rows(file, name, "\t"),
    ".jsonl": _jsonl_rows,
    ".parquet": _parquet_rows,
}


def read_rows(uri: str) -> Generator[tuple[int, Row], None, None]:
    """(line or row number from 1, row) of a list; for `.txt` the row is {"uri": line}.

    Raises:
        UsageError: the list cannot be read, or a line is malformed; names the list, the line, the cause and
            the next step.
    """
    name = shown(uri)
    try:
        with (
            open_binary(uri) as raw,
            io.BufferedReader(cast(io.RawIOBase, raw), 1 << 18) as whole,
        ):
            suffix = suffix_of(uri)
            file = whole if suffix == ".parquet" else _as_utf8(whole)
            if suffix == ".txt":
                lines = ((number, line.strip()) for number, line in _lines(file, name))
                yield from (
                    (number, {"uri": line}) for number, line in lines if line and not line.startswith("#")
                )
            else:
                yield from _READERS[suffix](file, name)
    except MediaError as error:
        raise UsageError(name, f"cannot be read: {error.message}", "Check the list's address.") from error
