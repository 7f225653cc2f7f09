"""Pages of documentation as what a reader would type: commands with the output shown below them, files, Python.

    python -m tests.contracts.pages README.md docs/*.md

runs the pages, each in a folder of its own, and writes below every command of a `console` block what it has printed.
"""

import re
import shlex
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path
from subprocess import CompletedProcess
from tempfile import TemporaryDirectory

import click

ROOT = Path(__file__).parents[2]
OURS = {script.name: script for script in distribution("specsim").entry_points.select(group="console_scripts")}
# A command whose comment begins with one of these is checked for its options alone.
MARKS = ("minutes", "needs a GPU", "needs a server", "needs a cluster", "needs the network")
# Fenced, or indented by four spaces.
BLOCKS = re.compile(r"^```(\w*)\n((?s:.*?))^```$|^((?:    .*\n)(?:(?:    .*)?\n)*)", re.MULTILINE)
# A command, in several lines where they end with a backslash, and its output.
PROMPT = re.compile(r"^\$ ((?:.*\\\n)*.*\n)((?:(?!\$ ).*\n)*)", re.MULTILINE)
COMMENT = re.compile(r"\s+#\s+(.*)$")
HERE_DOCUMENT = re.compile(r"cat > (\S+) <<'EOF'$")
Run = Callable[..., CompletedProcess[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A command, or Python, or a file's text; shown: where in the page its output stands, None where nothing does."""

    words: tuple[str, ...]
    mark: str = ""
    text: str = ""
    shown: slice | None = None


def steps(page: str) -> list[Step]:
    """Return what a page asks to be typed, from top to bottom."""
    found: list[Step] = []
    for block in BLOCKS.finditer(page):
        language, text, indented = block.groups()
        if language == "python":
            found.append(Step(words=("python",), text=text))
        elif language == "console":
            for part in PROMPT.finditer(text):
                ends = (block.start(2) + end for end in part.span(2))
                found.append(Step(words=tuple(shlex.split(part[1].replace("\\\n", " "))), shown=slice(*ends)))
        elif language in ("sh", "") or indented:
            found += typed((indented or text).splitlines(), is_shell=language == "sh")
    return found


def typed(lines: Sequence[str], *, is_shell: bool) -> Iterator[Step]:
    """Yield the commands of a block; of one that does not say that it is the shell's, those of ours."""
    left = iter(lines)
    for line in left:
        line = line.strip()
        while line.endswith("\\"):
            line = line[:-1] + next(left).strip()
        if here := HERE_DOCUMENT.match(line):
            text = "".join(f"{row}\n" for row in iter(lambda: next(left), "EOF"))
            yield Step(words=("cat", here[1]), text=text)
            continue
        comment = COMMENT.search(line)
        said = comment[1] if comment else ""
        if line and (is_shell or line.split()[0] in OURS):
            words = tuple(shlex.split(line, comments=True))
            yield Step(words=words, mark=next((mark for mark in MARKS if said.startswith(mark)), ""))


def make_folder(folder: Path) -> Path:
    """Lay out a folder as a clone is: what the repository has, and nothing else."""
    for name in ("acceptance", "calibration", "docs", "examples", "tests", "Makefile", "pyproject.toml"):
        (folder / name).symlink_to(ROOT / name)
    return folder


def play(step: Step, folder: Path, run: Run) -> str:
    """Do what a step says, in a folder; return what its command prints. A marked command is parsed, and not run."""
    first, *rest = step.words
    if step.mark or first not in {*OURS, "cat", "python"}:
        check_words(step)
        return ""
    if step.text:
        if first == "cat":
            (folder / rest[0]).write_text(step.text)
        else:
            with chdir(folder):
                exec(compile(step.text, "a page", "exec"), {})
        return ""
    rest, lines = headed(rest)
    *rest, into = [*rest[:-2], rest[-1]] if ">" in rest[-2:-1] else [*rest, ""]
    assert first in OURS, f"{step.words} takes long or needs more than a clone: expected a mark, one of {MARKS}"
    done = run(folder, first, *rest)
    assert done.returncode == 0, f"{step.words}: {done.stderr}"
    if into:
        (folder / into).write_text(done.stdout)
        return ""
    return "".join(done.stdout.splitlines(keepends=True)[:lines])


def headed(words: Sequence[str]) -> tuple[list[str], int | None]:
    """Return the words before `| head -N`, and N; None where all is printed."""
    if "|" not in words:
        return list(words), None
    *kept, pipe, head, count = words
    assert (pipe, head) == ("|", "head"), words
    return kept, -int(count)


def check_words(step: Step) -> None:
    """Check that what a command names is there: its options, a target of make, an extra of pip, a file of Python's."""
    first, *rest = step.words
    if first in OURS:
        check_options(OURS[first].load(), rest)
        return
    assert step.mark, f"{step.words}: expected a mark, one of {MARKS}"
    if first == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {word for word in rest if "=" not in word} <= set(targets), step.words
    elif first == "pip":
        extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert set(re.findall(r"\[([\w-]+)\]", " ".join(rest))) <= set(extras), step.words
    elif first in ("python", "sh"):
        assert (ROOT / rest[0]).is_file(), step.words


def check_options(command: click.Command, words: Sequence[str]) -> None:
    """Check that a command knows its options, and a group its command; values are not looked at."""
    with click.Context(command) as context:
        _, left, _ = command.make_parser(context).parse_args(list(words))
        if isinstance(command, click.Group) and left:
            inner = command.get_command(context, left[0])
            assert inner is not None, words
            check_options(inner, left[1:])


def rewritten(page: str, run: Run) -> str:
    """Return a page with the output of every console command as it is now."""
    new = []
    with TemporaryDirectory() as made:
        folder = make_folder(Path(made))
        for step in steps(page):
            printed = play(step, folder, run)
            if step.shown is not None:
                new.append((step.shown, printed))
    for shown, printed in reversed(new):
        page = page[: shown.start] + printed + page[shown.stop :]
    return page


if __name__ == "__main__":
    from tests.conftest import run_here

    for name in sys.argv[1:]:
        Path(name).write_text(rewritten(Path(name).read_text(), run_here))
