"""Prompts of a file: one on each line, or JSON lines with a seed and a name of their own."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from manifests.cli.ranges import SEED, told
from manifests.errors import UsageError
from manifests.store.json_files import parse_lines
from manifests.text import valid

KEYS = ("prompt", "seed", "name")
MOST_CHARACTERS = 10_000
"""Of a prompt: twenty times a long caption. The model reads the text of every sample at every step."""
_MOST_NAME_BYTES = 150
"""A file name has a seed and an ending besides."""
_OTHER_KINDS = {".csv", ".tsv", ".json", ".yaml", ".yml", ".xml", ".parquet"}


@dataclass(frozen=True)
class PromptLine:
    """What one line asks for; None where it says nothing."""

    prompt: str
    seed: int | None = None
    name: str | None = None


def check_text(where: str, text: str) -> None:
    """Refuse bytes that are no text, as a command line or an escape in JSON may hold them; and whole books.

    Raises:
        UsageError: there are some, or too much.
    """
    if len(text) > MOST_CHARACTERS:
        raise UsageError(
            where,
            f"has {len(text)} characters; at most {MOST_CHARACTERS} are read",
            "A prompt is a caption: what is to be seen, in a few sentences.",
        )
    if text != valid(text):
        raise UsageError(where, f"holds what is no text: {ascii(text)[:80]}", "Write it as UTF-8.")


def read_prompts(path: Path) -> list[PromptLine]:
    """The prompts of a `.jsonl` or `.ndjson`, or of a text file, in which lines beginning with "# " are none.

    Raises:
        UsageError: the file cannot be read, is of another kind, or has no prompt, or two of one name.
        IntegrityError: a line is none.
    """
    if (kind := path.suffix.lower()) in _OTHER_KINDS:
        raise UsageError(
            str(path),
            f"is a {kind}, which is not read",
            "Write a prompt on each line of a .txt, or JSON lines with prompt, seed and name in a .jsonl.",
        )
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(str(path), f"cannot be read ({error})", "Name a text file.") from error
    if kind in (".jsonl", ".ndjson"):
        rows = parse_lines(text + "\n", str(path), "Correct the line.", ("prompt",))
        found = [_checked(f"{path} prompt {number}", row) for number, row in enumerate(rows, 1)]
    else:
        lines = [line.strip() for line in re.split(r"\r\n|\r|\n", text)]
        found = [PromptLine(line) for line in lines if line and not f"{line} ".startswith("# ")]
        for number, line in enumerate(found, 1):
            check_text(f"{path} prompt {number}", line.prompt)
            if re.match(r'\{\s*"\w+"\s*:', line.prompt):
                raise UsageError(
                    f"{path} prompt {number}", "is a JSON object, not a caption", "Name it .jsonl."
                )
    if not found:
        raise UsageError(str(path), "has no prompt", "Write one on each line.")
    _check_twice(str(path), [line.name for line in found if line.name is not None])
    return found


def _checked(where: str, row: dict[str, Any]) -> PromptLine:
    if unknown := sorted(set(row) - set(KEYS)):
        raise UsageError(where, f"has the key {json.dumps(unknown[0])}", f"Keys: {', '.join(KEYS)}.")
    prompt, seed, name = (row.get(key) for key in KEYS)
    if not isinstance(prompt, str):
        raise UsageError(where, f"has the prompt {json.dumps(prompt)}", "A prompt is a text.")
    check_text(where, prompt)
    is_seed = isinstance(seed, int) and not isinstance(seed, bool) and SEED[0] <= seed <= SEED[1]
    if "seed" in row and not is_seed:
        raise UsageError(
            where, f"has the seed {json.dumps(seed)}", f"A whole number, {told(SEED)} and at most {SEED[1]}."
        )
    if "name" in row and not _is_plain(name):
        raise UsageError(
            where,
            f"has the name {json.dumps(name)[:80]}",
            f"A name is a plain file name of at most {_MOST_NAME_BYTES} bytes.",
        )
    return PromptLine(prompt, seed, name)


def _is_plain(name: Any) -> bool:
    """Whether a file of this name stays in its folder and can be shown as it is."""
    return (
        isinstance(name, str)
        and bool(name)
        and name.isprintable()
        and not set(name) & {"/", "\\"}
        and not name.startswith(".")
        and len(name.encode()) <= _MOST_NAME_BYTES
    )


def _check_twice(where: str, names: Sequence[str]) -> None:
    if twice := sorted(name for name, count in Counter(names).items() if count > 1):
        raise UsageError(where, f"has the name {twice[0]} twice", "Names tell the files apart.")
