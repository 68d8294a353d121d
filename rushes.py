"""`rushes <verb>`: a thin index over the packages' own command lines, which `python -m <package> <verb>` runs
as well.
"""

from __future__ import annotations

import sys

HELP = """rushes: raw footage in, a trained text-to-video model out.

  rushes world make OUT              render a film world with exact truth
  rushes ingest FOOTAGE --out DATA   curate, caption, embed and encode footage on Ray
  rushes plan | status | recaption | retry | replay | launch   other verbs of the pipeline
  rushes info | verify | ls | show | query | export    look into a dataset
  rushes fit | sample | report       train a DiT and sample from it
  rushes vae ...                     train the VAE, encode and decode files
  rushes caption FILE ...            caption videos and images
  rushes captioner ...               train, measure and compare captioners, upsample prompts
  rushes dashboard DATA              watch a dataset in the browser

Each verb has --help. `rushes VERB` is `python -m PACKAGE VERB`.
"""

PIPELINE = {"plan", "ingest", "recaption", "retry", "replay", "launch", "status"}
MANIFESTS = {"info", "verify", "ls", "show", "query", "export"}
TRAINER = {"fit", "sample", "report"}
PACKAGES = {"world", "vae", "captioner", "pipeline", "trainer", "manifests", "dashboard"}


def route(arguments: list[str]) -> tuple[str, list[str]] | None:
    """The package that serves a command line, and the arguments it gets; None for help."""
    if not arguments or arguments[0] in {"-h", "--help", "help"}:
        return None
    verb, rest = arguments[0], arguments[1:]
    for package, verbs in (("pipeline", PIPELINE), ("manifests", MANIFESTS), ("trainer", TRAINER)):
        if verb in verbs:
            return package, arguments
    if verb == "caption":
        return "captioner", arguments
    if verb in PACKAGES:
        return verb, rest
    return "", arguments


def main() -> int:
    """Run a verb and return its exit code."""
    found = route(sys.argv[1:])
    if found is None:
        print(HELP)
        return 0
    package, arguments = found
    if not package:
        print(f"error {arguments[0]}: is not a verb. See `rushes --help`.", file=sys.stderr)
        return 2
    import runpy

    sys.argv = [f"python -m {package}", *arguments]
    runpy.run_module(package, run_name="__main__", alter_sys=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
