"""`validate` of published results as a user meets it: good input and bad."""

import json
import re
from pathlib import Path

import pytest
from PIL import Image

from .published_files import made_case, write

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_published_results_hold_and_every_row_is_listed(run) -> None:
    done = run("validate", "--published")
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("2211.17192", "CNN/DM T=1, T5-small", "fitted for GSM8K: baseline_ms 34.13", "leviathan-overhead"):
        assert words in done.stdout
    assert done.stdout.count("holds") == 10
    assert "BROKEN" not in done.stdout
    summary = run("validate", "--published", "--summary").stdout
    assert done.stdout.endswith(summary)
    assert len(summary.splitlines()) == 1 + 10


def test_the_example_of_the_readme_runs_and_holds(run, tmp_path: Path) -> None:
    (example,) = re.findall(r"```json\n(\{\n  \"cases\".*?)```", README, re.DOTALL)
    (tmp_path / "mine.json").write_text(example)
    done = run("validate", "--published-file", "mine.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "my-server: 8B <- 1B; one L4" in done.stdout
    assert done.stdout.splitlines()[-1].endswith("holds")


def test_a_row_beyond_its_bound_or_max_error_is_named_and_the_exit_code_is_1(run, tmp_path: Path) -> None:
    found = made_case()
    assert run("validate", "--published-file", write(tmp_path / "good.json", found)).returncode == 0
    found["rows"][3]["measured"]["ms_per_token"] *= 1.01
    file = write(tmp_path / "bad.json", found)
    done = run("validate", "--published-file", file)
    assert (done.returncode, done.stderr) == (1, "")
    assert "BROKEN by K = 4 (-0.99%)" in done.stdout
    assert run("validate", "--published-file", file, "--max-error", 0.02).returncode == 0
    assert run("validate", "--published-file", file, "--max-error", 0.009).returncode == 1
    done = run("validate", "--published", "--summary", "--max-error", 0.01)
    assert done.returncode == 1
    assert "BROKEN by En-De T=0, T5-large (+46.89%)" in done.stdout
    del found["max_error"]
    done = run("validate", "--published-file", write(tmp_path / "free.json", found))
    assert (done.returncode, done.stdout.splitlines()[-1].endswith("no bound")) == (0, True)


def test_json_is_what_is_written_and_carries_its_provenance(run, tmp_path: Path) -> None:
    file = write(tmp_path / "cases.json", made_case())
    done = run("validate", "--published-file", file, "--json", "--out", "v.json", SOURCE_DATE_EPOCH="0")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "v.json").read_text() == done.stdout
    payload = json.loads(done.stdout)
    assert (payload["kind"], payload["schema_version"]) == ("published_validation", 1)
    assert payload["parameters"] == {"published": False, "published_files": [str(file)], "max_error": None}
    (case,) = payload["cases"]
    assert case["fitted"][""] == pytest.approx({"draft_ms": 2.5, "verify_ms": 18.0})
    assert (case["holds"], case["max_error"]) == (True, 0.001)
    assert [made["use"] for made in case["rows"]] == ["fit"] * 3 + ["forecast"] * 2


def test_the_picture_is_drawn_in_both_formats(run, tmp_path: Path) -> None:
    file = write(tmp_path / "cases.json", made_case())
    odd = write(tmp_path / "odd.json", made_case(name="a$b^{$"))  # no formula
    for name, *more in (("v.png", "--published-file", odd), ("v.svg",)):
        done = run("validate", "--published", "--published-file", file, *more, "--summary", "--plot", name)
        assert done.returncode == 0, done.stderr
        assert done.stdout.endswith(f"wrote {name}\n")
    with Image.open(tmp_path / "v.png") as picture:
        assert picture.size[0] > 1000
    assert "<svg" in (tmp_path / "v.svg").read_text()


MISTAKES = (
    ("", "nothing to check", "--published-file FILE"),
    ("--published-file missing.json", "missing.json: no such file"),
    ("--published --max-error -1", "--max-error: -1", "0 to 10"),
    ("--published --max-error nan", "--max-error: nan"),
    ("--published --max-error much", "--max-error"),
    ("--published --out v.txt", "--out v.txt", ".json"),
    ("--published --plot v.pdf", "--plot v.pdf", ".png or .svg"),
    ("--published --out cases.json", "--out cases.json: exists already"),
    ("--published-file cases.json --out cases.json --force", "is the file of --published-file cases.json too"),
    ("--published-file cases.json --published-file cases.json", "two cases are named 'made'"),
    ("--published-file wrong.json", "wrong.json", "alpha is 7", "0 to 1"),
    ("--published-file open.json --out v.json", "'made'", "verify_ms and overhead_ms apart"),
)


def test_a_users_mistake_is_one_line_and_loses_nothing(run, user_error, tmp_path: Path) -> None:
    found = made_case()
    write(tmp_path / "cases.json", found)
    write(tmp_path / "open.json", found | {"fitted": ["verify_ms", "overhead_ms"], "fixed": {"draft_ms": 1}})
    found["rows"][0]["alpha"] = 7
    write(tmp_path / "wrong.json", found)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    for words, *expected in MISTAKES:
        user_error(run("validate", *words.split()), *expected)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
