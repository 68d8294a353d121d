"""What clips can be filtered, sorted and counted by; the names are those of the tables (docs/tables.md)."""

from __future__ import annotations

from dataclasses import dataclass

WORD, WORDS, FLAG, MEASURE = "word", "words", "flag", "measure"


@dataclass(frozen=True)
class Field:
    """One field.

    Attributes:
        table: that has it: clips, captions or latents.
        kind: word, words (a list of them), flag or measure.
        sql: its value in that table.
        title: for people.
    """

    name: str
    table: str
    kind: str
    sql: str
    title: str


def _fields(table: str, kind: str, *rows: tuple[str, str] | tuple[str, str, str]) -> list[Field]:
    return [Field(row[0], table, kind, row[2] if len(row) > 2 else f'"{row[0]}"', row[1]) for row in rows]


FIELDS = {
    field.name: field
    for field in [
        *_fields(
            "clips",
            WORD,
            ("kind", "kind"),
            ("camera", "camera"),
            ("starts_with", "starts with"),
            ("decoder", "decoder"),
        ),
        *_fields("clips", FLAG, ("has_audio", "has sound"), ("is_vfr", "uneven times")),
        *_fields("clips", WORDS, ("palette", "colours")),
        *_fields(
            "captions",
            WORD,
            ("caption_kind", "caption kind", "kind"),
            ("status", "caption status"),
        ),
        *_fields("captions", WORDS, ("reasons", "caption reasons")),
        *_fields("latents", WORDS, ("audit_flag", "latent audit", "string_split(audit_flag, ',')")),
        *_fields(
            "clips",
            MEASURE,
            ("seconds", "seconds"),
            ("aspect", "width over height", "width_px / height_px"),
            ("pixels", "pixels", "width_px::BIGINT * height_px"),
            ("fps", "frames a second"),
            ("motion", "motion"),
            ("sharpness", "sharpness"),
            ("luma_mean", "brightness"),
            ("saturation", "saturation"),
            ("noise", "noise"),
            ("frozen_share", "share of frozen frames"),
            ("object_motion", "object motion"),
            ("shake", "shake"),
            ("num_frames", "frames"),
        ),
        *_fields("captions", MEASURE, ("words", "words of a caption", "num_words")),
        *_fields(
            "latents",
            MEASURE,
            ("tokens", "latent cells", "latent_t::BIGINT * latent_h * latent_w"),
            ("psnr", "quality after encoding, dB", "audit_psnr_db"),
        ),
    ]
}
FACETS = [field for field in FIELDS.values() if field.kind != MEASURE]
MEASURES = [field for field in FIELDS.values() if field.kind == MEASURE]
