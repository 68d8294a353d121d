"""The VAE's verbs: names under weights/, and folders of one name."""

from pathlib import Path

import pytest

from manifests.errors import UsageError
from vae import commands
from vae.folder import vae_folder


def test_names_under_weights_stand_for_their_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    judged = {}

    def evaluate(vaes, sets, fit_on):
        judged.update(vaes)
        return {}

    monkeypatch.setattr(commands.evaluate, "evaluate", evaluate)
    monkeypatch.setattr(commands.evaluate, "film_clips", lambda count: [])
    monkeypatch.setattr(commands, "_fit_clips", lambda count: [])
    assert commands.Eval(weights=[Path("vae-tiny"), Path("vae-tiny-2")], json=True).run() == 0
    assert list(judged) == ["vae-tiny", "vae-tiny-2"]
    with pytest.raises(UsageError, match="vae-tiny-3"):
        commands.Eval(weights=[Path("vae-tiny-3")]).run()


def test_two_folders_of_one_name_are_two():
    folders = [Path("one/vae"), Path("two/vae"), vae_folder("vae-tiny")]
    assert commands._names(folders) == ["one/vae", "two/vae", "vae-tiny"]
