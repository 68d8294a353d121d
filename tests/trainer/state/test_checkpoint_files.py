"""What cannot be read now is no damage: nothing is set aside for it, and all processes say the same."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from manifests.errors import RushesError
from tests.e2e.commands import ended, together
from trainer.state import checkpoint_files
from trainer.state.checkpoint_files import STATE, TrainState, appear, newest_sound, temporary_folder
from trainer.state.parallel import Ranks

ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture
def checkpoints(tmp_path) -> Path:
    """A folder with two checkpoints, of steps 2 and 4."""
    folder = tmp_path / "checkpoints"
    for step in (2, 4):
        temporary = temporary_folder(folder, step)
        temporary.mkdir(parents=True)
        (temporary / "model.safetensors").write_bytes(bytes([step]) * 1000)
        appear(folder, TrainState(step, "same"), 4, ALONE, {})
    return folder


@pytest.mark.parametrize("name", [STATE, "model.safetensors"])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE])
def test_an_error_of_the_disk_sets_nothing_aside(checkpoints, monkeypatch, name, number):
    assert newest_sound(checkpoints, ALONE) == checkpoints / "step-00000004"
    whole_read, whole_check = checkpoint_files.read_local_object, checkpoint_files._checked

    def failing(whole):
        def read(path, *more):
            if Path(path).name == name:
                raise OSError(number, os.strerror(number))
            return whole(path, *more)

        return read

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_files, "read_local_object", failing(whole_read))
        patch.setattr(checkpoint_files, "_checked", failing(whole_check))
        with pytest.raises(RushesError, match=f"{name} cannot be read"):
            newest_sound(checkpoints, ALONE)
    assert sorted(path.name for path in checkpoints.iterdir()) == ["step-00000002", "step-00000004"]
    assert newest_sound(checkpoints, ALONE) == checkpoints / "step-00000004"


SEEN_BY_ONE = """
import os, sys
from pathlib import Path
import torch
from learning import processes
from manifests.errors import RushesError
from trainer.state import checkpoint_files
from trainer.state.parallel import Ranks

place = processes.join()
ranks, folder, who = Ranks(place.rank, place.size, torch.device("cpu")), Path(sys.argv[1]), int(sys.argv[2])
whole = checkpoint_files._checked
def check(path):
    if who == 2 and place.rank == 1:  # whose disk is not mounted
        raise FileNotFoundError(2, "No such file or directory")
    if place.rank == who:
        raise OSError(5, "Input/output error")
    return whole(path)
checkpoint_files._checked = check
if place.rank == 1:  # which does not see yet what another machine has written
    checkpoint_files.list_checkpoints = lambda folder: []
try:
    print("found", checkpoint_files.newest_sound(folder, ranks).name, flush=True)
except RushesError as error:
    print("refused", error.cause, flush=True)
processes.wait_for_all()
processes.leave()
"""


@pytest.mark.parametrize(
    ("who", "said"), [(-1, "found step-00000004"), (0, "refused"), (1, "refused"), (2, "refused")]
)
def test_processes_that_see_other_things_say_the_same(checkpoints, who, said):
    (checkpoints / "step-00000004" / "other.safetensors").touch()
    state = checkpoints / "step-00000004" / STATE
    state.write_text(state.read_text().replace('"files": {', '"files": {"other.safetensors": [0, 0], '))
    started = together(2, "-c", SEEN_BY_ONE, checkpoints, who)
    assert all(said in out for out, _ in ended(started, 240))
    assert (checkpoints / "step-00000004").is_dir()
