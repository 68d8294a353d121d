"""Sources: each file that was found, with its verdict.

What there is to ingest is listed by `pipeline.footage.listing`.

A sidecar `<stem>.json` may give `alt` (the caption it came with), `captions` (timed ground truth: start_s,
end_s, kind, text), and anything else, which is carried along as metadata.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from dataclasses import fields, replace

from manifests.text import spelt, valid, valid_json, without_secrets
from media.apart.reader import probe
from media.bytes.access import WEB, held, is_local, open_binary, stat_media, tar_index
from media.bytes.sealed import keyless, sealed
from media.bytes.tar_member import is_tar
from media.decode.facts import Probe
from media.decode.geometry import Geometry
from media.errors import MediaError
from pipeline.blame import blame
from pipeline.footage.found import NOT_MEDIA, Found, suffix_of
from pipeline.footage.listing import list_sources, listed_again
from pipeline.footage.sidecars import sidecar_fields

__all__ = [
    "Found",
    "content_id",
    "facts_of",
    "list_sources",
    "listed_again",
    "probe_fields",
    "same_bytes",
    "source_row",
]

WHOLE_HASH_BYTES = 64 << 20
_SAMPLE_BYTES, _NUM_SAMPLES = 1 << 20, 32


def safe_name(uri: str) -> str:
    """An address as tables have it; a name that is no UTF-8 text with its odd bytes spelt out."""
    return uri.encode("utf-8", "backslashreplace").decode()


_PLAIN = re.compile(r"[\w./:~-]+", re.ASCII)
"""Addresses of which there is one spelling, and that hold no key."""


def planned_name(uri: str) -> str:
    """An address as plans are searched by: those of before may spell an object, or seal a key, otherwise."""
    is_plain = "://" not in uri or _PLAIN.fullmatch(uri)  # of millions nearly all are
    return safe_name(uri if is_plain else sealed(spelt(uri)))


def id_of_address(uri: str) -> str:
    """The id of a source whose bytes could not be read; whoever sealed the key in its address."""
    return "uri-" + hashlib.sha256(keyless(uri).encode()).hexdigest()[:12]


def content_id(uri: str) -> str:
    """A name of a file's bytes: sha256 of all, or of size and 32 spread samples above 64 MiB.

    Raises:
        MediaError: the file cannot be read.
    """
    size = stat_media(uri)[0]
    digest = hashlib.sha256(str(size).encode())
    try:
        with open_binary(uri) as file:
            if size <= WHOLE_HASH_BYTES:
                digest.update(file.read())
            else:
                for index in range(_NUM_SAMPLES):
                    file.seek((size - _SAMPLE_BYTES) * index // (_NUM_SAMPLES - 1))
                    digest.update(file.read(_SAMPLE_BYTES))
    except OSError as error:
        raise MediaError("unreadable", f"{uri}: {error}") from error
    return digest.hexdigest()[:16]


def same_bytes(first: str, second: str) -> bool:
    """Whether two files of equal content id are equal throughout. Small ones were hashed whole already.

    A first that is gone was moved: size and samples are all there is to go by. Where one is there but cannot
    be read they are not taken for the same: rather twice (near-duplicates are found later) than not at all.
    """
    try:
        if stat_media(second)[0] <= WHOLE_HASH_BYTES:
            return True
        try:
            stat_media(first)
        except MediaError as error:
            return error.reason == "missing"
        with open_binary(first) as a, open_binary(second) as b:
            while True:
                x, y = a.read(1 << 22), b.read(1 << 22)
                if x != y:
                    return False
                if not x:
                    return True
    except (MediaError, OSError):
        return False


def failed_row(
    found: Found, reason: str, detail: str, source_id: str = "", size_bytes: int | None = None
) -> dict:
    """The `sources` row of a file that cannot be used, with what a list said of it: it may be tried again."""
    name = source_id or id_of_address(found.uri)
    return {
        "source_id": name,
        "uri": found.uri,
        "status": "failed",
        "reason": reason,
        "detail": detail,
        "size_bytes": size_bytes,
        "alt": without_secrets(valid(found.alt)),
        "metadata_json": json.dumps(without_secrets(valid_json(found.metadata)), sort_keys=True),
    }


def probe_fields(facts: Probe) -> dict:
    """A probe as fields of the `sources` table."""
    width, height = facts.geometry.display_size_px
    return {
        "kind": facts.kind,
        "container": facts.container,
        "codec": facts.codec,
        "pixel_format": facts.pixel_format,
        "width_px": width,
        "height_px": height,
        "stored_width_px": facts.geometry.stored_width_px,
        "stored_height_px": facts.geometry.stored_height_px,
        "sample_aspect": facts.geometry.sample_aspect,
        "rotation_deg": facts.geometry.rotation_deg,
        "is_mirrored": facts.geometry.is_mirrored,
        "start_s": facts.start_s,
        "duration_s": facts.duration_s,
        "declared_duration_s": facts.declared_duration_s,
        "num_packets": facts.num_packets,
        "fps": facts.fps,
        "is_vfr": facts.is_vfr,
        "has_audio": facts.has_audio,
        "transfer": facts.transfer,
        "is_interlaced": facts.is_interlaced,
        "decoder": facts.decoder,
        "decoder_reasons": list(facts.decoder_reasons),
    }


def facts_of(row: dict) -> Probe:
    """The probe that a `sources` row holds, so that no stage reads a source's packets again.

    Raises:
        MediaError: the file is gone, cannot be had, or has another size than when it was planned.
    """
    if why := change_since(row):
        raise MediaError("source_changed", f"{row['uri']} {why}")
    geometry = Geometry(
        row["stored_width_px"],
        row["stored_height_px"],
        row["sample_aspect"],
        row["rotation_deg"],
        row["is_mirrored"],
    )
    same = {item.name: row[item.name] for item in fields(Probe) if item.name in row}
    return Probe(
        **{**same, "path": row["uri"], "geometry": geometry, "decoder_reasons": tuple(row["decoder_reasons"])}
    )


def change_since(row: dict) -> str:
    """How a file differs from what the plan saw; nothing where it is the same.

    A file of another modification time is read again: only its bytes tell.

    Raises:
        MediaError: the file is gone or cannot be had.
    """
    size, modified = stat_media(row["uri"])
    if size != row["size_bytes"]:
        return f"has {size} bytes, the plan saw {row['size_bytes']}"
    if row.get("modified") and modified != row["modified"]:
        name = _content_id_of(row["uri"], size, modified)
        if not row["source_id"].startswith(name):
            return f"holds other bytes than the plan saw ({name}, not {row['source_id']})"
    return ""


@functools.lru_cache(maxsize=64)
def _content_id_of(uri: str, size: int, modified: str) -> str:
    return content_id(uri)


def check_unchanged(row: dict) -> None:
    """See that what was just read of a file is of the bytes that were planned.

    Over http every read sees to that by itself, and a still far away is read at once.

    Raises:
        MediaError: it is another file now, or gone.
    """
    if row["uri"].startswith(WEB) or (row["kind"] == "image" and not is_local(row["uri"])):
        return
    try:
        why = change_since(row)
    except MediaError as error:
        if error.reason == "missing":
            raise
        return  # what was read was read, whatever a store says now
    if why:
        raise MediaError("source_changed", f"{row['uri']} {why}: it changed while it was read")


def changed(row: dict) -> MediaError | None:
    """What `check_unchanged` raises: the cause of whatever went wrong with the file."""
    try:
        check_unchanged(row)
    except MediaError as error:
        return error
    return None


def source_row(found: Found) -> dict:
    """The `sources` row of one file: kept with its facts, dropped as no media, or failed with the cause.

    Never raises for a bad file.
    """
    if found.uri != (safe := safe_name(found.uri)):
        return failed_row(
            replace(found, uri=safe), "name_not_utf8", f"{safe}: its name is no UTF-8 text; rename it"
        )
    if found.refused:
        return failed_row(found, "no_name", f"{found.uri} {found.refused}")
    if (suffix := suffix_of(found.uri)) in NOT_MEDIA:
        return failed_row(found, "not_media_file", f"{suffix} files hold no footage") | {"status": "dropped"}
    name, size = "", None
    try:
        if is_tar(found.uri) and (damage := tar_index(found.uri).damage):
            raise MediaError("bad_tar", damage)
        with held(found.uri):
            (size, modified), name = stat_media(found.uri), content_id(found.uri)
            facts = probe(found.uri)
    except MediaError as error:
        return failed_row(found, error.reason, error.message, name, size)
    # a library may trip over anything in a broken file; `blame` raises a fault of the machine again
    except Exception as error:  # noqa: BLE001
        reason, cause = blame(error)
        return failed_row(found, reason, f"{found.uri}: {cause}", name, size)
    row = {"source_id": name, "uri": found.uri, "status": "kept", "reason": "", "size_bytes": size}
    row["modified"] = modified
    return row | probe_fields(facts) | {"detail": facts.detail} | sidecar_fields(found)
