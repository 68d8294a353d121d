"""A query that never ends is stopped by a signal, in one line."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

ENDLESS = "select sum(a.num_frames) from clips a, range(1000000000) b, range(100000) c"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_query_hears_of_signals(dataset, number):
    command = [sys.executable, "-P", "-m", "rushes", "query", dataset.uri, ENDLESS]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        time.sleep(4)
        assert process.poll() is None
        process.send_signal(number)
        said = process.communicate(timeout=20)[1]
    assert process.returncode in (130, 143, -signal.SIGTERM)
    assert "Traceback" not in said and len(said.splitlines()) <= 2
