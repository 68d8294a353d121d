"""Arrow schemas of every table, with a version that readers check.

Why: the tables are the contract between writer and readers, so their columns, types and units stand in one
place. A field may be added in a minor version; renaming or retyping one raises the major version, which
readers refuse.
"""

from __future__ import annotations

import json

import pyarrow as pa

from manifests.errors import IntegrityError
from manifests.text import valid_json

FORMAT_VERSION = "1.5"
_VERSION_KEY = b"rushes.format"
_PARTS_KEY = b"rushes.parts"

_MEMBER = pa.struct(
    [("name", pa.string()), ("offset", pa.int64()), ("size_bytes", pa.int64()), ("crc32", pa.uint32())]
)
_PART = pa.struct([("table", pa.string()), ("rows", pa.int64()), ("sha256", pa.string())])

Field = tuple[str, pa.DataType, str]
"""Name, type and meaning of a table's column."""

_ORIGIN = [
    ("source_id", pa.string(), "of the source: a hash of its bytes"),
    ("uri", pa.string(), "address of the source"),
    ("start_s", pa.float64(), "begin in the source"),
    ("end_s", pa.float64(), "end in the source"),
]

SOURCES = [
    ("source_id", pa.string(), "content id, or a hash of the uri where the bytes could not be read"),
    ("uri", pa.string(), "address of the source"),
    ("status", pa.string(), "kept | dropped | failed"),
    ("reason", pa.string(), "why it was dropped or failed (docs/faults.md)"),
    ("detail", pa.string(), "the same in a sentence"),
    ("size_bytes", pa.int64(), "size of the file"),
    ("modified", pa.string(), "what changes when the file does: its modification time in ns, or its ETag"),
    ("kind", pa.string(), "video | image"),
    ("container", pa.string(), "FFmpeg's name of the container"),
    ("codec", pa.string(), "FFmpeg's name of the codec"),
    ("pixel_format", pa.string(), "FFmpeg's name of the pixel format"),
    ("width_px", pa.int32(), "as displayed: rotated, square pixels"),
    ("height_px", pa.int32(), "as displayed"),
    ("stored_width_px", pa.int32(), "as coded"),
    ("stored_height_px", pa.int32(), "as coded"),
    ("sample_aspect", pa.float64(), "width of a stored pixel over its height"),
    ("rotation_deg", pa.int32(), "counter-clockwise turn that shows the picture upright"),
    ("is_mirrored", pa.bool_(), "flipped left to right after the turn"),
    ("start_s", pa.float64(), "first presentation time in the file; all other times count from it"),
    ("duration_s", pa.float64(), "of the frames, last one included"),
    ("declared_duration_s", pa.float64(), "what the container says"),
    ("num_packets", pa.int64(), "video packets that show a frame"),
    ("fps", pa.float64(), "frames a second, mean"),
    ("is_vfr", pa.bool_(), "whether frames come at uneven times"),
    ("has_audio", pa.bool_(), "whether the source has sound"),
    ("transfer", pa.string(), "sdr | pq | hlg"),
    ("is_interlaced", pa.bool_(), "then deinterlaced when read"),
    ("decoder", pa.string(), "decord | pyav | pillow"),
    ("decoder_reasons", pa.list_(pa.string()), "why decord was not trusted"),
    ("alt", pa.string(), "the caption it came with"),
    ("timed_captions_json", pa.string(), "ground-truth captions with start_s and end_s"),
    ("metadata_json", pa.string(), "what lists and sidecars say besides"),
    ("licence", pa.string(), "what they say under licence, license or rights"),
    ("origin", pa.string(), "what they say under url, webpage_url, source_url, author, uploader or creator"),
]
SEGMENTS = [
    ("generation", pa.int32(), "of the plan: new footage appends one"),
    ("shard", pa.int32(), "number of the shard"),
    ("segment_id", pa.string(), "of the segment"),
    *_ORIGIN,
    ("kind", pa.string(), "video or image"),
    ("source_row", pa.int64(), "row of its source in the generation's sources; null in older plans"),
]
CLIPS = [
    ("clip_id", pa.string(), "of the clip: source and begin in milliseconds"),
    ("shard", pa.int32(), "number of the shard"),
    ("segment_id", pa.string(), "of the segment"),
    *_ORIGIN,
    ("kind", pa.string(), "video or image"),
    ("width_px", pa.int32(), "as displayed"),
    ("height_px", pa.int32(), "as displayed"),
    ("num_frames", pa.int32(), "frames in the clip"),
    ("fps", pa.float64(), "frames a second, mean"),
    ("is_vfr", pa.bool_(), "whether frames come at uneven times"),
    ("decoder", pa.string(), "decord, pyav or pillow"),
    ("num_damaged_frames", pa.int32(), "frames after reported damage that are in the clip"),
    (
        "starts_with",
        pa.string(),
        "source_start | cut | gap (after a transition, damage or loss) | size_change | time_gap | window",
    ),
    ("has_audio", pa.bool_(), "whether the source has sound"),
    ("luma_mean", pa.float64(), "mean brightness, 0..1"),
    ("luma_std", pa.float64(), "its deviation"),
    ("saturation", pa.float64(), "mean saturation, 0..1"),
    ("sharpness", pa.float64(), "variance of the Laplacian on 0..255 luma"),
    ("noise", pa.float64(), "standard deviation of the noise on 0..255 luma, at preview size"),
    ("white_share", pa.float64(), "share of previews over 0.94 and nearly flat"),
    ("black_share", pa.float64(), "share of previews whose mean luma is under 0.06 and nearly flat"),
    ("frozen_share", pa.float64(), "share of frame pairs that differ by under 0.25/255"),
    ("motion", pa.float64(), "mean absolute frame difference per second, 0..1"),
    (
        "camera",
        pa.string(),
        "static | pan_left | pan_right | tilt_up | tilt_down | zoom_in | zoom_out | roll_left | roll_right | "
        "handheld | moving | unknown",
    ),
    ("camera_confidence", pa.float64(), "0..1"),
    ("pan_per_s", pa.float64(), "picture heights a second; right > 0"),
    ("tilt_per_s", pa.float64(), "up > 0"),
    ("zoom_per_s", pa.float64(), "log scale a second; in > 0"),
    ("roll_deg_per_s", pa.float64(), "degrees a second"),
    ("shake", pa.float64(), "hand-held movement, picture heights a second"),
    ("object_motion", pa.float64(), "what moves beside the camera, picture heights a second"),
    ("loop_likelihood", pa.float64(), "that it repeats itself, 0..1"),
    ("slideshow_likelihood", pa.float64(), "that it is a series of stills, 0..1"),
    ("screen_likelihood", pa.float64(), "that it was recorded from a screen, 0..1"),
    ("bars_px", pa.list_(pa.int32()), "top, bottom, left, right black bars; flagged, never cropped"),
    ("palette", pa.list_(pa.string()), "named colours, most frequent first"),
    ("preview_times_s", pa.list_(pa.float64()), "times of the preview frames"),
    ("proxy_fps", pa.float64(), "rate of the WebM proxy"),
    ("alt", pa.string(), "the caption it came with"),
    ("timed_captions_json", pa.string(), "ground-truth captions with start_s and end_s"),
]
HASHES = [
    ("clip_id", pa.string(), "of the clip: source and begin in milliseconds"),
    ("shard", pa.int32(), "number of the shard"),
    (
        "video_hash",
        pa.binary(),
        "perceptual, of the bar-free picture at four frames a second (media/measure/videohash.py)",
    ),
]
EMBEDDINGS = [
    ("clip_id", pa.string(), "of the clip: source and begin in milliseconds"),
    ("shard", pa.int32(), "number of the shard"),
    ("num_frames", pa.int32(), "previews that were averaged"),
    ("vector", pa.list_(pa.float32()), "of unit length"),
]
SCORES = [
    ("clip_id", pa.string(), "of the clip: source and begin in milliseconds"),
    ("shard", pa.int32(), "number of the shard"),
    ("scorer", pa.string(), "name of the model"),
    ("value", pa.float64(), "what it says; of `text` the share of the picture that text covers"),
    ("words", pa.list_(pa.string()), "lines of text that were read, where it reads"),
    ("scorer_version", pa.string(), "of the model, its settings and the previews it saw"),
]
VERDICTS = [
    ("clip_id", pa.string(), "of the clip: source and begin in milliseconds"),
    ("shard", pa.int32(), "number of the shard"),
    ("caption_id", pa.string(), "of the caption that was judged"),
    ("who", pa.string(), "the person"),
    ("verdict", pa.string(), "right | minor | wrong | unsure"),
    ("tags", pa.list_(pa.string()), "what is amiss: subject, action, camera, count, text, invented"),
]
DUPLICATES = [
    ("clip_id", pa.string(), "of the clip: source and begin in milliseconds"),
    ("shard", pa.int32(), "number of the shard"),
    ("group_id", pa.string(), "the clip of the group that is kept"),
    ("is_kept", pa.bool_(), "whether the default view keeps it"),
    (
        "distance",
        pa.float64(),
        "from the kept clip; null where the embedding alone matched, or after a takedown",
    ),
]
DROPS = [
    ("stage", pa.string(), "stage that left it out"),
    ("shard", pa.int32(), "number of the shard"),
    ("item_id", pa.string(), "what was left out: a source, segment, clip or frames of one"),
    *_ORIGIN,
    ("reason", pa.string(), "why (docs/faults.md)"),
    ("value", pa.float64(), "what was measured"),
    ("threshold", pa.float64(), "what it was compared with"),
    ("num_frames", pa.int64(), "frames of the source in it; null where they were not counted"),
]
FAILURES = [
    ("stage", pa.string(), "stage in which it failed"),
    ("shard", pa.int32(), "number of the shard"),
    ("item_id", pa.string(), "what failed"),
    *_ORIGIN,
    ("error", pa.string(), "why (docs/faults.md)"),
    ("cause", pa.string(), "the same in a sentence"),
    ("attempt", pa.int32(), "how often it was tried"),
    ("num_frames", pa.int64(), "frames of the source in it; null where they were not counted"),
]
CAPTIONS = [
    ("caption_id", pa.string(), "of the caption: a hash of what it says and of its origin"),
    ("clip_id", pa.string(), "of the clip: source and begin in milliseconds"),
    ("shard", pa.int32(), "number of the shard"),
    (
        "kind",
        pa.string(),
        "short | dense | structured | alt | window (of a part of a long clip; never trained on)",
    ),
    ("source", pa.string(), "ground_truth | alt | backend name"),
    ("text", pa.string(), "the caption"),
    ("fields_json", pa.string(), "structured fields: subjects, actions, setting, camera, lighting, style"),
    ("status", pa.string(), "accepted | rejected | out_of_domain"),
    ("reasons", pa.list_(pa.string()), "why it was rejected (docs/faults.md)"),
    ("num_words", pa.int32(), "words in it"),
    ("start_s", pa.float64(), "of a window; null for captions of the whole clip"),
    ("end_s", pa.float64(), "of a window"),
    ("finish_reason", pa.string(), "stop, length, or error with its cause"),
    ("scores_json", pa.string(), "the backend's own: mean_logprob, alignment"),
    ("backend", pa.string(), "who wrote it"),
    ("model", pa.string(), "its model"),
    ("weights", pa.string(), "hash, where the weights are at hand"),
    ("prompt_id", pa.string(), "name of the prompt"),
    ("prompt_sha256", pa.string(), "hash of the prompt"),
    ("sampling_json", pa.string(), "how it was sampled"),
    ("seed", pa.int64(), "of the sampling"),
    ("frame_indices", pa.list_(pa.int32()), "previews that were looked at"),
    ("frame_times_s", pa.list_(pa.float64()), "their times in the clip"),
    ("code_version", pa.int32(), "of the backend's code"),
    ("prompt_tokens", pa.int64(), "tokens read"),
    ("output_tokens", pa.int64(), "tokens written"),
    ("num_requests", pa.int32(), "requests to a server"),
]
TEXT = [
    ("clip_id", pa.string(), "of the clip: source and begin in milliseconds"),
    ("shard", pa.int32(), "number of the shard"),
    ("caption_id", pa.string(), "with ~1, ~2 ... for shuffled variants of a structured caption"),
    ("kind", pa.string(), "of the caption"),
    ("source", pa.string(), "of the caption"),
    (
        "num_tokens",
        pa.int32(),
        "of the embedding; as many as the encoder reads at most: the text was cut",
    ),
    ("width", pa.int32(), "values of a token"),
]
MAP = [
    ("clip_id", pa.string(), "of the clip: source and begin in milliseconds"),
    ("shard", pa.int32(), "number of the shard"),
    ("x", pa.float64(), "place on a plane, 0 to 1: clips of alike embeddings are neighbours"),
    ("y", pa.float64(), "0 to 1"),
]
LATENTS = [
    ("clip_id", pa.string(), "of the clip: source and begin in milliseconds"),
    ("shard", pa.int32(), "number of the shard"),
    ("num_channels", pa.int32(), "channels of a latent cell"),
    ("latent_t", pa.int32(), "latent frames"),
    ("latent_h", pa.int32(), "rows of cells"),
    ("latent_w", pa.int32(), "columns of cells"),
    ("num_frames", pa.int32(), "extent: the valid T x H x W of the pixels that were encoded"),
    ("height_px", pa.int32(), "of the extent"),
    ("width_px", pa.int32(), "of the extent"),
    ("fps", pa.float64(), "frames a second of what was encoded"),
    ("scale", pa.float64(), "encoded size over display size, one factor for both axes"),
    ("num_source_frames", pa.int32(), "before max_fps picked among them"),
    ("factor_t", pa.int32(), "frames in one latent cell"),
    ("factor_px", pa.int32(), "rows and columns of pixels in one latent cell"),
    ("slab_offset", pa.int64(), "bytes of the member before its slabs of time; null where it has none"),
    ("slab_crc32", pa.list_(pa.int64()), "of each slab, one for each latent frame"),
    (
        "audit_psnr_db",
        pa.float64(),
        "fidelity of the round trip; null where the clip was not in the audited sample",
    ),
    ("audit_ssim", pa.float64(), "structural similarity; null as above"),
    ("audit_flicker", pa.float64(), "|d/dt of the error| over |d/dt of the clip|"),
    ("audit_drift_db", pa.float64(), "lost over five round trips"),
    ("audit_flag", pa.string(), "low_psnr, flicker, drift, with commas; empty: nothing amiss"),
]
SHARDS = [
    ("column", pa.string(), "name of the column"),
    ("fingerprint", pa.string(), "its version"),
    ("shard", pa.int32(), "number of the shard"),
    ("generation", pa.int32(), "of the plan: new footage appends one"),
    ("tar", pa.string(), "path inside the dataset; null for a column without a tar"),
    ("tar_bytes", pa.int64(), "size of the tar"),
    ("tar_sha256", pa.string(), "hash of the tar"),
    ("num_in", pa.int64(), "items that entered"),
    ("num_kept", pa.int64(), "of these, kept"),
    ("num_dropped", pa.int64(), "left out on purpose"),
    ("num_failed", pa.int64(), "lost by accident"),
    ("members", pa.list_(_MEMBER), "of the tar, in its order"),
    ("stats_json", pa.string(), "column statistics that merge across shards"),
    ("parts", pa.list_(_PART), "the parts of tables that this commit wrote"),
]
EVENTS = [
    ("time_s", pa.float64(), "unix time"),
    ("event", pa.string(), "kind of event"),
    ("stage", pa.string(), "stage it is of"),
    ("shard", pa.int32(), "number of the shard"),
    ("text", pa.string(), "for people"),
    ("value_json", pa.string(), "for programs"),
]

TABLES: dict[str, list[Field]] = {
    "sources": SOURCES,
    "segments": SEGMENTS,
    "clips": CLIPS,
    "hashes": HASHES,
    "embeddings": EMBEDDINGS,
    "scores": SCORES,
    "verdicts": VERDICTS,
    "map": MAP,
    "duplicates": DUPLICATES,
    "drops": DROPS,
    "failures": FAILURES,
    "captions": CAPTIONS,
    "text": TEXT,
    "latents": LATENTS,
    "shards": SHARDS,
    "events": EVENTS,
}


def schema(table: str) -> pa.Schema:
    """The Arrow schema of a table, stamped with the format version."""
    fields = [(name, kind) for name, kind, _ in TABLES[table]]
    return pa.schema(
        fields, metadata={_VERSION_KEY: FORMAT_VERSION.encode(), b"rushes.table": table.encode()}
    )


def to_table(table: str, rows: list[dict]) -> pa.Table:
    """Rows as an Arrow table of the table's schema; a missing field is null.

    Raises:
        ValueError: a row has a field the schema does not know.
    """
    known = schema(table)
    names = set(known.names)
    for row in rows:
        if not row.keys() <= names:
            raise ValueError(f"table {table} has no field {sorted(row.keys() - names)}")
    try:
        return _arrays(known, rows)
    except UnicodeEncodeError:  # text from outside that went round the places where it is made valid
        return _arrays(known, [valid_json(row) for row in rows])


def _arrays(known: pa.Schema, rows: list[dict]) -> pa.Table:
    structs = pa.array(rows, pa.struct(list(known)))
    return pa.Table.from_arrays(structs.flatten(), schema=known)


def with_parts(table: pa.Table, digests: dict[str, str]) -> pa.Table:
    """The table with the sha256 of other parts in its metadata, by their table."""
    stored = {**(table.schema.metadata or {}), _PARTS_KEY: json.dumps(digests, sort_keys=True).encode()}
    return table.replace_schema_metadata(stored)


def parts_of(found: pa.Schema) -> dict[str, str]:
    """What `with_parts` wrote; nothing in what older versions wrote."""
    digests: dict[str, str] = json.loads((found.metadata or {}).get(_PARTS_KEY, b"{}"))
    return digests


def is_of_today(found: pa.Schema) -> bool:
    """Whether a file was written by this version of the format."""
    return (found.metadata or {}).get(_VERSION_KEY, b"").decode() == FORMAT_VERSION


def check_version(found: pa.Schema, where: str) -> None:
    """Refuse a file of another major format version.

    Raises:
        IntegrityError: the file has no version, or one this reader does not understand.
    """
    version = (found.metadata or {}).get(_VERSION_KEY, b"").decode()
    if version.split(".")[0] != FORMAT_VERSION.split(".", maxsplit=1)[0]:
        raise IntegrityError(
            where,
            f"has format version {version or 'none'}, this reader knows {FORMAT_VERSION}",
            "Use a matching version of rushes.",
        )
