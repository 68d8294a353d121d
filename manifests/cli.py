"""The command line's frame, shared by every package: verbs are frozen dataclasses with a `run` method; tyro
parses them.

Exit codes: 0 done, 1 failed, 2 usage, 3 finished with failed items, 4 integrity errors, 130 interrupted.
Data goes to stdout, everything else to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any, Protocol

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from manifests.errors import RushesError

DONE, FAILED, USAGE, FAILED_ITEMS, INTEGRITY, INTERRUPTED = 0, 1, 2, 3, 4, 130

stderr = Console(stderr=True, highlight=False, soft_wrap=True)


class Verb(Protocol):
    """One command: its fields are its options, its docstring is its help."""

    def run(self) -> int: ...


def say(text: str) -> None:
    """One plain progress line on stderr, flushed, so that job logs show it at once."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, default=str))


def print_table(title: str, header: list[str], rows: list[list[Any]]) -> None:
    """A table for people, on stdout; one line a row when stdout is not a terminal."""
    if not sys.stdout.isatty():
        print(f"# {title}")
        print("\t".join(header))
        for row in rows:
            print("\t".join("" if cell is None else str(cell) for cell in row))
        return
    table = Table(*header, title=title, title_justify="left")
    for row in rows:
        table.add_row(*["" if cell is None else escape(str(cell)) for cell in row])
    Console().print(table)


def main(
    program: str, description: str, verbs: Mapping[str, type], arguments: list[str] | None = None
) -> int:
    """Parse the command line, run the verb, turn errors into exit codes and one readable line."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        verb: Verb = tyro.extras.subcommand_cli_from_dict(
            dict(verbs), prog=program, description=description, args=arguments or ["--help"]
        )
        return verb.run()
    except RushesError as error:
        stderr.print(f"[red]error[/red] {escape(str(error))}", markup=True)
        return error.exit_code
    except KeyboardInterrupt:
        say("interrupted; run the same command again to go on")
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
