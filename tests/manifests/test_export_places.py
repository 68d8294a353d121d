"""Where an export may go: what the next ingest would take for footage is refused."""

import fcntl
from pathlib import Path

from manifests.cli import DONE, USAGE, main
from manifests.exporting import webdataset
from manifests.views import View


def export(dataset, out, *more):
    return main(arguments=["export", dataset.uri, "--out", str(out), *more])


def test_a_folder_with_footage_is_refused(dataset, tmp_path, capsys):
    (tmp_path / "holiday.mp4").write_bytes(b"film")
    assert export(dataset, tmp_path) == USAGE
    assert "holds other things (holiday.mp4)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["holiday.mp4"]


def test_a_folder_in_a_dataset_is_refused(dataset, capsys):
    assert export(dataset, Path(dataset.uri) / "views" / "out") == USAGE
    assert "lies in the dataset" in capsys.readouterr().err


def test_one_that_was_stopped_goes_on_without_a_word(dataset, tmp_path, monkeypatch, capsys):
    out, real = tmp_path / "out", webdataset.TarWriter
    opened = []

    def dying(path):
        opened.append(path)
        if len(opened) == 2:
            raise KeyboardInterrupt
        return real(path)

    monkeypatch.setattr(webdataset, "TarWriter", dying)
    export(dataset, out)
    view = View.load(dataset)
    assert list(out.glob("*.tar")) and webdataset.is_unfinished(out, dataset, view)
    assert not webdataset.is_unfinished(out, dataset, View(columns=view.columns, where="false")), "another's"
    (out / ".000003.tar.dead.tmp").write_bytes(b"of one that was killed")
    with open(out / ".rushes-export") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert export(dataset, out) == USAGE
        assert "exported to by another process" in capsys.readouterr().err
    assert export(dataset, out) == DONE and not webdataset.is_unfinished(out, dataset, view)
    assert not list(out.glob(".*.tmp"))
    capsys.readouterr()
    assert export(dataset, out) == USAGE
    assert "add --overwrite" in capsys.readouterr().err


def test_a_new_folder_and_one_of_an_export_are_taken(dataset, tmp_path):
    assert export(dataset, tmp_path / "out") == DONE
    assert (tmp_path / "out" / ".rushes-export").exists()
    theirs = [tmp_path / "out" / name for name in ("7.tar", "2024.tar")]
    for path in theirs:
        path.write_text("mine")
    old = tmp_path / "out" / "000999.tar"
    old.write_text("of clips that the view no longer has")
    assert export(dataset, tmp_path / "out", "--overwrite") == DONE
    assert all(path.read_text() == "mine" for path in theirs) and not old.exists()
