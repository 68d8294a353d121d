"""Deaths: of the driver at any moment, and of the process that decodes."""

from pathlib import Path

import pytest

from manifests.layout import Dataset
from manifests.tables import scans
from manifests.verify import verify
from tests.e2e.commands import INGEST, run


def site(folder: Path, code: str) -> str:
    """A PYTHONPATH whose `sitecustomize` runs `code` in every process, the driver's and the workers'."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(code)
    return f"{folder}:{Path(__file__).resolve().parents[2]}"


SLOW_COMMITS = """
import time
from manifests.writing.commit import ShardCommit
real = ShardCommit.commit
def commit(self, *arguments, **options):
    time.sleep(2)
    return real(self, *arguments, **options)
ShardCommit.commit = commit
"""


DOUBLE = """
import media.decode.reader
real = media.decode.reader.VideoReader.pictures
def pictures(self, *arguments):
    deed = {deeds!r}.get(self.facts.path)
    if deed:
        exec(deed)
    return real(self, *arguments)
media.decode.reader.VideoReader.pictures = pictures
"""
DEEDS = {
    "import os; os.abort()": ("decoder_died", "its decoder died of it (SIGABRT)"),
    "import signal; signal.raise_signal(signal.SIGKILL)": ("poison", "was killed from outside"),
    "import time; time.sleep(3600)": ("poison", "time_limit"),
    "import time; held = []\nwhile True: held.append(b'x' * (64 << 20)); time.sleep(0.05)": (
        "poison",
        "memory_limit",
    ),
}


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(1200)
def test_files_that_kill_or_hold_the_decoder_are_failures_and_all_else_is_kept(films, dataset, tmp_path):
    """The decoder is wrapped from outside, through a sitecustomize that every worker process imports: one
    file aborts it, one has it killed, one hangs, one eats memory.
    """
    victims = [str(path) for path in sorted(films.glob("film-*")) if path.suffix != ".json"][: len(DEEDS)]
    deeds = dict(zip(victims, DEEDS, strict=True))
    path = site(tmp_path / "site", DOUBLE.format(deeds=deeds))
    limits = ("--curate.item-limit-s", 12, "--curate.item-limit-bytes", 2 << 30)
    run("ingest", films, "--out", tmp_path / "ds", *INGEST, *limits, check=3, PYTHONPATH=path)
    made = Dataset(str(tmp_path / "ds"))
    failures = {row["uri"]: row for row in scans.table(made, "failures").to_pylist()}
    assert set(failures) == set(victims)
    for uri, failure in failures.items():
        error, cause = DEEDS[deeds[uri]]
        assert (failure["error"], failure["stage"]) == (error, "preview") and cause in failure["cause"]
    clips = {row["clip_id"] for row in scans.table(made, "clips").to_pylist()}
    whole = {row["clip_id"]: row["uri"] for row in scans.table(dataset, "clips").to_pylist()}
    assert clips == {clip for clip, uri in whole.items() if uri not in victims}
    assert verify(made, deep=True).is_sound
    run("retry", tmp_path / "ds")  # without the double the same files are fine
    assert {row["clip_id"] for row in scans.table(made, "clips").to_pylist()} == set(whole)
    assert not scans.table(made, "failures").num_rows
    assert verify(made, deep=True).is_sound
