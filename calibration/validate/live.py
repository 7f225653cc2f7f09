"""The whole chain on this machine: measure acceptance, decode for real, fit on some draft lengths, forecast the others.

Every stage is one of our own commands, run as a user would run it, and leaves its files in one folder; a stage whose
file is there is not run again.
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from acceptance.models.bundled import BUNDLED
from acceptance.results.unfinished import FILE as UNFINISHED
from acceptance.text.prompts import given_prompts
from acceptance.trace.lock import Lock
from acceptance.trace.trace import load_trace
from calibration.fit.calibrate import EXIT_FAILED_CHECKS
from calibration.fit.from_decode import check_pair, fit_pair, pair_profile
from calibration.sources.decode import DecodeLog, load_decode
from simulator.costs.profile import Profile
from simulator.costs.profile_file import save_profile
from simulator.ground.artefacts import UserError, check_kind, envelope, write_json, writing
from simulator.ground.command import EXIT_INTERRUPTED
from simulator.ground.endings import ENDING, EXIT_BY_SIGNAL
from simulator.ground.fields import Field, read_json_object
from simulator.ground.histogram import load_histograms
from simulator.ground.partial import make_folder, sweep
from simulator.ground.streams import stream
from simulator.ground.tested import TESTED, warn_untested
from simulator.rounds.acceptance_law import HistogramAcceptance

from .decode import BOUNDS, ablation, forecast_rows, pair_costs, walked_tokens_per_round
from .methods import MethodValidation, validate_methods
from .rows import Row, Validation

# Runs every command by its name; above this room, and never imported here.
UMBRELLA = "calibration.cli.specsim"
BURN_PROBES = ("empty", "burn_flops", "burn_memory", "draft", "verify", "baseline")
Q_KIND = "greedy"
TREES = ("eagle-tree", "specexec")
PLAN, PLAN_KIND = "plan.json", "live_plan"
# What every stage depends on; targets may come to a folder later, and other draft lengths may be fitted.
STAGE_OPTIONS = {
    "--max-prompts": "prompts",
    "--max-new-tokens": "tokens",
    "--runs": "runs",
    "--dtype": "dtype",
    "--device": "device",
    "--seed": "seed",
}
# Tokens of a draft length, a third of the defaults' 768: where 10 % to 20 % of noise of an output's times lets 8 of 10
# fits of the defaults pass their checks, it lets 3 to 9 of these, 0 to 6 of 128, and none of 32.
FEW_TOKENS = 256
# prctl(2), of Linux alone.
PR_SET_PDEATHSIG = 1
INTERRUPTED = {code for number in ENDING for code in (-number, EXIT_BY_SIGNAL + number)}
Say = Callable[[str], None]
Found = TypeVar("Found")
# Besides chains of the draft model: one arm a method, and where its shape matters, another.
METHOD_ARMS: dict[str, dict[str, Any]] = {
    **{f"eagle-k{k}": {"method": "eagle", "k": k} for k in (2, 4, 6)},
    **{f"medusa-k{k}": {"method": "medusa", "k": k} for k in (2, 4)},
    **{f"{name}-k4": {"method": name, "k": 4} for name in ("ngram", "prompt-lookup")},
    "medusa-tree-32": {"method": "medusa-tree", "k": 4, "tree_budget": 32},
    **{f"{name}-{nodes}": {"method": name, "k": 4, "tree_budget": nodes} for name in TREES for nodes in (16, 32)},
}


class FitFailed(UserError):
    """A machine was too busy, or a run too small, for fits that pass their checks; logs is what was measured."""

    def __init__(self, reasons: Sequence[str], logs: Sequence[DecodeLog]) -> None:
        """Take a sentence for each fit that failed, and every run."""
        super().__init__("; ".join(reasons))
        self.reasons, self.logs = tuple(reasons), tuple(logs)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to run. times: how often the target is inflated, each a run. fitted: draft lengths that costs see.

    prompts: how many of prompts_file, whose format and column the other two say. methods: all of them are run, and
    their parts timed; nothing is fitted. processor_time: as bench-decode has it.

    Raises:
        UserError: There is nothing to fit, or nothing left to forecast.
    """

    folder: Path
    times: tuple[int, ...]
    draft_lengths: tuple[int, ...]
    fitted: tuple[int, ...]
    prompts: int
    tokens: int
    runs: int
    dtype: str
    device: str
    seed: int
    prompts_file: str = BUNDLED
    prompts_format: str = "auto"
    column: str | None = None
    methods: bool = False
    processor_time: bool = False

    def __post_init__(self) -> None:
        """Check that there is something to fit and to forecast."""
        if max(self.draft_lengths) > self.tokens:
            raise UserError(f"--k: {max(self.draft_lengths)} is above --max-new-tokens, expected 1 to {self.tokens}")
        if self.methods:
            return
        missing = sorted(set(self.fitted) - set(self.draft_lengths))
        if missing:
            raise UserError(f"--fit-k: {missing[0]} is not among the draft lengths of --k, expected some of those")
        if len(self.fitted) < 2 or set(self.fitted) == set(self.draft_lengths):
            raise UserError(
                f"--fit-k: {len(self.fitted)} of {len(self.draft_lengths)} draft lengths, "
                "expected two at least, and one left to forecast"
            )

    @property
    def prompt_words(self) -> list[str]:
        """How commands are told which prompts; nothing for the bundled ones."""
        words = {"--prompts": self.prompts_file, "--format": self.prompts_format, "--column": self.column}
        usual = {"--prompts": BUNDLED, "--format": "auto", "--column": None}
        return [word for flag, value in words.items() if value not in (None, usual[flag]) for word in (flag, value)]

    @property
    def tokens_each(self) -> int:
        """Tokens that each draft length decodes of each target, at most."""
        return self.prompts * self.tokens * self.runs


def validate_live(plan: Plan, say: Say) -> Validation:
    """Run every stage and forecast; see `at_work`.

    Raises:
        FitFailed: All was measured, but a fit does not pass its checks.
    """
    return at_work(plan, say, run_stages)


def validate_live_methods(plan: Plan, say: Say) -> MethodValidation:
    """Decode by all methods, time the parts of their rounds, and forecast; see `at_work`."""
    return at_work(plan, say, run_methods)


def at_work(plan: Plan, say: Say, stages: Callable[[Plan, Sequence[str], Say], Found]) -> Found:
    """Run stages in a folder that is this process's alone.

    Args:
        plan: What to run.
        say: Told what happens.
        stages: Run with the plan, notes on its prompts, and `say`.

    Raises:
        UserError: A stage failed, or the folder is of another plan.
    """
    prompts = given_prompts(plan.prompts_file, plan.prompts_format, column=plan.column, limit=plan.prompts)
    make_folder(plan.folder)
    sweep(plan.folder)
    lock = Lock(plan.folder / PLAN, f"--out-dir: another validation is at work in {plan.folder}")
    lock.take()
    try:
        return stages(plan, prompts.notes(), say)
    finally:
        lock.release()


def run_stages(plan: Plan, notes: Sequence[str], say: Say) -> Validation:
    """Run every stage that has not left its file yet, and forecast."""
    keep_plan(plan)
    for note in notes:
        say(note)
    if plan.tokens_each < FEW_TOKENS:
        say(
            f"{plan.tokens_each} tokens a draft length ({plan.prompts} prompts x {plan.tokens} tokens x {plan.runs} "
            f"runs): with fewer than {FEW_TOKENS} fits seldom pass their checks on a busy machine, by default it is 768"
        )
    for name in TESTED:  # the stages say so too, to nobody
        warn_untested(name)
    probe(plan, say)
    measure(plan, say)
    presets = write_presets(plan)
    logs = [decode(plan, presets, times, say) for times in plan.times]
    return forecast(plan, logs, calibrated(plan, logs))


def run_methods(plan: Plan, notes: Sequence[str], say: Say) -> MethodValidation:
    """Decode with every target that has not left its file yet, and forecast."""
    keep_plan(plan)
    for note in notes:
        say(note)
    for name in TESTED:
        warn_untested(name)
    presets = write_presets(plan)
    return validate_methods([decoded(plan, presets, times, say, "--time-parts") for times in plan.times])


def keep_plan(plan: Plan) -> None:
    """Write the options of every stage; refuses to go on with a folder if they are not what they were."""
    path = plan.folder / PLAN
    options = {flag: getattr(plan, name) for flag, name in STAGE_OPTIONS.items()} | {"--k": list(plan.draft_lengths)}
    options["--prompts"] = plan.prompt_words or None
    kind = {"--methods": plan.methods or None, "--processor-time": plan.processor_time or None}
    if not path.exists():
        write_json(path, envelope(PLAN_KIND, 1, options | {flag: True for flag in kind if kind[flag]}))
        return
    document = read_json_object(path)
    check_kind(path, document, PLAN_KIND, (1,))
    before = Field(document, path)["parameters"].object()
    for flag, value in (options | kind).items():
        if before.get(flag) != value:
            begun = f"{path} was begun with {before.get(flag)}"
            raise UserError(f"{flag}: {value}, but {begun}, expected the same or another --out-dir")


def forecast(plan: Plan, logs: Sequence[DecodeLog], profiles: Sequence[Profile]) -> Validation:
    """Forecast every row from its profile and the trace."""
    trace = load_trace(plan.folder / "trace.json")[0]
    walked = {k: walked_tokens_per_round(trace, Q_KIND, k) for k in plan.draft_lengths}
    acceptance = HistogramAcceptance(load_histograms(plan.folder))
    rows: list[Row] = []
    ablations = []
    for number, (log, profile) in enumerate(zip(logs, profiles, strict=True)):
        costs = pair_costs(profile)
        rng = stream(plan.seed, number, "validate")
        rows += forecast_rows(log, costs, acceptance, plan.fitted, rng, walked)
        ablations.append(ablation(trace, Q_KIND, log, costs, plan.fitted))
    return Validation(rows=tuple(rows), bounds=BOUNDS, ablations=tuple(ablations))


def probe(plan: Plan, say: Say) -> None:
    """Time the device's burn kernels and fit them."""
    out = plan.folder / "probe.json"
    only = [word for name in BURN_PROBES for word in ("--only", name)]
    if not out.exists() or read_json_object(out).get("interrupted"):
        say("probing the device")
        # Raw samples without their JSON are those of a probe that was killed.
        call("probe-gpu", "--device", plan.device, *only, "--force", "--out", str(out))
    profile = plan.folder / "device.json"
    if not profile.exists() and call("calibrate", str(out), "--out", str(profile), allowed=(0, EXIT_FAILED_CHECKS)):
        say(f"the fit of {out} does not pass its checks, {profile} is not written")


def measure(plan: Plan, say: Say) -> None:
    """Measure what the bundled draft has accepted of the bundled target's text."""
    if (plan.folder / "trace.json").exists() and not (plan.folder / UNFINISHED).exists():
        return
    say("measuring acceptance")
    lengths = ",".join(map(str, plan.draft_lengths))
    options = [
        "--k",
        lengths,
        *plan.prompt_words,
        "--max-prompts",
        str(plan.prompts),
        "--max-new-tokens",
        str(plan.tokens),
    ]
    # Rounding of half precision turns choices anew in every pass: what is accepted is a matter of the models.
    options += ["--dtype", "float32", "--device", plan.device, "--out-dir", str(plan.folder)]
    call("measure-acceptance", *options)


def arms_of(plan: Plan) -> dict[str, dict[str, Any]]:
    """Return what is decoded by: the method of each arm, and its knobs."""
    arms: dict[str, dict[str, Any]] = {f"k{k}": {"method": "speculative", "k": k} for k in plan.draft_lengths}
    return arms | (METHOD_ARMS if plan.methods else {})


def write_presets(plan: Plan) -> Path:
    """Write what bench-decode is to run."""
    arms = arms_of(plan)
    names = ", ".join(f'"{name}"' for name in arms)
    lines = []
    for name, arm in arms.items():
        knobs = "".join(f"{knob} = {value}\n" for knob, value in arm.items() if knob != "method")
        lines.append(f'[methods.{name}]\nmethod = "{arm["method"]}"\n{knobs}')
    for times in plan.times:
        lines.append(f'[models.x{times}]\ntarget = "bundled"\ndraft = "bundled"\ninflate_target = {times}\n')
        lines.append(f'[experiments.x{times}]\nmodels = "x{times}"\nmethods = [{names}]\n')
    path = plan.folder / "presets.toml"
    with writing(path) as file:
        file.write("\n".join(lines))
    return path


def decode(plan: Plan, presets: Path, times: int, say: Say) -> DecodeLog:
    """Decode for real with one target, and read what came of it."""
    return load_decode(decoded(plan, presets, times, say))


def decoded(plan: Plan, presets: Path, times: int, say: Say, *more: str) -> Path:
    """Decode for real with one target, by all arms and by plain decoding in turns; return the records' file.

    more: words for bench-decode besides.
    """
    say(f"decoding, target inflated {times} times")
    out = plan.folder / f"decode_x{times}.jsonl"
    options = ["--config", str(presets), "--experiment", f"x{times}", "--runs", str(plan.runs), *plan.prompt_words]
    options += ["--seed", str(plan.seed), "--max-prompts", str(plan.prompts), "--max-new-tokens", str(plan.tokens)]
    more = (*more, *(["--processor-time"] if plan.processor_time else []))
    call("bench-decode", *options, *more, "--dtype", plan.dtype, "--device", plan.device, "--out", str(out))
    return out


def calibrated(plan: Plan, logs: Sequence[DecodeLog]) -> list[Profile]:
    """Fit the costs of each run on some of its draft lengths, and write those that pass their checks.

    Raises:
        FitFailed: Some do not.
    """
    profiles, reasons = [], []
    for log, times in zip(logs, plan.times, strict=True):
        pair = fit_pair(log, plan.fitted)
        checked = check_pair(pair)
        if not checked.passed:
            reasons.append(f"{log.path}: the fit does not pass its checks: {'; '.join(checked.reasons)}")
            continue
        profiles.append(pair_profile(f"pair_x{times}", log, pair))
        options = {"from_decode": str(log.path), "fit_k": list(plan.fitted)}
        save_profile(plan.folder / f"pair_x{times}.json", profiles[-1], options)
    if reasons:
        raise FitFailed(reasons, logs)
    return profiles


def call(name: str, *words: str, allowed: tuple[int, ...] = (0,)) -> int:
    """Run one of our commands; return its exit code, or a UserError with the last line of one that failed.

    It imports nothing from the folder that we are in, and does not outlive us.
    """
    command, end_with_us = [sys.executable, "-P", "-m", UMBRELLA, name, *words], partial(end_with, os.getpid())
    piped: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, preexec_fn=end_with_us, **piped) as child:  # no thread is at work
        try:
            said, told = child.communicate()
        except KeyboardInterrupt:
            child.terminate()
            child.communicate()
            raise
    if child.returncode in INTERRUPTED:
        raise KeyboardInterrupt
    if child.returncode not in allowed:
        last_line = (told.strip() or said.strip() or "nothing").splitlines()[-1]
        raise UserError(f"{name} ended with exit code {child.returncode}: {last_line}")
    return child.returncode


def end_with(parent: int) -> None:
    """Have the system end this process, just begun, as soon as its parent ends, where it can do that."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(EXIT_INTERRUPTED)
