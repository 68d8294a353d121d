"""Signals that come while Ray is let go of end nothing in the midst of it."""

import subprocess
import sys

import pytest

from tests.e2e.commands import environment

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
    words = [sys.executable, "-P", "-c", IMPATIENT]
    ended = subprocess.run(words, check=False, env=environment(), capture_output=True, timeout=100)
    assert ended.returncode == 130, ended.stderr.decode()[-2000:]


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
