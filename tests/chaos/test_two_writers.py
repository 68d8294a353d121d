"""Two writers at one dataset: the second is refused, and one that was taken for dead spoils nothing."""

import signal
import time

import pytest

from manifests.layout import Dataset
from manifests.tables import scans
from manifests.verify import verify
from manifests.writing.lease import FILE
from tests.chaos.test_death import SLOW_COMMITS, site
from tests.conftest import ingest_here
from tests.e2e.commands import INGEST, committed, run, start


def begun(command, path):
    """An ingest that has committed its first shard column."""
    process = start(*command, PYTHONPATH=path)
    for line in process.stdout:
        if line.startswith("[1/"):
            return process
    raise AssertionError("it ended before its first commit")


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_second_writer_is_refused_at_once_and_a_first_that_wakes_late_spoils_nothing(films, tmp_path):
    reference = ingest_here(films, tmp_path / "reference", shard_s=4)
    command = ("ingest", films, "--out", tmp_path / "ds", *INGEST, "--plan.shard-s", 4)
    first = begun(command, site(tmp_path / "site", SLOW_COMMITS))
    began = time.monotonic()
    refused = run(*command, check=2)
    assert "is being written by" in refused.stderr and f"process {first.pid}" in refused.stderr
    assert time.monotonic() - began < 30
    for verb in (("retry", tmp_path / "ds"), ("plan", films, "--out", tmp_path / "ds")):
        assert "is being written by" in run(*verb, check=2).stderr

    first.send_signal(signal.SIGSTOP)  # a machine that sleeps: nobody hears of it, and it does not know
    dataset = Dataset(str(tmp_path / "ds"))
    (tmp_path / "ds" / FILE).unlink()  # as if a minute had passed
    second = start(*command)
    said, _ = second.communicate(timeout=500)
    assert second.returncode == 0, said
    whole = committed(tmp_path / "ds")
    first.send_signal(signal.SIGCONT)
    said, _ = first.communicate(timeout=300)
    assert first.returncode == 2 and "was taken over" in said, said
    assert committed(tmp_path / "ds") == whole == committed(tmp_path / "reference")
    assert verify(dataset, deep=True).is_sound
    assert len(scans.table(dataset, "shards")) == len(scans.table(reference, "shards"))
