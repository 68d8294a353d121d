"""`rushes VERB ...`: parse the command line, run the verb, turn errors into exit codes and one line."""

from __future__ import annotations

import importlib
import os
import signal
import sys
from collections.abc import Sequence
from typing import Protocol

from manifests.cli.failures import failure_of
from manifests.cli.output import DONE, INTERRUPTED, USAGE, say
from manifests.cli.ranges import check_ranges
from manifests.cli.repeated import gathered, value_of
from manifests.cli.table import Entry, find, overview
from manifests.errors import UsageError
from manifests.signals import NUMBERS, unwinding

_HELP = {"-h", "--help", "--help-all"}
_HEARD_BY_DUCKDB = "Query interrupted"
"""What DuckDB raises, as a `RuntimeError`, in place of what a handler of signals raised while it worked."""


class Verb(Protocol):
    """One command: its fields are its options, its docstring is its help.

    `ranges`, where a class has them, are checked before `run`.
    """

    def run(self) -> int:
        """Do it; returns the exit code."""
        ...


def main(package: str = "", arguments: Sequence[str] | None = None) -> int:
    """Run the verb that a command line names.

    Args:
        package: of `python -m PACKAGE VERB`; empty: `rushes VERB`.
        arguments: those of this process if None.

    Returns:
        The exit code.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with unwinding():
            return run(words, package)
    except (KeyboardInterrupt, SystemExit) as ended:
        if (
            isinstance(ended, SystemExit) and ended.code != signal.SIGTERM
        ):  # of the parser, which has said why
            return ended.code if isinstance(ended.code, int) else USAGE
        # Ray, while it starts and ends, has a handler of its own for SIGTERM, which exits with its number
        return _interrupted()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except Exception as error:
        if isinstance(error, RuntimeError) and str(error) == _HEARD_BY_DUCKDB:
            return _interrupted()
        failure = failure_of(error)
        if failure is None:
            raise
        line, code = failure
        red, plain = ("\033[31m", "\033[0m") if sys.stderr.isatty() else ("", "")
        print(f"{red}error{plain} {line}", file=sys.stderr, flush=True)
        return code


def _interrupted() -> int:
    for number in NUMBERS:  # pressed again: what is left is to let go of things
        signal.signal(number, signal.SIG_IGN)
    say("interrupted; the same command goes on, or begins anew where nothing was written yet")
    return INTERRUPTED


def run(words: Sequence[str], package: str = "") -> int:
    """As `main`, but errors are raised."""
    if not words or words[0] in {*_HELP, "help"}:
        print(overview(package))
        return DONE
    if words[0] in {"-V", "--version", "version"}:
        from manifests.cli.version import version_line

        print(version_line())
        return DONE
    entry = find(words[0], package, tuple(words[1:]))
    verb = _parsed(entry, list(words[1:]))
    check_ranges("--", verb, getattr(verb, "ranges", {}))
    return verb.run()


def check_options(words: Sequence[str]) -> None:
    """Check the options of a verb without running it.

    Raises:
        SystemExit: they are none of it; the parser has said why.
        UsageError: a number makes no sense.
    """
    verb = _parsed(find(words[0]), list(words[1:]))
    check_ranges("--", verb, getattr(verb, "ranges", {}))


def verb_class(entry: Entry) -> type:
    """The class of a verb, whose module is imported now."""
    module, _, name = entry.target.partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found


def _refuse_empty(verb: Verb, words: Sequence[str]) -> None:
    """Refuse an option of several values that is given none, as by a pattern that matches no file.

    Raises:
        UsageError: there is one.
    """
    for word in words:
        if word.startswith("--") and "=" not in word and value_of(verb, word) == ():
            raise UsageError(word, "is given without a value", "Give one, or leave it out.")


def _parsed(entry: Entry, words: list[str]) -> Verb:
    """The options of a verb from the command line.

    Raises:
        SystemExit: help was asked for and printed, or the words are no options of it.
    """
    import tyro

    kind, program = verb_class(entry), f"rushes {entry.name}"
    flags = (tyro.conf.FlagCreatePairsOff,)  # --json has no --no-json beside it
    before_rest = words[: words.index("--")] if "--" in words else words
    asked = _HELP & set(before_rest)
    if not asked:
        parsed: Verb = tyro.cli(kind, prog=program, args=words, config=flags)
        if (together := gathered(words, parsed)) != words:
            parsed = tyro.cli(kind, prog=program, args=together, config=flags)
        _refuse_empty(parsed, before_rest)
        return parsed
    from manifests.cli.help import described

    is_short = "--help-all" not in asked
    hints = kind.defaults_shown(words) if hasattr(kind, "defaults_shown") else {}
    shown = described(kind, hints, is_short)
    try:
        tyro.cli(shown.kind, prog=program, args=["--help"], config=flags)
    finally:
        if shown.examples:
            print(f"\n{shown.examples}")
        if is_short and shown.num_hidden:
            print(f"\n{shown.num_hidden} more options: {program} --help-all")
    raise SystemExit(DONE)
