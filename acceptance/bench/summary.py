"""From records to one summary a method: paired speedup with intervals over prompts, where a round's time goes.

Runs no model. A unit is what was decoded together: a prompt, or a batch of them. Method and baseline are compared on
the units and runs that both of them did; units are drawn anew for the intervals, runs of a unit never apart.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from acceptance.estimators import MIN_PROMPTS, Estimate, bootstrap, interval95

from .records import PHASES, SCHEMA_VERSION, SUMMARY, latest, ratio
from .settings import BASELINE

Floats = NDArray[np.float64]
Unit = tuple[int, int]
TIMES = ("total_s", "decode_s", *(f"{name}_s" for name in PHASES), "energy_j")
COUNTS = ("tokens", "rounds", "drafted", "accepted", "passes", "overruled", "nodes")
QUALITY = ("mean_logp_nats", "mean_rank", "argmax_share")
# steps, step_passes: of the batch, in which a row takes part until it ends. judged: tokens whose quality is known.
# matched, referred: tokens of a task's references that were met, and all of them.
COLUMNS = (*TIMES, *COUNTS, "steps", "step_passes", "judged", *QUALITY, "matched", "referred")
AT = {name: column for column, name in enumerate(COLUMNS)}


def summarise(records: Iterable[Mapping[str, Any]], seed: int) -> list[dict[str, Any]]:
    """Return a summary of each method, the baseline's first, the others by name.

    Args:
        records: Of a file, in its order.
        seed: Of the bootstrap: every method draws the same units.
    """
    by_method: dict[str, list[Mapping[str, Any]]] = {}
    for record in sorted(latest(records), key=lambda r: (r["run"], r["prompt_index"])):
        by_method.setdefault(record["method"], []).append(record)
    plain = next((rows for rows in by_method.values() if rows[0]["algorithm"] == BASELINE), [])
    names = sorted(by_method, key=lambda name: (by_method[name][0]["algorithm"] != BASELINE, name))
    return [summary_of(by_method[name], plain, seed) for name in names]


def summary_of(rows: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]], seed: int) -> dict[str, Any]:
    """Return the summary of one method beside the baseline's records."""
    ok = [r for r in rows if r["status"] == "ok"]
    reasons = [r["error"] for r in rows if r["error"]]
    head = {"kind": SUMMARY, "schema_version": SCHEMA_VERSION}
    head |= {name: rows[0][name] for name in ("method", "algorithm", "is_exact")}
    head |= {f"runs_{status}": sum(r["status"] == status for r in rows) for status in ("ok", "error", "skipped")}
    head |= {"first_reason": reasons[0] if reasons else None}
    head |= {"prompts": len({r["prompt_index"] for r in ok})}
    mine, theirs = units_of(ok), units_of([r for r in plain if r["status"] == "ok"])
    return head | alone(ok, mine, seed) | against(mine, theirs, seed)


def units_of(records: Sequence[Mapping[str, Any]]) -> dict[Unit, Floats]:
    """Return sums over the rows of each unit and run; units of which a row is missing are left out."""
    rows: dict[Unit, list[Mapping[str, Any]]] = {}
    for record in records:
        rows.setdefault((record["batch_index"], record["run"]), []).append(record)
    return {unit: sums(found) for unit, found in sorted(rows.items()) if len(found) == found[0]["batch_size"]}


def sums(rows: Sequence[Mapping[str, Any]]) -> Floats:
    """Return the columns of one unit: times of the batch, counts of all its rows."""
    times = dict.fromkeys(TIMES, 0.0)
    first = rows[0]
    times |= {"total_s": first["total_s"], "decode_s": first["decode_s"], "energy_j": first["energy_j"] or 0.0}
    times |= {f"{name}_s": first[f"{name}_ms"] / 1e3 for name in PHASES}
    counts = {
        "tokens": sum(r["generated_tokens"] for r in rows),
        "rounds": sum(len(r["rounds"]["drafted"]) for r in rows),
    }
    for name, source in (("drafted",) * 2, ("accepted",) * 2, ("passes", "draft_passes"), ("overruled",) * 2):
        counts[name] = sum(sum(r["rounds"][source]) for r in rows)
    counts["nodes"] = sum(r["tree"]["nodes"] for r in rows if r["tree"])
    judged = [r for r in rows if r["quality"]]
    found = (
        times
        | counts
        | {
            "steps": max(len(r["rounds"]["drafted"]) for r in rows),
            "step_passes": max(sum(r["rounds"]["draft_passes"]) for r in rows),
            "judged": sum(r["generated_tokens"] for r in judged),
        }
    )
    matches = [r["exact_match"] for r in rows if r["exact_match"]]
    found |= {"matched": sum(m["same"] for m in matches), "referred": sum(m["of"] for m in matches)}
    for name in QUALITY:
        found[name] = sum(r["quality"][name] * r["generated_tokens"] for r in judged)
    return np.array([found[name] for name in COLUMNS], np.float64)


def by_unit(units: Mapping[Unit, Floats], keys: Iterable[Unit]) -> Floats:
    """Add up the runs of each unit, [units, columns]."""
    found: dict[int, Floats] = {}
    for key in keys:
        found[key[0]] = found.get(key[0], np.zeros(len(COLUMNS))) + units[key]
    return np.array([found[i] for i in sorted(found)]).reshape(-1, len(COLUMNS))


def estimate(columns: Floats, seed: int, formula: Any) -> dict[str, Any] | None:
    """Return a number made of sums, and its interval over units drawn anew; None where it is not defined.

    Args:
        columns: What each unit contributes, [units, n].
        seed: Of the bootstrap.
        formula: Takes sums, [n, ...], and returns numbers, [...].
    """
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
    energy = [r["energy_j"] for r in ok if r["batch_row"] == 0]
    compared = [r["identical_to_baseline"] for r in ok if r["identical_to_baseline"] is not None]
    apart = [r["first_divergence"] for r in ok if r["first_divergence"]]
    return {
        "tokens": int(total["tokens"]),
        "tokens_per_s": ratio(total["tokens"], total["total_s"]),
        "ttft_s_median": float(np.median([r["ttft_s"] for r in ok])) if ok else None,
        "tokens_per_round": quotient(("tokens", "rounds"), rows, seed),
        "draft_acceptance_rate": quotient(("accepted", "drafted"), rows, seed),
        "target_calls_per_token": ratio(total["rounds"], total["tokens"]),
        "draft_calls_per_token": ratio(total["passes"], total["tokens"]),
        "overruled_per_token": ratio(total["overruled"], total["tokens"]),
        "tree_nodes_per_round": ratio(total["nodes"], total["rounds"]) if total["nodes"] else None,
        "round_ms": {n: 1e3 * total[f"{n}_s"] / total["steps"] for n in PHASES[1:]} if total["steps"] else None,
        "phase_share": {n: total[f"{n}_s"] / total["total_s"] for n in PHASES} if total["total_s"] else None,
        "prefill_ms": 1e3 * total["prefill_s"] / len(units) if units else None,
        "draft_pass_ms": ratio(1e3 * total["draft_s"], total["step_passes"]),
        "identical": {"same": sum(compared), "of": len(compared), "ties": sum(d["is_tie"] for d in apart)},
        "quality": {n: ratio(total[n], total["judged"]) for n in QUALITY} if total["judged"] else None,
        "exact_match": quotient(("matched", "referred"), rows, seed),
        "memory_peak_bytes": max(peaks, default=None),
        "energy_j_per_token": ratio(sum(energy), total["tokens"]) if energy and None not in energy else None,
    }


def against(mine: Mapping[Unit, Floats], theirs: Mapping[Unit, Floats], seed: int) -> dict[str, Any]:
    """Return how a method compares with the baseline on the units and runs that both did."""
    both = [unit for unit in mine if unit in theirs]
    rows, plain = by_unit(mine, both), by_unit(theirs, both)
    return {
        "compared_units": len(rows),
        "speedup": speedup(rows, plain, "total_s", seed),
        "speedup_decode": speedup(rows, plain, "decode_s", seed),
        "time_ratio": ratio(float(plain[:, AT["total_s"]].sum()), float(rows[:, AT["total_s"]].sum())),
        **each_prompt(rows, plain),
        "quality_delta": {name: delta(rows, plain, (name, "judged"), seed) for name in QUALITY},
        "exact_match_delta": delta(rows, plain, ("matched", "referred"), seed),
        **costs(rows.sum(0), plain.sum(0)),
    }


def speedup(rows: Floats, plain: Floats, time: str, seed: int) -> dict[str, Any] | None:
    """Return the baseline's time a token over the method's; outputs of one length make it the ratio of times."""
    columns = [AT[time], AT["tokens"]]
    pairs = np.concatenate((plain[:, columns], rows[:, columns]), axis=1)
    return estimate(pairs, seed, lambda s: (s[0] / s[1]) / (s[2] / s[3]))


def each_prompt(rows: Floats, plain: Floats) -> dict[str, Any]:
    """Return two figures as others print them: the median of units' own speedups, and the ratio of mean rates."""
    if not len(rows):
        return {"speedup_median": None, "ratio_of_mean_rates": None}
    mine, theirs = (r[:, AT["tokens"]] / r[:, AT["total_s"]] for r in (rows, plain))
    return {
        "speedup_median": float(np.median(mine / theirs)),
        "ratio_of_mean_rates": float(mine.mean() / theirs.mean()),
    }


def delta(rows: Floats, plain: Floats, names: tuple[str, str], seed: int) -> dict[str, Any] | None:
    """Return a mean of the method's less the baseline's: the sum of one column over that of another, both sides."""
    columns = [AT[name] for name in names]
    pairs = np.concatenate((rows[:, columns], plain[:, columns]), axis=1)
    return estimate(pairs, seed, lambda s: s[0] / s[1] - s[2] / s[3])


def costs(rows: Floats, plain: Floats) -> dict[str, Any]:
    """Return what a round costs in steps of the baseline, and what the closed form makes of it (model §5).

    draft_step_ratio: c, one draft pass. draft_cost: all drafting of a round, K c. verify_cost: v(K). overhead: o, the
    rest. closed_form: tokens a round over their sum; from the same run, so it is the measured speedup of decoding again
    unless outputs differ in length. closed_form_ideal: with v = 1 and o = 0, as in Leviathan et al. 2023.
    """
    mine, theirs = (dict(zip(COLUMNS, r.tolist(), strict=True)) for r in (rows, plain))
    names = (
        "draft_step_ratio",
        "draft_cost",
        "verify_cost",
        "overhead",
        "step_cost",
        "closed_form",
        "closed_form_ideal",
    )
    if not mine["steps"] or not theirs["steps"]:
        return {"target_step_ms": None} | dict.fromkeys(names)
    step_s = theirs["decode_s"] / theirs["steps"]
    draft, verify = (mine[f"{n}_s"] / mine["steps"] / step_s for n in ("draft", "verify"))
    rest = sum(mine[f"{n}_s"] for n in ("sample", "kv", "other")) / mine["steps"] / step_s
    tokens = (mine["tokens"] / mine["steps"]) / (theirs["tokens"] / theirs["steps"])
    has_draft = mine["step_passes"] > 0
    return {
        "target_step_ms": 1e3 * step_s,
        "draft_step_ratio": mine["draft_s"] / mine["step_passes"] / step_s if has_draft else None,
        "draft_cost": draft,
        "verify_cost": verify,
        "overhead": rest,
        "step_cost": draft + verify + rest,
        "closed_form": tokens / (draft + verify + rest),
        "closed_form_ideal": tokens / (draft + 1),
    }
