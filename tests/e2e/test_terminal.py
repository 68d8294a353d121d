"""An ingest that is given by hand, at a terminal: it has bars, and it ends."""

import os
import pty
import re
import select
import signal
import sys
import time
from pathlib import Path

import pytest

from manifests.layout import Dataset
from tests.e2e.commands import ROOT, environment


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(400)
def test_an_ingest_at_a_terminal_has_bars_and_ends(films, tmp_path):
    """Ray's workers are no foreground processes: one that reads from the terminal is stopped for good."""
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        command = [sys.executable, "-m", "rushes", "ingest", str(films), "--out", str(tmp_path / "ds")]
        os.execve(sys.executable, command, environment(TERM="xterm", COLUMNS="100"))
    shown, end = b"", time.monotonic() + 300
    while time.monotonic() < end:
        if select.select([terminal], [], [], 1)[0]:
            try:
                data = os.read(terminal, 65536)
            except OSError:  # the last process has closed it
                break
            shown += data
    else:
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode(errors="replace"))
    assert os.waitstatus_to_exitcode(status) == 0, text[-2000:]
    for said in ("━", "in work", "next: rushes dashboard", "outcome: done"):
        assert said in text
    assert len(Dataset(str(tmp_path / "ds")).columns()) == 5


@pytest.mark.ray
def test_what_ray_starts_reads_nothing_from_the_terminal():
    from pipeline.engine.cluster import no_terminal

    before = os.fstat(0)
    with no_terminal():
        assert os.fstat(0).st_rdev == Path(os.devnull).stat().st_rdev
    assert (os.fstat(0).st_dev, os.fstat(0).st_ino) == (before.st_dev, before.st_ino)
