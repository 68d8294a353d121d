"""What a sample leaves is whole, whoever else makes the same one, and however it ends."""

from __future__ import annotations

import errno
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from manifests.errors import UsageError
from trainer.sampling.job.output import Output

FRAME = np.full((48, 64, 3), 90, np.uint8)
SLOWLY = """
import sys, time
from pathlib import Path
import numpy as np
from trainer.sampling.job.output import Output

def frames():
    for index in range(12):
        time.sleep(float(sys.argv[2]))
        yield np.full((48, 64, 3), 90, np.uint8)

Output(Path(sys.argv[1])).write(frames(), 12, 12.0, {"model_digest": "x"})
"""


def test_two_processes_that_make_one_sample_both_leave_it_whole(tmp_path):
    path = tmp_path / "a.mp4"
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", SLOWLY, str(path), str(pause)], stderr=subprocess.PIPE, text=True
        )
        for pause in (0.05, 0.15)
    ]
    for maker in makers:
        _, said = maker.communicate(timeout=120)
        assert maker.returncode == 0, said
    assert {item.name for item in tmp_path.iterdir()} == {"a.mp4", "a.json", "a.sheet.png"}
    assert Output(path).recorded() == {"model_digest": "x"}


@pytest.mark.parametrize("name", ["a.mp4", "a.png"])
def test_a_full_disk_is_named_and_the_same_command_goes_on(tmp_path, name, monkeypatch):
    output, frames = Output(tmp_path / name), 1 if name.endswith("png") else 12

    def full(path, data):
        raise OSError(errno.ENOSPC, "no space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space") as told:
        output.write(iter([FRAME] * frames), frames, 12.0, {"model_digest": "x"})
    assert Path(told.value.filename).name in {"a.sheet.png", "a.png"}
    assert not list(tmp_path.iterdir())
    monkeypatch.undo()
    output.check_new(is_overwriting=False)
    output.write(iter([FRAME] * frames), frames, 12.0, {"model_digest": "x"})
    assert output.path.exists() and not list(tmp_path.glob(".*"))


def test_what_a_process_left_that_is_gone_is_swept(tmp_path):
    maker = subprocess.Popen([sys.executable, "-c", SLOWLY, str(tmp_path / "a.mp4"), "2"])
    until_s = time.monotonic() + 120
    while not list(tmp_path.glob(".a.*.partial.mp4")) and maker.poll() is None and time.monotonic() < until_s:
        time.sleep(0.05)
    maker.kill()
    assert maker.wait() == -signal.SIGKILL and list(tmp_path.glob(".a.*.partial.mp4"))
    Output(tmp_path / "a.mp4").write(iter([FRAME] * 12), 12, 12.0, {"model_digest": "x"})
    assert not list(tmp_path.glob(".*"))


def test_what_is_of_another_file_of_the_same_name_is_not_replaced(tmp_path):
    Output(tmp_path / "a.mp4").write(iter([FRAME] * 12), 12, 12.0, {"model_digest": "x"})
    for name in ("a.webm", "a.png"):
        for is_overwriting in (False, True):
            with pytest.raises(UsageError, match=r"tells how a\.mp4 was made"):
                Output(tmp_path / name).check_new(is_overwriting=is_overwriting)


@pytest.mark.parametrize("name", ["a.mp4", "a.png"])
def test_what_is_to_be_replaced_stays_until_the_new_one_is_whole(tmp_path, name, monkeypatch):
    output, frames = Output(tmp_path / name), 1 if name.endswith("png") else 12
    output.write(iter([FRAME] * frames), frames, 12.0, {"model_digest": "old"})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(path, data):
        raise OSError(errno.ENOSPC, "no space left on device", str(path))

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(OSError, match="no space"):
        output.write(iter([FRAME] * frames), frames, 12.0, {"model_digest": "new"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_others_left_is_not_replaced(tmp_path):
    output = Output(tmp_path / "a.mp4")
    output.record.write_text(json.dumps({"mine": 1}))
    with pytest.raises(UsageError, match="exists"):
        output.check_new(is_overwriting=False)
    with pytest.raises(UsageError, match="too long a name"):
        Output(tmp_path / f"{'a' * 240}.mp4").check_new(is_overwriting=False)
