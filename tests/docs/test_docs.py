"""The documentation is true: its commands parse, its names exist, and nothing in the code goes unnamed."""

from __future__ import annotations

import ast
import dataclasses
import re
import shlex
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
import tyro

from manifests.cli.frame import verb_class
from manifests.cli.reference import options_of
from manifests.cli.table import ENTRIES, VERBS
from manifests.reasons import DROPS, FAILURES, REJECTIONS
from manifests.tables import scans
from manifests.verbs.pages import PAGES

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
PACKAGES = ("manifests", "media", "world", "learning", "vae", "captioner", "pipeline", "trainer", "dashboard")
FOREIGN_OPTIONS = set("--help --help-all --version --overwrite --address --working-dir --head".split())
FOREIGN_OPTIONS |= {"--port", "--dashboard-port", "--dashboard-agent-listen-port"}
"""Options of ray, and of the program as a whole."""


def blocks(text: str) -> Iterator[str]:
    """Lines of fenced code, continued lines joined."""
    for block in re.findall(r"^```[a-z]*\n(.*?)^```", text, re.M | re.S):
        yield from block.replace("\\\n", " ").splitlines()


def commands(path: Path) -> list[list[str]]:
    """The words behind `rushes` of every command of a page or script, wherever in the line it stands."""
    text = path.read_text()
    lines = list(blocks(text)) if path.suffix == ".md" else text.replace("\\\n", " ").splitlines()
    found = []
    for line in lines:
        if not re.search(r"(^|\s)rushes \S", line):
            continue
        try:
            words = shlex.split(re.sub(r"\$OUT|\$DATA|\"\$STEPS\"", "1", line), comments=True)
        except ValueError:  # prose with an apostrophe
            continue
        if "rushes" not in words or "VERB" in words or "..." in words[words.index("rushes") + 1 :][:2]:
            continue
        words = words[words.index("rushes") + 1 :]
        found.append(words[: words.index("|")] if "|" in words else words)
    return [words for words in found if (words and words[0] in VERBS) or (path.suffix == ".md" and words)]


def parse(words: list[str]) -> object:
    """A verb's options from a command line; exits if they are none."""
    return tyro.cli(verb_class(VERBS[words[0]]), args=words[1:], config=(tyro.conf.FlagCreatePairsOff,))


PAGES_WITH_COMMANDS = [*DOCS, ROOT / "demo.sh", ROOT / "Makefile"]
COMMANDS = [(path.name, words) for path in PAGES_WITH_COMMANDS for words in commands(path)]


def test_the_readme_and_the_demo_have_commands():
    names = [name for name, _ in COMMANDS]
    assert names.count("README.md") >= 4
    assert names.count("demo.sh") >= 6
    assert {words[0] for name, words in COMMANDS if name != "commands.md"} >= set(VERBS)


@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=lambda value: " ".join(value)[:60])
def test_every_command_parses(page, words):
    if words[0].startswith("--"):
        return
    assert words[0] in VERBS, page
    parse(words)
    if words[0] == "launch":
        parse(words[words.index("--") + 1 :])


@pytest.mark.parametrize("name", PAGES)
def test_pages_made_from_the_code_are_those_in_docs(name):
    assert (ROOT / "docs" / name).read_text() == PAGES[name](), "run `make docs`"


def known_options() -> set[str]:
    return {option.name for entry in ENTRIES for option in options_of(verb_class(entry))}


@pytest.mark.parametrize(
    "path", [path for path in DOCS if path.name not in PAGES], ids=lambda path: path.name
)
def test_options_that_pages_name_exist(path):
    known = known_options() | FOREIGN_OPTIONS
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    named = set(re.findall(r"`(--[a-z][\w.-]*)", text))
    assert named <= known, path.name


def test_every_option_says_what_it_does():
    for entry in ENTRIES:
        silent = [option.name for option in options_of(verb_class(entry)) if not option.text]
        assert silent == [], entry.name


def literals(node: ast.expr) -> set[str]:
    """Words that an expression may give: a constant, or either side of a condition."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return {node.value}
    return literals(node.body) | literals(node.orelse) if isinstance(node, ast.IfExp) else set()


def calls(name: str, position: int) -> set[str]:
    """Words that stand at a place of the calls of a function or class, anywhere in the product."""
    found: set[str] = set()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Call) and len(node.args) > position:
                    called = getattr(node.func, "id", getattr(node.func, "attr", ""))
                    found |= literals(node.args[position]) if called == name else set()
    return found


def test_every_failure_in_the_code_is_explained():
    used = calls("MediaError", 0) | calls("Failure", 0) | calls("fail", 1) | calls("failed_row", 1)
    used |= calls("_failure", 2)
    assert len(used) > 25
    assert used <= set(FAILURES)


def test_every_drop_in_the_code_is_explained():
    used = calls("_drop", 1)
    assert used >= {"no_shot_starts_here", "too_short"}
    assert used <= set(DROPS)


def test_every_word_that_is_explained_stands_in_the_code():
    text = "".join(
        path.read_text()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "reasons.py"
    )
    for word in [*DROPS, *FAILURES, *REJECTIONS]:
        assert re.search(rf'["\']{word}\b', text), word


def test_words_of_a_real_dataset_are_explained(dataset):
    for row in scans.table(dataset, "drops").to_pylist():
        assert row["reason"] in DROPS


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_links_and_paths_lead_somewhere(path):
    text = re.sub(r"```.*?```", "", path.read_text(), flags=re.S)
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (path.parent / target).exists(), f"{path.name}: {target}"
    for name in re.findall(
        rf"`((?:{'|'.join(PACKAGES)}|tests|benchmarks|weights|deploy|docs)/[\w./-]*\w)`", text
    ):
        assert (ROOT / name).exists(), f"{path.name}: {name}"


def test_every_page_is_linked_from_the_readme():
    readme = (ROOT / "README.md").read_text()
    linked = {
        target
        for page in (ROOT / "docs").glob("*.md")
        for target in re.findall(r"\((\w+\.md)\)", page.read_text())
    }
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in readme or page.name in linked, page.name


def test_environment_variables_are_named():
    from media.bytes.http_rules import HttpLimits
    from media.decode import limits

    text = "".join(path.read_text() for path in DOCS)
    for item in dataclasses.fields(HttpLimits):
        assert f"RUSHES_HTTP_{item.name.upper()}" in text
    assert limits.NAME in text
    assert "OPENAI_API_KEY" in text
    assert "RUSHES_REAL_VIDEOS" in text


def test_a_renamed_option_fails_the_docs(monkeypatch):
    """What the tests above would say of an option that got another name."""
    hints = typing.get_type_hints(verb_class(VERBS["encode"]), include_extras=True)
    fields = [("source", hints["source"]), ("out", hints["out"]), ("most_pixels", int)]
    renamed = dataclasses.make_dataclass("Encode", fields, kw_only=True)
    command = ["encode", "clip.mp4", "clip.safetensors", "--max-pixels", "65536"]
    parse(command)
    monkeypatch.setattr("tests.docs.test_docs.verb_class", lambda entry: renamed)
    with pytest.raises(SystemExit):
        parse(command)
