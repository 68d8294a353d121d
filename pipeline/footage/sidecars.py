"""What stands beside a media file: JSON sidecars, captions in text files, a folder's metadata file.

A folder with `metadata.jsonl`, `.csv` or `.parquet` that has a column `file_name` describes the files below
it (the layout that Hugging Face datasets call videofolder and imagefolder).
"""

from __future__ import annotations

import json
import math
import os
import posixpath
from collections.abc import Sequence

from captioner.protocol import KINDS
from manifests.cli import say
from manifests.errors import UsageError
from manifests.text import decoded, valid, valid_json, without_secrets
from media.apart.landlock import lies_among_secrets
from media.bytes.access import is_local, open_binary
from media.bytes.tar_member import split_member
from media.errors import MediaError, shown
from pipeline.footage.found import Found, row_fields, split_query
from pipeline.footage.lists import entry_uri, row_found
from pipeline.footage.rows import read_rows

_NAMES_FILE = "file_name"
_FOLDER_LISTS = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_MAX_SIDECAR_BYTES = 16 << 20

_LICENCE = ("licence", "license", "rights")
_ORIGIN = ("url", "webpage_url", "source_url", "author", "uploader", "creator")


def folder_rows(uri: str) -> tuple[list[Found], bool] | None:
    """Rows of a folder's metadata file, by the files they are about, and whether all could be read.

    Returns:
        None where the file is something else.
    """
    if posixpath.basename(split_query(uri)[0]) not in _FOLDER_LISTS:
        return None
    found, nameless, outside, number = list[Found](), list[int](), list[int](), 0
    try:
        _check_open(uri)
        for number, row in read_rows(uri):
            column = next((key for key in row if key.strip().lower() == _NAMES_FILE), "")
            name = row.get(column)
            if not isinstance(name, str) or not name:
                nameless.append(number)
            elif place := _below(posixpath.dirname(split_query(uri)[0]), entry_uri(name, uri)):
                found.append(row_found(row, column, place))
            else:
                outside.append(number)
    except (MediaError, UsageError) as error:
        if not number:  # no table: a file as any other
            say(f"{shown(uri)}: holds no rows that can be read, so it describes no files ({error})")
            return None
        say(f"{error} What it says of {len(found)} files before that is taken, and no more.")
        return found, False
    if not found and not outside:
        say(f"{shown(uri)}: no row of it gives a file_name, so it describes no files")
        return None
    for lines, what in ((nameless, "give no file_name"), (outside, "name files outside of its folder")):
        if lines:
            shown_lines = ", ".join(map(str, lines[:10])) + (", ..." if len(lines) > 10 else "")
            say(f"{shown(uri)}: {len(lines)} lines {what} (line {shown_lines}) and are left out")
    return found, not nameless and not outside


def _below(folder: str, uri: str) -> str:
    """An address as one in a folder; empty where its name leads elsewhere. Links in the folder may do so."""
    if "://" in uri:
        whose = posixpath.normpath(folder) + "/"
        return uri if posixpath.normpath(uri).startswith(whose) else ""
    place = os.path.abspath(uri)
    for whose in (os.path.abspath(folder), os.path.realpath(folder)):  # the folder may be a link itself
        if place.startswith(whose.rstrip("/") + "/"):
            return posixpath.join(folder, os.path.relpath(place, whose))
    return ""


def _check_open(uri: str) -> None:
    """
    Raises:
        MediaError: the file lies where credentials do: footage of others may hold a link to one.
    """
    tar, _ = (None if is_local(uri) else split_member(uri)) or (uri, "")
    if "://" not in tar and lies_among_secrets(tar):
        raise MediaError("access_denied", f"{uri} lies where credentials usually do, and is not read")


def _read_text(uri: str) -> str:
    _check_open(uri)
    with open_binary(uri) as file:
        data = file.read(_MAX_SIDECAR_BYTES + 1)
    if len(data) > _MAX_SIDECAR_BYTES:
        raise ValueError(f"it is over {_MAX_SIDECAR_BYTES} bytes")
    return decoded(data)


def _timed(value: object) -> tuple[list[dict], list[str]]:
    """Captions with their times, as curation reads them, and why others are left out."""
    if not isinstance(value, list):
        return [], [f"they are a {type(value).__name__}, not a list"]
    good, bad = [], []
    for number, item in enumerate(value):
        if why := _fault(item):
            bad.append(f"number {number + 1} {why}")
        else:
            good.append(item)
    return good, bad


def _is_number(value: object) -> bool:
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # of hundreds of digits
        return False


def _fault(item: object) -> str:
    """What is wrong with a timed caption; nothing where it is sound."""
    if not isinstance(item, dict):
        return f"is a {type(item).__name__}, not an object"
    for key in ("start_s", "end_s"):
        if not _is_number(item.get(key)):
            return f"has no number {key}"
    for key in ("text", "kind"):
        if not isinstance(item.get(key), str):
            return f"has no text {key}"
    if item["kind"] not in KINDS:
        return f"is of the kind {item['kind']!r}; there are {', '.join(KINDS)}"
    if item["end_s"] < item["start_s"]:
        return "ends before it begins"
    return _fault_of_text(item["text"]) if item["kind"] == "structured" else ""


def _fault_of_text(text: str) -> str:
    """What is wrong with a structured caption."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        return "is structured, and its text is no JSON object"
    amiss = [name for name, value in fields.items() if not _is_field(name, value)]
    return f"is structured, and its {', '.join(map(str, amiss))} cannot be read" if amiss else ""


def _is_field(name: str, value: object) -> bool:
    """Whether a structured caption may hold this: a text, a list of texts, or of the camera an object."""
    if name == "camera" and isinstance(value, dict):
        return isinstance(value.get("tag"), str)
    if isinstance(value, list):
        return all(isinstance(item, str) for item in value)
    return isinstance(value, str)


def _said(metadata: dict, keys: Sequence[str]) -> str | None:
    """The first text under one of these keys, whatever their case."""
    by_name = {str(key).lower(): value for key, value in metadata.items()}
    for key in keys:
        if isinstance(value := by_name.get(key), str | int | float) and (text := valid(str(value)).strip()):
            return text
    return None


def sidecar_fields(found: Found) -> dict:
    """`alt`, `timed_captions_json` and `metadata_json` of a source, and `detail` if one is unreadable."""
    alt, captions, detail = found.alt, list[dict](), [found.detail] if found.detail else []
    metadata: dict = {}
    if found.sidecar:
        try:
            sidecar = valid_json(json.loads(_read_text(found.sidecar)))
            if not isinstance(sidecar, dict):
                raise ValueError(f"it is a {type(sidecar).__name__}, not an object")
            captions, bad = _timed(sidecar.pop("captions", None) or [])
            if bad:
                detail.append(f"captions of sidecar {shown(found.sidecar)} are left out: {'; '.join(bad)}")
            own_alt, metadata, amiss = row_fields(sidecar)
            alt = alt or own_alt
            detail += [f"sidecar {shown(found.sidecar)}: {amiss}"] if amiss else []
        except (MediaError, ValueError, RecursionError) as error:
            detail.append(f"sidecar {shown(found.sidecar)} is not readable JSON: {error}")
    if found.caption and not alt:
        try:
            alt = _read_text(found.caption).strip()
        except (MediaError, ValueError) as error:
            detail.append(f"caption {shown(found.caption)} cannot be read: {error}")
    metadata |= found.metadata
    if not captions and metadata.get("captions"):
        listed, bad = _timed(metadata["captions"])
        if not bad:
            captions = listed
            del metadata["captions"]
    metadata.pop("truth", None)  # exact truth of the film world: for evaluation, never for training
    metadata = without_secrets(valid_json(metadata))
    fields = {
        "alt": without_secrets(valid(alt)),
        "timed_captions_json": json.dumps(valid_json(captions)),
        "metadata_json": json.dumps(metadata, sort_keys=True),
        "licence": _said(metadata, _LICENCE),
        "origin": _said(metadata, _ORIGIN),
    }
    return fields | ({"detail": "; ".join(detail)} if detail else {})
