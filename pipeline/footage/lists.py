"""List files: footage by line in `.txt`, by row in `.csv`, `.tsv`, `.jsonl` and `.parquet`.

A row names its file in a column `uri`, `path`, `url`, `file` or `file_name`; a relative name counts from the
list's folder; the other columns are carried along.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from urllib.parse import quote, unquote, urljoin

from manifests.errors import UsageError
from manifests.text import spelt, split_user
from media.bytes.access import STORES, WEB
from media.bytes.tar_member import split_member
from media.errors import shown
from pipeline.footage.found import URI_COLUMNS, Found, row_fields, split_query
from pipeline.footage.rows import BrokenRow, read_rows

_NEXT = f"Give a column {', '.join(URI_COLUMNS[:-1])} or {URI_COLUMNS[-1]} in every row."


def entry_uri(entry: str, list_uri: str) -> str:
    """The full path or address of an entry of a list.

    Raises:
        UsageError: a list that came over http names a file of this machine.
    """
    scheme, mark, rest = entry.partition("://")
    entry = f"{scheme.lower()}{mark}{rest}" if mark and scheme.isalnum() else entry
    if entry.startswith("file://"):
        path = entry.removeprefix("file://").partition("?")[0].partition("#")[0]
        entry = unquote(path[path.find("/") :] if "/" in path else path)
    if entry.startswith(STORES):
        return _without_powers(entry)
    if "://" in entry:
        return entry
    if list_uri.startswith(WEB):
        if entry.startswith(("/", "~")):
            raise UsageError(
                f"{shown(list_uri)}: {entry}",
                "a list from the web may not name files of this machine",
                "Download the list first.",
            )
        return urljoin(list_uri, quote(entry))
    tar, name = split_member(entry) or (entry, "")
    if list_uri.startswith(STORES) and tar.startswith(("/", "~")):
        raise UsageError(
            f"{shown(list_uri)}: {entry}",
            "a list on a store may not name files of this machine",
            "Download the list first.",
        )
    path = os.path.expanduser(tar)
    if list_uri.startswith(STORES) and not path.startswith("/"):
        base, query = split_query(list_uri)
        scheme, _, folder = base.partition("://")
        path = f"{scheme}://{os.path.normpath(os.path.join(os.path.dirname(folder), quote(path)))}{query}"
    else:
        path = os.path.abspath(os.path.join(os.path.dirname(list_uri), path))
    return f"{path}#{name}" if name else path


def _without_powers(address: str) -> str:
    """An object's address without user and query, spelt as a listing spells it.

    These would choose who is sent our signed requests, with our credentials, and a list may come from anyone:
    endpoints come from the environment (AWS_ENDPOINT_URL) or from an address of the command line.
    """
    return spelt(split_user(split_query(address)[0])[1])


def named_by(row: Mapping[str, object], where: str) -> tuple[str, str]:
    """(column, entry) of a row: the first of the address columns that is not empty.

    Raises:
        UsageError: there is none, or it is no text.
    """
    by_name = {key.strip().lower(): key for key in reversed(list(row))}
    for name in URI_COLUMNS:
        column = by_name.get(name, name)
        value = row.get(column)
        if value is None or value == "":
            continue
        if not isinstance(value, str) or not value.strip() or "\0" in value:
            raise UsageError(where, f"{column} is no path or address", _NEXT)
        return column, value.strip()
    raise UsageError(where, "names no file", _NEXT)


def list_rows(uri: str) -> Iterator[Found]:
    """Footage that a `.csv`, `.tsv`, `.jsonl` or `.parquet` list names, row by row, missing files too.

    Missing files become failures by name, rows that name none by their list and line.

    Raises:
        UsageError: as `read_rows`, or no row names a file.
    """
    first, has_named = None, False
    for number, row in read_rows(uri):
        where = f"{shown(uri)} line {number}"
        if isinstance(row, BrokenRow):
            first = first or UsageError(where, row.why, "Correct it.")
            yield Found(where, refused=row.why)
            continue
        try:
            column, entry = named_by(row, where)
        except UsageError as error:
            first = first or error
            alt, metadata, _ = row_fields(row)
            yield Found(where, alt=alt, metadata=metadata, refused=error.cause)
            continue
        has_named = True
        yield row_found(row, column, entry_uri(entry, uri))
    if first and not has_named:
        raise first


def row_found(row: Mapping[str, object], column: str, uri: str) -> Found:
    """What a row says of the file at `uri`, which its `column` names."""
    alt, metadata, amiss = row_fields({key: value for key, value in row.items() if key != column})
    return Found(uri, alt=alt, metadata=metadata, detail=amiss)
