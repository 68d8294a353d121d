"""A part of a step has clips enough for a text to be told from another's."""

from dataclasses import replace

import pytest

from captioner.coca.stages import tiny_stages
from captioner.coca.training import check_parts
from manifests import cli
from manifests.errors import UsageError


def test_a_part_of_one_clip_learns_no_contrast_and_is_refused(tmp_path, capsys):
    config = replace(tiny_stages()["base"], batch=8, accumulate=2)
    check_parts(config, 2)
    with pytest.raises(UsageError, match="has 1 clips for each of 4 processes and 2 parts"):
        check_parts(config, 4)
    check_parts(replace(config, contrast_weight=0.0), 8)
    words = ["train-captioner", str(tmp_path / "c"), "--films", "8", "--steps", "2", "--stage", "base"]
    assert cli.main(arguments=[*words, "--batch", "4", "--accumulate", "4", "--threads", "1"]) == cli.USAGE
    assert "a smaller --accumulate" in capsys.readouterr().err
