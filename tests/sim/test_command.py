"""What a terminal sees beyond what a file gets: the same cells, ruled and coloured."""

import re
import sys

import pytest

from simulator.ground.command import table

ROWS = [("pass", "ms", "binds"), ("plain step", "6.393", "memory"), ("[draft]", "1.355", ""), ("verification", "6.400")]


def cells(text: str) -> list[list[str]]:
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).splitlines()
    return [re.split(r" {2,}", line.strip()) for line in lines if line.strip("─ ")]


def test_a_file_gets_plain_columns_and_a_terminal_the_same_cells_ruled_and_coloured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = table(ROWS, left=(0, 2))
    assert plain.splitlines() == [
        "pass             ms  binds",
        "plain step    6.393  memory",
        "[draft]       1.355",
        "verification  6.400",
    ]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    for headed in (True, False):
        shown = table(ROWS, headed=headed)
        assert cells(shown) == cells(plain)
        assert ("\x1b[" in shown) == ("─" in shown) == headed
    monkeypatch.setenv("COLUMNS", "20")
    assert table(ROWS, left=(0, 2)) == plain
