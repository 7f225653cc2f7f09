"""The histogram, its metrics against worked values and properties, and its file format."""

import gzip
import json
import math
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.ground.artefacts import UserError, created_utc
from simulator.ground.histogram import (
    DEFAULT_DESIGN_EFFECT,
    AcceptanceHistogram,
    alpha_iid,
    load_histogram,
    load_histograms,
    save_histogram,
    synthetic_acceptance,
    tokens_per_round_iid,
    variance,
)

counts = st.lists(st.floats(0, 1e6), min_size=2, max_size=12).filter(lambda c: sum(c) > 1e-3)


def test_metrics_of_a_worked_example() -> None:
    # 20 rounds of K = 4 with 40 accepted: tau = 3, rate = 1/2, survival by hand.
    histogram = AcceptanceHistogram((4, 4, 4, 4, 4))
    assert histogram.tokens_per_round == pytest.approx(3)
    assert histogram.draft_acceptance_rate == pytest.approx(0.5)
    assert histogram.survival == pytest.approx([0.8, 0.6, 0.4, 0.2])
    assert histogram.conditional == pytest.approx([0.8, 0.75, 2 / 3, 0.5])


@given(counts)
def test_law_is_a_distribution_and_survival_falls(values: list[float]) -> None:
    histogram = AcceptanceHistogram(tuple(values))
    assert histogram.law.sum() == pytest.approx(1)
    assert (np.diff(histogram.survival) <= 1e-12).all()
    assert histogram.tokens_per_round == pytest.approx(1 + histogram.survival.sum())
    assert np.cumprod(histogram.conditional) == pytest.approx(histogram.survival, abs=1e-9)


@given(counts, st.data())
def test_cutting_is_the_law_of_the_smaller_of_both(values: list[float], data: st.DataObject) -> None:
    histogram = AcceptanceHistogram(tuple(values))
    k = data.draw(st.integers(1, histogram.draft_length))
    expected = np.zeros(k + 1)
    for accepted, count in enumerate(values):
        expected[min(accepted, k)] += count
    assert histogram.cut(k).counts == pytest.approx(expected)
    assert histogram.cut(k).survival == pytest.approx(histogram.survival[:k])
    for outside in (0, len(values), -1):
        with pytest.raises(UserError, match=rf"expected 1\.\.{len(values) - 1}"):
            histogram.cut(outside)


@given(st.floats(0, 1), st.integers(1, 64))
def test_alpha_iid_inverts_tokens_per_round_which_are_a_sum_of_powers(alpha: float, k: int) -> None:
    tau = tokens_per_round_iid(alpha, k)
    assert tau == pytest.approx(sum(alpha**i for i in range(k + 1)), rel=1e-9)
    assert tokens_per_round_iid(alpha_iid(tau, k), k) == pytest.approx(tau, rel=1e-9)
    assert alpha_iid([0.5, 1, k + 1, k + 2], k) == pytest.approx([0, 0, 1, 1])


@given(counts)
def test_a_saved_histogram_reads_back_the_same(values: list[float]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "h.json"
        save_histogram(path, AcceptanceHistogram(tuple(values)), {"seed": 1})
        assert load_histogram(path).counts == pytest.approx(tuple(values))


BROKEN = {
    "[1]": "holds no histogram, expected",
    '{"total_drafts": 3}': "holds no histogram, expected",
    '{"spec": 1': "not JSON (line 1: Expecting ',' delimiter), expected {",
    "vllm:spec_decode_num_drafts 3": "what other tools write: measure-acceptance import FILE",
    '{"hist": {"0": 1}}': "k is missing, expected a whole number from 1 to 1024",
    '{"k": 0, "hist": {"0": 1}}': "k is 0",
    '{"k": 1025, "hist": {"0": 1}}': "k is 1025",
    '{"k": 4.5, "hist": {"0": 1}}': "k is 4.5",
    '{"k": 2, "hist": [1, 2, 3, 4]}': "hist.3 is not a key, expected '0' to '2' (k is 2)",
    '{"k": 2, "hist": 3}': "hist is 3, expected an object",
    '{"k": 2, "hist": {"3": 1}}': "hist.3 is not a key, expected '0' to '2' (k is 2)",
    '{"k": 2, "hist": {"01": 1}}': "hist.01 is not a key",
    '{"k": 2, "hist": {"-1": 1}}': "hist.-1 is not a key",
    '{"k": 2, "hist": {"0": -1, "1": 3}}': "hist.0 is -1, expected a number from 0 to 1e+30",
    '{"k": 2, "hist": {"0": null}}': "hist.0 is None",
    '{"k": 1, "hist": {"0": 1e308, "1": 1e308}}': "hist.0 is 1e+308, expected a number from 0 to 1e+30",
    '{"k": 1, "hist": {"0": 1}, "samples": 1' + 400 * "0" + "}": "samples is 1000",
    '{"k": 2, "hist": {}}': "every bucket is 0",
    '{"k": 2, "hist": {"0": 0, "1": 0}, "samples": 0}': "every bucket is 0",
    '{"k": 2, "hist": {"0": 1, "1": 2}, "samples": 4}': "samples is 4, expected 3, the sum of hist",
    '{"k": 2, "hist": {"0": 1}, "samples": "1"}': "samples is '1'",
    '{"kind": "acceptance_trace", "k": 2, "hist": {"0": 1}}': "kind is 'acceptance_trace'",
    '{"schema_version": 99, "k": 2, "hist": {"0": 1}}': "schema_version is 99, supported: 1",
}


def test_a_broken_file_is_named_with_key_and_value(tmp_path: Path) -> None:
    path = tmp_path / "broken.json"
    for text, message in BROKEN.items():
        path.write_text(text)
        with pytest.raises(UserError) as error:
            load_histogram(path)
        assert str(path) in str(error.value)
        assert message in str(error.value)
    (tmp_path / "binary").write_bytes(b"\x00\x01\x02\x03")
    for name, message in (("absent", "no such file"), ("binary", "binary data"), (".", "cannot be read")):
        with pytest.raises(UserError, match=message):
            load_histogram(tmp_path / name)


def test_a_list_counts_from_0_on_and_files_may_be_packed_or_in_utf16(tmp_path: Path) -> None:
    text, path = '{"k": 2, "hist": [1, 2, 3]}', tmp_path / "h"
    for content in (text.encode(), text.encode("utf-16"), gzip.compress(text.encode())):
        path.write_bytes(content)
        assert load_histogram(path).counts == (1, 2, 3)


RATES = {"1": 0.72, "2": 0.55, "3": 0.42, "4": 0.33}
LAW = {"0": 0.29, "1": 0.177, "2": 0.133, "3": 0.1, "4": 0.3}
OF_RATES = [0.28, 0.17, 0.13, 0.09, 0.33]


def read_as(path: Path, hist: dict[str, float], stated: str | None = None, **more: object) -> AcceptanceHistogram:
    path.write_text(json.dumps({"k": 4, "hist": hist} | more))
    return load_histogram(path, stated)


def test_probabilities_percent_and_rates_are_told_from_counts_or_refused(tmp_path: Path) -> None:
    path = tmp_path / "h.json"
    percent = {a: 100 * share for a, share in LAW.items()}
    for hist in (LAW, percent):
        found = read_as(path, hist)
        assert found.is_law
        assert found.counts == pytest.approx(tuple(LAW.values()))
    # Shares of a known number of rounds are counts.
    found = read_as(path, LAW, samples=1000)
    assert not found.is_law
    assert found.counts == pytest.approx((290, 177, 133, 100, 300))
    for hist in (RATES, {"0": 1.0, **RATES}, {a: 100 * rate for a, rate in RATES.items()}):
        for stated, more in (("rates", {}), (None, {"as": "rates"})):
            found = read_as(path, hist, stated, **more)
            assert found.is_law
            assert found.counts == pytest.approx(OF_RATES)
            assert found.tokens_per_round == pytest.approx(1 + sum(RATES.values()))
    # A list of K of them begins with the first position, one of K + 1 with all rounds.
    path.write_text(json.dumps({"k": 4, "hist": list(RATES.values())}))
    assert load_histogram(path, "rates").counts == pytest.approx(OF_RATES)
    path.write_text(json.dumps({"k": 4, "hist": [1, *RATES.values()], "as": "rates"}))
    assert load_histogram(path).counts == pytest.approx(OF_RATES)
    shares = {"1": 0.6, "2": 0.2, "3": 0.1, "4": 0.1}  # of rounds that all accepted, or rates
    assert read_as(path, shares, "probabilities").tokens_per_round == pytest.approx(2.7)
    percent = {"1": 72.5, "2": 55.1, "3": 42.0, "4": 33.0}
    for hist in (RATES, {"0": 1.0, **RATES}, shares, percent, {"0": 100, **percent}):
        with pytest.raises(UserError, match=r'looks like rates .*expected .*"as": "rates" or "probabilities"'):
            read_as(path, hist)
    for hist, stated, message in (
        (LAW, "rates", "hist.0 is 0.29, expected no such key, or 1"),
        ({"1": 0.5, "2": 0.6}, "rates", "position 2 is 0.6, above 0.5"),
        (RATES, "probabilities", "hist sums to 2.02, expected probabilities that sum to 1"),
        ({"0": 0.5, "1": 0.9}, None, "neither counts nor probabilities"),
        ({"0": 0.5, "1": 0.9}, "counts", None),
        ({"0": 3, "1": 2}, "oops", "as is 'oops', expected 'counts' or 'probabilities' or 'rates'"),
    ):
        more = {"as": stated} if stated == "oops" else {}
        if message is None:
            assert not read_as(path, hist, stated).is_law
            continue
        with pytest.raises(UserError, match=message) as error:
            read_as(path, hist, None if more else stated, **more)
        assert str(error.value).count(str(path)) == 1


def test_whole_numbers_are_counts_and_say_so_where_they_can_be_percent(tmp_path: Path) -> None:
    path = tmp_path / "h.json"
    hundred, falling = {"0": 29, "1": 18, "2": 13, "3": 10, "4": 30}, {"1": 72, "2": 55, "3": 42, "4": 33}
    survival = {"0": 100, **falling}
    for hist, hint in ((hundred, "--as probabilities"), (falling, "--as rates"), (survival, "--as rates")):
        found = read_as(path, hist)
        assert not found.is_law
        assert hint in found.caveat
        assert read_as(path, hist, "counts").caveat == ""
        assert read_as(path, hist, samples=sum(hist.values())).caveat == ""
    for plain in (
        {"0": 20, "1": 30, "2": 5},
        {"0": 1, "1": 0},
        {"0": 100, "1": 20, "2": 30},
        {"0": 90, "1": 20, "2": 3},
    ):
        assert read_as(path, plain).caveat == ""
    # Ours are counts, expectations among them, unless they say otherwise.
    save_histogram(path, AcceptanceHistogram((0.4, 0.6)), {})
    assert not load_histogram(path).is_law
    save_histogram(path, AcceptanceHistogram((0.4, 0.6), is_law=True), {})
    assert load_histogram(path).is_law


def test_what_our_own_files_say_of_themselves_is_checked(tmp_path: Path) -> None:
    path = tmp_path / "h.json"
    save_histogram(path, AcceptanceHistogram((1, 2)), {"prompt_count": 3, "target": "t", "draft": "d"})
    good = json.loads(path.read_text())
    assert load_histogram(path).prompts == 3
    for changes, message in (
        ({"parameters": 3}, "parameters is 3, expected an object"),
        ({"parameters": {"prompt_count": -1}}, "parameters.prompt_count is -1, expected a whole number"),
        ({"parameters": {"target": 7}}, "parameters.target is 7, expected text"),
        ({"metrics": [1]}, r"metrics is \[1\], expected an object"),
        ({"metrics": {"ci95": {"tokens_per_round": [1]}}}, r"tokens_per_round is \[1\], expected two numbers"),
        ({"metrics": {"ci95": {"tokens_per_round": [2, "3"]}}}, r"tokens_per_round\[1\] is '3', expected a number"),
        ({"metrics": {"steps_without_draft": -4}}, "steps_without_draft is -4, expected a number"),
        ({"reconstructed": "no"}, "reconstructed is 'no', expected true or false"),
    ):
        path.write_text(json.dumps(good | changes))
        with pytest.raises(UserError, match=message):
            load_histogram(path)


def test_our_files_carry_their_provenance(tmp_path: Path) -> None:
    path = tmp_path / "h.json"
    save_histogram(path, AcceptanceHistogram((1, 2.5)), {"seed": 7}, metrics={"alpha": 0.5})
    found = json.loads(path.read_text())
    assert found["hist"] == {"0": 1, "1": 2.5}
    assert found["samples"] == 3.5
    assert {"kind", "schema_version", "tool", "tool_version", "created_utc", "environment"} <= found.keys()
    assert found["parameters"] == {"seed": 7}
    assert list(found) == sorted(found)


def test_a_folder_holds_one_histogram_for_each_k(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no accept_hist_k"):
        load_histograms(tmp_path)
    for k in (2, 1, 10):
        save_histogram(tmp_path / f"accept_hist_k{k}.json", AcceptanceHistogram((1,) * (k + 1)), {})
    assert sorted(h.draft_length for h in load_histograms(tmp_path)) == [1, 2, 10]
    save_histogram(tmp_path / "accept_hist_k2_again.json", AcceptanceHistogram((1, 2, 3)), {})
    with pytest.raises(UserError, match=r"k is 2, as in .*expected one file for each k"):
        load_histograms(tmp_path)
    # One that mixes measurements.
    for k, temperature in ((1, 0.0), (2, 1.0)):
        parameters = {"k": k, "temperature": temperature}
        save_histogram(tmp_path / f"accept_hist_k{k}.json", AcceptanceHistogram((1,) * (k + 1)), parameters)
    with pytest.raises(UserError, match=r"temperature is 1\.0, but 0\.0 in .*accept_hist_k1\.json"):
        load_histograms(tmp_path)


def test_a_wrong_clock_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for epoch in ("soon", "9" * 20):
        monkeypatch.setenv("SOURCE_DATE_EPOCH", epoch)
        with pytest.raises(UserError, match=f"SOURCE_DATE_EPOCH: '{epoch}' is not a time"):
            created_utc()


def error_of(histogram: AcceptanceHistogram) -> float:
    """Standard error of the mean accepted tokens."""
    return math.sqrt(histogram.design_effect * variance(histogram.law) / histogram.samples)


def test_the_error_of_independent_rounds_is_that_of_their_mean() -> None:
    rounds = np.repeat(np.arange(5), (20, 10, 10, 10, 50))
    histogram = AcceptanceHistogram((20, 10, 10, 10, 50))
    assert error_of(histogram) == pytest.approx(rounds.std() / np.sqrt(100))
    assert error_of(histogram.cut(2)) == pytest.approx(np.minimum(rounds, 2).std() / np.sqrt(100))
    assert error_of(AcceptanceHistogram((0, 7))) == 0


def read(tmp_path: Path, counts: list[float], metrics: object, **more: object) -> AcceptanceHistogram:
    path = tmp_path / "h.json"
    hist = {str(accepted): count for accepted, count in enumerate(counts)}
    path.write_text(json.dumps({"k": len(counts) - 1, "hist": hist, "metrics": metrics} | more))
    return load_histogram(path)


def interval(low: float, high: float) -> dict[str, object]:
    return {"ci95": {"tokens_per_round": [low, high]}}


def test_a_file_with_an_interval_has_its_design_effect(tmp_path: Path) -> None:
    counts = [20, 10, 10, 10, 50]
    independent = error_of(AcceptanceHistogram(tuple(counts)))
    for times in (0, 0.5, 1, 1.5, 3):
        half = 1.959964 * times * independent
        found = read(tmp_path, counts, interval(3.6 - half, 3.6 + half))
        # One that is narrower than that of independent rounds is not believed.
        assert found.design_effect == pytest.approx(max(times, 1) ** 2)
        assert error_of(found) == pytest.approx(max(times, 1) * independent)
        # Shorter drafts of the same rounds are as much alike.
        assert found.cut(2).design_effect == found.design_effect


def test_rounds_of_too_few_prompts_for_an_interval_count_as_one_a_prompt(tmp_path: Path) -> None:
    for parameters, prompts in (({"prompt_count": 3}, 3), ({}, 1), ({"prompt_count": "3"}, 1)):
        found = read(tmp_path, [30, 60], {"ci95": {"tokens_per_round": None}}, parameters=parameters)
        assert found.design_effect == 90 / prompts
        assert error_of(found) == pytest.approx(np.sqrt(2 / 9 / prompts))


def test_prompts_of_equal_rounds_count_as_one_round_each(tmp_path: Path) -> None:
    # 60 prompts of 25 rounds, all rounds of a prompt alike: the error is that of 60 rounds, not of 1500.
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, 5, 60)
    means = prompts[rng.integers(0, 60, (20_000, 60))].mean(1)
    found = read(tmp_path, (25 * np.bincount(prompts)).tolist(), interval(*1 + np.quantile(means, (0.025, 0.975))))
    assert found.design_effect == pytest.approx(25, rel=0.1)
    assert error_of(found) == pytest.approx(prompts.std() / np.sqrt(60), rel=0.05)


def test_without_a_usable_interval_rounds_are_as_alike_as_the_default_says(tmp_path: Path) -> None:
    odd = [{"ci95": {"tokens_per_round": value}} for value in ([3], ["2", "3"], {})]
    for metrics in (None, 3, {}, {"ci95": 3}, {"ci95": {}}, *odd):
        assert read(tmp_path, [1, 0, 0, 0, 2], metrics).design_effect == DEFAULT_DESIGN_EFFECT
    # Rounds that are all alike have none.
    assert read(tmp_path, [0, 0, 0, 0, 9], interval(5, 5)).design_effect == 1


@given(counts)
def test_engines_are_told_the_rates_and_length_of_the_histogram(values: list[float]) -> None:
    histogram = AcceptanceHistogram(tuple(values))
    found = synthetic_acceptance(histogram.survival.tolist(), histogram.tokens_per_round)
    vllm = found["vllm"]
    rates = vllm["synthetic_acceptance_rates"]
    # Unconditional rates: they never rise, and one plus their sum is the mean length.
    assert all(1 >= a >= b >= 0 for a, b in pairwise(rates))
    assert 1 + sum(rates) == pytest.approx(found["mean_length"])
    assert vllm["num_speculative_tokens"] == len(rates) == histogram.draft_length
    whole = found["tensorrt_llm"]["TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS"]
    assert whole is None or (whole >= 1 and abs(whole + 1 - histogram.tokens_per_round) <= 0.5 + 1e-9)
