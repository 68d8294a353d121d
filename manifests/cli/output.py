"""What commands print: data to stdout, progress and errors to stderr, names made safe for a terminal."""

from __future__ import annotations

import math
import sys
import time
import unicodedata
from typing import TYPE_CHECKING, Any

from manifests.text import shown, shown_json

if TYPE_CHECKING:
    from rich.console import Console

DONE, FAILED, USAGE, FAILED_ITEMS, INTEGRITY, INTERRUPTED = 0, 1, 2, 3, 4, 130
"""Exit codes."""

_UNSAFE = {"Cc", "Cs", "Zl", "Zp"}  # control characters, lone surrogates, line and paragraph separators
_DIRECTION = set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def printable(text: str) -> str:
    r"""The text on one line, without secrets of addresses.

    What would move a cursor or hide a name is escaped, such as \x1b.
    """
    text = shown(text)
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        char.encode("unicode_escape").decode()
        if unicodedata.category(char) in _UNSAFE or char in _DIRECTION
        else char
        for char in text
    )


def say(text: str) -> None:
    """Print one plain progress line on stderr, flushed, so that job logs show it at once."""
    print(printable(text), file=sys.stderr, flush=True)


def terminal() -> Console | None:
    """Where to draw a progress bar: stderr if it is a terminal, else None."""
    from rich.console import Console

    console = Console(stderr=True, highlight=False, soft_wrap=True)
    return console if console.is_terminal else None


def print_line(text: str) -> None:
    """Print one line of data on stdout, as safe as progress is."""
    print(printable(text), flush=True)


def print_json(value: Any) -> None:
    """Print a value as indented JSON on stdout."""
    import json

    print(json.dumps(_finite(shown_json(value)), indent=2, default=_plain, allow_nan=False))


def _finite(value: Any) -> Any:
    """The value with null for numbers that JSON has no word for."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value


def _plain(value: Any) -> str:
    """What JSON cannot say: bytes by their number, all else as text."""
    return f"{len(value):,} bytes" if isinstance(value, bytes) else str(value)


def _for_people(name: str, value: Any) -> str:
    """A cell on a terminal: local times, numbers in four digits, counts with their thousands apart."""
    if value is None:
        return ""
    if isinstance(value, float):
        if name == "time_s":
            return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
        return f"{value:.4g}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return printable(str(value))


MOST_COLUMNS = 8
"""Of a table on a terminal, unless all are asked for."""


def print_table(title: str, header: list[str], rows: list[list[Any]], is_wide: bool = True) -> None:
    """Print a table on stdout: for people on a terminal, else tab-separated, one line a row.

    Args:
        is_wide: to show a terminal all columns, however many; else the first eight and the names of the rest.
    """
    cells = [["" if cell is None else printable(str(cell)) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        print(f"# {title}")
        for row in [header, *cells]:
            print("\t".join(row))
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    if not is_wide and len(header) > MOST_COLUMNS:
        say(f"{title}: not shown: {', '.join(header[MOST_COLUMNS:])} (--wide shows all columns)")
        header, rows = header[:MOST_COLUMNS], [row[:MOST_COLUMNS] for row in rows]
    table = Table(title=title, title_justify="left")
    for at, name in enumerate(header):
        is_number = any(isinstance(row[at], (int, float)) for row in rows) and name != "time_s"
        table.add_column(
            escape(name.removesuffix("_s") if name == "time_s" else name),
            justify="right" if is_number else "left",
        )
    for row in rows:
        table.add_row(*[escape(_for_people(name, cell)) for name, cell in zip(header, row, strict=True)])
    Console().print(table)
