"""The VAE's verbs: names under weights/, and folders of one name."""

from pathlib import Path

import pytest

from manifests.errors import UsageError
from vae.folder import vae_folder
from vae.verbs import judge
from vae.verbs import train as training


def test_names_under_weights_stand_for_their_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    judged = {}

    def evaluate(vaes, sets, fit_on):
        judged.update(vaes)
        return {}

    monkeypatch.setattr(judge.evaluate, "evaluate", evaluate)
    monkeypatch.setattr(judge.evaluate, "film_clips", lambda count: [])
    monkeypatch.setattr(judge, "_fit_clips", lambda count: [])
    assert judge.Eval(weights=[Path("vae-tiny"), Path("vae-tiny-2")], json=True).run() == 0
    assert list(judged) == ["vae-tiny", "vae-tiny-2"]
    with pytest.raises(UsageError, match="vae-tiny-3"):
        judge.Eval(weights=[Path("vae-tiny-3")]).run()


def test_two_folders_of_one_name_are_two():
    folders = [Path("one/vae"), Path("two/vae"), vae_folder("vae-tiny")]
    assert judge._names(folders) == ["one/vae", "two/vae", "vae-tiny"]


@pytest.mark.parametrize("given", [["--data", "s3://b/ds?secret_key=ab/cd"], ["--data=s3://KEY:WORD@b/ds/"]])
def test_the_record_of_a_training_holds_no_key_and_no_folder(given, monkeypatch):
    monkeypatch.setattr("sys.argv", ["rushes", "train-vae", "/home/me/out", *given, "--films", "0"])
    train = training.Train(out=Path("out"), data=given[-1].removeprefix("--data="), films=0)
    told = train._command().replace("=", " ")
    assert told == "rushes train-vae out --data ds --films 0"
    assert "dataset ds;" in train._data(1)
