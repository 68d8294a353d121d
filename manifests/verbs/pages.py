"""The pages of docs/ that are made from the code: `python -m manifests.verbs.pages docs` writes them.

A test compares them with what this module gives, so no option, reason or table column goes unnamed.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from manifests.cli.reference import commands_page
from manifests.reasons import DROPS, FAILURES, REJECTIONS, Reason
from manifests.schemas import TABLES

_ABOUT = {
    "sources": "each file that was found, with its verdict",
    "segments": "the plan: which time range of which source belongs to which shard",
    "clips": "shots, or windows of long ones, with what was measured of them",
    "hashes": "perceptual hashes of clips, by which copies are found",
    "embeddings": "embeddings of clips, where a model was given",
    "scores": "a number for each clip and model, where models were given",
    "verdicts": "what people said of captions",
    "map": "where clips lie on a plane by their embeddings",
    "duplicates": "near-duplicates by group",
    "drops": "what was left out on purpose",
    "failures": "what was lost by accident",
    "captions": "every caption a clip came with or was given, rejected ones too",
    "text": "which captions have embeddings in the text column's tars",
    "latents": "sizes and audits of latents",
    "shards": "the commit records: a shard's column is there if and only if it has one",
    "events": "lines of `runs/<run id>/events.jsonl`, which `rushes status` reads and SQL does not",
}
_TABLES_HEAD = """# Tables

Every table of a dataset with every column, made by `make docs` from `manifests/schemas.py`. They are asked by
SQL with `rushes query DATASET "select ..."`, or by any tool that reads Parquet ([dataset.md](dataset.md)).
"""
_FAULTS_HEAD = """# Faults: what each word means, and what to do

`rushes info DATASET` counts drops and failures by their words; `rushes ls DATASET failures` shows each with
its cause. Made by `make docs` from `manifests/reasons.py`.

A **drop** is on purpose: a rule left the item out. A **failure** is by accident; `rushes retry DATASET` does
it again once its cause is mended. A **rejection** is of a caption, which stays in the table and is never
trained on.
"""
_UNFORESEEN = (
    "An unforeseen error in one clip is a failure by the name of its Python exception; please report it."
)


def _table(head: str, rows: Mapping[str, Reason]) -> str:
    lines = [f"## {head}", "", "| word | what happened | what to do |", "|---|---|---|"]
    lines += [f"| `{word}` | {row.meaning} | {row.next_step} |" for word, row in rows.items()]
    return "\n".join(lines)


def faults_page() -> str:
    """docs/faults.md."""
    parts = [
        _table("Drops", DROPS),
        f"{_table('Failures', FAILURES)}\n\n{_UNFORESEEN}",
        _table("Rejected captions", REJECTIONS),
    ]
    return "\n\n".join([_FAULTS_HEAD.strip(), *parts]) + "\n"


def tables_page() -> str:
    """docs/tables.md."""
    parts = [_TABLES_HEAD.strip()]
    for name, fields in TABLES.items():
        lines = [f"## {name}", "", f"{_ABOUT[name][0].upper()}{_ABOUT[name][1:]}.", ""]
        lines += ["| column | type | meaning |", "|---|---|---|"]
        for column, kind, meaning in fields:
            shown = str(kind).split("<")[0] if "struct" in str(kind) else str(kind)
            lines.append(f"| `{column}` | {shown} | {meaning.replace('|', chr(92) + '|')} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


PAGES = {"commands.md": commands_page, "tables.md": tables_page, "faults.md": faults_page}

if __name__ == "__main__":
    for name, page in PAGES.items():
        Path(sys.argv[1], name).write_text(page())
