"""Footage: everything there is to ingest, wherever it lies, each once and in a fixed order.

Folders, patterns and files; prefixes and objects of a store; files on the web; tars of media; lists of all of
these. Files that are no
media are listed as well, so that each is accounted for, except those that only describe others: sidecars, and
metadata files of folders.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from manifests.errors import UsageError
from media.bytes.access import STORES, WEB, is_local
from media.bytes.sealed import sealed
from media.bytes.tar_member import split_member
from media.errors import shown
from pipeline.footage.found import Found, suffix_of
from pipeline.footage.lists import entry_uri, list_rows
from pipeline.footage.places import (
    inside_dataset_on_store,
    local_files,
    store_files,
    with_sidecars,
    with_tars_opened,
)
from pipeline.footage.rows import LIST_SUFFIXES, read_rows
from pipeline.footage.sidecars import folder_rows
from pipeline.footage.walking import place_of_ours

_SCHEMES = "Give a path, or an address of s3, gs, http or https."


def _text_list(uri: str, parents: tuple[str, ...]) -> Iterator[Found]:
    """What the lines of a `.txt` name.

    A relative line counts from the list's folder, or from here where only that names something.
    """
    for number, row in read_rows(uri):
        entry = row["uri"]
        beside = entry_uri(entry, uri)
        if "://" in beside and not beside.startswith((*STORES, *WEB)):
            yield Found(
                f"{shown(uri)} line {number}", refused=f"{shown(entry)} has a scheme that is not read"
            )
            continue
        found = _named(beside, (*parents, uri))
        if found is None and "://" not in entry and "://" not in uri:
            found = _named(entry_uri(entry, str(Path.cwd() / "list.txt")), (*parents, uri))
        yield from [Found(beside)] if found is None else found


def _row_list(uri: str) -> Iterator[Found]:
    """What the rows of a list name: of a folder, prefix or pattern all files, each with what the row says."""
    for said in list_rows(uri):
        inside = _inside(said.uri)
        yield from [item.joined(said) for item in inside] if inside else [said]


def _inside(uri: str) -> list[Found] | None:
    """What lies in a folder, below a prefix, or is named by a pattern; None for anything else, or nothing."""
    try:
        if uri.startswith(STORES):
            return store_files(uri) if uri.endswith("/") else None
        path = Path(uri)
        if "://" in uri or path.is_file() or not (path.is_dir() or set(uri) & set("*?")):
            return None
        return local_files(uri)
    except (OSError, UsageError):  # a name that is too long, an output of ours: the row fails by itself
        return None


def _named(argument: str, parents: tuple[str, ...] = ()) -> Iterable[Found] | None:
    """What one argument names; None for nothing.

    Raises:
        UsageError: it has a scheme that is not read, its store cannot be listed, or it is a list that is
            malformed or contains itself.
    """
    is_path = "://" not in argument
    if not is_path and not argument.startswith((*STORES, *WEB)):
        raise UsageError(shown(argument), "has a scheme that is not read", _SCHEMES)
    if not is_local(argument) and split_member(argument):
        return [Found(argument)]
    if suffix_of(argument) in LIST_SUFFIXES and (not is_path or Path(argument).is_file()):
        if argument in parents:
            raise UsageError(
                shown(argument), "is a list that contains itself", "Take it out of its own lines."
            )
        return _text_list(argument, parents) if suffix_of(argument) == ".txt" else _row_list(argument)
    if argument.startswith(STORES):
        try:
            return store_files(argument)
        except UsageError:
            if parents:  # of the entries of a list one that cannot be had fails alone, when it is probed
                return [Found(argument)]
            raise
    try:
        return local_files(argument) if is_path else [Found(argument)]
    except UsageError:
        if parents:  # what lies in an output of ours is refused by itself
            return [Found(argument)]
        raise


def _one_name(argument: str) -> str:
    """One name for one file: no `..` in a path, links as they are named, schemes in small letters."""
    scheme, mark, rest = argument.partition("://")
    if mark and scheme.lower() != "file":
        return f"{scheme.lower()}://{rest}"
    return entry_uri(argument, str(Path.cwd() / "list.txt"))


def listed_again(rows: Iterable[dict]) -> list[Found]:
    """What the addresses of earlier source rows name now, with what lists had said of them.

    Never raises: what names nothing any more is listed, and fails when it is probed.
    """
    found: dict[str, Found] = {}
    for row in rows:
        said = Found(
            row["uri"], alt=row.get("alt") or "", metadata=json.loads(row.get("metadata_json") or "{}")
        )
        for item in _there(said):
            whole = item if item.uri != said.uri else said.joined(item)
            found[item.uri] = found[item.uri].joined(whole) if item.uri in found else whole
    return with_sidecars(found)


def _there(said: Found) -> Iterable[Found]:
    """An address with the files beside it, or what is in it: in a tar, below a folder."""
    try:
        member = None if is_local(said.uri) else split_member(said.uri)
        if member:
            members = with_tars_opened([Found(member[0])])
            return [item for item in members if item.uri == said.uri] or [said]
        if said.uri.startswith(STORES):
            return with_tars_opened(store_files(said.uri) or [said])
        inside = local_files(said.uri) if "://" not in said.uri and Path(said.uri).is_dir() else None
        return with_tars_opened(inside or [said])
    except (UsageError, OSError, ValueError):
        return [said]


def list_sources(footage: list[str]) -> list[Found]:
    """Everything that the arguments name, sorted, each once.

    Sidecars are attached to their media file and not listed. Keys in addresses are sealed
    (`media.bytes.sealed`).

    Args:
        footage: folders (walked), files, glob patterns, `s3://` and `gs://` prefixes or objects, `http(s)://`
            files, tars of media, or lists
            of them: `.txt` (one a line), `.csv`, `.jsonl`, `.parquet` (a row each; see
                `pipeline.footage.lists`).

    Raises:
        UsageError: an argument names nothing, or a list has a malformed line. A missing file that a list
            names is listed, and fails later.
    """
    found: dict[str, Found] = {}

    def take(items: Iterable[Found]) -> None:
        for item in items:
            found[item.uri] = found[item.uri].joined(item) if item.uri in found else item

    for argument in footage:
        named = _named(_one_name(argument))
        if named is None:
            raise UsageError(
                shown(argument),
                "is no file, folder, list, prefix or pattern that matches anything",
                "Check the path.",
            )
        take(named)
    for uri in sorted(found, key=lambda uri: (-uri.count("/"), uri)):  # the deepest folder's word comes first
        if said := folder_rows(uri):
            rows, is_whole = said
            if is_whole:
                del found[uri]
            take(rows)
    found, opened = {}, with_tars_opened(map(_not_ours, found.values()))
    take(opened)
    return [_sealed(item) for item in with_sidecars(found)]


def _not_ours(found: Found) -> Found:
    """The same, refused where it lies in an output of ours, by whatever name or link it was found."""
    tar, _ = (None if is_local(found.uri) else split_member(found.uri)) or (found.uri, "")
    if found.refused or tar.startswith(WEB):
        return found
    what = inside_dataset_on_store(tar) if tar.startswith(STORES) else place_of_ours(tar)
    return replace(found, refused=f"lies {what}: no footage") if what else found


def _sealed(found: Found) -> Found:
    """The same with addresses as tables may have them."""
    return replace(
        found,
        uri=sealed(found.uri),
        sidecar=found.sidecar and sealed(found.sidecar),
        caption=found.caption and sealed(found.caption),
    )
