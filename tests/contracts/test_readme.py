"""The README is true: its output is the real one, and its options and targets exist."""

import os
import re
import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
SCRIPTS = Path(sysconfig.get_path("scripts"))
SESSIONS = re.findall(r"```console\n\$ (.+?)\n(.*?)```", TEXT, re.DOTALL)


@pytest.mark.parametrize(("command", "output"), SESSIONS)
def test_what_the_readme_shows_is_what_the_command_prints(command: str, output: str) -> None:
    name, *arguments = command.split()
    done = subprocess.run([SCRIPTS / name, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == output


def test_the_readme_shows_a_session() -> None:
    assert SESSIONS


NAMES = (
    "simulate",
    "sweep",
    "measure-acceptance",
    "probe-gpu",
    "monitor-gpu",
    "bench-sampling",
    "calibrate",
    "validate",
)


@pytest.mark.parametrize("name", NAMES)
def test_every_option_the_readme_names_exists(name: str) -> None:
    wide = os.environ | {"COLUMNS": "200"}
    pages = [[name, "--help"], [name, "import", "--help"]] if name == "measure-acceptance" else [[name, "--help"]]
    shown = "".join(
        subprocess.run([SCRIPTS / page[0], *page[1:]], capture_output=True, text=True, check=True, env=wide).stdout
        for page in pages
    )
    joined = TEXT.replace("\\\n", " ")
    for line in re.findall(rf"^(?:\$ )?{name} .*$", joined, re.MULTILINE):
        for option in re.findall(r"--[A-Za-z-]+", line):
            assert option in shown


def test_the_make_targets_and_pictures_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)", TEXT, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)
    for path in re.findall(r"\]\(((?!http)[^)]+)\)", TEXT):
        assert (ROOT / path).exists()
