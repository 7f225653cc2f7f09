"""What a terminal sees beyond what a file gets: the same cells, ruled and coloured; a bar while work goes on."""

import re
import sys

import pytest

from simulator.ground.command import progress, table

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


def test_a_bar_counts_to_the_end_on_a_terminal_and_is_silent_elsewhere(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress("work", 3) as bar:
        bar.update(3)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with progress("work", 3) as bar:
        for _ in range(3):
            bar.update(1)
    assert "work" in (err := capsys.readouterr().err)
    assert "3/3" in err
