"""Prompt files: both formats, and the line number of whatever is wrong."""

from pathlib import Path

import pytest

from acceptance.prompts import Prompt, load_prompts
from simulator.artefacts import UserError


def test_jsonl_and_plain_text_are_read(tmp_path: Path) -> None:
    lines, plain = tmp_path / "p.jsonl", tmp_path / "p.txt"
    lines.write_text('{"prompt": "a\\nb", "source": "s"}\n\n{"prompt": "c\u2028d"}\n')
    plain.write_text("first one\n\n  second\r\n")
    assert load_prompts(lines) == [
        Prompt(text="a\nb", source="s"),
        Prompt(text="c\u2028d", source=f"{lines}:3"),
    ]
    assert [p.text for p in load_prompts(plain)] == ["first one", "  second"]


@pytest.mark.parametrize(
    "line",
    ["{", "[]", '"text"', "{}", '{"prompt": ""}', '{"prompt": 3}', "[" * 100_000, '{"prompt": "\\ud800"}', "1" * 5000],
)
def test_a_bad_line_is_named_by_its_number(tmp_path: Path, line: str) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "good"}\n' + line + "\n")
    with pytest.raises(UserError, match=r"p\.jsonl:2: "):
        load_prompts(path)


def test_a_file_without_prompts_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p.txt").write_text("\n\n")
    with pytest.raises(UserError, match="holds no prompts"):
        load_prompts(tmp_path / "p.txt")
