"""One thing to be ingested, as it was found: its address, and what the place it was found in says of it."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import posixpath
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from media.bytes.access import is_local
from media.bytes.tar_member import split_member

NOT_MEDIA = {
    ".json",
    ".jsonl",
    ".tsv",
    ".csv",
    ".txt",
    ".md",
    ".parquet",
    ".srt",
    ".vtt",
    ".xml",
    ".yaml",
    ".py",
    ".part",
    ".tmp",
}
URI_COLUMNS = ("uri", "path", "url", "file", "file_name")
_ALT_COLUMNS = ("alt", "caption", "text")
_LICENCE_COLUMNS = ("licence", "license")


@dataclass(frozen=True)
class Found:
    """Something to be ingested.

    Attributes:
        uri: path or address; what identifies the source.
        sidecar: address of its JSON, if it has one.
        alt: the caption that a list gave it.
        metadata: what else a list said of it; goes to JSON.
        caption: address of a text file with its caption, beside it in a tar.
        size_bytes: size where the listing told it; None where it must be asked for.
        detail: what of it could not be used.
        refused: why it cannot be ingested at all, where its list shows that.
    """

    uri: str
    sidecar: str | None = None
    alt: str = ""
    metadata: dict = field(default_factory=dict)
    caption: str | None = None
    size_bytes: int | None = None
    detail: str = ""
    refused: str = ""

    def joined(self, other: Found) -> Found:
        """The same thing found twice: what was said first stays, what was said later fills in."""
        return replace(
            self,
            sidecar=self.sidecar or other.sidecar,
            alt=self.alt or other.alt,
            metadata=other.metadata | self.metadata,
            caption=self.caption or other.caption,
            size_bytes=self.size_bytes if self.size_bytes is not None else other.size_bytes,
            detail="; ".join(dict.fromkeys(part for part in (self.detail, other.detail) if part)),
        )


def split_query(uri: str) -> tuple[str, str]:
    """An address without its query, and the query with its question mark. A local path has none."""
    path, mark, query = uri.partition("?") if "://" in uri else (uri, "", "")
    return path, mark + query


def suffix_of(uri: str) -> str:
    """The ending of a file's name in small letters, of the member's name for a member of a tar."""
    member = None if is_local(uri) else split_member(uri)
    return posixpath.splitext(
        member[1] if member else split_query(uri.partition("#")[0] if "://" in uri else uri)[0]
    )[1].lower()


def beside(uri: str, suffix: str) -> str:
    """The address of the file beside this one with another ending."""
    path, query = split_query(uri)
    return posixpath.splitext(path)[0] + suffix + query


_MOST_DEPTH = 64


def to_json(value: object, depth: int = 0) -> object:
    """A value as JSON has it: dates as text, no NaN; anything unknown as text, and what lies too deep."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping) and depth < _MOST_DEPTH:
        return {str(key): to_json(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple) and depth < _MOST_DEPTH:
        return [to_json(item, depth + 1) for item in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value) if depth < _MOST_DEPTH else "..."


def _tags(value: object) -> object:
    """Tags as a list of words; text is taken as a JSON list or as words with commas between."""
    if not isinstance(value, str):
        return to_json(value)
    listed = None
    with contextlib.suppress(ValueError, RecursionError):  # no JSON: words
        listed = json.loads(value)
    if isinstance(listed, list):
        return to_json(listed)
    return [word.strip() for word in value.split(",") if word.strip()]


def row_fields(row: Mapping[str, object]) -> tuple[str, dict, str]:
    """Alt text and metadata of a row of a list, its address left out by the caller, and what is amiss.

    `alt`, `caption` or `text` is the alt text, the first that is not empty; one that is no text is refused
    and kept among the metadata. `license` is spelt `licence`; empty cells are left out. Names count whatever
    their case and the blanks around them.
    """
    alt, metadata, amiss = "", {}, list[str]()
    named = [(str(key).strip(), value) for key, value in row.items()]
    texts = {name.lower() for name, value in named if isinstance(value, str) and value.strip()}
    used = next((name for name in _ALT_COLUMNS if name in texts), None)
    for key, value in named:
        name = key.lower()
        if name == used and not alt:
            alt = str(value).strip()
        elif value is None or value == "":
            continue
        elif name in _LICENCE_COLUMNS:
            metadata["licence"] = to_json(value)
        elif name == "tags":
            metadata["tags"] = _tags(value)
        else:
            metadata[key] = to_json(value)
            if name in _ALT_COLUMNS and not isinstance(value, str):
                amiss.append(f"{name} is a {type(value).__name__} and no text, so it is no caption")
    return alt, metadata, "; ".join(amiss)
