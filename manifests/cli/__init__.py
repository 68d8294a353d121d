"""The command line's frame, shared by every package: one table of verbs, one way to print, one way to fail.

A verb is a frozen dataclass with a `run` method that returns an exit code: its fields are its options, its
docstring is its help. Data goes to stdout, everything else to stderr. Nothing heavy is imported here, so that
`rushes --help` answers at once.
"""

from manifests.cli.files import check_lasting, check_new, check_own, check_picture, with_folder, writable
from manifests.cli.frame import check_options, main, run
from manifests.cli.output import (
    DONE,
    FAILED,
    FAILED_ITEMS,
    INTEGRITY,
    INTERRUPTED,
    USAGE,
    print_json,
    print_line,
    print_table,
    printable,
    say,
    terminal,
)

__all__ = [
    "DONE",
    "FAILED",
    "FAILED_ITEMS",
    "INTEGRITY",
    "INTERRUPTED",
    "USAGE",
    "check_lasting",
    "check_new",
    "check_options",
    "check_own",
    "check_picture",
    "main",
    "print_json",
    "print_line",
    "print_table",
    "printable",
    "run",
    "say",
    "terminal",
    "with_folder",
    "writable",
]
