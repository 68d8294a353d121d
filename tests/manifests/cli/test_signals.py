"""Ctrl-C and SIGTERM at any moment end a verb in words, with its exit code."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
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


HOOK = PROGRAM.replace("    import slow\n", "").replace(
    "    time.sleep(30)",
    "    class Slow:\n        def __del__(self):\n            time.sleep(2)\n    Slow()\n    time.sleep(30)",
)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_not_lost_where_python_ignores_what_is_raised(number):
    """As in what runs after a fork, or when something is let go of."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOOK],
        env={"PYTHONPATH": str(ROOT), "PATH": ""},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "imported\n"
    time.sleep(0.5)
    process.send_signal(number)
    _, told = process.communicate(timeout=15)
    assert told.splitlines()[-1].startswith("interrupted; ") and "Traceback" not in told
    assert process.returncode == INTERRUPTED


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
    assert told == "interrupted; the same command goes on, or begins anew where nothing was written yet\n"
    assert process.returncode == INTERRUPTED
