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
