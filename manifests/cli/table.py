"""Every verb of the program, as data: where its class is and what it does in one line.

Nothing of another package is imported until one of its verbs is run.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from manifests.errors import UsageError


@dataclass(frozen=True)
class Entry:
    """One verb.

    Attributes:
        name: `rushes NAME`.
        package, own_name: `python -m PACKAGE OWN_NAME` is the same verb.
        target: `module:Class` of its options.
        summary: one line of help.
        group: heading in `rushes --help`.
    """

    name: str
    package: str
    own_name: str
    target: str
    summary: str
    group: str


def _entries(group: str, package: str, *rows: tuple[str, str, str, str]) -> list[Entry]:
    return [
        Entry(name, package, own_name, target, summary, group) for name, own_name, target, summary in rows
    ]


ENTRIES = [
    *_entries(
        "footage to shards (on Ray)",
        "pipeline",
        ("ingest", "ingest", "pipeline.commands:Ingest", "curate, caption, embed and encode footage"),
        ("plan", "plan", "pipeline.commands:Plan", "list and probe footage, estimate hours and cost"),
        ("recaption", "recaption", "pipeline.commands:Recaption", "add captions by another captioner"),
        ("retry", "retry", "pipeline.engine.again.retry:Retry", "do again what failed"),
        ("replay", "replay", "pipeline.engine.again.replay:Replay", "do one shard's stage again and compare"),
        ("map", "map", "pipeline.projection:MakeMap", "lay clips out on a plane by their embeddings"),
        ("status", "status", "manifests.verbs.commands:Status", "what is committed, what is missing"),
        ("launch", "launch", "pipeline.engine.launch:Launch", "run a verb on several Ray workers"),
    ),
    *_entries(
        "look into a dataset",
        "manifests",
        ("info", "info", "manifests.verbs.commands:Info", "what was kept, dropped, failed, and why"),
        ("verify", "verify", "manifests.verbs.commands:Verify", "check that every committed byte is there"),
        ("ls", "ls", "manifests.verbs.rows:Ls", "rows of a table"),
        ("show", "show", "manifests.verbs.rows:Show", "everything known about a clip"),
        ("query", "query", "manifests.verbs.rows:Query", "read-only SQL over the tables"),
        ("export", "export", "manifests.verbs.commands:Export", "join columns into plain WebDataset tars"),
        ("card", "card", "manifests.verbs.card:Card", "what is in it, from where, and how it was made"),
        ("compact", "compact", "manifests.verbs.upkeep:Compact", "merge the small files of tables"),
        (
            "snapshot",
            "snapshot",
            "manifests.verbs.upkeep:NameSnapshot",
            "give a name to what is committed now",
        ),
        ("verdicts", "verdicts", "manifests.verbs.verdicts:TakeVerdicts", "people's verdicts as a column"),
        ("remove", "remove", "manifests.verbs.upkeep:Remove", "take sources down, and all that is of them"),
        ("withdraw", "withdraw", "manifests.verbs.upkeep:Withdraw", "take one shard's column back"),
    ),
    *_entries(
        "look into a dataset",
        "dashboard",
        ("dashboard", "serve", "dashboard.commands:Serve", "watch a dataset in the browser"),
        (
            "report",
            "report",
            "dashboard.report:Report",
            "a run or a dataset on one page; validation by shape",
        ),
    ),
    *_entries(
        "captions",
        "captioner",
        ("caption", "caption", "captioner.commands:CaptionFiles", "caption videos and images"),
        ("train-captioner", "train", "captioner.commands:Train", "train DALL-E 3's captioner"),
        ("eval-captioner", "eval", "captioner.judging.commands:Eval", "measure it on exact truth"),
        ("compare-captions", "compare", "captioner.judging.commands:Compare", "two versions side by side"),
        ("judge-captions", "judge", "captioner.judging.commands:Judge", "by a judge model (DREAM-1K, VDC)"),
        ("upsample", "upsample", "captioner.commands:Upsample", "fill a prompt up to a caption"),
    ),
    *_entries(
        "latents",
        "vae",
        ("encode", "encode", "vae.verbs.convert:Encode", "a video or image to a latent file"),
        ("decode", "decode", "vae.verbs.convert:Decode", "and back, exactly as large"),
        ("train-vae", "train", "vae.verbs.train:Train", "train the spacetime VAE"),
        ("eval-vae", "eval", "vae.verbs.judge:Eval", "judge VAEs on films and real files"),
        ("latent-stats", "stats", "vae.verbs.judge:Stats", "statistics of a VAE or of a dataset's latents"),
    ),
    *_entries(
        "train and sample",
        "trainer",
        ("fit", "fit", "trainer.verbs.fit:Fit", "train a diffusion transformer; again to resume"),
        (
            "plan-training",
            "plan",
            "trainer.verbs.plan:Plan",
            "fill, balance and hours, before buying GPUs",
        ),
        ("measure", "measure", "trainer.verbs.plan:Measure", "what a token costs on this device"),
        (
            "sample",
            "sample",
            "trainer.sampling.job.command:Sample",
            "videos and images: from text, images, videos",
        ),
        (
            "showcase",
            "showcase",
            "trainer.judging.showcase:Showcase",
            "one sample of each feature on one page",
        ),
        ("evaluate", "evaluate", "trainer.judging.command:Evaluate", "how much of its prompts a model shows"),
        ("export-model", "export", "trainer.verbs.export:Export", "a model to sample from, of a checkpoint"),
    ),
    *_entries(
        "train and sample",
        "world",
        ("make-films", "make", "world.commands:Make", "render a film world with exact truth"),
    ),
]
VERBS = {entry.name: entry for entry in ENTRIES}


def find(word: str, package: str = "", rest: tuple[str, ...] = ()) -> Entry:
    """The verb that a word names, in the one namespace or in a package's own.

    Args:
        package: of `python -m PACKAGE`; empty: `rushes`.
        rest: the words after it, which tell `rushes vae train` from a typing error.

    Raises:
        UsageError: there is none; the message says which was meant.
    """
    known = {entry.own_name: entry for entry in ENTRIES if entry.package == package} if package else VERBS
    if word in known:
        return known[word]
    said = f"python -m {package} {word}" if package else f"rushes {word}"
    for entry in ENTRIES:
        if not package and rest and (entry.package, entry.own_name) == (word, rest[0]):
            raise UsageError(f"rushes {word} {rest[0]}", "is not a verb", f"It is `rushes {entry.name}`.")
        if package and entry.name == word:
            raise UsageError(said, "is not a verb of that package", f"Run `rushes {word}`.")
    close = difflib.get_close_matches(word, known, n=2, cutoff=0.5)
    hint = f"Did you mean {' or '.join(f'`{name}`' for name in close)}? " if close else ""
    raise UsageError(said, "is not a verb", f"{hint}`rushes --help` lists all.")


_FOOT = "Each verb has --help, and --help-all for all of its options."


def overview(package: str = "") -> str:
    """The help that lists verbs: all of them, or those of a package by their own names there."""
    if package:
        own = [entry for entry in ENTRIES if entry.package == package]
        lines = [f"usage: python -m {package} VERB ...     (the same verbs as `rushes VERB`)", ""]
        lines += [f"  {entry.own_name:18}{entry.summary:58}rushes {entry.name}" for entry in own]
        return "\n".join([*lines, "", _FOOT])
    lines, group = ["usage: rushes VERB ...", "", "Raw footage in, a trained text-to-video model out."], ""
    for entry in ENTRIES:
        if entry.group != group:
            group = entry.group
            lines += ["", group]
        lines.append(f"  {entry.name:18}{entry.summary}")
    lines += [
        "",
        f"{_FOOT} `rushes --version`",
        "Exit codes: 0 done, 1 failed, 2 usage, 3 finished with failed items, 4 integrity errors,",
        "130 interrupted.",
    ]
    return "\n".join(lines)
