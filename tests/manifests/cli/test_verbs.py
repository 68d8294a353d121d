"""The one namespace of verbs: every entry is real, words that are none are answered with what was meant."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from manifests import cli
from manifests.cli.frame import verb_class
from manifests.cli.help import described, field_docs
from manifests.cli.table import ENTRIES, VERBS, find, overview
from manifests.errors import UsageError
from tests.e2e.commands import ROOT, environment

SCREEN_LINES = 41
PACKAGES = sorted({entry.package for entry in ENTRIES})


def test_every_name_is_one_verb_and_every_package_knows_its_own():
    assert len(VERBS) == len(ENTRIES)
    assert len({(entry.package, entry.own_name) for entry in ENTRIES}) == len(ENTRIES)
    for entry in ENTRIES:
        assert find(entry.name) is find(entry.own_name, entry.package) is entry
        assert entry.name in overview()
    assert len(overview().splitlines()) <= 60
    assert max(map(len, overview().splitlines())) <= 100


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_the_first_help_of_each_verb_fits_a_screen_and_says_what_options_are_for(entry, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "100")
    kind = verb_class(entry)
    docs = field_docs(kind)
    nested = {item.name for item in dataclasses.fields(kind) if item.name not in docs}
    assert nested <= {item.name for item in dataclasses.fields(kind) if "Config" in str(item.type)} | {
        *("with_", "prices", "curate_on", "embed_on", "score_on", "caption_on", "text_on", "encode_on")
    }, "an option without a word on it"
    assert cli.main(arguments=[entry.name, "--help"]) == cli.DONE
    short = capsys.readouterr().out
    assert f"usage: rushes {entry.name}" in short
    assert "Example" in short
    assert len(short.splitlines()) <= SCREEN_LINES
    assert "STR" not in short
    assert "{None}" not in short
    assert "default: None" not in short
    assert cli.main(arguments=[entry.name, "--help-all"]) == cli.DONE
    whole = capsys.readouterr().out
    hidden = described(kind, {}, is_short=True).num_hidden
    assert (f"{hidden} more options: rushes {entry.name} --help-all" in short) == bool(hidden)
    assert len(whole.splitlines()) >= len(short.splitlines()) - 2


def test_help_shows_what_the_named_preset_gives(capsys):
    assert cli.main(arguments=["fit", "3b", "--help"]) == cli.DONE
    assert "(3b: 24576)" in capsys.readouterr().out
    assert cli.main(arguments=["fit", "--help"]) == cli.DONE
    assert "(tiny: 2048)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["ingst"], "`ingest`"),
        (["verfy", "x"], "`verify`"),
        (["vae", "train"], "`rushes train-vae`"),
        (["captioner", "caption", "x"], "`rushes caption`"),
        (["zzzzzz"], "`rushes --help`"),
    ],
)
def test_a_word_that_is_no_verb_is_answered_with_what_was_meant(words, meant, capsys):
    assert cli.main(arguments=words) == cli.USAGE
    told = capsys.readouterr().err
    assert len(told.splitlines()) == 1
    assert meant in told


def test_a_verb_of_another_package_is_named(capsys):
    assert cli.main("trainer", ["ingest"]) == cli.USAGE
    assert "`rushes ingest`" in capsys.readouterr().err
    with pytest.raises(UsageError):
        find("plan-training", "trainer")


def test_an_option_that_is_none_is_answered_with_one_that_is(capsys):
    assert cli.main(arguments=["info", "x", "--jsn"]) == cli.USAGE
    assert "--json" in capsys.readouterr().err


@pytest.mark.parametrize("package", PACKAGES)
def test_each_package_lists_its_verbs(package, capsys):
    assert cli.main(package, []) == cli.DONE
    listed = capsys.readouterr().out
    assert all(f"rushes {entry.name}" in listed for entry in ENTRIES if entry.package == package)


def test_version_names_the_commit_and_the_libraries(capsys):
    assert cli.main(arguments=["--version"]) == cli.DONE
    words = capsys.readouterr().out
    for name in ("rushes ", "commit ", "torch ", "ray ", "av ", "python "):
        assert name in words


HEAVY = ("torch", "ray", "duckdb", "av", "cv2", "transformers", "open_clip", "diffusers", "decord")


def imported(*arguments: str) -> set[str]:
    """The heavy libraries that a command imports."""
    command = [sys.executable, "-X", "importtime", "-m", *arguments]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=True, timeout=120
    )
    names = {line.rsplit("|", 1)[-1].strip() for line in done.stderr.splitlines() if "import time:" in line}
    return {name for name in HEAVY if name in names}


def test_help_imports_nothing_heavy():
    assert imported("rushes", "--help") == set()
    assert imported("rushes", "--version") == set()


@pytest.mark.parametrize("verb", ["status", "info", "verify"])
def test_looking_at_a_dataset_needs_neither_torch_nor_ray(verb, dataset):
    assert not imported("rushes", verb, dataset.uri) & {
        "torch",
        "ray",
        "transformers",
        "open_clip",
        "av",
        "cv2",
    }


def test_modules_that_read_manifests_do_not_import_decoders_or_databases():
    for module in ("trainer.data.packs", "trainer.config", "manifests.sql.queries", "dashboard.commands"):
        code = f"import sys, {module}; print([name for name in {HEAVY!r} if name in sys.modules])"
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        assert done.stdout.strip() == "[]", module
