"""From records to one summary a method: paired speedup with intervals over prompts, where a round's time goes.

Runs no model. A unit is what was decoded together: a prompt, or a batch of them. Method and baseline are compared on
the units and runs that both of them did; units are drawn anew for the intervals, runs of a unit never apart.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acceptance.estimate.estimators import MIN_PROMPTS, Estimate, bootstrap, interval95

from .records import PHASES, SAMPLER, SCHEMA_VERSION, SUMMARY, TEXT_SCORES, VERDICTS, latest, ratio
from .settings import BASELINE

Floats = NDArray[np.float64]
Unit = tuple[int, int]
# Of a score of texts: what is added up, and what it is divided by.
SCORED = ("sum", "of")
QUALITY = ("mean_logp_nats", "mean_rank", "argmax_share")
# Of the batch, whose rows share them.
TIMES: dict[str, Callable[..., Any]] = {
    **{name: lambda r, n=name: r[n] or 0.0 for name in ("total_s", "decode_s", "energy_j", "energy_net_j")},
    **{f"{name}_s": lambda r, n=name: r[f"{n}_ms"] / 1e3 for name in PHASES},
}
# Of each row, added up. Of trees and of what a trained judge decided; seen: tokens whose quality is known; matched,
# trials: next tokens behind the true text of a task, those that were the true ones and all.
SUMS: dict[str, Callable[..., Any]] = {
    "tokens": lambda r: r["generated_tokens"],
    "rounds": lambda r: len(r["rounds"]["drafted"]),
    "drafted": lambda r: sum(r["rounds"]["drafted"]),
    "accepted": lambda r: sum(r["rounds"]["accepted"]),
    "passes": lambda r: sum(r["rounds"]["draft_passes"]),
    "overruled": lambda r: sum(r["rounds"]["overruled"]),
    "nodes": lambda r: of_tree(r, "drafted"),
    "depths": lambda r: of_tree(r, "depth"),
    "leaves": lambda r: of_tree(r, "leaves"),
    "pruned": lambda r: of_tree(r, "pruned"),
    "looked_at": lambda r: of_tree(r, "drafted", "pruned", "over_budget"),
    "tree_rounds": lambda r: len(r["rounds"]["drafted"]) if r["tree"] else 0,
    **{name: lambda r, n=name: r["judge"][n] if r["judge"] else 0 for name in ("judged", "kept", "fallbacks")},
    "judge_drafted": lambda r: sum(r["rounds"]["drafted"]) if r["judge"] else 0,
    "sound_s": lambda r: r.get("sound_s") or 0,
    "seen": lambda r: r["generated_tokens"] if r["quality"] else 0,
    **{name: lambda r, n=name: r["quality"][n] * r["generated_tokens"] if r["quality"] else 0 for name in QUALITY},
    **{name: lambda r, n=name: r["exact_match"][n] if r["exact_match"] else 0 for name in ("matched", "trials")},
    **{
        f"{name} {part}": lambda r, n=name, p=part: ((r.get("text_scores") or {}).get(n) or {}).get(p, 0)
        for name in TEXT_SCORES
        for part in SCORED
    },
}
# steps, step_passes: of the batch, in which a row takes part until it ends; a step drafts as long as any row does.
COLUMNS = (*TIMES, *SUMS, "steps", "step_passes")
AT = {name: column for column, name in enumerate(COLUMNS)}
# Rounding of sums that are the same in another order.
NO_WIDTH = 1e-12


def summarise(records: Iterable[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Return a summary of each method, the baseline's first, the others by name.

    Every method draws the same units for its bootstrap.
    """
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for record in sorted(latest(records), key=lambda r: (r["run"], r["prompt_index"])):
        by_method.setdefault(record["method"], []).append(record)
    plain = next((rows for rows in by_method.values() if rows[0]["algorithm"] == BASELINE), [])
    names = sorted(by_method, key=lambda name: (by_method[name][0]["algorithm"] != BASELINE, name))
    summaries = [summary_of(by_method[name], plain, seed) for name in names]
    for summary in summaries:
        rows = by_method[summary["method"]]
        if sampler := next((r[SAMPLER]["name"] for r in rows if SAMPLER in r), None):
            loop = by_method.get(summary["method"].removesuffix(f"-{sampler}"), [])
            summary[SAMPLER] = {"name": sampler, "speedup_over_loop": over(rows, loop, seed)}
    return summaries


def summary_of(rows: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Return the summary of one method beside the baseline's records."""
    ok = [r for r in rows if r["status"] == "ok"]
    reasons = [r["error"] for r in rows if r["error"]]
    head = {"kind": SUMMARY, "schema_version": SCHEMA_VERSION}
    head |= {name: rows[0][name] for name in ("method", "algorithm", "is_exact")}
    head |= {f"runs_{status}": sum(r["status"] == status for r in rows) for status in ("ok", "error", "skipped")}
    head |= {"first_reason": reasons[0] if reasons else None}
    head |= {"prompts": len({r["prompt_index"] for r in ok})}
    units, plain_units = units_of(ok), units_of([r for r in plain if r["status"] == "ok"])
    summary = head | alone(ok, units, seed) | against(units, plain_units, seed)
    is_heard = any(r.get("sound_s") for r in ok)
    heard = quotient(("sound_s", "total_s"), by_unit(units, units), seed) if is_heard else None
    return summary | text_scores(units, plain_units, seed) | ({"sound_per_s": heard} if heard else {})


def over(rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any] | None:
    """Return the time a token of others over that of a method, on the units and runs that both did."""
    units, other_units = (units_of([r for r in each if r["status"] == "ok"]) for each in (rows, others))
    both = [unit for unit in units if unit in other_units]
    return speedup(by_unit(units, both), by_unit(other_units, both), "total_s", seed)


def units_of(records: Sequence[Mapping[str, Any]]) -> dict[Unit, Floats]:
    """Return sums over the rows of each unit and run; units of which a row is missing are left out."""
    rows: dict[Unit, list[Mapping[str, Any]]] = {}
    for record in records:
        rows.setdefault((record["batch_index"], record["run"]), []).append(record)
    return {unit: sums(group) for unit, group in sorted(rows.items()) if len(group) == group[0]["batch_size"]}


def sums(rows: Sequence[Mapping[str, Any]]) -> Floats:
    """Return the columns of one unit: times of the batch, counts of all its rows."""
    steps = max(len(r["rounds"]["drafted"]) for r in rows)
    step_passes = sum(map(max, zip_longest(*(r["rounds"]["draft_passes"] for r in rows), fillvalue=0)))
    times, totals = (of(rows[0]) for of in TIMES.values()), (sum(map(of, rows)) for of in SUMS.values())
    return np.array([*times, *totals, steps, step_passes], np.float64)


def of_tree(record: Mapping[str, Any], *names: str) -> int:
    """Return a sum over the rounds that drafted trees."""
    return sum(sum(record["rounds"][name]) for name in names) if record["tree"] else 0


def by_unit(units: Mapping[Unit, Floats], keys: Iterable[Unit]) -> Floats:
    """Add up the runs of each unit, [units, columns]."""
    totals: dict[int, Floats] = {}
    for key in keys:
        totals[key[0]] = totals.get(key[0], np.zeros(len(COLUMNS))) + units[key]
    return np.array([totals[i] for i in sorted(totals)]).reshape(-1, len(COLUMNS))


def estimate(columns: Floats, seed: int, formula: Any) -> dict[str, Any] | None:
    """Return a number made of sums, and its interval over units drawn anew; None where it is not defined.

    Args:
        columns: What each unit contributes, [units, n]: pairs of what is divided and what by. Units with nothing to
            divide by say nothing, and are not counted.
        seed: Of the bootstrap.
        formula: Takes sums, [n, ...], and returns numbers, [...].
    """
    columns = columns[(columns[:, 1::2] > 0).all(1)]
    with np.errstate(invalid="ignore", divide="ignore"):
        value = float(formula(columns.sum(0))) if len(columns) else float("nan")
        if not np.isfinite(value):
            return None
        if len(columns) < MIN_PROMPTS:
            return Estimate(value=value, ci95=None).as_json()
        drawn = formula(bootstrap(columns, np.random.default_rng(seed)).T)
    return Estimate(value=value, ci95=interval95(drawn, len(columns))).as_json()


def quotient(names: tuple[str, str], rows: Floats, seed: int) -> dict[str, Any] | None:
    """Return the sum of one column over that of another, with its interval."""
    return estimate(rows[:, [AT[n] for n in names]], seed, lambda s: s[0] / s[1])


def alone(ok: Sequence[Mapping[str, Any]], units: Mapping[Unit, Floats], seed: int) -> dict[str, Any]:
    """Return what a method says without the baseline."""
    rows = by_unit(units, units)
    total = dict(zip(COLUMNS, rows.sum(0).tolist(), strict=True))
    peaks = [r["memory_peak_bytes"] for r in ok if r["memory_peak_bytes"] is not None]
    trees = [r["tree"] for r in ok if r["tree"]]
    # Of outputs that were compared with the baseline's greedy ones: where sampled, the law is not a point mass.
    is_greedy = any(r["identical_to_baseline"] is not None for r in ok)
    return {
        "tokens": int(total["tokens"]),
        "tokens_per_s": ratio(total["tokens"], total["total_s"]),
        "ttft_s_median": float(np.median([r["ttft_s"] for r in ok])) if ok else None,
        "prefill_ms_median": float(np.median([r["prefill_ms"] for r in ok])) if ok else None,
        "tokens_per_round": quotient(("tokens", "rounds"), rows, seed),
        "draft_acceptance_rate": quotient(("accepted", "drafted"), rows, seed),
        "target_calls_per_token": ratio(total["rounds"], total["tokens"]),
        "draft_calls_per_token": ratio(total["passes"], total["tokens"]),
        "overruled_per_token": ratio(total["overruled"], total["tokens"]),
        "tree": tree_of(trees, rows, seed) if trees else None,
        "judge": judge_of(rows, seed) if any(r["judge"] for r in ok) else None,
        "round_ms": {n: 1e3 * total[f"{n}_s"] / total["steps"] for n in PHASES[1:]} if total["steps"] else None,
        "phase_share": {n: total[f"{n}_s"] / total["total_s"] for n in PHASES} if total["total_s"] else None,
        "prefill_ms": 1e3 * total["prefill_s"] / len(units) if units else None,
        "draft_pass_ms": ratio(1e3 * total["draft_s"], total["step_passes"]),
        "identical": identical(ok),
        "quality": {n: ratio(total[n], total["seen"]) for n in QUALITY} if total["seen"] else None,
        "tv_per_position": total_variation(rows, seed) if is_greedy else None,
        "exact_match": next_tokens(rows, total, seed),
        "memory_peak_bytes": max(peaks, default=None),
        **energy_of([r for r in ok if r["batch_row"] == 0], total),
    }


def identical(ok: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return how many greedy outputs are the baseline's, Wilson's interval of their share, what the others are put to.

    Outputs of a lossy method that differ are put to nothing.
    """
    compared = [r for r in ok if r["identical_to_baseline"] is not None]
    same = sum(r["identical_to_baseline"] for r in compared)
    apart = [r for r in compared if r["is_exact"] and not r["identical_to_baseline"]]
    verdicts = [r["first_divergence"]["verdict"] if r["first_divergence"] else "unchecked" for r in apart]
    counts = {verdict: verdicts.count(verdict) for verdict in VERDICTS}
    return {"same": same, "of": len(compared), "ci95": wilson95(same, len(compared))} | counts


def wilson95(successes: int, trials: int) -> list[float] | None:
    """Return Wilson's interval of a share; None without trials."""
    from scipy.stats import binomtest

    if not trials:
        return None
    interval = binomtest(successes, trials).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def tree_of(trees: Sequence[Mapping[str, Any]], rows: Floats, seed: int) -> dict[str, Any]:
    """Return what a method's trees were like, mean over rounds."""
    return {
        "nodes_per_round": quotient(("nodes", "tree_rounds"), rows, seed),
        "depth": quotient(("depths", "tree_rounds"), rows, seed),
        "effective_parallelism": quotient(("leaves", "tree_rounds"), rows, seed),
        "max_active_branches": max(t["max_active_branches"] for t in trees),
        "branch_prune_rate": quotient(("pruned", "looked_at"), rows, seed),
    }


def judge_of(rows: Floats, seed: int) -> dict[str, Any]:
    """Return what a trained judge did."""
    return {
        "judged": int(rows[:, AT["judged"]].sum()),
        "judge_accept_rate": quotient(("kept", "judged"), rows, seed),
        "target_fallback_rate": quotient(("fallbacks", "judge_drafted"), rows, seed),
    }


def total_variation(rows: Floats, seed: int) -> dict[str, Any] | None:
    """Return the total variation a position of the law emitted from and the target's, both point masses (greedy).

    The baseline's own is not 0 in half precision, where several tokens read at once round otherwise than one by one.
    """
    return estimate(rows[:, [AT["argmax_share"], AT["seen"]]], seed, lambda s: 1 - s[0] / s[1])


def next_tokens(rows: Floats, total: Mapping[str, float], seed: int) -> dict[str, Any] | None:
    """Return the share of next tokens behind a task's true text that were the true ones, and how many those were."""
    share = quotient(("matched", "trials"), rows, seed)
    return share and spread_only(share) | {name: int(total[name]) for name in ("matched", "trials")}


def text_scores(units: Mapping[Unit, Floats], plain_units: Mapping[Unit, Floats], seed: int) -> dict[str, Any]:
    """Return scores of texts beside references, and what they are less the baseline's; nothing without a task."""
    rows, both = by_unit(units, units), [unit for unit in units if unit in plain_units]
    pair = by_unit(units, both), by_unit(plain_units, both)
    columns = {name: (f"{name} sum", f"{name} of") for name in TEXT_SCORES if rows[:, AT[f"{name} of"]].any()}
    if not columns:
        return {}
    return {
        "text_scores": {name: quotient(of, rows, seed) for name, of in columns.items()},
        "text_scores_delta": {name: delta(*pair, of, seed) for name, of in columns.items()},
    }


def spread_only(statistic: dict[str, Any]) -> dict[str, Any]:
    """Take away an interval of no width: units that are all alike do not tell how far others would be apart."""
    ends = statistic["ci95"]
    return statistic | {"ci95": None} if ends and ends[1] - ends[0] <= NO_WIDTH else statistic


def energy_of(firsts: Sequence[Mapping[str, Any]], total: Mapping[str, float]) -> dict[str, Any]:
    """Return energy a token, with idle power and without; None unless all of it was counted."""
    energy = {
        f"{name}_per_token": ratio(total[name], total["tokens"])
        if firsts and all(r[name] is not None for r in firsts)
        else None
        for name in ("energy_j", "energy_net_j")
    }
    flags = [r["energy_is_reliable"] for r in firsts]
    return energy | {"energy_is_reliable": all(flags) if flags and None not in flags else None}


def against(units: Mapping[Unit, Floats], plain_units: Mapping[Unit, Floats], seed: int) -> dict[str, Any]:
    """Return how a method compares with the baseline on the units and runs that both did."""
    both = [unit for unit in units if unit in plain_units]
    rows, plain = by_unit(units, both), by_unit(plain_units, both)
    return {
        "compared_units": len(rows),
        "speedup": speedup(rows, plain, "total_s", seed),
        "speedup_decode": speedup(rows, plain, "decode_s", seed),
        "time_ratio": ratio(float(plain[:, AT["total_s"]].sum()), float(rows[:, AT["total_s"]].sum())),
        **each_prompt(rows, plain),
        "quality_delta": {name: delta(rows, plain, (name, "seen"), seed) for name in QUALITY},
        "exact_match_delta": delta(rows, plain, ("matched", "trials"), seed),
        **costs(rows.sum(0), plain.sum(0)),
    }


def speedup(rows: Floats, plain: Floats, time: str, seed: int) -> dict[str, Any] | None:
    """Return the baseline's time a token over the method's; outputs of one length make it the ratio of times."""
    columns = [AT[time], AT["tokens"]]
    pairs = np.concatenate((plain[:, columns], rows[:, columns]), axis=1)
    return estimate(pairs, seed, lambda s: (s[0] / s[1]) / (s[2] / s[3]))


def each_prompt(rows: Floats, plain: Floats) -> dict[str, Any]:
    """Return two figures as others print them: the median of units' own speedups, and the ratio of mean rates."""
    if not len(rows) or not (rows[:, AT["total_s"]] * plain[:, AT["total_s"]] * plain[:, AT["tokens"]]).all():
        return {"speedup_median": None, "ratio_of_mean_rates": None}
    rates, plain_rates = (r[:, AT["tokens"]] / r[:, AT["total_s"]] for r in (rows, plain))
    ratio_of_mean_rates = float(rates.mean() / plain_rates.mean())
    return {"speedup_median": float(np.median(rates / plain_rates)), "ratio_of_mean_rates": ratio_of_mean_rates}


def delta(rows: Floats, plain: Floats, names: tuple[str, str], seed: int) -> dict[str, Any] | None:
    """Return a mean of the method's less the baseline's: the sum of one column over that of another, both sides."""
    columns = [AT[name] for name in names]
    pairs = np.concatenate((rows[:, columns], plain[:, columns]), axis=1)
    difference = estimate(pairs, seed, lambda s: s[0] / s[1] - s[2] / s[3])
    return difference and spread_only(difference)


def costs(rows: Floats, plain: Floats) -> dict[str, Any]:
    """Return what a round costs in steps of the baseline, and what the closed form makes of it (model §5).

    draft_step_ratio: c, one draft pass. draft_cost: all drafting of a round, K c. verify_cost: v(K). overhead: o, the
    rest. closed_form: tokens a round over their sum; from the same run, so it is the measured speedup of decoding again
    unless outputs differ in length. closed_form_ideal: with v = 1 and o = 0, as in Leviathan et al. 2023.
    """
    method, baseline = (dict(zip(COLUMNS, r.tolist(), strict=True)) for r in (rows, plain))
    names = ["draft_step_ratio", "draft_cost", "verify_cost", "overhead", "step_cost"]
    names += ["closed_form", "closed_form_ideal"]
    if not method["steps"] or not baseline["steps"]:
        return {"target_step_ms": None} | dict.fromkeys(names)
    step_s = baseline["decode_s"] / baseline["steps"]
    draft, verify = (method[f"{n}_s"] / method["steps"] / step_s for n in ("draft", "verify"))
    rest = sum(method[f"{n}_s"] for n in ("sample", "kv", "other")) / method["steps"] / step_s
    tokens = (method["tokens"] / method["steps"]) / (baseline["tokens"] / baseline["steps"])
    has_draft = method["step_passes"] > 0
    return {
        "target_step_ms": 1e3 * step_s,
        "draft_step_ratio": method["draft_s"] / method["step_passes"] / step_s if has_draft else None,
        "draft_cost": draft,
        "verify_cost": verify,
        "overhead": rest,
        "step_cost": draft + verify + rest,
        "closed_form": tokens / (draft + verify + rest),
        "closed_form_ideal": tokens / (draft + 1),
    }
