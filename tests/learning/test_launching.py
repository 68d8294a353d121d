"""What a command is called with where it is launched again."""

import subprocess

import pytest

from learning.launching import OF_THE_LAUNCH, program, without


@pytest.mark.parametrize("option", ["--least-workers", "--least_workers"])
@pytest.mark.parametrize("words", [("4",), ()])
def test_options_of_the_launch_are_left_out_in_both_spellings(option, words):
    given = [option, *words] if words else [f"{option}=4"]
    assert without(["fit", "xl", *given, "--data", "D", "--batch_tokens", "3"], OF_THE_LAUNCH) == [
        *("fit", "xl", "--data", "D", "--batch_tokens", "3")
    ]


def test_a_file_that_lies_in_the_users_folder_is_not_imported(tmp_path):
    """`python -m` would look there first."""
    (tmp_path / "numpy.py").write_text("raise RuntimeError('mine')")
    (tmp_path / "shlex.py").write_text("raise RuntimeError('mine')")
    said = subprocess.check_output([*program(), "--version"], cwd=tmp_path, text=True)
    assert said.startswith("rushes ")
