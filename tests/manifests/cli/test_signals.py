"""Ctrl-C and SIGTERM at any moment end a verb in words, with its exit code."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from manifests.cli import INTERRUPTED

ROOT = Path(__file__).resolve().parents[3]
PROGRAM = """
import sys
from manifests.cli import frame
def verb(words, package):
    import slow
    print("imported", flush=True)
    import time
    time.sleep(30)
frame.run = verb
sys.exit(frame.main())
"""
# as `dataclasses` does: interrupted in text that it executes, Python 3.11 ends by the signal, though handled
SLOW = 'print("importing", flush=True)\nexec("import time; time.sleep(1.5)")\n'


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("times", [1, 3])
def test_a_signal_in_the_midst_of_an_import_waits_for_its_end(tmp_path, number, times):
    (tmp_path / "slow.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        env={"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "importing\n"
    for _ in range(times):
        process.send_signal(number)
    said, told = process.communicate(timeout=20)
    assert said in ("imported\n", "")  # it may end as soon as the import has
    assert told == "interrupted; run the same command again to go on\n"
    assert process.returncode == INTERRUPTED
