"""`specsim`: every command under one name, listed without importing any."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from calibration.cli.specsim import COMMANDS

SCRIPTS = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]["scripts"]


def test_it_lists_the_commands_that_are_installed() -> None:
    listed = {name: f"{entry.module}:{entry.attribute}" for name, entry in COMMANDS.items()}
    assert listed | {"specsim": "calibration.cli.specsim:specsim"} == SCRIPTS


@pytest.mark.parametrize("name", COMMANDS)
def test_the_table_says_what_the_command_says_of_itself(name: str) -> None:
    entry = COMMANDS[name]
    assert entry.load().get_short_help_str(limit=200) == entry.help
    assert entry.load().name == name


def test_help_names_every_command_and_what_it_does(run) -> None:
    for words in (("--help",), ("-h",)):
        done = run("specsim", *words)
        assert (done.returncode, done.stderr) == (0, "")
        listed = " ".join(done.stdout.split())
        for name, entry in COMMANDS.items():
            assert f" {name} {entry.help}" in listed
    assert run("specsim", "--version").stdout.startswith("specsim, version ")


def test_help_and_version_import_no_command(run_real) -> None:
    for word in ("--help", "--version"):
        done = run_real("specsim", word, PYTHONPROFILEIMPORTTIME="1")
        loaded = done.stderr
        assert done.returncode == 0
        assert "click" in loaded
        assert "calibration.cli.specsim" in loaded
        for name in ("numpy", *(entry.module for entry in COMMANDS.values())):
            assert name not in loaded


def test_a_command_answers_as_if_it_stood_alone(run, user_error) -> None:
    words = ("--draftN", 2, "--alpha", 0.7, "--json")
    done, alone = (
        run("specsim", "simulate", *words, SOURCE_DATE_EPOCH="0"),
        run("simulate", *words, SOURCE_DATE_EPOCH="0"),
    )
    assert (done.returncode, done.stdout, done.stderr) == (alone.returncode, alone.stdout, alone.stderr)
    assert json.loads(done.stdout)["kind"] == "simulation"
    assert run("specsim", "profiles", "list").stdout == run("profiles", "list").stdout
    assert run("specsim", "validate", "--help").stdout.startswith("Usage: specsim validate [OPTIONS] [DECODE]\n")
    table = Path(__file__).parents[2] / "calibration" / "published" / "tables" / "leviathan.json"
    assert run("specsim", "validate", "--published-file", table, "--max-error", 0.01).returncode == 1
    user_error(run("specsim", "simulate", "--alpha", 70), "specsim simulate: ", "70")
    user_error(run("specsim", "calibrate", "missing.json"), "specsim calibrate: PROBE missing.json: no such file")


def test_a_command_that_is_not_there_is_one_line(run, user_error) -> None:
    user_error(run("specsim", "simulat"), "specsim: simulat: no such command, nearest: simulate, ")
    user_error(run("specsim", "--jsn"), "specsim: --jsn: no such option of specsim")
    assert run("specsim").stdout == run("specsim", "--help").stdout


def test_it_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "calibration.cli.specsim", "profiles", "lst"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("specsim profiles: lst: no such command, nearest: list, ")
