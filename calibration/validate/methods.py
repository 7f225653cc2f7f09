"""Forecasts of every method's speedup from parts of its rounds that were timed alone, beside real decoding.

The rounds are those that were decoded, so acceptance is exact and the errors are of costs alone: what a round takes is
its plan, each pass at the time of its part in the same turn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from acceptance.models.bundled import place_of
from acceptance.results.parts import BLOCK, DECIDE, HOST, VERIFY
from calibration.sources.methods import Arm, MethodLog, Output, PartTimes, Phases, load_methods
from simulator.costs.drafters.plan import DraftPlan
from simulator.costs.shapes import config_file, shape_of
from simulator.costs.work import ModelShape
from simulator.ground.fields import read_json

from .decoder_plans import PLANS, Drafting
from .rows import Bounds, Verdict, judge

METHOD_BOUNDS = Bounds(median=0.05, best_k_loss=0.03)
PLAIN = "plain"


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodRow:
    """One arm of a run: speedups of decoding, prompt left out, and seconds of a round as decoded and of its parts.

    drafts: K, or depth and nodes of a tree.
    """

    target: str
    name: str
    method: str
    drafts: str
    tokens_per_round: float
    measured: float
    measured_ci95: tuple[float, float] | None
    forecast: float
    round_s: Phases
    parts_s: Phases

    @property
    def fitted(self) -> bool:
        """No row's times are in the costs."""
        return False

    @property
    def error(self) -> float:
        """Forecast over measured, less 1."""
        return self.forecast / self.measured - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodValidation:
    """Rows of runs; steps: of each target a plain step, as decoded and of its parts. remarks: a sentence each."""

    rows: tuple[MethodRow, ...]
    steps: tuple[tuple[str, Phases, Phases], ...]
    remarks: tuple[str, ...] = ()
    bounds: Bounds = METHOD_BOUNDS

    @property
    def verdict(self) -> Verdict:
        """Errors of all rows, and what the choice of a method by forecast costs."""
        return judge(self.rows)


def validate_methods(paths: Sequence[Path]) -> MethodValidation:
    """Hold forecasts from parts against runs of all methods; a UserError names a file that is of another kind."""
    logs = [load_methods(path) for path in paths]
    rows, steps, remarks = [], [], []
    for log in logs:
        shapes = [shape_at(log, role) for role in ("target", "draft")]
        rows += [row_of(log, arm, *shapes) for arm in log.arms]
        outputs = log.plain.items()
        plain = [(output.took, plain_parts(output, log.parts[turn])) for turn, output in outputs]
        count = sum(len(output.rounds.drafted) for _, output in outputs)
        took, parts = (mean([pair[i] for pair in plain], count) for i in (0, 1))
        steps.append((log.target, took, parts))
        if log.left_out:
            remarks.append(f"{log.path}: no parts of {', '.join(log.left_out)}")
    return MethodValidation(rows=tuple(rows), steps=tuple(steps), remarks=tuple(remarks))


def shape_at(log: MethodLog, role: str) -> ModelShape:
    """Return the sizes of a run's model."""
    path, name = config_file(place_of(log.models[role], role))
    return shape_of(read_json(path), name)


def row_of(log: MethodLog, arm: Arm, target: ModelShape, draft: ModelShape) -> MethodRow:
    """Forecast an arm: both methods' tokens over the times of their parts."""
    forecasts, measured, plain_s, plain_tokens = [], [], 0.0, 0
    for turn, output in arm.outputs.items():
        times, plain = log.parts[turn], log.plain[turn]
        host = partial(times.at, arm.owner, HOST)
        drafting = Drafting(target=target, draft=draft, knobs=arm.knobs, rounds=output.rounds, host=host)
        forecasts.append(priced(PLANS[arm.method](drafting), times, arm.owner))
        measured.append(output.took)
        plain_s += plain_parts(plain, times).total
        plain_tokens += plain.tokens
    tokens = sum(output.tokens for output in arm.outputs.values())
    count = sum(len(output.rounds.drafted) for output in arm.outputs.values())
    return MethodRow(
        target=log.target,
        name=arm.name,
        method=arm.method,
        drafts=drafts_of(arm),
        tokens_per_round=tokens / count,
        measured=arm.speedup,
        measured_ci95=arm.speedup_ci95,
        forecast=(plain_s / plain_tokens) / (sum(f.total for f in forecasts) / tokens),
        round_s=mean(measured, count),
        parts_s=mean(forecasts, count),
    )


def priced(plan: DraftPlan, times: PartTimes, of: str) -> Phases:
    """Return the seconds of the rounds of a plan, whose fields are [rounds]."""
    draft_s = plan.host_s + 0.0 * plan.width
    for each in plan.passes:
        rows = each.head_rows if each.name == BLOCK else each.rows
        draft_s = draft_s + each.times * times.at(of, each.name, rows)
    verify_s, decide_s = (times.at(of, name, plan.width) for name in (VERIFY, DECIDE))
    return Phases(*(float(seconds.sum()) for seconds in (draft_s, verify_s, decide_s)))


def plain_parts(output: Output, times: PartTimes) -> Phases:
    """Return the seconds of plain decoding, of its parts."""
    steps = len(output.rounds.drafted)
    return Phases(0.0, *(steps * float(times.at(PLAIN, name, 1)) for name in (VERIFY, DECIDE)))


def mean(phases: Sequence[Phases], count: int) -> Phases:
    """Return a round's share of sums."""
    return Phases(*(sum(column) / count for column in zip(*phases, strict=True)))


def drafts_of(arm: Arm) -> str:
    """Say what an arm drafts."""
    knobs = arm.knobs
    if arm.method not in ("eagle-tree", "medusa-tree", "specexec"):
        return f"{knobs['k']}"
    return f"{knobs['k']}, {knobs['tree_budget']} nodes"
