"""`monitor-gpu` as a real process, over the stand-in for NVML: exit codes, streams, signals, files."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from cuda_probe.monitor.csv_file import COLUMNS

FAKE = Path(__file__).parent / "fake_nvml"
ROOT = Path(__file__).parents[2]
MONITOR = [sys.executable, "-m", "cuda_probe.cli.monitor_gpu"]
FAST = ["--interval", "0.01", "--idle", "0"]
PYTHON = sys.executable
TIMEOUT_S = 60

Monitor = Callable[..., subprocess.CompletedProcess[str]]
Start = Callable[..., subprocess.Popen[str]]


def environment(fake: Path, script: dict[str, object]) -> dict[str, str]:
    path = os.pathsep.join([str(fake), str(ROOT)])
    return os.environ | {"PYTHONPATH": path, "FAKE_NVML": json.dumps(script), "COLUMNS": "100"}


@pytest.fixture
def monitor(tmp_path: Path) -> Monitor:
    """Return what runs monitor-gpu to its end in a fresh folder."""

    def call(*words: object, fake: Path = FAKE, **script: object) -> subprocess.CompletedProcess[str]:
        quiet = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "timeout": TIMEOUT_S}
        line, env = [*MONITOR, *map(str, words)], environment(fake, script)
        return subprocess.run(line, cwd=tmp_path, env=env, check=False, **quiet)

    return call


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return what starts monitor-gpu, away from any terminal, with neither Ctrl-C nor hangup ignored (nohup)."""
    started = []
    before = signal.signal(signal.SIGINT, signal.default_int_handler), signal.signal(signal.SIGHUP, signal.SIG_DFL)

    def call(*words: object, first: tuple[str, ...] = (), **script: object) -> subprocess.Popen[str]:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        line, env = [*first, *MONITOR, *map(str, words)], environment(FAKE, script)
        started.append(subprocess.Popen(line, cwd=tmp_path, env=env, text=True, start_new_session=True, **pipes))
        return started[-1]

    yield call
    for number, old in zip((signal.SIGINT, signal.SIGHUP), before, strict=True):
        signal.signal(number, old)
    for process in started:
        process.kill()
        process.communicate()


def rows_of(path: Path) -> pd.DataFrame:
    frame = pd.read_csv(path, parse_dates=["timestamp"])
    assert list(frame.columns) == list(COLUMNS)
    return frame


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until it holds; the limit only ends a test that would hang."""
    end = time.monotonic() + TIMEOUT_S
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.02)


def complete_rows(path: Path) -> int:
    return path.read_bytes().count(b"\n") - 1 if path.exists() else 0


@pytest.mark.parametrize(("code", "dashes"), [(0, ["--"]), (1, []), (2, ["--"]), (77, [])])
def test_exit_code_streams_and_options_of_the_command_are_its_own(monitor: Monitor, code: int, dashes: list) -> None:
    program = f"import sys; print(sys.argv[1:], sys.stdin.read()); print('err', file=sys.stderr); sys.exit({code})"
    words = ["--json", "--help", "--", "-x"]
    done = monitor(*FAST, *dashes, PYTHON, "-c", program, *words)
    assert (done.returncode, done.stdout) == (code, f"{words} \n")
    assert done.stderr.startswith("err\n\n1 GPU, ")
    assert "\n\nGPU  " in done.stderr
    assert "energy from: total-energy counter" in done.stderr


def test_energy_and_log_of_several_gpus(monitor: Monitor, tmp_path: Path) -> None:
    files = ("--out", "log.csv", "--summary", "sum.json", "--record-command")
    done = monitor(*FAST, "--gpu", 1, "--gpu", 2, *files, "--", PYTHON, "-c", "", gpus=[{}, {}, {}])
    assert done.returncode == 0, done.stderr
    assert done.stderr.endswith("wrote log.csv\nwrote sum.json\n")
    rows, summary = rows_of(tmp_path / "log.csv"), json.loads((tmp_path / "sum.json").read_text())
    assert set(rows["index"]) == {1, 2}
    assert summary["kind"] == "gpu_monitor"
    assert summary["parameters"]["command"] == [PYTHON, "-c", ""]
    for gpu in summary["gpus"]:
        logged = rows[rows["index"] == gpu["index"]]
        assert len(logged) == gpu["samples"] >= 2
        # The stand-in counts (index + 1) J a read and draws (index + 1) x 100 W.
        assert gpu["energy_j"] == (gpu["samples"] - 1) * (gpu["index"] + 1)
        counted = logged["total_energy_consumption [mJ]"]
        assert gpu["energy_j"] == (counted.iloc[-1] - counted.iloc[0]) / 1000
        assert gpu["peak_power_w"] == (gpu["index"] + 1) * 100 == logged["power.draw [W]"].max()
        assert gpu["average_power_w"] == pytest.approx(gpu["energy_j"] / gpu["duration_s"])
        assert gpu["idle_power_w"] is gpu["energy_above_idle_j"] is None
    assert summary["total"]["energy_j"] == sum(gpu["energy_j"] for gpu in summary["gpus"])


def test_idle_power_is_measured_before_and_not_logged(monitor: Monitor, tmp_path: Path) -> None:
    options = ["--interval", "0.01", "--idle", "0.1", "--duration", "0.1", "--json", "--out", "log.csv"]
    done = monitor(*options, fails={"nvmlDeviceGetTotalEnergyConsumption": 3})
    (gpu,) = json.loads(done.stdout)["gpus"]
    assert gpu["energy_source"] == "power samples"
    assert (gpu["idle_power_w"], gpu["average_power_w"]) == (pytest.approx(100), pytest.approx(100))
    assert gpu["energy_above_idle_j"] == pytest.approx(0, abs=1e-6)
    rows = rows_of(tmp_path / "log.csv")
    assert len(rows) == gpu["samples"]
    assert rows["total_energy_consumption [mJ]"].isna().all()


def test_what_the_driver_does_not_give_is_empty_and_force_overwrites(monitor: Monitor, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("mine\n" * 1000)
    names = ["PowerUsage", "TotalEnergyConsumption", "UtilizationRates", "Temperature", "ClockInfo"]
    fails = dict.fromkeys([f"nvmlDeviceGet{name}" for name in names], 3)
    done = monitor(*FAST, "--out", "log.csv", "--duration", "0", "--force", fails=fails)
    assert done.returncode == 0
    assert "the driver did not give" in done.stdout
    assert "power (Not Supported)" in done.stdout
    _, *lines = (tmp_path / "log.csv").read_text().splitlines()
    assert [line.split('"')[2] for line in lines] == [",,,,3072,81920,,,,700.00,0x0000000000000004,"] * 2


def test_json_goes_to_stdout_without_a_command_and_behind_the_output_with_one(monitor: Monitor) -> None:
    alone = monitor(*FAST, "--duration", "0", "--json")
    assert json.loads(alone.stdout)["exit_code"] == 0
    assert alone.stderr == ""
    behind = monitor(*FAST, "--json", PYTHON, "-c", "print(1); exit(3)")
    assert behind.stdout == "1\n"
    assert json.loads(behind.stderr)["exit_code"] == behind.returncode == 3


def test_without_pynvml(monitor: Monitor, tmp_path: Path, user_error: Callable[..., None]) -> None:
    (tmp_path / "pynvml.py").write_text("raise ModuleNotFoundError('No module named pynvml', name='pynvml')")
    done = monitor("--out", "log.csv", "--", PYTHON, "-c", "open('ran', 'w')", fake=tmp_path)
    user_error(done, "monitor-gpu: pynvml is not installed", 'pip install "specsim[gpu]"')
    assert {path.name for path in tmp_path.iterdir()} <= {"pynvml.py", "__pycache__"}


DEVICELESS = "--out log.csv -- touch ran"
MISTAKES = [
    (DEVICELESS, "no NVIDIA driver to ask (NVML says: NVML Shared Library Not Found)", {"fails": {"nvmlInit": 12}}),
    (DEVICELESS, "Driver Not Loaded", {"fails": {"nvmlInit": 9}}),
    (DEVICELESS, "finds no GPU", {"gpus": []}),
    ("--gpu 2", "--gpu: there is no GPU 2, expected one of 0"),
    ("--gpu -1", "--gpu"),
    ("--interval 0", "--interval: 0 is not allowed, expected 0.001 to 1e+06 seconds"),
    ("--interval nan", "--interval: nan"),
    ("--idle inf", "--idle: inf"),
    ("--duration -1", "--duration: -1"),
    ("--duration 1 -- python", "--duration: not used with COMMAND"),
    ("-- no-such-program-here", "COMMAND: 'no-such-program-here' is no program"),
    ("-- .", "COMMAND: '.' is no program"),
    ("--out there.csv", "--out there.csv: exists already (--force overwrites it)"),
    ("--out a --summary a", "is the file of --out too"),
    ("--nonsense", "--nonsense"),
]


def test_mistakes_are_one_line(run: Monitor, tmp_path: Path, user_error: Callable[..., None], monkeypatch) -> None:
    monkeypatch.syspath_prepend(str(FAKE))
    (tmp_path / "there.csv").write_text("mine")
    for words, expected, *script in MISTAKES:
        monkeypatch.delitem(sys.modules, "pynvml", raising=False)
        user_error(run("monitor-gpu", *words.split(), FAKE_NVML=json.dumps(dict(*script))), expected)
        assert [path.name for path in tmp_path.iterdir()] == ["there.csv"]
    assert (tmp_path / "there.csv").read_text() == "mine"


def test_a_program_that_cannot_be_executed(monitor: Monitor, tmp_path: Path, user_error: Callable[..., None]) -> None:
    (tmp_path / "broken").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "broken").chmod(0o755)
    user_error(monitor(*FAST, "--", tmp_path / "broken"), "COMMAND")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_reaches_a_command_that_handles_it(start: Start, tmp_path: Path, number: signal.Signals) -> None:
    program = (
        f"import signal, sys\nsignal.signal({int(number)}, lambda *_: sys.exit(7))\n"
        "print('ready', flush=True)\nwhile True: signal.pause()"
    )
    process = start(*FAST, "--out", "log.csv", "--summary", "sum.json", "--", PYTHON, "-c", program)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 7, errors
    assert len(rows_of(tmp_path / "log.csv")) == json.loads((tmp_path / "sum.json").read_text())["gpus"][0]["samples"]


def test_command_killed_by_a_signal(monitor: Monitor, tmp_path: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        program = f"import os; os.kill(os.getpid(), {int(number)})"
        done = monitor(*FAST, "--out", "log.csv", "--force", "--json", "--", PYTHON, "-c", program)
        assert done.returncode == json.loads(done.stderr)["exit_code"] == 128 + number
        assert len(rows_of(tmp_path / "log.csv")) >= 2


def test_signal_to_us_kills_a_command_that_does_not_handle_it(start: Start, tmp_path: Path) -> None:
    program = "import os; print(os.getpid(), flush=True); input()"
    process = start(*FAST, "--out", "log.csv", "--", PYTHON, "-c", program)
    command = int(process.stdout.readline())
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(command, 0)
    assert len(rows_of(tmp_path / "log.csv")) >= 2


TERMINAL = (PYTHON, "-c", "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))")


def test_what_a_terminal_sends_is_not_handed_on(tmp_path: Path) -> None:
    """Ctrl-C reaches the command from the terminal; twice would be taken for impatience."""
    program = "from cuda_probe.monitor.child import sent_to_all; print(sent_to_all(2), sent_to_all(15))"
    pipes = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "start_new_session": True}
    for first, expected in ((TERMINAL, "True False"), ((), "False False")):
        words, env = [*first, PYTHON, "-c", program], environment(FAKE, {})
        done = subprocess.run(words, cwd=tmp_path, env=env, timeout=TIMEOUT_S, check=False, **pipes)
        assert done.stdout.strip() == expected


def test_ctrl_c_on_a_terminal_reaches_the_command_once(start: Start) -> None:
    program = (
        # A terminal throws away what is being written when Ctrl-C comes, unless it is told not to.
        "import signal, termios\ncame, mode = [], termios.tcgetattr(0)\n"
        "mode[3] |= termios.NOFLSH\ntermios.tcsetattr(0, termios.TCSANOW, mode)\n"
        "signal.signal(signal.SIGINT, lambda *_: (came.append(1), print('came', flush=True)))\n"
        "print('ready', flush=True)\ninput()\nprint('times', len(came), flush=True)"
    )
    process = start(*FAST, "--", PYTHON, "-c", program, first=TERMINAL)
    for expected, typed in (("ready", "\x03"), ("came", "\n"), ("times 1", "")):
        assert any(expected in line for line in iter(process.stdout.readline, "")), expected
        process.stdin.write(typed)
        process.stdin.flush()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("limits", [[], ["--duration", "1000"]])
def test_log_without_command_ends_by_a_signal(start: Start, tmp_path: Path, number: int, limits: list[str]) -> None:
    process = start(*FAST, "--out", "log.csv", *limits)
    wait_for(lambda: complete_rows(tmp_path / "log.csv") >= 3)
    process.send_signal(number)
    out, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, errors) == (128 + number if limits else 0, "")
    assert "total-energy counter" in out
    assert len(rows_of(tmp_path / "log.csv")) >= 4


def test_ctrl_c_while_idling_starts_no_command(start: Start, tmp_path: Path) -> None:
    process = start("--interval", "0.01", "--idle", "1000", "--out", "log.csv", "--", PYTHON, "-c", "open('ran', 'w')")
    # A file is there before its heading is.
    wait_for(lambda: (tmp_path / "log.csv").exists() and "\n" in (tmp_path / "log.csv").read_text())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=TIMEOUT_S)
    assert (process.returncode, errors.strip()) == (130, "monitor-gpu: interrupted")
    assert {path.name for path in tmp_path.iterdir()} == {"log.csv"}
    assert len(rows_of(tmp_path / "log.csv")) == 0


def test_log_is_complete_up_to_a_kill(start: Start, tmp_path: Path) -> None:
    process = start(*FAST, "--out", "log.csv", "--", PYTHON, "-c", "input()", gpus=[{}, {}])
    wait_for(lambda: complete_rows(tmp_path / "log.csv") >= 5)
    process.kill()
    process.communicate(timeout=TIMEOUT_S)
    text = (tmp_path / "log.csv").read_text()
    assert text.endswith("\n")
    assert len(rows_of(tmp_path / "log.csv")) == text.count("\n") - 1


def test_a_full_disk_ends_the_log_and_not_the_command(start: Start, tmp_path: Path) -> None:
    sh = ("/bin/sh", "-c", 'ulimit -f 1; exec "$@"', "sh")
    process = start(*FAST, "--out", "log.csv", "--json", PYTHON, "-c", "input(); print('done')", first=sh)
    wait_for(lambda: complete_rows(tmp_path / "log.csv") >= 2)
    seen: list[int] = []
    while len(seen) < 10 or len(set(seen[-10:])) > 1:  # until it stands still
        seen.append(complete_rows(tmp_path / "log.csv"))
        time.sleep(0.05)
    out, errors = process.communicate("\n", timeout=TIMEOUT_S)
    assert out == "done\n"
    summary = json.loads(errors)
    assert any("the log breaks off: [Errno" in note for note in summary["notes"])
    assert (summary["exit_code"], process.returncode) == (0, 2)
    assert summary["gpus"][0]["samples"] > len(rows_of(tmp_path / "log.csv")) == seen[-1]
    assert (tmp_path / "log.csv").read_text().endswith("\n")
