"""Memory, energy and metadata of the machine that decodes."""

import subprocess
import sys
from pathlib import Path

import pytest

from acceptance.bench import machine
from acceptance.bench.machine import Energy, graphical_session, make_deterministic, system_metadata
from simulator.artefacts import UserError

MIB = 2**20


def test_metadata_names_the_libraries_and_the_processor() -> None:
    import torch

    found = system_metadata(["cpu"])
    assert found["torch"] == torch.__version__
    assert found["threads"] == torch.get_num_threads()
    assert found["cpu"]
    assert found["gpus"] == []


@pytest.mark.skipif(not machine.CLEAR_REFS.exists(), reason="the peak can be reset on Linux alone")
def test_the_peak_is_of_the_block_alone() -> None:
    """What was held and let go before does not count; what is held and let go within does.

    In a process of its own: one that holds much already may have idle pages taken from it meanwhile.
    """
    code = (
        "import numpy as np; from acceptance.bench.machine import MemoryPeak; found = []\n"
        "for before, within in ((0, 0), (200, 0), (0, 100)):\n"
        "    np.ones(before << 20, np.uint8)\n"
        "    with MemoryPeak(['cpu']) as peak: np.ones(within << 20, np.uint8)\n"
        "    print(peak.bytes >> 20)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, nothing, much = map(int, done.stdout.split())
    assert nothing - before < 50
    assert 80 < much - nothing < 150


def test_without_proc_the_peak_is_the_processs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "STATUS", tmp_path / "none")
    assert machine.resident_peak_bytes() > 50 * MIB


def test_a_processor_has_no_energy_counter() -> None:
    with Energy(["cpu"]) as energy:
        pass
    assert energy.joules is None


def test_determinism_repeats_in_processes_of_their_own() -> None:
    code = (
        "import torch; from acceptance.bench.machine import make_deterministic; make_deterministic(7);"
        "assert torch.are_deterministic_algorithms_enabled(); print(torch.rand(3).tolist())"
    )
    told = [sys.executable, "-c", code]
    first, second = (subprocess.run(told, capture_output=True, text=True, check=True).stdout for _ in range(2))
    assert first == second
    other = subprocess.run([*told[:2], code.replace("(7)", "(8)")], capture_output=True, text=True, check=True).stdout
    assert other != first


def test_a_workspace_that_does_not_repeat_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(UserError, match=r"CUBLAS_WORKSPACE_CONFIG: ':0:0' does not repeat, expected"):
        make_deterministic(0)


@pytest.mark.parametrize(
    ("environment", "found"), [({}, ""), ({"DISPLAY": ""}, ""), ({"WAYLAND_DISPLAY": "wayland-0"}, "WAYLAND_DISPLAY")]
)
def test_a_desktop_is_noticed(environment: dict[str, str], found: str) -> None:
    assert graphical_session(environment) == found
