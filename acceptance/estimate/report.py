"""What a trace says, for a terminal."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from acceptance.models.bundled import BUNDLED
from acceptance.trace.trace import Trace
from simulator.ground.command import table

from .analysis import Analysis, PolicyResult
from .estimators import Estimate

if TYPE_CHECKING:
    from acceptance.measure.loop_check import LoopCheck

NAMED_DIVERGENCES = 5
# Ten times what rounding turned in the bundled pair's own greedy text, read again in bfloat16 (0.3 %).
MAX_FOREIGN = 0.03


def span(ci95: Sequence[float] | None, digits: int = 3) -> str:
    """Write an interval."""
    return "" if ci95 is None else f"[{ci95[0]:.{digits}f}, {ci95[1]:.{digits}f}]"


def with_span(estimate: Estimate, digits: int = 3) -> str:
    """Write a number with its interval."""
    if math.isnan(estimate.value):
        return "none counted"
    return f"{estimate.value:.{digits}f} {span(estimate.ci95, digits)}".rstrip()


def between(low_high: tuple[float, float], digits: int = 3) -> str:
    """Write a range; one number where both ends are the same."""
    low, high = (f"{x:.{digits}f}" for x in low_high)
    return low if low == high else f"{low}..{high}"


def summary_text(trace: Trace, analysis: Analysis, parameters: Mapping[str, Any], q_kind: str) -> str:
    """Return the short report: what was measured, and a line for each draft length."""
    lines = [
        headline(analysis, parameters),
        f"{trace.size:,} tokens of the target after {trace.measured_prompts} prompts, "
        f"temperature {parameters['temperature']:g}, {q_kind} draft",
    ]
    if parameters.get("shard"):
        lines.append(f"This is part {parameters['shard']} of the measurement.")
    if parameters.get("approximation"):
        lines.append(f"This is an {parameters['approximation']}.")
    if parameters["draft_temperature"] == 0:
        lines.append(f"a single drafted token is accepted with probability {with_span(analysis.alpha['greedy'], 4)}")
    else:
        sampled, greedy = (with_span(analysis.alpha[kind], 4) for kind in ("sampled", "greedy"))
        lines.append(f"a single drafted token is accepted with probability {sampled} from a sampled draft,")
        lines.append(f"  {greedy} from a greedy one")
    rows = [("K", "tokens/round", "95 % interval", "accepted of drafted", "i.i.d. alpha", "rounds", "cut by the end")]
    for k, m in analysis.metrics.items():
        tau = f"{m['tokens_per_round']:.3f}", span(m["ci95"]["tokens_per_round"])
        rates = f"{m['draft_acceptance_rate']:.1%}", f"{m['alpha_iid']:.4f}"
        rows.append((str(k), *tau, *rates, f"{analysis.rounds[k].counts.sum():,.1f}", f"{m['rounds_cut']:,.1f}"))
    return "\n".join([*lines, "", table(rows), *warnings(analysis, parameters["temperature"] == 0)])


def headline(analysis: Analysis, parameters: Mapping[str, Any]) -> str:
    """Return the answer in a line: what a round commits at the longest draft, with its interval, and of whom."""
    k = analysis.longest
    metrics = analysis.metrics[k]
    ends = metrics["ci95"]["tokens_per_round"]
    sure = "too few prompts for an interval" if ends is None else f"95 %: {ends[0]:.2f} to {ends[1]:.2f}"
    tokens = f"{metrics['tokens_per_round']:.2f} tokens ({sure})"
    return f"At K = {k} a round commits {tokens}, with {pair_text(parameters)}."


def pair_text(parameters: Mapping[str, Any]) -> str:
    """Name the pair that was measured."""
    target, draft = parameters.get("target"), parameters.get("draft")
    return "the bundled pair" if {target, draft} == {BUNDLED} else f"{target} and its draft {draft}"


def warnings(analysis: Analysis, is_greedy: bool) -> list[str]:
    """Say where the text does not look like the target's own at this temperature."""
    gap = analysis.text_gap
    if analysis.foreign > MAX_FOREIGN:
        what = "is not the target's first choice" if is_greedy else "is excluded by top-k or top-p"
        return ["", f"{analysis.foreign:.1%} of the text {what}: is it this target's, under these settings?"]
    if gap is not None and gap.ci95 is not None and abs(gap.value) > 0.05 and not gap.ci95[0] <= 0 <= gap.ci95[1]:
        where = "more" if gap.value > 0 else "less"
        words = f"the text surprises the target {where} than its own would, by {abs(gap.value):.3f} nats a token"
        return ["", f"{words}: is it this target's, at this temperature?"]
    return []


def full_text(analysis: Analysis, draft_cost: float) -> str:
    """Return the long report: positions, categories, along the output, policies, other tools' names and settings."""
    k = analysis.longest
    parts = [
        section(f"By position in the draft, K = {k}", position_rows(analysis.metrics[k])),
        section(f"By category, K = {k}", category_rows(analysis)),
        section("Acceptance of a token along the output", group_rows(analysis.along_output, "from token", first=1)),
        section("Acceptance of a token by context length", group_rows(analysis.by_context_length, "context from")),
        section(
            f"Draft-length policies on this text, cut rounds included; a draft pass costs {draft_cost:g}",
            policy_rows(analysis),
        ),
        section(f"The same under other tools' names, K = {k}", alias_rows(analysis.metrics[k], k), left=(0, 2)),
        section(f"To try it on a server, K = {k}", synthetic_rows(analysis.synthetic[k]), left=(0, 1)),
    ]
    return "\n\n".join(part for part in parts if part)


def section(title: str, rows: list[tuple[str, ...]], left: tuple[int, ...] = (0,)) -> str:
    """Return a titled table; nothing without rows."""
    return f"{title}\n\n{table(rows, left)}" if len(rows) > 1 else ""


def position_rows(m: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Write survival of each position in the draft, and its conditional rate."""
    rows: list[tuple[str, ...]] = [("j", "P(A >= j)", "95 % interval", "given j - 1", "95 % interval")]
    for j, values in enumerate(zip(m["survival"], m["conditional"], strict=True)):
        survival, conditional = values
        spans = (span(m["ci95"][name][j]) for name in ("survival", "conditional"))
        rows.append((str(j + 1), f"{survival:.3f}", next(spans), f"{conditional:.3f}", next(spans)))
    return rows


def category_rows(analysis: Analysis) -> list[tuple[str, ...]]:
    """Write a row for each category."""
    rows: list[tuple[str, ...]] = [("category", "prompts", "tokens/round", "a single token")]
    for name, c in analysis.categories.items():
        rows.append((name, str(c["prompts"]), with_span(c["tokens_per_round"]), with_span(c["alpha"])))
    return rows


def group_rows(groups: Mapping[str | int, tuple[Estimate, int]], name: str, first: int = 0) -> list[tuple[str, ...]]:
    """Write a row for each bin, by its lower edge; positions count from `first`."""
    rows: list[tuple[str, ...]] = [(name, "tokens", "accepted", "95 % interval")]
    for edge, (estimate, count) in groups.items():
        rows.append((str(int(edge) + first), f"{count:,}", f"{estimate.value:.3f}", span(estimate.ci95)))
    return rows


def policy_rows(analysis: Analysis) -> list[tuple[str, ...]]:
    """Write a row for each policy."""
    rows: list[tuple[str, ...]] = [
        ("policy", "tokens/round", "target calls/token", "draft calls/token", "rounds without draft", "speedup")
    ]

    def row(name: str, p: PolicyResult) -> tuple[str, ...]:
        calls, none = f"{p.target_calls_per_token:.3f}", f"{p.rounds_without_draft:.1%}"
        speedup = between(p.speedup, 2) + "x"
        return name, f"{p.tokens_per_round:.3f}", calls, between(p.draft_calls_per_token), none, speedup

    return rows + [row(name, p) for name, p in analysis.policies.items()]


def alias_rows(m: Mapping[str, Any], k: int) -> list[tuple[str, ...]]:
    """Say what other tools call these numbers."""
    tau, rate = m["tokens_per_round"], m["draft_acceptance_rate"]
    return [
        ("name", "value", "formula"),
        ("mean acceptance length (vLLM, AIPerf), tau", f"{tau:.3f}", "1 + sum A / S"),
        ("mean accepted (gpt-fast, EAGLE's code)", f"{tau - 1:.3f}", "sum A / S"),
        ("mean over prompts (macro)", f"{m['tokens_per_round_macro']:.3f}", "mean of each prompt's tau"),
        ("draft acceptance rate (vLLM, llama.cpp)", f"{rate:.3f}", "sum A / sum D"),
        ("spec_decode_acceptance_rate (vllm bench serve)", f"{100 * rate:.1f}", "the same in percent"),
        ("accepted per verified (AIPerf)", f"{tau / (k + 1):.3f}", "(A + 1) / (D + 1)"),
        ("alpha (Leviathan)", f"{m['alpha']:.3f}", "mean of sum min(p, q), of servers min(1, p/q); greedy: matches"),
        ("implied alpha", f"{m['alpha_iid']:.3f}", "tau = (1 - alpha^(K+1)) / (1 - alpha)"),
    ]


def synthetic_rows(settings: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Write the settings that serving engines take."""
    rates = "[" + ", ".join(f"{rate:.4f}" for rate in settings["per_position_rates"]) + "]"
    forced = settings["tensorrt_llm"]["TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS"]
    return [
        ("engine", "setting"),
        ("vLLM", f'rejection_sample_method "synthetic", synthetic_acceptance_rates {rates}'),
        ("SGLang", " ".join(f"{name}={value}" for name, value in settings["sglang"].items())),
        ("TensorRT-LLM", f"TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS={forced}" if forced else "none: it would be 0"),
    ]


def loop_text(check: "LoopCheck") -> str:
    """Return what the speculative loop did beside what the trace says."""
    lines = [
        f"Checked against the speculative loop, K = {check.k}, {check.prompts} prompts:",
        f"  tokens/round {with_span(check.loop_tokens_per_round)} in the loop, "
        f"{with_span(check.trace_tokens_per_round)} from the trace"
        if math.isfinite(check.trace_tokens_per_round.value)
        else "  no output is long enough to compare rounds",
    ]
    if check.identical is not None:
        lines.append(f"  {check.identical} of {check.prompts} outputs are the target's own, token by token")
    for d in check.divergences[:NAMED_DIVERGENCES]:
        verdict = "rounding explains it" if d.is_tie else "more than rounding: please report it"
        lines.append(
            f"  {d.source}: differs from position {d.position} on; the two best logits lie {d.margin:.3g} apart there "
            f"(rounding: {d.rounding:.3g}): {verdict}"
        )
    return "\n".join(lines)
