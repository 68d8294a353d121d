"""The VAE's verbs: names under weights/, and folders of one name."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from manifests import cli
from manifests.errors import UsageError
from media.writer import write_video
from vae.checkpoint import load_own, save_vae
from vae.folder import vae_folder
from vae.network.model import CausalVAE, VAEConfig
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
    with pytest.raises(UsageError, match="vae-tiny-9"):
        judge.Eval(weights=[Path("vae-tiny-9")]).run()


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


def test_sizes_beside_init_are_refused_where_they_are_others(tmp_path, capsys):
    words = ["train-vae", str(tmp_path / "v"), "--films", "1", "--init", "vae-tiny", "--train.steps", "1"]
    assert cli.main(arguments=[*words, "--model.num-blocks", "3"]) == cli.USAGE
    assert "has other sizes than --model. names" in capsys.readouterr().err


def test_nothing_is_written_over_what_is_read(tmp_path, capsys):
    film, latent = tmp_path / "film.mkv", tmp_path / "film.safetensors"
    write_video(film, iter(np.zeros((5, 16, 24, 3), np.uint8)), 8.0, "ffv1")
    link = tmp_path / "link.mkv"
    link.symlink_to(film)
    before = film.read_bytes()
    for out in (film, link):
        assert cli.main(arguments=["encode", str(film), str(out), "--overwrite"]) == cli.USAGE
        assert "is what is read" in capsys.readouterr().err
    assert film.read_bytes() == before
    assert cli.main(arguments=["encode", str(film), str(latent)]) == cli.DONE
    named = tmp_path / "latent.mp4"
    named.write_bytes(latent.read_bytes())
    assert cli.main(arguments=["decode", str(named), str(named), "--overwrite"]) == cli.USAGE
    assert named.read_bytes() == latent.read_bytes()
    assert cli.main(arguments=["decode", str(tmp_path), str(tmp_path / "x.mp4")]) == cli.USAGE
    assert "is a folder" in capsys.readouterr().err


def test_a_film_that_changes_its_size_is_named(real_videos, tmp_path, capsys):
    source = real_videos / "derived" / "midstream_resize.ts"
    words = ["encode", str(source), str(tmp_path / "x.safetensors"), "--max-pixels", "10000"]
    assert cli.main(arguments=words) == cli.FAILED
    assert "changes its size at frame" in capsys.readouterr().err
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize(
    "words", [["eval-vae", "--films", "1"], ["compare-captions", "D", "a", "b"], ["caption", "F"]]
)
def test_a_sheet_that_is_no_picture_is_refused_before_any_work(words, tmp_path, capsys):
    assert cli.main(arguments=[*words, "--sheet", str(tmp_path / "s.txt")]) == cli.USAGE
    assert "does not name a picture" in capsys.readouterr().err


def test_weights_that_are_not_finite_are_no_vae(tmp_path, capsys):
    folder = tmp_path / "vae"
    model = CausalVAE(VAEConfig(widths=(4, 4, 4), latent_channels=2))
    save_vae(model, folder, {})
    assert load_own(folder).latent_channels == 2
    with torch.no_grad():
        model.dec1[0].conv1.conv.bias[1] = math.nan
    save_vae(model, folder, {})
    for words in (["latent-stats", str(folder)], ["eval-vae", str(folder), "--films", "1"]):
        assert cli.main(arguments=words) == cli.INTEGRITY
        assert "dec1.0.conv1.conv.bias that are not finite" in capsys.readouterr().err


@pytest.mark.parametrize("config", [{"latent_channels": "x"}, {"widths": 4}, {"widths": [8, 8, 8], "new": 1}])
def test_sizes_that_are_none_are_named(config, tmp_path, capsys):
    save_vae(CausalVAE(VAEConfig(widths=(4, 4, 4), latent_channels=2)), tmp_path, {})
    (tmp_path / "config.json").write_text(json.dumps({"model": "causal-vae/1", "config": config}))
    assert cli.main(arguments=["latent-stats", str(tmp_path)]) in {cli.INTEGRITY, cli.USAGE}
    assert "config.json" in (told := capsys.readouterr().err) and "Traceback" not in told
