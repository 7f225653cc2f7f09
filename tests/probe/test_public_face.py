"""The package as a library: its names are documented, cheap to import, and the example of docs/library.md runs."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import cuda_probe

PAGE = (Path(__file__).parents[2] / "docs" / "library.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## cuda_probe\n")[2].partition("\n## ")[0]


def test_every_name_of_the_face_is_there_and_documented() -> None:
    for name in cuda_probe.__all__:
        assert getattr(cuda_probe, name) is not None
        assert f"`{name}" in SECTION, name


def test_the_example_of_the_page_runs(capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
    exec(compile(example, "docs/library.md", "exec"), {})
    assert re.findall(r"'work_flops': (\d+)", capsys.readouterr().out) == ["1", "2", "4"]


def test_the_face_imports_nothing_until_it_is_asked() -> None:
    code = "import sys, cuda_probe; print(sorted({'numpy', 'click', 'cuda_probe.sampling'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
