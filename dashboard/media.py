"""Pictures and videos straight out of the tars, by clip and field that the index knows, never by a path."""

from __future__ import annotations

import re
import threading
from collections import OrderedDict
from typing import Any
from weakref import WeakKeyDictionary

from fastapi import HTTPException
from fastapi.responses import Response

from dashboard.index.index import Index
from dashboard.index.patience import AwayError
from manifests.errors import RushesError
from manifests.store.shards import Member, read_member

TYPES = {"poster.jpg": "image/jpeg", "proxy.webm": "video/webm", "latent.png": "image/png"}
_FRAME = re.compile(r"^frame\d{3,}\.jpg$")
_SHARDS = 16
"""Shards whose members are kept, a few hundred kilobytes each."""
_RANGE = re.compile(r"^bytes=(\d{0,18})-(\d{0,18})$")


Rows = dict[tuple[str, str], list[dict[str, Any]]]
"""Members by clip and field."""


class Shelf:
    """The members of the shards that were asked for last: what a page shows lies in few of them."""

    def __init__(self) -> None:
        self._lock, self._changes = threading.Lock(), -1
        self._shards = OrderedDict[int, Rows]()

    def rows(self, index: Index, clip_id: str, field: str) -> list[dict[str, Any]]:
        """The rows of `members` of a clip's field."""
        with self._lock:
            if self._changes != index.changes:
                self._shards.clear()
                self._changes = index.changes
            for shard, kept in self._shards.items():
                if found := kept.get((clip_id, field)):
                    self._shards.move_to_end(shard)
                    return found
            changes = self._changes
        places = index.tuples("SELECT DISTINCT shard FROM place WHERE clip_id = ?", [clip_id])
        made = list[dict[str, Any]]()
        for (shard,) in places:
            own: Rows = {}
            for row in index.rows(f"SELECT * FROM members WHERE shard = {int(shard)}"):
                own.setdefault((row["clip_id"], row["field"]), []).append(row)
            made += own.get((clip_id, field), [])
            if len(places) == 1:
                self._keep(int(shard), own, changes)
        return made

    def _keep(self, shard: int, own: Rows, changes: int) -> None:
        with self._lock:
            if self._changes == changes:
                self._shards[shard] = own
                while len(self._shards) > _SHARDS:
                    self._shards.popitem(last=False)


_SHELVES = WeakKeyDictionary[Index, Shelf]()


def find(index: Index, clip_id: str, field: str, version: str = "") -> tuple[str, Member] | None:
    """The tar and the member of a column version; of the newest that has them where none is named."""
    found = _SHELVES.setdefault(index, Shelf()).rows(index, clip_id, field)
    found = [row for row in found if version in ("", row["version"])]
    rows = [row for row in found if index.tar_of(row["version"], row["shard"])]
    if not rows:
        return None
    row = rows[0]
    if len(rows) > 1:
        row = max(rows, key=lambda one: index.committed_ns(one["version"], one["shard"]))
    member = Member(f"{clip_id}.{field}", row["offset"], row["size_bytes"], row["crc32"])
    return index.dataset.path(*index.tar_of(row["version"], row["shard"]).split("/")), member


def _read(index: Index, path: str, member: Member) -> bytes:
    return index.store.ask(lambda: read_member(index.dataset.filesystem, path, member))


def member_bytes(index: Index, clip_id: str, field: str, version: str = "") -> bytes | None:
    """A member, its crc32 checked; None where it is not there or damaged."""
    found = find(index, clip_id, field, version)
    if found is None:
        return None
    try:
        return _read(index, *found)
    except (RushesError, OSError):
        return None


def answer(index: Index, name: str, asked: str | None, version: str = "") -> Response:
    """A member or the range of it that a player seeks to, its crc32 checked in either case.

    Args:
        name: `<clip id>.<field>`.
        asked: the Range header.
        version: of the column, as a pinned view has it; empty: the newest.
    """
    clip_id, _, field = name.partition(".")
    kind = "image/jpeg" if _FRAME.match(field) else TYPES.get(field)
    found = find(index, clip_id, field, version) if kind else None
    if found is None:
        raise HTTPException(404, "no such preview")
    path, member = found
    headers = {
        "Accept-Ranges": "bytes",
        "ETag": f'"{member.crc32:08x}"',
        "Cache-Control": "private, no-cache",
    }
    try:
        data = _read(index, path, member)  # whole: only so can it be checked
    except AwayError as error:
        raise HTTPException(503, str(error.strerror), {"Retry-After": "10"}) from error
    except RushesError as error:
        raise HTTPException(500, str(error)) from error
    except OSError as error:
        raise HTTPException(404, f"its tar cannot be read ({error.strerror or error})") from error
    span = span_of(asked, len(data))
    if span is None:
        return Response(data, media_type=kind, headers=headers)
    begin, end = span
    if begin >= end:
        return Response(status_code=416, headers={"Content-Range": f"bytes */{len(data)}"})
    headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
    return Response(data[begin:end], 206, media_type=kind, headers=headers)


def span_of(asked: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last that a Range header asks for.

    None where it asks for all, or for what need not be understood; an empty span where it asks for none
    that there are.
    """
    match = _RANGE.match((asked or "").replace(" ", ""))
    if match is None or match[1] == match[2] == "":
        return None
    if match[1] == "":
        return max(0, size - int(match[2])), size
    begin, end = int(match[1]), min(size, int(match[2]) + 1) if match[2] else size
    if begin < size and end <= begin:
        return None
    return begin, end
