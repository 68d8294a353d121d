"""Signals that come while Ray is let go of end nothing in the midst of it."""

import subprocess
import sys

import pytest

from tests.e2e.commands import environment


def check_interrupted(code, limit_s):
    """Run code in a process of its own: it ends as one that was interrupted."""
    words = [sys.executable, "-P", "-c", code]
    ended = subprocess.run(words, check=False, env=environment(), capture_output=True, timeout=limit_s)
    assert ended.returncode == 130, ended.stderr.decode()[-2000:]


IMPATIENT = """
import os, signal, threading, time
from manifests.signals import interrupt_on_signals
from pipeline.engine.cluster import session

def press():
    for _ in range(100):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.02)

try:
    with session(1):
        interrupt_on_signals()
        threading.Timer(0.1, press).start()
        time.sleep(60)
except KeyboardInterrupt:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    raise SystemExit(130)
"""


@pytest.mark.ray
@pytest.mark.timeout(120)
def test_pressing_again_and_again_waits_for_ray_to_end():
    check_interrupted(IMPATIENT, 100)


PUT_OFF = """
import os, signal, sys, time
from pathlib import Path
from manifests.signals import interrupt_on_signals
from pipeline.engine.cluster import _deaf
interrupt_on_signals()
sys.path.insert(0, sys.argv[1])
try:
    import pressing
    with _deaf():
        time.sleep(0.3)
    time.sleep(0.3)
except KeyboardInterrupt:
    raise SystemExit(130)
"""


def test_what_was_put_off_by_an_import_is_not_lost_while_nothing_is_heeded(tmp_path):
    (tmp_path / "pressing.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    words = [sys.executable, "-c", PUT_OFF, str(tmp_path)]
    done = subprocess.run(words, env=environment(), timeout=60, check=False)
    assert done.returncode == 130


LEFT_BEHIND = """
import threading, time
import ray
from pipeline.engine.cluster import session

real, alive = ray.shutdown, []

def shutdown(*arguments, **options):
    alive.append([thread.name for thread in threading.enumerate() if thread.name.startswith("StreamingExec")])
    real(*arguments, **options)

def slow(row):
    time.sleep(0.2)
    return row

try:
    with session(1):
        ray.shutdown = shutdown
        rows = iter(ray.data.range(400, override_num_blocks=200).map(slow).iter_rows())
        next(rows)
        assert any(thread.name.startswith("StreamingExec") for thread in threading.enumerate())
        raise KeyboardInterrupt
except KeyboardInterrupt:
    raise SystemExit(130 if alive == [[]] else f"alive: {alive}")
"""


@pytest.mark.ray
@pytest.mark.timeout(150)
def test_no_thread_of_ray_data_speaks_to_a_ray_that_is_gone():
    """It would end this process at once, with 1 and without a word."""
    check_interrupted(LEFT_BEHIND, 140)
