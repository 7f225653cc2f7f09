"""Everything that a GPU has to show, in one go: kernels, probe, sampling, passes of real shapes, fits, the GPU suite.

Each step is a process of its own with a time limit; none stops the next, and all together end by the deadline. What was
found lies in one folder, in eight small files at most: summary.json and log.txt are written after every step. Exit code
1 if a step did not pass. Needs no library itself, and installs nothing.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SMOKE = ROOT / "tests" / "gpu" / "smoke.py"
MEASURED = ROOT / "calibration" / "measured" / "epyc-2-core"
KIND, SCHEMA_VERSION = "first_light", 1
DEADLINE_S = 540.0
# What is kept of a run besides summary.json and log.txt, named as in calibration/measured.
KEPT = ("probe.json", "sampling.json", "passes.json", "device.json", "device_passes.json", "validation.json")
LEAST_S, GRACE_S = 5.0, 5.0
LOG_HEAD, LOG_TAIL, LAST_LINES = 4_000, 16_000, 12
# Distributions whose versions tell most, beside those that pyproject.toml names.
TOLD = ("torch", "transformers", "cupy-cuda13x", "cupy-cuda12x", "triton", "tokenizers", "safetensors", "nvidia-ml-py")
GPU_QUERY = (
    "name,driver_version,memory.total,power.limit,clocks.max.sm,clocks.max.memory,ecc.mode.current,mig.mode.current"
)
# Acceptance that `validate` holds against: geometric, 0.7 a token, eight drafted.
HISTOGRAM = {"k": 8, "hist": {str(a): 0.3 * 0.7**a for a in range(8)} | {"8": 0.7**8}, "samples": 1}
PASSED, FAILED, TIMED_OUT, NOT_RUN = "passed", "failed", "timed out", "not run"
INTERRUPTED = "interrupted"
# What the kinds of steps import.
COMMAND = ("click", "lazy_loader", "numpy")
MODELS = (*COMMAND, "torch", "transformers")
SAMPLING = (*COMMAND, "psutil", "threadpoolctl")
FITS = (*COMMAND, "scipy", "filelock")


@dataclass(frozen=True, kw_only=True)
class Step:
    """One process.

    Attributes:
        name: What it is called in the table.
        words: What the interpreter is given.
        limit_s: After so long it is ended.
        needs: Modules without which it is not begun.
        reads: Files of the work folder without which it is not begun.
    """

    name: str
    words: tuple[str, ...]
    limit_s: float
    needs: tuple[str, ...] = COMMAND
    reads: tuple[str, ...] = ()


@dataclass(kw_only=True)
class Outcome:
    """What became of a step; `reason` where it did not pass."""

    step: Step
    status: str = NOT_RUN
    reason: str = ""
    exit_code: int | None = None
    seconds: float = 0.0
    last_lines: list[str] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """Return what summary.json holds of it."""
        told = {name: getattr(self, name) for name in ("status", "reason", "exit_code", "last_lines")}
        return told | {"name": self.step.name, "command": list(self.step.words), "seconds": round(self.seconds, 2)}


def module(name: str, *words: str) -> tuple[str, ...]:
    """Return the words that run a command of ours, installed or not."""
    return ("-m", name, *words)


def suite(name: str) -> tuple[str, ...]:
    """Return the words that run a file of tests on whatever pytest there is."""
    told = ("-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default", "--durations=3", "--tb=short")
    return ("-m", "pytest", *told, "-c", str(ROOT / "pyproject.toml"), f"--rootdir={ROOT}", str(ROOT / "tests" / name))


def forecasts(probe: str, passes: str) -> list[Step]:
    """Return the steps that fit what was measured, and forecast the rest of it."""
    models = ("--passes", passes, "--profile", "device_passes.json", "--hist", "hist.json")
    fit = module("calibration.cli.calibrate")
    return [
        Step(
            name="fit passes",
            words=(*fit, "--from-passes", passes, "--fit-k", "1,4,8", "-o", "device_passes.json", "--force"),
            limit_s=40,
            needs=FITS,
            reads=(passes,),
        ),
        Step(
            name="forecast passes",
            words=module("calibration.cli.validate", *models, "--out", "validation.json", "--force"),
            limit_s=40,
            needs=FITS,
            reads=(passes, "device_passes.json"),
        ),
        Step(
            name="fit probe",
            words=(*fit, probe, "-o", "device.json", "--force"),
            limit_s=40,
            needs=FITS,
            reads=(probe,),
        ),
    ]


def gpu_steps(device: str) -> list[Step]:
    """Return the steps of a GPU, what tells most first."""
    on, gpu = ("--device", device), (*COMMAND, "cupy")
    logits = ("--batch", "1,8", "--k", "4", "--vocab", "32000,128256", "--dtype", "float32,bfloat16")
    models = ("--target-model", "llama-3.1-8b", "--draft-model", "llama-3.2-1b", "--dtype", "bfloat16")
    sizes = ("--batch", "1,8,32", "--context", "512,4096", "--k", "1:8", "--repeats", "11")
    sampling = ("--quick", "--backend", "cuda,torch,transformers", *logits)
    return [
        Step(name="kernels", words=(str(SMOKE), device), limit_s=120, needs=("numpy", "lazy_loader", "cupy")),
        Step(
            name="probe",
            words=module("cuda_probe.cli.probe_gpu", *on, "--quick", "--out", "probe.json", "--force"),
            limit_s=130,
            needs=gpu,
        ),
        Step(name="sampling", words=bench_sampling(*on, *sampling), limit_s=80, needs=(*SAMPLING, "cupy")),
        Step(name="passes", words=time_passes(*models, *sizes, *on), limit_s=160, needs=MODELS),
        *forecasts("probe.json", "passes.json"),
        *(
            Step(name=f"suite: {name}", words=suite(f"gpu/test_{name}.py"), limit_s=limit_s, needs=("pytest", *gpu))
            for name, limit_s in (
                ("device", 90),
                ("sampling", 120),
                ("graphs", 60),
                ("bench_decode", 90),
                ("sanitizer", 90),
                ("bench_sampling", 100),
                ("live", 150),
                ("passes", 200),
            )
        ),
    ]


def cpu_steps() -> list[Step]:
    """Return their twins on the processor: seconds where it is idle; the limits are for what hangs.

    What is fitted was measured before, as the times of tiny models are noise.
    """
    on = ("--device", "cpu")
    probes = (*on, "--only", "empty", "--only", "burn_flops", "--only", "draft", "--draftN", "2", "--workflops", "4,8")
    logits = ("--batch", "1", "--k", "2", "--vocab", "512", "--dtype", "float32")
    sampling = (*on, "--backend", "torch,numpy", *logits)
    models = ("--target-model", "target.json", "--draft-model", "draft.json", "--dtype", "float32")
    sizes = ("--batch", "1,2", "--context", "16", "--k", "1:2", "--repeats", "3")
    return [
        Step(name="kernels", words=(str(SMOKE), "cpu"), limit_s=120, needs=("numpy", "lazy_loader", "torch")),
        Step(
            name="probe",
            words=module("cuda_probe.cli.probe_gpu", *probes, "--workmem", "1", "--out", "probe.json", "--force"),
            limit_s=120,
        ),
        Step(name="sampling", words=bench_sampling(*sampling), limit_s=120, needs=(*SAMPLING, "torch")),
        Step(name="passes", words=time_passes(*models, *sizes, *on), limit_s=120, needs=MODELS),
        *forecasts(str(MEASURED / "probe.json"), str(MEASURED / "passes.json")),
        Step(name="suite: sizes", words=suite("contracts/test_sizes.py"), limit_s=120, needs=("pytest",)),
    ]


def bench_sampling(*words: str) -> tuple[str, ...]:
    """Return the words that time sampling."""
    return module("cuda_probe.cli.bench_sampling", *words, "--out", "sampling.json", "--force")


def time_passes(*words: str) -> tuple[str, ...]:
    """Return the words that time passes of two models."""
    return module("acceptance.cli.bench_decode", "time-passes", *words, "--out", "passes.json", "--force")


def write_inputs(work: Path) -> None:
    """Write what steps read: an acceptance histogram, and the tiny shapes of the processor."""
    (work / "hist.json").write_text(json.dumps(HISTOGRAM))
    shape = {"model_type": "llama", "vocab_size": 96, "max_position_embeddings": 128, "tie_word_embeddings": False}
    shape |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    for name, width, layers in (("target", 64, 2), ("draft", 32, 1)):
        own = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
        (work / f"{name}.json").write_text(json.dumps(shape | own))


# ---- one step -------------------------------------------------------------------------------------------------------


def environment(work: Path) -> dict[str, str]:
    """Return the variables of every step: our packages, one cache of compiled kernels, no network, no plugins."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    own = {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "PYTHONFAULTHANDLER": "1", "COLUMNS": "140"}
    own |= {"PYTHONDONTWRITEBYTECODE": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    own |= {"CUPY_CACHE_DIR": str(work / "kernels"), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1", "MPLBACKEND": "agg"}
    return os.environ | own


def missing(step: Step, work: Path) -> str:
    """Say what a step lacks; nothing where it can be begun."""
    lacks = [name for name in step.needs if find_spec(name) is None]
    if lacks:
        return f"{', '.join(lacks)} not installed"
    lacks = [name for name in step.reads if not (work / name).exists()]
    return f"{', '.join(lacks)} not made by an earlier step" if lacks else ""


def run_step(step: Step, work: Path, limit_s: float, log: Path) -> Outcome:
    """Run a step to its end, or to its limit."""
    found, began = Outcome(step=step), time.monotonic()
    found.reason = missing(step, work)
    if not found.reason and limit_s < LEAST_S:
        found.reason = "no time left"
    if found.reason:
        return found
    output = work / "output.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, *step.words],
            cwd=work,
            env=environment(work),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            found.exit_code = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            found.reason = f"ended after {limit_s:.0f} s"
        except KeyboardInterrupt:
            found.reason = INTERRUPTED
        finally:
            end(process)
    found.seconds = time.monotonic() - began
    text = output.read_text(errors="replace")
    found.last_lines = [line[:300] for line in text.splitlines() if line.strip()][-LAST_LINES:]
    found.status = TIMED_OUT if found.reason else FAILED if found.exit_code else PASSED
    if found.status == FAILED:
        found.reason = f"exit code {found.exit_code}"
    append(log, step, text)
    return found


def end(process: subprocess.Popen[bytes]) -> None:
    """End what is left of a step with all its children: SIGABRT first, at which Python says where it is."""
    for number in (signal.SIGABRT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        except PermissionError:
            pass  # a zombie alone is left, on some systems
        try:
            process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            continue  # a driver may hold it beyond any signal: it is left behind


def append(log: Path, step: Step, text: str) -> None:
    """Add the output of a step to the log, its middle left out where it is long."""
    if len(text) > LOG_HEAD + LOG_TAIL:
        left_out = len(text) - LOG_HEAD - LOG_TAIL
        text = f"{text[:LOG_HEAD]}\n[... {left_out} characters ...]\n{text[-LOG_TAIL:]}"
    with log.open("a", encoding="utf-8") as file:
        file.write(f"==== {step.name}: python {' '.join(step.words)}\n{text.rstrip()}\n\n")


# ---- all of them ----------------------------------------------------------------------------------------------------


def asked(words: Sequence[str]) -> str | None:
    """Return what a program prints; None where it is not here or fails."""
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def provenance() -> dict[str, Any]:
    """Say on what, with what and of which commit the run is."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    base = [text.partition(">")[0] for text in project["dependencies"]]
    versions: dict[str, str] = {}
    for name in (*base, *TOLD, "pytest"):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    is_checkout = (ROOT / ".git").exists()
    return {
        "git_sha": asked(["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"])
        if is_checkout
        else None,
        "gpu": asked(["nvidia-smi", f"--query-gpu={GPU_QUERY}", "--format=csv,noheader"]),
        "host": {"python": sys.version, "platform": platform.platform(), "cpu_count": os.cpu_count()},
        "versions": versions,
        "missing": [name for name in base if name not in versions],
    }


def run_all(steps: Sequence[Step], out: Path, deadline_s: float, told: dict[str, Any]) -> list[Outcome]:
    """Run steps one after another, and keep what they leave; summary and log are whole after each of them."""
    began, outcomes, log = time.monotonic(), [], out / "log.txt"
    out.mkdir(parents=True, exist_ok=True)
    for name in (*KEPT, "summary.json", "log.txt"):
        (out / name).unlink(missing_ok=True)
    log.touch()
    with tempfile.TemporaryDirectory(prefix="first-light-", ignore_cleanup_errors=True) as name:
        work = Path(name)
        write_inputs(work)
        for step in steps:
            left_s = deadline_s - (time.monotonic() - began)
            outcomes.append(run_step(step, work, min(step.limit_s, left_s), log))
            for kept in KEPT:
                if (work / kept).exists():
                    shutil.copyfile(work / kept, out / kept)
            write_summary(out, outcomes, time.monotonic() - began, told)
            say(row(outcomes[-1]))
            if outcomes[-1].reason == INTERRUPTED:
                break
    return outcomes


def write_summary(out: Path, outcomes: Sequence[Outcome], seconds: float, told: dict[str, Any]) -> None:
    """Write what became of the steps so far."""
    head = {"kind": KIND, "schema_version": SCHEMA_VERSION, "seconds": round(seconds, 2)}
    text = json.dumps(head | told | {"steps": [found.as_json() for found in outcomes]}, indent=2, sort_keys=True)
    (out / "summary.json").write_text(text + "\n", encoding="utf-8")


def row(found: Outcome) -> str:
    """Return a step's line of the table: why it did not pass, and the last that it said."""
    said = [found.reason, *found.last_lines[-1:]]
    words = f"{found.step.name:24} {found.status:10} {found.seconds:7.1f} s  {': '.join(filter(None, said))[:150]}"
    return words.rstrip()


def say(line: str) -> None:
    """Print a line now."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def interrupt(*_: object) -> None:
    """Have a signal end the step under way, and its children."""
    raise KeyboardInterrupt


def main(words: Sequence[str] | None = None) -> int:
    """Run all steps of a device; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0", help="cuda:0, or cpu for the tiny twin of every step")
    parser.add_argument(
        "--out", type=Path, default=Path(os.environ.get("OUT") or "first_light"), help="folder of all reports"
    )
    parser.add_argument("--deadline", type=float, default=DEADLINE_S, metavar="SECONDS", help="when the last step ends")
    given = parser.parse_args(words)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, interrupt)
    told = {"created_utc": datetime.now(UTC).isoformat(timespec="seconds"), "device": given.device} | provenance()
    say(f"{given.device}: {told['gpu'] or 'no nvidia-smi'}; python {platform.python_version()}")
    if told["missing"]:
        say(f"not installed: {', '.join(told['missing'])}")
    steps = cpu_steps() if given.device == "cpu" else gpu_steps(given.device)
    outcomes = run_all(steps, given.out, given.deadline, told)
    say(f"\nreports in {given.out}\n" + "\n".join(map(row, outcomes)))
    return 0 if [found.status for found in outcomes] == [PASSED] * len(steps) else 1


if __name__ == "__main__":
    sys.exit(main())
