"""Kills commands before every event on their files, goes on in every way, and compares with an undisturbed run.

    python -m tests.torture.kills [--how kill|term|full] [--points N] [NAME ...]

In place of a kill, the command is asked to end, or the disk is full from an event on.

A point is right where going on succeeds and the folder then holds what an undisturbed run leaves: the same bytes where
numbers decide them, the same records where a clock does. What refuses to go on (exit code 2) has to leave all as it is.
"""

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import chdir, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from importlib.metadata import distribution
from io import StringIO
from pathlib import Path
from typing import Any

from tests.torture.events import Ended, Fault, run

ROOT = Path(__file__).parents[2]
SECRET = "planted-secret-0123456789"
# What programs keep secrets in.
PLANTED = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "GITHUB_TOKEN", "SPECSIM_TEST_SECRET")
# One thread: what has others cannot be forked.
FIXED = {"SOURCE_DATE_EPOCH": "1700000000", "COLUMNS": "100", "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
BY_FORCE = "with --force the same command"
Files = Mapping[str, bytes]
Way = tuple[object, ...]


def files_of(folder: Path) -> dict[str, bytes]:
    """Return every file of a folder, hidden ones too: the next start sweeps what a kill left half done."""
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def command(*words: object) -> Callable[[], Any]:
    """Return what runs one of our commands."""
    name, *others = map(str, words)
    (script,) = distribution("specsim").entry_points.select(group="console_scripts", name=name)
    return lambda: script.load().main(others, name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A command that is killed, in a folder; `before` makes what lies there already.

    ways: how it is gone on with. same: whether a folder is what an undisturbed run leaves. may_refuse: ways that may
    end with exit code 2 where the command had done nothing yet, or all. codes: exit codes of success. most: kills at
    most, of a command that takes long.
    """

    name: str
    work: Callable[[], Any]
    ways: Mapping[str, Callable[[], Any]]
    before: Callable[[], Any] | None = None
    same: Callable[[Files, Files], bool] = lambda found, whole: found == whole
    may_refuse: tuple[str, ...] = ()
    codes: tuple[int, ...] = (0,)
    most: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One fault and one way on; wrong: what is wrong with how it ended, empty if nothing."""

    event: str
    way: str
    wrong: str


def points(scenario: Scenario, root: Path, most: int | None, *, how: str = "kill") -> Iterator[Point]:
    """Kill the command at every event, or at so many of them, or fault it otherwise, and go on in every way."""
    folder, beside = root / "work", root / "beside"
    warm(scenario, folder)
    begin(scenario, folder, beside)
    start = files_of(folder)
    undisturbed = run(scenario.work, folder, beside)
    assert undisturbed.code in scenario.codes, undisturbed
    whole = files_of(folder)
    count = len(undisturbed.events)
    kills = min(filter(None, (count, most, scenario.most)))
    for at in sorted({round(i * (count - 1) / max(kills - 1, 1)) for i in range(kills)}):
        begin(scenario, folder, beside)
        ended = run(scenario.work, folder, beside, Fault(at, how))
        event = f"{at} {undisturbed.events[at]}"
        is_done = ended.code in scenario.codes and scenario.same(files_of(folder), whole)
        yield Point(event=event, way="itself", wrong="" if how != "kill" and is_done else ill(ended, how))
        shutil.rmtree(root / "killed", ignore_errors=True)
        folder.rename(root / "killed")
        for way, work in scenario.ways.items():
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(root / "killed", folder)
            done = run(work, folder, beside)
            found = files_of(folder)
            # What an interrupted command says to be overwritten with --force is not without.
            as_told = done.code == 2 and BY_FORCE in ended.said and found.items() <= files_of(root / "killed").items()
            wrong = "" if as_told else judged(scenario, way, done, found, whole, start)
            yield Point(event=event, way=way, wrong=wrong)


def ill(ended: Ended, how: str) -> str:
    """Say what is wrong with how a command met its fault: what ended it stands in one line."""
    code, words = {
        "kill": (-signal.SIGKILL, ""),
        "term": (128 + signal.SIGTERM, ": interrupted"),
        "full": (2, "No space left on device"),
    }[how]
    is_named = words in (ended.said.splitlines() or [""])[-1] and "Traceback" not in ended.said
    return "" if ended.code == code and is_named else f"exit code {ended.code}: {ended.said[-300:]}"


def warm(scenario: Scenario, folder: Path) -> None:
    """Run the command here once, so that no process of its own has to import what it takes."""
    folder.mkdir(parents=True)
    said = StringIO()
    with chdir(folder), redirect_stdout(said), redirect_stderr(said), suppress(SystemExit):
        scenario.work()


def begin(scenario: Scenario, folder: Path, beside: Path) -> None:
    """Make the folder that the command finds."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    if scenario.before:
        done = run(scenario.before, folder, beside)
        assert done.code == 0, done


def judged(scenario: Scenario, way: str, done: Ended, found: Files, whole: Files, start: Files) -> str:
    """Say what is wrong; empty if nothing."""
    leaks = [name for name, content in found.items() if SECRET.encode() in content]
    if leaks or SECRET in done.said:
        return f"a secret in {leaks or 'what was printed'}"
    if "Traceback" in done.said:
        return done.said[-300:]
    if done.code == 2 and way in scenario.may_refuse:
        # Only what was never begun, or has all been written, is refused.
        kept = {name: content for name, content in found.items() if content and name in (*start, *whole)}
        is_whole = kept.keys() == whole.keys() and scenario.same(kept, whole)
        return "" if kept == start or is_whole else f"refused, and left {sorted(found)}: {done.said[-300:]}"
    if done.code not in scenario.codes:
        return f"exit code {done.code}: {done.said[-300:]}"
    return "" if scenario.same(found, whole) else f"left {differing(found, whole)}"


def differing(found: Files, whole: Files) -> str:
    """Name the files that differ."""
    return ", ".join(sorted(n for n in found.keys() | whole.keys() if found.get(n) != whole.get(n)))


def main() -> int:
    """Run what was asked for; the exit code is 1 where a point was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("names", nargs="*", help="some of the scenarios, by name")
    parser.add_argument("--how", choices=("kill", "term", "full"), default="kill", help="what goes wrong")
    parser.add_argument("--points", type=int, help="kills of each command, evenly; all of them where not given")
    given = parser.parse_args()
    os.environ |= dict.fromkeys(PLANTED, SECRET) | FIXED
    from tests.torture.scenarios import SCENARIOS

    wrong = 0
    for name in given.names or SCENARIOS:
        counts: dict[str, int] = {}
        with tempfile.TemporaryDirectory() as root:
            for point in points(SCENARIOS[name](), Path(root), given.points, how=given.how):
                counts[point.way] = counts.get(point.way, 0) + 1
                if point.wrong:
                    wrong += 1
                    print(f"WRONG {name}, fault before {point.event}, {point.way}: {point.wrong}", flush=True)
        tried = ", ".join(f"{way} {count}" for way, count in counts.items())
        print(f"{name}: {tried} points", flush=True)
    print(f"{wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
