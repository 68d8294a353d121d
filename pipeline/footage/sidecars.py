"""What stands beside a media file: JSON sidecars, captions in text files, a folder's metadata file.

A folder with `metadata.jsonl`, `.csv` or `.parquet` that has a column `file_name` describes the files below
it (the layout that Hugging Face datasets call videofolder and imagefolder).
"""

from __future__ import annotations

import json
import posixpath

from manifests.errors import UsageError
from media.bytes.access import is_local, open_binary
from media.bytes.tar_member import split_member
from media.errors import MediaError, shown
from pipeline.footage.found import Found, row_fields, split_query
from pipeline.footage.lists import entry_uri, read_rows

_FOLDER_LISTS = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
_MAX_SIDECAR_BYTES = 16 << 20


def folder_rows(uri: str) -> list[Found] | None:
    """Rows of a folder's metadata file, by the files they are about; None where the file is something else.

    Raises:
        UsageError: a line after the first is malformed, or gives no `file_name`.
    """
    if posixpath.basename(split_query(uri)[0]) not in _FOLDER_LISTS:
        return None
    rows = read_rows(uri)
    try:
        first = next(rows, None)
    except UsageError:
        return None  # no table: a file as any other
    if first is None or not isinstance(first[1].get("file_name"), str):
        rows.close()
        return None
    found = []
    for number, row in [first, *rows]:
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            raise UsageError(
                f"{shown(uri)} line {number}", "gives no file_name", "Give every row the name of its file."
            )
        alt, metadata = row_fields({key: value for key, value in row.items() if key != "file_name"})
        found.append(Found(entry_uri(name, uri), alt=alt, metadata=metadata))
    return found


def _read_text(uri: str) -> str:
    with open_binary(uri) as file:
        data = file.read(_MAX_SIDECAR_BYTES + 1)
    if len(data) > _MAX_SIDECAR_BYTES:
        raise ValueError(f"it is over {_MAX_SIDECAR_BYTES} bytes")
    return data.decode()


def _timed(value: object) -> bool:
    """Whether a value is a list of captions with their times, as curation reads them."""
    return isinstance(value, list) and all(
        isinstance(item, dict)
        and all(
            isinstance(item.get(key), int | float) and not isinstance(item[key], bool)
            for key in ("start_s", "end_s")
        )
        and isinstance(item.get("text"), str)
        and isinstance(item.get("kind"), str)
        for item in value
    )


def sidecar_fields(found: Found) -> dict:
    """`alt`, `timed_captions_json` and `metadata_json` of a source, and `detail` if one is unreadable."""
    alt, captions, detail = found.alt, [], []
    metadata: dict = {}
    if found.sidecar:
        try:
            sidecar = json.loads(_read_text(found.sidecar))
            if not isinstance(sidecar, dict):
                raise ValueError(f"it is a {type(sidecar).__name__}, not an object")
            captions = sidecar.pop("captions", [])
            if not _timed(captions):
                detail.append(
                    f"captions of sidecar {shown(found.sidecar)} are left out: each needs start_s, end_s "
                    "(numbers), kind and text"
                )
                captions = []
            if not is_local(found.sidecar) and split_member(found.sidecar):
                own_alt, metadata = row_fields(sidecar)
            else:
                own_alt, metadata = str(sidecar.pop("alt", "") or ""), sidecar
            alt = alt or own_alt
        except (MediaError, ValueError, RecursionError) as error:
            detail.append(f"sidecar {shown(found.sidecar)} is not readable JSON: {error}")
    if found.caption and not alt:
        try:
            alt = _read_text(found.caption).strip()
        except (MediaError, ValueError) as error:
            detail.append(f"caption {shown(found.caption)} cannot be read: {error}")
    metadata |= found.metadata
    if not captions and metadata.get("captions") and _timed(metadata["captions"]):
        captions = metadata.pop("captions")
    metadata.pop("truth", None)  # exact truth of the film world: for evaluation, never for training
    fields = {
        "alt": alt,
        "timed_captions_json": json.dumps(captions),
        "metadata_json": json.dumps(metadata, sort_keys=True),
    }
    return fields | ({"detail": "; ".join(detail)} if detail else {})
