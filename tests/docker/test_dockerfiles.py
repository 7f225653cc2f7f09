"""The Dockerfiles: pinned as the tests are, not run by root, of files that are there and of no others."""

import re
import subprocess
import tomllib

import pytest

from simulator.ground.version import VERSION

from .dockerfile import IGNORED, ROOT, Instruction, copied, is_sent, read

FILES = {"Dockerfile": "python:3.11", "Dockerfile.gpu": "nvidia/cuda:13.0"}
SENT = {"acceptance", "calibration", "cuda_probe", "simulator", "LICENSE", "README.md", "locked.txt", "pyproject.toml"}


@pytest.fixture(params=FILES)
def steps(request: pytest.FixtureRequest) -> list[Instruction]:
    return list(read((ROOT / request.param).read_text()))


@pytest.fixture(scope="module")
def tracked() -> list[str]:
    return subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()


def test_bases_are_releases_and_packages_those_of_the_tests(steps: list[Instruction], request) -> None:
    name = request.node.callspec.params["steps"]
    first, *stages = [step.text for step in steps if step.word == "FROM"]
    assert re.fullmatch(rf"{FILES[name]}\.\d+-[\w.-]+ AS base", first)
    assert stages == ["base AS build", "base"]
    installs = [part for step in steps if step.word == "RUN" for part in step.text.split("&&") if "pip install" in part]
    assert installs
    assert all("-c pins.txt" in part and "--no-cache-dir" in part for part in installs)
    run = next(step.text for step in steps if "pip install" in step.text)
    assert "sed 's/ --hash=.*//' locked.txt > pins.txt" in run
    # What stands beside the lock is in the ranges that users have, by its version.
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = next(step.pairs()["EXTRAS"] for step in steps if step.text.startswith("EXTRAS"))
    assert {"measure", "server"} <= set(asked.split(",")) <= set(extras)
    wanted = {re.split(r"[\[>]", requirement)[0] for extra in asked.split(",") for requirement in extras[extra]}
    locked = set(re.findall(r"^([\w.-]+)==", (ROOT / "locked.txt").read_text(), re.MULTILINE))
    assert wanted - locked == set(re.findall(r"echo ([\w-]+)==[\d.]+ >> pins.txt", run))


def test_they_end_as_a_user_who_is_not_root_at_a_volume(steps: list[Instruction]) -> None:
    last = {step.word: step for step in steps}
    assert last["USER"].text == "10001"  # a number, so that Kubernetes can see that it is not root's
    assert any(re.search(r"useradd --uid 10001 .*specsim\b", step.text) for step in steps)
    order = [step.word for step in steps]
    assert max(n for n, word in enumerate(order) if word in ("RUN", "COPY")) < order.index("USER")
    assert [last["WORKDIR"].text] == last["VOLUME"].words() == ["/work"]
    assert last["ENTRYPOINT"].words() == ["specsim"]


def test_labels_tell_the_version_and_licence_of_the_package(steps: list[Instruction]) -> None:
    labels = {
        name.removeprefix("org.opencontainers.image."): v
        for s in steps
        if s.word == "LABEL"
        for name, v in s.pairs().items()
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (labels["version"], labels["licenses"]) == (VERSION, project["license"])
    assert {"title", "description"} <= labels.keys()


def test_what_they_copy_is_tracked_and_sent(steps: list[Instruction], tracked: list[str]) -> None:
    ignored = IGNORED.read_text()
    sources = {name for step in steps if step.word == "COPY" and not copied(step)[0] for name in copied(step)[1]}
    assert sources == SENT
    for source in sources:
        below = [name for name in tracked if name == source or name.startswith(f"{source}/")]
        assert below
        assert all(is_sent(name, ignored) for name in below)
    assert {name.partition("/")[0] for name in tracked if is_sent(name, ignored)} == SENT


@pytest.mark.parametrize(
    "name", [".git/config", ".env", ".venv/bin/python", "out/trace.json", "simulator/a/__pycache__/b.pyc", "tests/a.py"]
)
def test_nothing_else_is_sent(name: str) -> None:
    assert not is_sent(name, IGNORED.read_text())


def test_no_secret_is_in_them(steps: list[Instruction]) -> None:
    text = " ".join(step.text for step in steps)
    assert not re.search(r"(?i)token|password|secret|api_?key|://[^/ ]*@", text)


def test_an_instruction_that_nobody_checks_is_noticed() -> None:
    assert list(read("# a\nRUN a \\\n  # b\n    && b\n")) == [Instruction("RUN", "a && b")]
    with pytest.raises(ValueError, match="ADD"):
        list(read("ADD . /\n"))


@pytest.mark.parametrize(
    ("lines", "name", "sent"), [("*\n!a", "a/b", True), ("*\n!a\n**/c", "a/b/c", False), ("a", "b/a", True)]
)
def test_the_last_line_that_fits_decides(lines: str, name: str, sent: bool) -> None:
    assert is_sent(name, lines) is sent
