"""Names are made safe for a terminal, tables keep their columns."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from manifests import cli
from manifests.cli.output import print_json


@given(st.text())
def test_printable_text_is_one_line_without_control_characters(text):
    shown = cli.printable(text)
    assert len(shown.splitlines()) <= 1
    assert not any(ord(char) < 32 or 0x7F <= ord(char) < 0xA0 for char in shown)
    shown.encode()  # no lone surrogates


def test_ordinary_text_of_any_script_stays_as_it_is():
    for text in ("Straße 12:30.mp4", "日本語のビデオ", "családi videó", "نص", "👩‍👩‍👧", "a\u00a0b"):
        assert cli.printable(text) == text


def test_what_moves_a_cursor_or_hides_a_name_is_escaped():
    assert cli.printable("a\x1b[2Jb\r\nc\u202egpj.exe") == "a\\x1b[2Jb\\r\\nc\\u202egpj.exe"
    assert cli.printable("half \ud83d") == "half \\ud83d"


def test_a_table_in_a_pipe_has_one_line_a_row_and_its_own_columns(capsys):
    cli.print_table("t", ["a", "b"], [["x\ty", "two\nlines"], [None, 1]])
    assert capsys.readouterr().out.splitlines() == ["# t", "a\tb", "x\\ty\ttwo\\nlines", "\t1"]


def test_cells_on_a_terminal_are_for_people():
    from manifests.cli.output import _for_people

    assert _for_people("count", 1234567) == "1,234,567"
    assert _for_people("loss", 0.123456789) == "0.1235"
    assert _for_people("time_s", 1.7e9)[:2] == "20" and ":" in _for_people("time_s", 1.7e9)
    assert _for_people("is_kept", True) == "True" and _for_people("x", None) == ""


def test_a_terminal_is_shown_eight_columns_or_all(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    header, row = [f"name{at}" for at in range(11)], list(range(11))
    cli.print_table("t", header, [row], is_wide=False)
    said = capsys.readouterr()
    assert "name7" in said.out and "name8" not in said.out
    assert "name8, name9, name10" in said.err and "--wide" in said.err
    cli.print_table("t", header, [row])
    assert "name10" in capsys.readouterr().out


def test_json_has_null_for_numbers_it_has_no_word_for(capsys):
    print_json({"a": [float("inf"), float("nan"), 1.5], "b": {"c": -float("inf")}, "d": (2, float("nan"))})
    found = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert found == {"a": [None, None, 1.5], "b": {"c": None}, "d": [2, None]}
