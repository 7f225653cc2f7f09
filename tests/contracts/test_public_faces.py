"""The packages as libraries: names are documented, cheap to import, and the examples of docs/library.md run."""

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import calibration

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
PACKAGES = ("simulator", "cuda_probe", "acceptance", "calibration")


def section(package: str) -> str:
    return PAGE.partition(f"\n## {package}\n")[2].partition("\n## ")[0]


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout


@pytest.mark.parametrize("package", PACKAGES)
def test_every_name_of_a_face_is_there_and_documented(package: str) -> None:
    face = import_module(package)
    assert len(face.__all__) > 5
    for name in face.__all__:
        assert getattr(face, name) is not None
        assert re.search(rf"\b{name}\b" if package == "simulator" else f"`{name}", section(package)), name


def test_the_examples_of_the_page_run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    # Requests one by one take a minute unless loops are compiled: `make test-whole` forecasts those.
    cases = tuple(case for case in calibration.published_cases() if not (case.load and case.load.simulated))
    monkeypatch.setattr(calibration, "published_cases", lambda: cases)
    lines = {}
    for package in PACKAGES:
        for example in re.findall(r"```python\n(.*?)```", section(package), re.DOTALL):
            exec(compile(example, "docs/library.md", "exec"), {})
        lines[package] = capsys.readouterr().out.splitlines()
    assert lines["simulator"][0].startswith("pays 1.5")
    # Alpha 0.8, K = 6 of a draft that costs a tenth: (1 - 0.8 ** 7) / 0.2 / 1.6.
    assert float(lines["simulator"][1]) == pytest.approx((1 - 0.8**7) / 0.2 / 1.6)
    loads = [[float(word) for word in line.split()] for line in lines["simulator"][2:]]
    assert [load for load, *_ in loads] == [1, 20]
    assert all(0 < tpot_s < 0.02 and gain > 0.5 for _, tpot_s, gain in loads)
    assert re.findall(r"'work_flops': (\d+)", "\n".join(lines["cuda_probe"])) == ["1", "2", "4"]
    assert [line.split()[0] for line in lines["acceptance"][:4]] == list("1234")
    assert "'oracle'" in lines["acceptance"][4]
    assert lines["calibration"][0] == "bfloat16 True ()"
    published = [line.endswith("True") for line in lines["calibration"][2:]]
    assert len(published) >= 13
    assert all(published)


def test_a_face_imports_nothing_until_it_is_asked() -> None:
    code = f"import sys, {', '.join(PACKAGES)}; print(*sys.modules)"
    loaded = python(code).split()
    assert set(PACKAGES) <= set(loaded)
    assert not {name for name in loaded if name.startswith(tuple(f"{package}." for package in PACKAGES))}
    assert not {"numpy", "click", "torch"} & set(loaded)


def test_a_name_whose_library_is_missing_says_what_brings_it() -> None:
    lines = ("import sys", "sys.modules['torch'] = None", "import acceptance", "try: acceptance.load_pair")
    code = "\n".join([*lines, "except ValueError as error: print(type(error).__name__, error)"])
    remedy = 'running the models of measure-acceptance needs it: pip install "specsim[measure]"'
    assert python(code) == f"UserError torch is not installed; {remedy}\n"
