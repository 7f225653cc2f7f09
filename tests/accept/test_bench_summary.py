"""Summaries follow from records by closed forms; pairs, repeats and batches are counted as what they are."""

from statistics import NormalDist

import numpy as np
import pytest

from acceptance.results.report import shows_speed, text
from acceptance.results.summary import summarise, wilson95

TIMES = ("prefill", "draft", "verify", "sample", "kv", "other")


def record(method: str, prompt: int = 0, run: int = 0, **changes):
    """A measurement of 12 tokens in rounds of K = 4; times in ms by phase."""
    rounds = changes.pop("rounds", [(4, 2)] * 4)
    ms = dict.fromkeys(TIMES, 0.0) | changes.pop("ms", {})
    total = sum(ms.values()) / 1e3
    found = {"kind": "decode_record", "resume_key": f"{method}/{prompt}/{run}", "status": "ok", "method": method}
    found |= {"algorithm": method, "is_exact": True, "prompt_index": prompt, "run": run}
    found |= {"batch_index": prompt, "batch_size": 1, "batch_row": 0, "identical_to_baseline": True}
    found |= {"ttft_s": total / 4, "total_s": total, "decode_s": total - ms["prefill"] / 1e3}
    found |= {"generated_tokens": sum(a + 1 for _, a in rounds), "memory_peak_bytes": 1000 + prompt}
    drafted, accepted = ([r[i] for r in rounds] for i in range(2))
    counts = {"drafted": drafted, "accepted": accepted, "committed": [a + 1 for a in accepted]}
    counts |= {"draft_passes": drafted, "overruled": [0] * len(rounds), "cut_by": [""] * len(rounds)}
    nothing = ("error", "first_divergence", "judge", "tree", "quality", "exact_match")
    nothing += ("energy_j", "energy_net_j", "energy_is_reliable")
    times = {f"{name}_ms": value for name, value in ms.items()}
    return found | dict.fromkeys(nothing) | times | {"rounds": counts} | changes


def plain(prompt: int = 0, run: int = 0, step_ms: float = 10.0, tokens: int = 12, **changes):
    ms = {"prefill": 20.0, "verify": step_ms * tokens} | changes.pop("ms", {})
    return record("baseline", prompt, run, rounds=[(0, 0)] * tokens, ms=ms, **changes)


def of(method: str, records, seed: int = 0):
    return next(s for s in summarise(records, seed) if s["method"] == method)


def pairs(count: int, *others):
    """Records of so many prompts: plain decoding's and the others', each made of its prompt."""
    return [make(p) for p in range(count) for make in others]


def shown(records) -> str:
    """The table of these records."""
    told = {"prompt_count": 2, "runs": 1, "max_new_tokens": 12, "temperature": 0.0, "batch_size": 1}
    return text(told | {"device": "cpu", "dtype": "float32", "inflate_target": 1.0}, summarise(records, 0))


def test_speedup_costs_and_closed_form_by_hand() -> None:
    ms = {"prefill": 20.0, "draft": 16.0, "verify": 48.0, "kv": 4.0, "other": 4.0}
    found = of("m", [plain(), record("m", ms=ms)])
    assert found["speedup"]["value"] == pytest.approx(140 / 92)
    assert found["speedup_decode"]["value"] == pytest.approx(120 / 72)
    assert found["tokens_per_round"]["value"] == 3
    assert found["draft_acceptance_rate"]["value"] == 0.5
    assert found["target_calls_per_token"] == pytest.approx(4 / 12)
    assert found["draft_calls_per_token"] == pytest.approx(16 / 12)
    assert found["target_step_ms"] == pytest.approx(10)
    # Four passes of 1 ms a round, over a step of 10 ms.
    assert found["draft_step_ratio"] == pytest.approx(0.1)
    assert (found["draft_cost"], found["verify_cost"], found["overhead"]) == pytest.approx((0.4, 1.2, 0.2))
    assert found["closed_form"] == pytest.approx(3 / 1.8) == pytest.approx(found["speedup_decode"]["value"])
    assert found["closed_form_ideal"] == pytest.approx(3 / 1.4)
    assert found["round_ms"] == pytest.approx({"draft": 4, "verify": 12, "sample": 0, "kv": 1, "other": 1})
    assert sum(found["phase_share"].values()) == pytest.approx(1)
    # The ideal: three tokens a round over 0.4 of drafting and a step, neither v nor o, whatever they were.
    printed = shown([plain(), record("m", ms=ms)])
    assert "2.14x" in printed
    assert "if v = 1: tokens a round over draft + one step of plain decoding, all else free" in printed


def test_time_is_a_tokens_where_outputs_differ_in_length() -> None:
    short = record("m", ms={"verify": 60.0}, rounds=[(0, 0)] * 6)
    found = of("m", [plain(ms={"prefill": 0.0}), short])
    assert found["speedup"]["value"] == pytest.approx(1.0)
    assert found["time_ratio"] == pytest.approx(2.0)


def test_median_and_ratio_of_mean_rates_by_hand() -> None:
    records = []
    for prompt, (base, own) in enumerate([(100, 50), (100, 100), (200, 50)]):
        records += [plain(prompt, ms={"prefill": 0.0, "verify": base})]
        records += [record("m", prompt, ms={"verify": own})]
    found = of("m", records)
    assert found["speedup"]["value"] == pytest.approx(400 / 200)
    assert found["speedup_median"] == pytest.approx(2)
    rates = np.array([[1 / 100, 1 / 100, 1 / 200], [1 / 50, 1 / 100, 1 / 50]])
    assert found["ratio_of_mean_rates"] == pytest.approx(rates[1].mean() / rates[0].mean())
    assert found["speedup"]["ci95"] is None  # three prompts are too few


def test_only_prompts_and_runs_that_both_did_are_compared_and_the_last_record_of_a_key_holds() -> None:
    failed = {"status": "error", "error": "RuntimeError: no"}
    own = record("m", ms={"verify": 70.0})
    records = [plain(0), own, plain(1, step_ms=1000), record("m", 1) | failed]
    found = of("m", records)
    assert found["compared_units"] == 1
    assert found["speedup"]["value"] == pytest.approx(2)
    assert (found["runs_ok"], found["runs_error"], found["first_reason"]) == (1, 1, "RuntimeError: no")
    assert "m: 1 failed (RuntimeError: no)" in shown(records)
    found = of("m", [plain(), record("m") | failed, own])
    assert (found["runs_ok"], found["runs_error"]) == (1, 0)
    assert found["speedup"]["value"] == pytest.approx(2)
    # A failure does not take a measurement away.
    for status in ("error", "skipped"):
        found = summarise([plain(), own, plain() | failed | {"status": status, "total_s": None}], 0)
        assert [(s["runs_ok"], s["runs_error"], s["compared_units"]) for s in found] == [(1, 0, 1)] * 2


def test_the_order_of_lines_does_not_matter_and_summaries_are_the_baselines_and_then_by_name() -> None:
    records = [plain() if n == "p" else record(n, ms={"verify": 60.0}) for n in "zmpa"]
    assert [s["method"] for s in summarise(records, 0)] == ["baseline", "a", "m", "z"]
    rng = np.random.default_rng(0)
    records = [plain(p, r, step_ms=rng.uniform(5, 15)) for p in range(5) for r in range(2)]
    records += [record("m", p, r, ms={"verify": rng.uniform(40, 80)}) for p in range(5) for r in range(2)]
    assert of("m", records) == of("m", [records[i] for i in rng.permutation(len(records))])


def test_a_batch_is_one_unit_and_its_time_counts_once() -> None:
    def rows(make, ms):
        return [make(i, ms=ms, batch_index=0, batch_size=2, batch_row=i) for i in range(2)]

    base = rows(lambda i, **more: record("baseline", i, rounds=[(0, 0)] * 12, **more), {"verify": 120.0})
    own = rows(lambda i, **more: record("m", i, rounds=[(4, 2)] * (4 - i), **more), {"verify": 60.0})
    found = of("m", base + own)
    assert found["compared_units"] == 1
    assert found["tokens_per_s"] == pytest.approx((12 + 9) / 0.06)
    assert found["speedup"]["value"] == pytest.approx((120 / 24) / (60 / 21))
    # Four steps, in the last of which one row takes part.
    assert found["round_ms"]["verify"] == pytest.approx(15)
    assert found["closed_form"] == pytest.approx(found["speedup_decode"]["value"])
    assert of("m", base + own[:1])["compared_units"] == 0


def test_a_step_of_a_ragged_batch_drafts_as_long_as_its_longest_row() -> None:
    """Rows of which now one and now the other drafts longer: 4 + 4 + 4 + 3 passes of 1 ms, over steps of 10 ms."""
    rows = [[(4, 0), (1, 1), (4, 1), (3, 2)], [(1, 1), (4, 3), (2, 2)]]
    shared = {"batch_index": 0, "batch_size": 2}
    records = [plain(i, ms={"prefill": 0.0}, batch_row=i, **shared) for i in range(2)]
    ms = {"draft": 15.0, "verify": 40.0}
    records += [record("m", i, rounds=rounds, ms=ms, batch_row=i, **shared) for i, rounds in enumerate(rows)]
    found = of("m", records)
    assert found["draft_pass_ms"] == pytest.approx(1)
    assert found["draft_step_ratio"] == pytest.approx(0.1)


def test_an_end_of_sequence_takes_a_token_of_its_round() -> None:
    rounds = {"drafted": [4, 4], "accepted": [2, 3], "committed": [3, 3], "draft_passes": [4, 4], "overruled": [0, 0]}
    found = of("m", [record("m") | {"rounds": rounds | {"cut_by": ["", "eos"]}, "generated_tokens": 6}])
    assert found["draft_acceptance_rate"]["value"] == 5 / 8
    assert found["tokens_per_round"]["value"] == 1 + 5 / 2 - 1 / 2


def test_prompts_that_say_nothing_of_a_share_make_no_interval_of_it() -> None:
    """One prompt alone of four, or of eight, drafted; that one of four is no interval, four of eight are one."""

    def records(drafting: int, count: int):
        drafts = [[(4, p % 3)] * 4 if p < drafting else [(0, 0)] * 4 for p in range(count)]
        return [f for p, r in enumerate(drafts) for f in (plain(p), record("m", p, rounds=r, ms={"verify": 9.0}))]

    assert of("m", records(1, 8))["draft_acceptance_rate"] == {"value": 0.0, "ci95": None}
    few, more = (of("m", records(4, count))["draft_acceptance_rate"] for count in (4, 8))
    assert few == more
    assert few["ci95"][0] < few["value"] < few["ci95"][1]


def test_repeats_are_no_further_prompts() -> None:
    def records(runs: int):
        plains = [plain(p, r, step_ms=8 + p) for p in range(6) for r in range(runs)]
        return plains + [record("m", p, r, ms={"verify": 40 + 13 * (p % 3)}) for p in range(6) for r in range(runs)]

    one, many = (np.ptp(of("m", records(runs))["speedup"]["ci95"]) for runs in (1, 20))
    # Times depend on the prompt alone, so that repeating them tells nothing new.
    assert many == pytest.approx(one)


@pytest.mark.statistical
def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    truth, covered, trials = 1.5, 0, 200
    for trial in range(trials):
        records = []
        for prompt in range(12):
            shared = rng.lognormal(0, 0.4)
            base, own = 120 * shared, 80 * shared * rng.lognormal(-0.02, 0.2)
            records += [plain(prompt, ms={"prefill": 0.0, "verify": base}), record("m", prompt, ms={"verify": own})]
        low, high = of("m", records, seed=trial)["speedup"]["ci95"]
        covered += low <= truth <= high
    error = np.sqrt(0.05 * 0.95 / trials)
    assert covered / trials > 0.95 - 4 * error


def test_two_methods_alike_differ_in_name_alone() -> None:
    rng = np.random.default_rng(0)
    times = rng.uniform(50, 150, 16)
    records = [plain(p, ms={"prefill": 0.0, "verify": t}) for p, t in enumerate(times)]
    records += [record("same", p, ms={"verify": t}) for p, t in enumerate(times)]
    assert of("same", records)["speedup"]["ci95"] == pytest.approx([1, 1])


QUALITY = {"mean_logp_nats": -1.0, "mean_rank": 1.5, "argmax_share": 0.75}


def lossy(prompt: int, logp: float | None, **changes):
    quality = None if logp is None else {"mean_logp_nats": logp, "mean_rank": 2.0, "argmax_share": 0.5}
    return record("lossy", prompt, ms={"verify": 70.0}, is_exact=False, quality=quality, **changes)


def judged_plain(prompt: int, logp: float = -1.0):
    return plain(prompt, quality={"mean_logp_nats": logp, "mean_rank": 1.0, "argmax_share": 1.0})


def test_quality_is_a_mean_over_tokens_less_the_baselines() -> None:
    delta = of("lossy", pairs(4, judged_plain, lambda p: lossy(p, -1.0 - 0.1 * p)))["quality_delta"]
    assert delta["mean_logp_nats"]["value"] == pytest.approx(-0.15)
    low, high = delta["mean_logp_nats"]["ci95"]
    assert low < -0.15 < high
    assert delta["argmax_share"]["value"] == pytest.approx(-0.5)


def test_the_speed_of_a_lossy_method_is_never_printed_without_its_quality() -> None:
    known = pairs(4, judged_plain, lambda p: lossy(p, -1.5 - p / 500))
    unknown = pairs(4, judged_plain, lambda p: lossy(p, None))
    assert [shows_speed(of("lossy", records)) for records in (known, unknown)] == [True, False]
    assert "2.00x" in shown(known)
    assert "-0.503 [-0.50" in shown(known)
    assert "2.00x" not in shown(unknown)


def test_the_next_token_is_counted_over_its_trials() -> None:
    records = [plain(p, exact_match={"matched": p, "trials": 3}) for p in range(4)]
    records += [lossy(p, -1.0, exact_match={"matched": p % 2, "trials": 2}) for p in range(4)]
    found = of("lossy", records)
    assert found["exact_match"].items() >= {"value": 0.25, "matched": 2, "trials": 8}.items()
    assert found["exact_match_delta"]["value"] == -0.25
    assert "next token of the common prefix right 6/12 (50.0%)" in shown(records)
    assert "] in 8 trials" in shown(records)


def test_a_method_that_never_differs_is_no_interval_of_no_width() -> None:
    match = {"matched": 1, "trials": 2}
    records = [plain(p, exact_match=match, quality=QUALITY) for p in range(6)]
    records += [lossy(p, -1.0, exact_match=match) | {"quality": QUALITY} for p in range(6)]
    found = of("lossy", records)
    assert found["exact_match_delta"] == found["quality_delta"]["mean_logp_nats"] == {"value": 0.0, "ci95": None}
    assert found["exact_match"] == {"value": 0.5, "ci95": None, "matched": 6, "trials": 12}
    assert "no difference in 12 trials" in shown(records)


def test_total_variation_is_told_of_greedy_outputs_alone_less_what_rounding_does_to_plain_decoding() -> None:
    """Both outputs are not quite the target's first choices: by 0.1, and by 0.1 and 0 to 0.03 more."""
    greedy = pairs(4, judged_plain, lambda p: lossy(p, -1.5))
    found = of("lossy", greedy)["tv_per_position"]
    assert (found["value"], found["ci95"]) == (0.5, [0.5, 0.5])
    assert "+0.500 (no interval)" in shown(greedy)
    sampled = [r | {"identical_to_baseline": None} for r in greedy]
    assert of("lossy", sampled)["tv_per_position"] is None
    assert "TV" not in shown(sampled)
    rounded, further = ((lambda p, slope=slope: QUALITY | {"argmax_share": 0.9 - slope * p}) for slope in (0, 0.01))
    records = pairs(4, lambda p: plain(p, quality=rounded(p)), lambda p: lossy(p, -1.0) | {"quality": further(p)})
    assert of("lossy", records)["tv_per_position"]["value"] == pytest.approx(0.115)
    assert "+0.015 [" in shown(records)
    same = shown([r | {"quality": QUALITY | {"argmax_share": 0.9}} for r in records])
    assert "no difference" in same
    assert "0.100" not in same


def apart(prompt: int, verdict: str | None, **changes):
    known = verdict and {"verdict": verdict}
    return record("m", prompt, ms={"verify": 70.0}, identical_to_baseline=False, first_divergence=known, **changes)


def test_outputs_that_differ_are_counted_by_what_explains_them() -> None:
    same = record("m", 0, ms={"verify": 70.0})
    verdicts = ["rounding", "rounding", "bug", "unchecked", None]
    records = [*map(plain, range(6)), same, *(apart(p, v) for p, v in enumerate(verdicts, 1))]
    counts = {"same": 1, "of": 6, "rounding": 2, "bug": 1, "unchecked": 2}
    assert of("m", records)["identical"].items() >= counts.items()
    expected = "m: 5 outputs differ from plain decoding's, 2 by rounding, 1 by more than rounding: please report it, "
    assert expected + "2 unchecked (the same: 17% [3%, 56%])" in shown(records)
    lossy_ones = [*map(plain, range(6)), *(apart(p, None, is_exact=False) for p in range(6))]
    counts = dict.fromkeys(("same", "rounding", "bug", "unchecked"), 0)
    assert of("m", lossy_ones)["identical"].items() >= counts.items()


@pytest.mark.parametrize("trials", [1, 7, 40])
def test_wilsons_interval_holds_the_shares_that_a_test_of_the_score_does_not_refuse(trials: int) -> None:
    for successes in range(trials + 1):
        low, high = wilson95(successes, trials)
        grid = np.linspace(0, 1, 10_001)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.abs(successes / trials - grid) / np.sqrt(grid * (1 - grid) / trials)
        kept = grid[(z <= NormalDist().inv_cdf(0.975)) | (grid == successes / trials)]
        assert (low, high) == pytest.approx((kept.min(), kept.max()), abs=2e-4)
    assert wilson95(0, 0) is None


def test_judge_and_tree_are_sums_over_rounds() -> None:
    slow = {"verify": 70.0}
    shape = {"depth": [2] * 4, "leaves": [3, 1, 1, 3], "pruned": [4, 0, 4, 0], "over_budget": [0, 6, 0, 2]}
    tree = {"tree": {"max_active_branches": 3}, "rounds": record("m")["rounds"] | shape}
    judge = {"judged": 3, "kept": 2, "fallbacks": 1}
    kinds = plain, lambda p: record("judged", p, ms=slow, judge=judge), lambda p: record("tree", p, ms=slow) | tree
    judged, trees, chain = (of(name, pairs(4, *kinds)) for name in ("judged", "tree", "baseline"))
    assert judged["judge"]["judged"] == 12
    assert judged["judge"]["judge_accept_rate"]["value"] == pytest.approx(2 / 3)
    assert judged["judge"]["target_fallback_rate"]["value"] == pytest.approx(1 / 16)
    assert {n: v["value"] for n, v in trees["tree"].items() if isinstance(v, dict)} == pytest.approx(
        {"nodes_per_round": 4, "depth": 2, "effective_parallelism": 2, "branch_prune_rate": 8 / 32}
    )
    assert trees["tree"]["max_active_branches"] == 3
    assert (judged["tree"], trees["judge"], chain["tree"], chain["judge"]) == (None,) * 4


def test_energy_is_told_only_where_all_of_it_was_counted() -> None:
    energy = {"energy_j": 13.0, "energy_net_j": 12.0, "energy_is_reliable": True}
    records = [plain(p, **energy) for p in range(4)]
    found = of("baseline", records)
    assert found["energy_j_per_token"] == pytest.approx(13 / 12)
    assert found["energy_net_j_per_token"] == pytest.approx(1)
    assert "J a token beyond idling: baseline 1" in shown(records)
    assert "not reliable" not in shown(records)
    short = [*records[:3], records[3] | {"energy_is_reliable": False}]
    assert "baseline 1; not reliable, of windows under 2 s" in shown(short)
    assert of("baseline", [*records[:3], plain(3)])["energy_j_per_token"] is None


def test_without_a_baseline_nothing_is_compared_and_nothing_breaks() -> None:
    found = of("m", [record("m")])
    assert (found["speedup"], found["compared_units"], found["closed_form"]) == (None, 0, None)
    skipped = record("m") | {"status": "skipped", "error": "takes one sequence at a time"}
    assert "m: skipped (takes one sequence at a time)" in shown([plain(), skipped])
