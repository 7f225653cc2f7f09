"""The package as a library: its names are documented, cheap to import, and the example of docs/library.md runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import calibration

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "docs" / "library.md").read_text().partition("\n## calibration\n")[2].partition("\n## ")[0]


def test_every_name_of_the_face_is_there_and_documented() -> None:
    for name in calibration.__all__:
        assert getattr(calibration, name) is not None
        assert f"`{name}" in SECTION, name


def test_the_example_of_the_page_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    (example,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    exec(compile(example, "docs/library.md", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "bfloat16 True ()"
    assert [line.endswith("True") for line in said[2:]] == [True] * 10


def test_the_face_imports_nothing_until_it_is_asked() -> None:
    code = "import sys, calibration; print(sorted({'numpy', 'click', 'calibration.fit'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
