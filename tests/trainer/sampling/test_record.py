"""A model's record that is damaged or of another version is one line that names the file."""

import json
import shutil

import pytest

from manifests.errors import UsageError
from trainer.sampling.trained import RECORD, load_model
from trainer.state.beginning import record_of


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"width": 32, "later": 1}},
        {"model": {"width": "32"}},
        {"model": 3},
        {"flow": {"later": 1}},
        {"latent_mean": "0"},
        {"latent_mean": [0.0] * 3},
        {"latent_std": [None] * 16},
        {"vae": 3},
        {"text_encoder": None},
        {"phrases": ["daylight"]},
    ],
    ids=str,
)
def test_it_names_the_file(model_folder, tmp_path, change):
    folder = shutil.copytree(model_folder, tmp_path / "model")
    record = json.loads((folder / RECORD).read_text())
    for name, value in change.items():
        both = isinstance(value, dict) and isinstance(record.get(name), dict)
        record[name] = {**record[name], **value} if both else value
    (folder / RECORD).write_text(json.dumps(record))
    for read in (load_model, lambda path: record_of(str(path))):
        with pytest.raises(UsageError, match=RECORD):
            read(folder)
