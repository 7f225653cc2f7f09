"""Memory, energy and metadata of the machine that decodes."""

import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from acceptance.bench import machine
from acceptance.bench.clock import clock_for
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


def in_python(code: str) -> str:
    """Return what this prints in a process of its own."""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_metadata_names_the_libraries_the_processor_the_host_and_what_there_is_of_gpus() -> None:
    import torch

    found = system_metadata(["cpu"])
    assert (found["torch"], found["threads"], found["gpus"]) == (torch.__version__, torch.get_num_threads(), [])
    assert found["cpu"]
    for record_host, name in ((False, None), (True, platform.node())):
        found = surroundings(["cpu"], record_host=record_host)
        assert (found["hostname"], found["gpu_driver"], found["gpu_clocks_mhz"]) == (name, None, [])


@pytest.mark.skipif(not machine.CLEAR_REFS.exists(), reason="the peak can be reset on Linux alone")
def test_the_peak_is_of_the_block_alone() -> None:
    """What was held and let go before does not count; what is held and let go within does.

    Nor do pages count that the allocator would keep, since something behind them is still held. In a process of its
    own: one that holds much already may have idle pages taken from it meanwhile.
    """
    code = (
        "import numpy as np; from acceptance.bench.machine import MemoryPeak; found = []\n"
        "for before, within in ((0, 0), (200, 0), (0, 100)):\n"
        "    np.ones(before << 20, np.uint8)\n"
        "    with MemoryPeak(['cpu']) as peak: np.ones(within << 20, np.uint8)\n"
        "    print(peak.bytes >> 20)\n"
        "with MemoryPeak(['cpu']) as peak: pass\n"
        "print(peak.bytes >> 20)\n"
        "with MemoryPeak(['cpu']) as peak:\n"
        "    many = [b'x' * (100_000 + i) for i in range(2000)]; held = b'x' * 100_000; del many\n"
        "print(peak.bytes >> 20)\n"
        "with MemoryPeak(['cpu']) as peak: pass\n"
        "print(peak.bytes >> 20)"
    )
    before, nothing, much, first, many, second = map(int, in_python(code).split())
    assert nothing - before < 50
    assert 80 < much - nothing < 150
    assert 150 < many - first < 250
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


def test_an_apple_gpu_is_waited_for_and_tells_what_it_took(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch.mps has it: no peak of its own, but what it took from the system stays until it is given back."""
    import torch

    done: list[str] = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: done.append("waited"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: done.append("gave back"))
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 3 << 20)
    with MemoryPeak(["mps"]) as peak:
        assert done == ["gave back"]
    assert (peak.bytes, peak.reason) == (3 << 20, "")
    clock = clock_for(["mps", "cpu"])
    done.clear()
    clock.start()
    clock.mark("verify")
    assert set(done) == {"waited"}
    assert len(done) == 3  # until it is idle, and at both stamps
    assert clock.stop().verify_s > 0
    assert Energy(["mps"]).counted() is None
    assert system_metadata(["mps"])["gpus"] == []


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
    assert used.window_s >= 0.05
    assert used.joules == pytest.approx(80 * used.window_s, rel=0.01)
    assert used.net_joules == pytest.approx(30 * used.window_s, rel=0.05)
    assert not used.is_reliable
    # A window is reliable from two seconds, and net needs an idle power.
    assert EnergyUsed(joules=10.0, window_s=2.0, idle_w=4.0).net_joules == 2.0
    assert EnergyUsed(joules=10.0, window_s=2.0, idle_w=None).net_joules is None
    assert [EnergyUsed(joules=1.0, window_s=w, idle_w=None).is_reliable for w in (1.99, 2.0)] == [False, True]


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


def test_determinism_repeats_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import torch; from acceptance.bench.machine import make_deterministic\n"
        "for seed in (7, 8, 7): make_deterministic(seed); print(torch.rand(3).tolist())\n"
        "assert torch.are_deterministic_algorithms_enabled()"
    )
    first, other, second = in_python(code).splitlines()
    assert first == second != other
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(UserError, match=r"CUBLAS_WORKSPACE_CONFIG: ':0:0' does not repeat, expected"):
        make_deterministic(0)


def test_a_desktop_is_noticed() -> None:
    for environment, found in (({}, ""), ({"DISPLAY": ""}, ""), ({"WAYLAND_DISPLAY": "wayland-0"}, "WAYLAND_DISPLAY")):
        assert graphical_session(environment) == found
