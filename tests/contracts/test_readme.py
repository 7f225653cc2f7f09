"""README and docs are true: every command runs as printed, in order, in one folder, and prints what is shown."""

import re
from dataclasses import replace
from pathlib import Path

import click
import pytest

from .pages import OURS, ROOT, Step, check_words, headed, make_folder, play, steps

README = ROOT / "README.md"
# What the first command of a clean clone says that serves loads.
COMPILES = "loops are compiled, once: about half a minute\n"
DOCS = sorted((ROOT / "docs").glob("*.md"))


def is_served(step: Step) -> bool:
    """Whether a step serves loads request by request: long, unless loops are compiled as `make test-whole` has them."""
    long = (("validate", "--published"), ("validate", "--decisions"))
    return step.words[:2] in long or step.words[0] in ("simulate-serving", "advise")


# docs/library.md is of Python alone: test_public_faces.py runs it.
@pytest.mark.parametrize("path", [README, *(p for p in DOCS if p.name != "library.md")], ids=lambda path: path.stem)
def test_a_page_runs_as_printed(path: Path, run_in, quick_probe, tmp_path: Path) -> None:
    page, folder = path.read_text(), make_folder(tmp_path)
    for step in steps(page):
        if is_served(step):  # below, in a process of its own
            check_words(replace(step, words=(step.words[0], *headed(step.words[1:])[0])))
            continue
        printed = play(step, folder, run_in)
        if step.shown is not None:
            # `python -m tests.contracts.pages README.md` writes what it prints now.
            assert page[step.shown] == printed, step.words


SESSIONS = [
    pytest.param(path, step, id=step.words[0], marks=pytest.mark.whole if is_served(step) else ())
    for path in (README, *DOCS)
    for step in steps(path.read_text())
    if step.shown is not None and (path == README or is_served(step))
]


@pytest.mark.parametrize(("path", "session"), SESSIONS)
def test_sessions_of_the_readme_are_those_of_real_processes(
    path: Path, session: Step, run_real, tmp_path: Path
) -> None:
    make_folder(tmp_path)
    words, lines = headed(session.words)
    done = run_real(*words)
    assert (done.returncode, done.stderr.removeprefix(COMPILES)) == (0, "")
    assert "".join(done.stdout.splitlines(keepends=True)[:lines]) == path.read_text()[session.shown]


def test_every_command_has_its_place() -> None:
    assert {step.words[0] for path in (README, *DOCS) for step in steps(path.read_text())} >= set(OURS) - {"specsim"}


def test_what_only_looks_like_a_command_is_noticed() -> None:
    page = "```sh\nsweep --no-such 1   # minutes\nmake no-such   # minutes\npython long.py\nno-such-command\n```\n"
    wrong, *others = steps(page)
    with pytest.raises(click.NoSuchOption, match="--no-such"):
        check_words(wrong)
    for step in others:
        with pytest.raises(AssertionError):
            play(step, ROOT, run=None)


def test_steps_are_found_in_every_kind_of_block() -> None:
    page = """
```console
$ simulate --draftN 4 \\
    --alpha 0.8
It pays
$ sweep | head -2
```
    profiles list
```sh
cat > a.txt <<'EOF'
one
EOF
make demo   # minutes: long
```
```text
simulate --no-such
```
"""
    found = steps(page)
    assert [step.words for step in found] == [
        ("simulate", "--draftN", "4", "--alpha", "0.8"),
        ("sweep", "|", "head", "-2"),
        ("profiles", "list"),
        ("cat", "a.txt"),
        ("make", "demo"),
    ]
    assert headed(found[1].words) == (["sweep"], 2)
    assert [page[step.shown] for step in found[:2]] == ["It pays\n", ""]
    assert found[3:] == [
        Step(words=("cat", "a.txt"), text="one\n"),
        Step(words=("make", "demo"), mark="minutes"),
    ]


@pytest.mark.parametrize("path", [README, ROOT / "CONTRIBUTING.md", *DOCS], ids=lambda path: path.stem)
def test_links_lead_somewhere(path: Path) -> None:
    page = path.read_text()
    headings = {
        re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    }
    for link in re.findall(r"\]\(((?!http)[^)]+)\)", page):
        name, _, heading = link.partition("#")
        assert (path.parent / name).exists(), link
        assert name or heading in headings, link
