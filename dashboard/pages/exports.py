"""What is shown, to take along: CSV, JSON lines, Parquet, SQL, or a folder that shows some of it anywhere."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from tempfile import SpooledTemporaryFile
from typing import IO, Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import PlainTextResponse, Response, StreamingResponse

from dashboard.asking.filters import Filters
from dashboard.asking.scope import Scope
from dashboard.index import tables
from dashboard.media import member_bytes
from dashboard.pages.clips import COLUMNS, both, saved_as, some_clips
from dashboard.site import Site, plain

MOST_IN_FOLDER = 500
_BATCH, _PIECE, _IN_MEMORY = 10_000, 1 << 20, 32 << 20
_TYPES = {
    "csv": "text/csv",
    "jsonl": "application/x-ndjson",
    "parquet": "application/vnd.apache.parquet",
    "zip": "application/zip",
}
_NAMES = (*COLUMNS.replace(" ", "").split(","), "caption")
_PREVIEWS = ("poster.jpg", "proxy.webm")


def add(app: FastAPI, site: Site) -> None:
    """The routes."""

    @app.get("/clips/export.{kind}")
    def export(request: Request, kind: str) -> Response:
        scope, filters = site.scope(request), Filters.parse(request.query_params.multi_items())
        if kind == "sql":
            return PlainTextResponse(f"SELECT * FROM clips WHERE {both(scope.where, saved_as(filters))};\n")
        if kind not in _TYPES:
            raise HTTPException(404, f"there are {', '.join(f'export.{name}' for name in (*_TYPES, 'sql'))}")
        rows = _begun(_all(site, scope, filters))  # what is wrong is said before the answer begins
        pieces: Iterator[str] | Iterator[bytes]
        if kind in ("csv", "jsonl"):
            pieces = _csv(rows) if kind == "csv" else _jsonl(rows)
        else:
            folder = partial(_folder, site, version=scope.columns.get("preview", ""))
            write = _parquet if kind == "parquet" else folder
            pieces = _of_file(_written(partial(write, rows)))
        headers = {"Content-Disposition": f'attachment; filename="clips.{kind}"'}
        return StreamingResponse(pieces, 200, headers, _TYPES[kind])


def _begun(rows: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The same rows, the first of which has been asked for."""
    first = list(islice(rows, 1))
    return chain(first, rows)


def _all(site: Site, scope: Scope, filters: Filters) -> Iterator[dict[str, Any]]:
    after = ""
    while True:
        own = replace(filters, after=after) if after else filters
        found, after = some_clips(site, scope, own, _BATCH)
        yield from ({**row, "uri": site.shown_path(row["uri"])} for row in found)
        if not after:
            return


def cell(value: Any) -> str:
    """A cell of a CSV that no spreadsheet takes for a formula."""
    if isinstance(value, list):
        text = " ".join("" if part is None else str(part) for part in value)
    else:
        text = "" if value is None else str(value)
    return f"'{text}" if text[:1] in "=+-@\t\r" and not isinstance(value, (int, float)) and text else text


def _csv(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    for row in chain([{name: name for name in _NAMES}], rows):
        line = io.StringIO()
        csv.writer(line).writerow([cell(row[name]) for name in _NAMES])
        yield line.getvalue()


def _jsonl(rows: Iterator[dict[str, Any]]) -> Iterator[str]:
    for row in rows:
        yield json.dumps(plain(row)) + "\n"


def _parquet(rows: Iterator[dict[str, Any]], made: IO[bytes]) -> None:
    known = {**dict(tables.fields("clips")), "caption": pa.string()}
    schema = pa.schema([(name, known[name]) for name in _NAMES])
    with pq.ParquetWriter(made, schema) as writer:
        while batch := list(islice(rows, _BATCH)):
            writer.write_table(pa.Table.from_pylist(batch, schema))


def _folder(site: Site, rows: Iterator[dict[str, Any]], made: IO[bytes], version: str) -> None:
    """A page with the first clips, their posters and videos of a version, that needs no server."""
    shown = []
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for row in islice(rows, MOST_IN_FOLDER):
            have = []
            for field in _PREVIEWS:
                data = member_bytes(site.index, row["clip_id"], field, version)
                if data is not None:
                    archive.writestr(f"clips/media/{row['clip_id']}.{field}", data)
                    have.append(field)
            shown.append({**row, "have": have})
        is_cut = next(rows, None) is not None
        page = site.rendered("folder.html", {"clips": shown, "is_cut": is_cut, "most": MOST_IN_FOLDER})
        archive.writestr("clips/index.html", page)
        archive.writestr("clips/clips.jsonl", "".join(json.dumps(row) + "\n" for row in shown))


def _written(write: Callable[[IO[bytes]], None]) -> IO[bytes]:
    """A file, whole before the answer begins."""
    with ExitStack() as stack:
        made = cast(IO[bytes], stack.enter_context(SpooledTemporaryFile(_IN_MEMORY)))
        write(made)
        stack.pop_all()
    return made


def _of_file(made: IO[bytes]) -> Iterator[bytes]:
    with made:
        made.seek(0)
        while piece := made.read(_PIECE):
            yield piece
