"""What a command is called with where it is launched again."""

import pytest

from learning.launching import OF_THE_LAUNCH, without


@pytest.mark.parametrize("option", ["--least-workers", "--least_workers"])
@pytest.mark.parametrize("words", [("4",), ()])
def test_options_of_the_launch_are_left_out_in_both_spellings(option, words):
    given = [option, *words] if words else [f"{option}=4"]
    assert without(["fit", "xl", *given, "--data", "D", "--batch_tokens", "3"], OF_THE_LAUNCH) == [
        *("fit", "xl", "--data", "D", "--batch_tokens", "3")
    ]
