"""What is installed by hash is what the tests run with, and all of it."""

import re
import tomllib

from tests import locked, oldest

LINE = re.compile(r"([\w.-]+)==(\S+) --hash=sha256:[0-9a-f]{64}")


def plain(name: str) -> str:
    """Return a package's name as all spellings of it are one."""
    return re.sub(r"[-_.]+", "-", name.partition("[")[0]).lower()


def test_what_is_locked_by_hash_is_what_the_constraints_say_and_all_that_is_needed() -> None:
    head, lines = locked.HEAD, (locked.ROOT / "locked.txt").read_text()
    assert lines.startswith(head)
    found = dict(LINE.fullmatch(line).groups() for line in lines.removeprefix(head).splitlines())
    there = {plain(name): version for name, version in found.items()}
    assert len(there) == len(found) == lines.count("--hash")
    constraints = (locked.ROOT / "constraints.txt").read_text()
    pins = {plain(n): v for n, v in (line.split("==") for line in constraints.splitlines() if "==" in line)}
    assert pins.items() <= there.items()
    project = tomllib.loads((locked.ROOT / "pyproject.toml").read_text())["project"]
    needed = {plain(re.split("[>=<]", requirement)[0]) for requirement in oldest.wanted(project, ["dev"])}
    assert "ruff" in needed
    assert needed <= there.keys()


def test_lines_are_sorted_and_leave_us_out() -> None:
    def package(name: str, **info: object) -> dict:
        return {"metadata": {"name": name, "version": "1"}, "download_info": info}

    hashed = {"archive_info": {"hashes": {"sha256": "0" * 64}}}
    report = {"install": [package("b", **hashed), package("specsim", dir_info={}), package("A", **hashed)]}
    assert [line[:4] for line in locked.lines(report)] == ["A==1", "b==1"]
