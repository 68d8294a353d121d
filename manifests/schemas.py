"""Arrow schemas of every table, with a version that readers check.

Why: the tables are the contract between writer and readers, so their columns, types and units stand in one
place. A field may be added in a minor version; renaming or retyping one raises the major version, which
readers refuse.
"""

from __future__ import annotations

import pyarrow as pa

from manifests.errors import IntegrityError

FORMAT_VERSION = "1.1"
_VERSION_KEY = b"rushes.format"

_ORIGIN = [
    ("source_id", pa.string()),
    ("uri", pa.string()),
    ("start_s", pa.float64()),
    ("end_s", pa.float64()),
]

SOURCES = [
    ("source_id", pa.string()),  # content id, or a hash of the uri where the bytes could not be read
    ("uri", pa.string()),
    ("status", pa.string()),  # kept | dropped | failed
    ("reason", pa.string()),
    ("detail", pa.string()),
    ("size_bytes", pa.int64()),
    ("kind", pa.string()),  # video | image
    ("container", pa.string()),
    ("codec", pa.string()),
    ("pixel_format", pa.string()),
    ("width_px", pa.int32()),  # as displayed: rotated, square pixels
    ("height_px", pa.int32()),
    ("stored_width_px", pa.int32()),
    ("stored_height_px", pa.int32()),
    ("sample_aspect", pa.float64()),  # width of a stored pixel over its height
    ("rotation_deg", pa.int32()),  # counter-clockwise turn that shows the picture upright
    ("is_mirrored", pa.bool_()),  # flipped left to right after the turn
    ("start_s", pa.float64()),  # first presentation time in the file; all other times count from it
    ("duration_s", pa.float64()),
    ("declared_duration_s", pa.float64()),
    ("num_packets", pa.int64()),
    ("fps", pa.float64()),
    ("is_vfr", pa.bool_()),
    ("has_audio", pa.bool_()),
    ("transfer", pa.string()),  # sdr | pq | hlg
    ("is_interlaced", pa.bool_()),  # then deinterlaced when read
    ("decoder", pa.string()),  # decord | pyav | pillow
    ("decoder_reasons", pa.list_(pa.string())),  # why decord was not trusted
    ("alt", pa.string()),  # the caption it came with
    ("timed_captions_json", pa.string()),  # ground-truth captions with start_s and end_s
    ("metadata_json", pa.string()),
]
SEGMENTS = [
    ("generation", pa.int32()),
    ("shard", pa.int32()),
    ("segment_id", pa.string()),
    *_ORIGIN,
    ("kind", pa.string()),
]
CLIPS = [
    ("clip_id", pa.string()),
    ("shard", pa.int32()),
    ("segment_id", pa.string()),
    *_ORIGIN,
    ("kind", pa.string()),
    ("width_px", pa.int32()),
    ("height_px", pa.int32()),
    ("num_frames", pa.int32()),
    ("fps", pa.float64()),
    ("is_vfr", pa.bool_()),
    ("decoder", pa.string()),
    ("num_damaged_frames", pa.int32()),
    (
        "starts_with",
        pa.string(),
    ),  # source_start | cut | gap (a transition or damage lies before) | size_change | time_gap | window
    ("has_audio", pa.bool_()),
    ("luma_mean", pa.float64()),  # 0..1
    ("luma_std", pa.float64()),
    ("saturation", pa.float64()),  # 0..1
    ("sharpness", pa.float64()),  # variance of the Laplacian on 0..255 luma
    ("noise", pa.float64()),  # standard deviation of the noise on 0..255 luma, at preview size
    ("text_share", pa.float64()),  # share of the picture that rows of text cover
    ("white_share", pa.float64()),  # share of previews over 0.94 and nearly flat
    ("black_share", pa.float64()),  # share of previews whose mean luma is under 0.06 and nearly flat
    ("frozen_share", pa.float64()),  # share of frame pairs that differ by under 0.25/255
    ("motion", pa.float64()),  # mean absolute frame difference per second, 0..1
    (
        "camera",
        pa.string(),
        # static | pan_left | pan_right | tilt_up | tilt_down | zoom_in | zoom_out | roll_left | roll_right |
        # handheld | moving | unknown
    ),
    ("camera_confidence", pa.float64()),
    ("pan_per_s", pa.float64()),  # picture heights a second; right > 0
    ("tilt_per_s", pa.float64()),  # up > 0
    ("zoom_per_s", pa.float64()),  # log scale a second; in > 0
    ("roll_deg_per_s", pa.float64()),
    ("shake", pa.float64()),
    ("object_motion", pa.float64()),  # what moves beside the camera, picture heights a second
    ("loop_likelihood", pa.float64()),  # 0..1, as all likelihoods
    ("slideshow_likelihood", pa.float64()),
    ("screen_likelihood", pa.float64()),
    ("bars_px", pa.list_(pa.int32())),  # top, bottom, left, right black bars; flagged, never cropped
    ("palette", pa.list_(pa.string())),  # named colours, most frequent first
    ("preview_times_s", pa.list_(pa.float64())),
    ("proxy_fps", pa.float64()),
    ("alt", pa.string()),
    ("timed_captions_json", pa.string()),
]
HASHES = [
    ("clip_id", pa.string()),
    ("shard", pa.int32()),
    (
        "video_hash",
        pa.binary(),
    ),  # perceptual, of the bar-free picture at four frames a second (media/measure/videohash.py)
]
EMBEDDINGS = [
    ("clip_id", pa.string()),
    ("shard", pa.int32()),
    ("num_frames", pa.int32()),  # previews that were averaged
    ("vector", pa.list_(pa.float32())),  # of unit length
]
DUPLICATES = [
    ("clip_id", pa.string()),
    ("shard", pa.int32()),
    ("group_id", pa.string()),  # the clip of the group that is kept
    ("is_kept", pa.bool_()),
    ("distance", pa.float64()),  # from the kept clip; null where the embedding alone matched
]
DROPS = [
    ("stage", pa.string()),
    ("shard", pa.int32()),
    ("item_id", pa.string()),
    *_ORIGIN,
    ("reason", pa.string()),
    ("value", pa.float64()),
    ("threshold", pa.float64()),
]
FAILURES = [
    ("stage", pa.string()),
    ("shard", pa.int32()),
    ("item_id", pa.string()),
    *_ORIGIN,
    ("error", pa.string()),
    ("cause", pa.string()),
    ("attempt", pa.int32()),
]
CAPTIONS = [
    ("caption_id", pa.string()),
    ("clip_id", pa.string()),
    ("shard", pa.int32()),
    (
        "kind",
        pa.string(),
    ),  # short | dense | structured | alt | window (of a part of a long clip; never trained on)
    ("source", pa.string()),  # ground_truth | alt | backend name
    ("text", pa.string()),
    ("fields_json", pa.string()),
    ("status", pa.string()),  # accepted | rejected | out_of_domain
    ("reasons", pa.list_(pa.string())),
    ("num_words", pa.int32()),
    ("start_s", pa.float64()),  # of a window; null for captions of the whole clip
    ("end_s", pa.float64()),
    ("finish_reason", pa.string()),
    ("scores_json", pa.string()),  # the backend's own: mean_logprob, alignment
    ("backend", pa.string()),
    ("model", pa.string()),
    ("weights", pa.string()),  # hash, where the weights are at hand
    ("prompt_id", pa.string()),
    ("prompt_sha256", pa.string()),
    ("sampling_json", pa.string()),
    ("seed", pa.int64()),
    ("frame_indices", pa.list_(pa.int32())),  # previews that were looked at
    ("frame_times_s", pa.list_(pa.float64())),
    ("code_version", pa.int32()),
    ("prompt_tokens", pa.int64()),
    ("output_tokens", pa.int64()),
    ("num_requests", pa.int32()),
]
TEXT = [
    ("clip_id", pa.string()),
    ("shard", pa.int32()),
    ("caption_id", pa.string()),  # with ~1, ~2 ... for shuffled variants of a structured caption
    ("kind", pa.string()),
    ("source", pa.string()),
    ("num_tokens", pa.int32()),
    ("width", pa.int32()),
]
LATENTS = [
    ("clip_id", pa.string()),
    ("shard", pa.int32()),
    ("num_channels", pa.int32()),
    ("latent_t", pa.int32()),
    ("latent_h", pa.int32()),
    ("latent_w", pa.int32()),
    ("num_frames", pa.int32()),  # extent: the valid T x H x W of the pixels that were encoded
    ("height_px", pa.int32()),
    ("width_px", pa.int32()),
    ("fps", pa.float64()),
    ("scale", pa.float64()),  # encoded size over display size, one factor for both axes
    ("num_source_frames", pa.int32()),  # before max_fps picked among them
    ("factor_t", pa.int32()),  # frames, and rows and columns of pixels, in one latent cell
    ("factor_px", pa.int32()),
    ("audit_psnr_db", pa.float64()),  # null where the clip was not in the audited sample
    ("audit_ssim", pa.float64()),
    ("audit_flicker", pa.float64()),  # |d/dt of the error| over |d/dt of the clip|
    ("audit_drift_db", pa.float64()),  # lost over five round trips
    ("audit_flag", pa.string()),  # low_psnr, flicker, drift, with commas; empty: nothing amiss
]
SHARDS = [
    ("column", pa.string()),
    ("fingerprint", pa.string()),
    ("shard", pa.int32()),
    ("generation", pa.int32()),
    ("tar", pa.string()),  # path inside the dataset; null for a column without a tar
    ("tar_bytes", pa.int64()),
    ("tar_sha256", pa.string()),
    ("num_in", pa.int64()),
    ("num_kept", pa.int64()),
    ("num_dropped", pa.int64()),
    ("num_failed", pa.int64()),
    (
        "members",
        pa.list_(
            pa.struct(
                [
                    ("name", pa.string()),
                    ("offset", pa.int64()),
                    ("size_bytes", pa.int64()),
                    ("crc32", pa.uint32()),
                ]
            )
        ),
    ),
    ("stats_json", pa.string()),  # column statistics that merge across shards
    ("parts", pa.list_(pa.struct([("table", pa.string()), ("rows", pa.int64()), ("sha256", pa.string())]))),
]
EVENTS = [
    ("time_s", pa.float64()),  # unix time
    ("event", pa.string()),
    ("stage", pa.string()),
    ("shard", pa.int32()),
    ("text", pa.string()),
    ("value_json", pa.string()),
]

TABLES: dict[str, list[tuple[str, pa.DataType]]] = {
    "sources": SOURCES,
    "segments": SEGMENTS,
    "clips": CLIPS,
    "hashes": HASHES,
    "embeddings": EMBEDDINGS,
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
    return pa.schema(
        TABLES[table], metadata={_VERSION_KEY: FORMAT_VERSION.encode(), b"rushes.table": table.encode()}
    )


def to_table(table: str, rows: list[dict]) -> pa.Table:
    """Rows as an Arrow table of the table's schema; a missing field is null.

    Raises:
        ValueError: a row has a field the schema does not know.
    """
    known = schema(table)
    for row in rows:
        if unknown := set(row) - set(known.names):
            raise ValueError(f"table {table} has no field {sorted(unknown)}")
    return pa.table(
        {field.name: pa.array([row.get(field.name) for row in rows], field.type) for field in known},
        schema=known,
    )


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
