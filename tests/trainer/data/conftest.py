"""Tars as `rushes export` writes them."""

import pytest

from manifests.exporting.webdataset import export_webdataset
from manifests.views import View


@pytest.fixture(scope="module")
def tars(dataset, tmp_path_factory):
    return [
        str(path)
        for path in export_webdataset(dataset, View.load(dataset), tmp_path_factory.mktemp("tars"))[0]
    ]
