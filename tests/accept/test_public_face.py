"""The package as a library: its names are documented, cheap to import, and the example of docs/library.md runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import acceptance

PAGE = (Path(__file__).parents[2] / "docs" / "library.md").read_text()
SECTION = PAGE.partition("\n## acceptance\n")[2].partition("\n## ")[0]


def test_every_name_of_the_face_is_there_and_documented() -> None:
    for name in acceptance.__all__:
        assert getattr(acceptance, name) is not None
        assert f"`{name}" in SECTION, name


def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    exec(compile(example, "docs/library.md", "exec"), {})
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said[:4]] == list("1234")
    assert "'oracle'" in said[4]


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout


def test_the_face_imports_nothing_until_it_is_asked() -> None:
    heavy = "{'numpy', 'click', 'torch', 'acceptance.models'}"
    assert python(f"import sys, acceptance; print(sorted({heavy} & set(sys.modules)))") == "[]\n"


def test_a_name_whose_library_is_missing_says_what_brings_it() -> None:
    code = """
import sys
sys.modules["torch"] = None
import acceptance
try:
    acceptance.load_pair
except ValueError as error:
    print(type(error).__name__, error)
"""
    told = 'running the models of measure-acceptance needs it: pip install "specsim[measure]"'
    assert python(code) == f"UserError torch is not installed; {told}\n"
