"""Memory, energy and metadata of the machine that decodes."""

import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from acceptance.bench import machine
from acceptance.bench.machine import (
    Energy,
    EnergyUsed,
    MemoryPeak,
    git_sha,
    graphical_session,
    make_deterministic,
    surroundings,
    system_metadata,
)
from simulator.ground.artefacts import UserError


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


@pytest.mark.skipif(not machine.CLEAR_REFS.exists(), reason="the peak can be reset on Linux alone")
def test_what_an_earlier_block_left_behind_is_not_in_the_peak() -> None:
    """Pages that the allocator would keep, since something behind them is still held."""
    code = (
        "from acceptance.bench.machine import MemoryPeak\n"
        "with MemoryPeak(['cpu']) as peak: pass\n"
        "print(peak.bytes >> 20)\n"
        "with MemoryPeak(['cpu']) as peak:\n"
        "    many = [b'x' * (100_000 + i) for i in range(2000)]; held = b'x' * 100_000; del many\n"
        "print(peak.bytes >> 20)\n"
        "with MemoryPeak(['cpu']) as peak: pass\n"
        "print(peak.bytes >> 20)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    first, much, second = map(int, done.stdout.split())
    assert 150 < much - first < 250
    assert second - first < 50


def test_where_the_peak_cannot_be_reset_there_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(machine, "CLEAR_REFS", tmp_path / "none" / "clear_refs")
    with MemoryPeak(["cpu"]) as peak:
        pass
    assert peak.bytes is None
    assert peak.reason == f"{machine.CLEAR_REFS} cannot be written (No such file or directory)"
    # A file that takes the word and does nothing.
    monkeypatch.setattr(machine, "CLEAR_REFS", tmp_path / "clear_refs")
    (tmp_path / "status").write_text("VmHWM:   900000 kB\nVmRSS:   100000 kB\n")
    monkeypatch.setattr(machine, "STATUS", tmp_path / "status")
    with MemoryPeak(["cpu"]) as peak:
        pass
    assert (peak.bytes, peak.reason) == (None, f"{machine.CLEAR_REFS} does not reset the peak")


def test_a_processor_has_no_energy_counter() -> None:
    energy = Energy(["cpu"])
    energy.measure_idle(window_s=1e9)  # nothing to wait for
    with energy:
        pass
    assert (energy.used, energy.idle_w) == (None, None)


class Meter(Energy):
    """A counter of a device that takes this many watts at present."""

    def __init__(self) -> None:
        super().__init__(["cpu"])
        self.watts, self.joules, self.since = 50.0, 0.0, time.perf_counter()

    def set(self, watts: float) -> None:
        self.joules, self.since, self.watts = self.counted(), time.perf_counter(), watts

    def counted(self) -> float:
        return self.joules + self.watts * (time.perf_counter() - self.since)


def test_what_idling_takes_is_subtracted() -> None:
    meter = Meter()
    meter.measure_idle(window_s=0.05)
    assert meter.idle_w == pytest.approx(50, rel=0.01)
    meter.set(80.0)
    with meter:
        time.sleep(0.05)
    used = meter.used
    assert used is not None
    assert used.window_s >= 0.05
    assert used.joules == pytest.approx(80 * used.window_s, rel=0.01)
    assert used.net_joules == pytest.approx(30 * used.window_s, rel=0.05)
    assert not used.is_reliable


def test_a_window_is_reliable_from_two_seconds_and_net_needs_an_idle_power() -> None:
    assert EnergyUsed(joules=10.0, window_s=2.0, idle_w=4.0).net_joules == 2.0
    assert EnergyUsed(joules=10.0, window_s=2.0, idle_w=None).net_joules is None
    assert [EnergyUsed(joules=1.0, window_s=w, idle_w=None).is_reliable for w in (1.99, 2.0)] == [False, True]


def test_surroundings_name_the_host_and_what_there_is_of_gpus() -> None:
    found = surroundings(["cpu"])
    assert found["hostname"] == platform.node()
    assert (found["gpu_driver"], found["gpu_clocks_mhz"]) == (None, [])


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_is_that_of_a_checkout_and_of_nothing_around_it(tmp_path: Path) -> None:
    def git(*words: str) -> str:
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        told = ["git", "-C", str(tmp_path), *who, *words]
        return subprocess.run(told, capture_output=True, text=True, check=True).stdout.strip()

    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "a.py").write_text("1")
    assert git_sha(tmp_path) is None
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "one")
    git("tag", "v1")
    assert git_sha(tmp_path) == git("rev-parse", "HEAD")
    (tmp_path / "package" / "a.py").write_text("2")
    assert git_sha(tmp_path) == git("rev-parse", "HEAD") + "-dirty"
    # Installed within someone else's checkout.
    assert git_sha(tmp_path / "package") is None


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
