"""A run that dies while it probes goes on where it was."""

import os
import shutil

import pytest

from manifests.layout import Dataset
from manifests.tables import planned, scans
from pipeline.config import PlanConfig
from pipeline.engine import run
from pipeline.engine.probed import Probed
from pipeline.footage.sources import list_sources, source_row


@pytest.fixture
def footage(films, tmp_path):
    (tmp_path / "footage").mkdir()
    for path in sorted(films.glob("film-*"))[:6]:
        shutil.copy(path, tmp_path / "footage")
    return tmp_path / "footage"


def probing(asked, dies_after):
    """What stands in for Ray: file by file; it dies after some."""

    def on_ray(source_row, failed_row, keep):
        def probe(files):
            rows = []
            for number, file in enumerate(files):
                if number == dies_after:
                    raise KeyboardInterrupt
                asked.append(file.uri)
                rows.append(source_row(file))
                keep([file], rows[-1:])
            return rows

        return probe

    return on_ray


def test_what_was_probed_before_a_death_is_not_probed_again(footage, tmp_path, monkeypatch):
    asked, dataset, found = [], Dataset.create(str(tmp_path / "ds")), list_sources([str(footage)])
    monkeypatch.setattr(run, "probe_on_ray", probing(asked, dies_after=2))
    with pytest.raises(KeyboardInterrupt):
        run.plan_generation(dataset, found, PlanConfig())
    assert len(asked) == 2 and not dataset.generations()
    before = list(asked)
    monkeypatch.setattr(run, "probe_on_ray", probing(asked, dies_after=99))
    run.plan_generation(dataset, found, PlanConfig())
    assert sorted(asked) == sorted(file.uri for file in found) and asked[:2] == before
    assert not list((tmp_path / "ds" / "runs").rglob("*.jsonl"))
    whole = Dataset.create(str(tmp_path / "whole"))
    run.plan_generation(whole, found, PlanConfig())
    assert scans.table(dataset, "sources").equals(scans.table(whole, "sources"))
    assert planned.segments(dataset).equals(planned.segments(whole))


def test_a_file_or_a_sidecar_that_has_changed_since_is_probed_again(footage, tmp_path):
    dataset, found = Dataset.create(str(tmp_path / "ds")), list_sources([str(footage)])
    probed = Probed(dataset)
    probed.keep(found, [source_row(file) for file in found])
    assert probed.known(found)[1] == []
    (tmp_path / "ds" / "runs" / "probed" / "0.jsonl").write_text('{"mark": ')
    assert probed.known(found)[1] == []  # damage holds nobody up
    with_sidecar = next(file for file in found if file.sidecar)
    os.utime(with_sidecar.sidecar, ns=(1, 1))
    other = next(file for file in found if file is not with_sidecar)
    shutil.copy(with_sidecar.uri, other.uri)
    assert probed.known(found)[1] == [file for file in found if file in (with_sidecar, other)]
