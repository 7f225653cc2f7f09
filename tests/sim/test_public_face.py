"""The package as a library: its names are documented, and the examples of docs/library.md run."""

import re
from pathlib import Path

import pytest

import simulator

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## simulator\n")[2].partition("\n## ")[0]


def test_every_name_of_the_face_is_there_and_documented() -> None:
    for name in simulator.__all__:
        assert getattr(simulator, name) is not None
        assert re.search(rf"\b{name}\b", SECTION), name


def test_the_examples_of_the_page_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    for example in re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL):
        exec(compile(example, "docs/library.md", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("pays 1.5")
    # Alpha 0.8, K = 6 of a draft that costs a tenth: (1 - 0.8 ** 7) / 0.2 / 1.6.
    assert float(said[1]) == pytest.approx((1 - 0.8**7) / 0.2 / 1.6)
