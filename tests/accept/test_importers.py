"""Importers: simulated rounds written as each tool writes them come back as the histogram that they had.

Long because what each tool may leave out, round or contradict is a case of its own.
"""

import gzip
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acceptance.cli import import_histogram as import_cli
from acceptance.importers.by_hand import import_rates
from acceptance.importers.formats import FORMATS, LIFETIME, import_histogram, recognised
from simulator.ground.artefacts import UserError

from .tool_files import (
    MAIN,
    RUNS,
    TWENTY,
    K,
    Round,
    aiperf_record,
    aiperf_totals,
    bench_result,
    counts_of,
    eagle_line,
    log_line,
    prometheus,
    sglang_response,
    simulate,
    spec_bench_line,
    statistics,
    totals_of,
    vllm_response,
    write,
    written,
)

# The formats whose files tell how many rounds accepted how much, and the one that tells a mean alone.
EXACT = [tool for tool in FORMATS if tool != "eagle"]
EVERY = [r for run in RUNS for r in run]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def check(
    tool: str, path: Path, counts: Any, *says: str, k: int | None = None, skipped: Sequence[int] = (), apart: int = 0
) -> None:
    """Check the histogram, the lines that were skipped, the rounds that were counted apart, and what is said.

    That is in the definition, the notes and the reasons to skip, from the beginning of a word on.
    """
    found = import_histogram(tool, path, k=k)
    assert list(found.histogram.counts) == counts
    assert not found.reconstructed
    assert "RECONSTRUCTED" not in found.definition
    assert (found.rounds_apart, [s.line for s in found.skipped]) == (apart, list(skipped))
    said = " ".join(["", found.definition, *found.notes, *(s.reason for s in found.skipped)])
    for text in says:
        assert f" {text}" in said


def assert_one_line(error: object, path: Path) -> None:
    """Check for one line that names the file."""
    assert str(path) in str(error)
    assert "\n" not in str(error)


def assert_refused(tool: str, path: Path, message: str, **options: Any) -> None:
    with pytest.raises(UserError, match=message) as error:
        import_histogram(tool, path, **options)
    assert_one_line(error.value, path)


@pytest.mark.parametrize("tool", EXACT)
def test_simulated_rounds_come_back_and_another_draft_length_is_refused(path: Path, tool: str) -> None:
    write(path, *written(tool, RUNS))
    found = import_histogram(None, path)
    # TensorRT-LLM's choices hold what vLLM's responses hold.
    assert found.format == recognised(path) == {"trtllm": "vllm-requests"}.get(tool, tool)
    assert list(found.histogram.counts) == counts_of(EVERY)
    for k in (None, K):
        check(tool, path, counts_of(EVERY), f"K = {K} is ", k=k)
        assert import_histogram(tool, path, k=k).definition.endswith(".")
    assert_refused(tool, path, r"--k is 3", k=3)
    if tool not in ("spec-bench", "sglang"):
        assert_refused(tool, path, r"draft length is 4 .* --k is 5", k=5)
    if tool not in LIFETIME:
        assert_refused(tool, path, "--before", before=path)


# Section 1 of the design: 20 rounds, 3 tokens a round, under each tool's own definition.


def test_twenty_rounds_of_three_tokens_are_three_tokens_whatever_the_tool_calls_them(path: Path) -> None:
    assert totals_of(TWENTY) == (20, 80, 40)
    assert bench_result(TWENTY)["spec_decode_acceptance_length"] == 3.0
    assert sglang_response(TWENTY)["meta_info"]["spec_accept_length"] == pytest.approx(3.05)
    assert np.mean(spec_bench_line(TWENTY)["choices"][0]["accept_lengths"]) == 3.0
    for tool in EXACT:
        found = import_histogram(tool, write(path, *written(tool, [TWENTY])))
        assert list(found.histogram.counts) == [5, 3, 4, 3, 5]
        assert found.histogram.tokens_per_round == pytest.approx(3.0)
        assert found.histogram.tokens_per_round - 1 == pytest.approx(2.0)  # gpt-fast's and EAGLE's count
        assert found.histogram.draft_acceptance_rate == pytest.approx(0.5)
        assert not any("in no round" in note for note in found.notes)


# vllm-metrics

METRICS = prometheus(TWENTY)
ODD = 'engine="1",model_name="m",pod="a \\"quoted\\" {name}, position=9"'
BROKEN_COUNTERS = [
    ("drafts_total{", "oops_total{", "no spec_decode_num_drafts beside"),
    *(("} 20.0", "} " + value, "no whole number") for value in ("NaN", "-20", "20.5", "1e99", "+Inf")),
    ("} 20.0", "} " + "9" * 400, "not a sample"),
    ("} 20.0", "} 1_0", "Invalid value"),
    ("} 20.0", "}", "not a sample"),
    ("} 20.0", "} 19\n" + METRICS.split("\n")[2], "appears twice"),
    ("} 80.0", "} 39", "40 tokens accepted, but 39 drafted"),
    ("} 80.0", "} 81", "4 positions each"),
    ("} 15.0", "} 21", "position 0 accepted 21 tokens, but drafts are 20"),
    ("} 15.0", "} 11", "position 1 accepted 12 tokens, but those of position 0 are 11"),
    ('position="2"', 'position="9"', "do not run from 0 on"),
    ('position="2"', 'position="x\n"', "line 10"),
    ('engine="0",', 'engine="0" ', "Invalid labels"),
    ('engine="0",', 'model_name="0",', "Invalid labels"),
    ("vllm:", "tgi:", r"holds no vllm:spec_decode_num_\* counter \(\d+ other samples\)"),
]


def test_counters_are_summed_and_what_they_leave_open_noted_or_refused(path: Path) -> None:
    for total in ("", "_total"):
        engines = [prometheus(RUNS[0], total=total), prometheus(RUNS[1], ODD, total=total)]
        write(path, *engines, prometheus([], 'engine="2",model_name="m"', total=total))
        check("vllm-metrics", path, counts_of(RUNS[0] + RUNS[1]), "2 engines", "since the server started")
    # Counters may be read while they change.
    rounds = simulate(400)
    accepted, text = sum(r.accepted for r in rounds), prometheus(rounds)
    write(path, text.replace(f"}} {float(accepted)}", f"}} {accepted + 2}"))
    check("vllm-metrics", path, counts_of(rounds), f"{accepted + 2}")
    write(path, text.replace(f"}} {float(accepted)}", f"}} {accepted // 2}"))
    assert_refused("vllm-metrics", path, r"the positions accepted .* but the accepted count is")
    # 5 drafts are missing: two rounds at the least, five at the most.
    write(path, prometheus([*TWENTY, *TWENTY, Round(2, 2), Round(1, 0)]))
    check("vllm-metrics", path, [11, 6, 9, 6, 10], "2 to 5 of 42 rounds drafted fewer than 4 tokens")
    write(path, METRICS, prometheus([Round(2, 1)], 'engine="1"', k=2))
    assert_refused("vllm-metrics", path, "engines draft 2 and 4 tokens")
    found = import_histogram(None, write(path, bench_result(TWENTY) | {"model_id": "a/B-1"}))
    assert found.model == "a/B-1"
    found = import_histogram(
        None, write(path, *(vllm_response(r) | {"model": m} for r, m in zip(RUNS, "aab", strict=True)))
    )
    assert found.model == ""
    # One model is named, several are refused; one that never drafted is none.
    other = 'engine="1",model_name="b/M-2"'
    assert import_histogram(None, write(path, METRICS, prometheus([], other))).model == "m"
    write(path, METRICS, prometheus(RUNS[1], other))
    assert_refused("vllm-metrics", path, "model_name is 'b/M-2' and 'm', expected the counters of one model")
    for old, new, message in BROKEN_COUNTERS:
        assert_refused("vllm-metrics", write(path, METRICS.replace(old, new)), message)


def test_an_earlier_file_is_subtracted(tmp_path: Path) -> None:
    warm, measured = simulate(30, seed=3), simulate(60, seed=4)
    before = write(tmp_path / "before.txt", prometheus(warm), "<html>\n")
    after = write(tmp_path / "after.txt", "oops {\n", prometheus(warm + measured), prometheus(warm, 'engine="1"'))
    found = import_histogram("vllm-metrics", after, before=before)
    assert list(found.histogram.counts) == counts_of(warm + measured)  # engine 1 is new: all was counted in between
    assert [s.line for s in found.skipped] == [1, 12]
    assert str(before) in found.skipped[1].reason
    assert not any("since the server started" in note for note in found.notes)
    assert_refused("vllm-metrics", before, r"--before .*after.txt: .* there and is", before=after)
    assert_refused("vllm-metrics", write(after, before.read_text()), "drafts is 0", before=before)
    write(after, prometheus(measured, 'engine="1"'))
    assert_refused("vllm-metrics", after, "there and is not in", before=before)


def test_a_server_that_was_started_anew_counts_from_its_start(tmp_path: Path) -> None:
    earlier, later = simulate(30, seed=3), simulate(60, seed=4)
    before, after = tmp_path / "before.txt", tmp_path / "after.txt"
    # The process tells, or the counters: those that are written here are of 1.781341706e9 s.
    for started, anew in (("process_start_time_seconds 1.7812e+09\n", "781341706"), ("", "781351706")):
        write(before, started, prometheus(earlier))
        write(after, started.replace("7812", "7813"), prometheus(later).replace("781341706", anew))
        found = import_histogram("vllm-metrics", after, before=before)
        assert list(found.histogram.counts) == counts_of(later)
        assert any("started anew after" in note for note in found.notes)
        assert "since the server started" in found.definition
        assert_refused("vllm-metrics", before, "--before .*is of a later start", before=after)
    # Of two engines the one that was started anew.
    other = 'engine="1",model_name="m"'
    write(before, prometheus(earlier), prometheus(earlier, other))
    write(after, prometheus(later + earlier), prometheus(later, other).replace("781341706", "781351706"))
    found = import_histogram("vllm-metrics", after, before=before)
    assert list(found.histogram.counts) == counts_of(later + later)


def test_decode_steps_without_a_draft_are_counted_apart(tmp_path: Path) -> None:
    # 20 rounds accept 40; 3 requests and 25 steps without a draft make 3 + 20 + 40 + 25 tokens.
    def scrape(rounds: list[Round], generated: int, finished: int) -> str:
        text = f"vllm:generation_tokens_total{{{MAIN}}} {generated}\n"
        for reason, count in (("stop", 1), ("length", finished - 1)):
            text += f'vllm:request_success_total{{{MAIN},finished_reason="{reason}"}} {count}\n'
        return prometheus(rounds) + text

    before = write(tmp_path / "before.txt", scrape(RUNS[0], 500, 5))
    after = write(tmp_path / "after.txt", scrape(RUNS[0] + TWENTY, 588, 8))
    found = import_histogram("vllm-metrics", after, before=before)
    assert found.steps_without_draft == 25
    assert found.histogram.tokens_per_round == pytest.approx(3)
    # 60 tokens of 20 rounds and 25 of one each: 85 in 45 steps.
    assert "at least 25 decode steps (55.6% of all)" in found.notes[-1]
    assert f"at most {85 / 45:.3f} a decode step" in found.notes[-1]
    # Accepted drafts behind the end of a sequence are counted, though nobody gets them.
    write(after, scrape(RUNS[0] + TWENTY, 500 + 3 + 20 + 33, 8))
    found = import_histogram("vllm-metrics", after, before=before)
    assert found.steps_without_draft == 0
    assert any("at least 7 of the accepted tokens were never emitted" in note for note in found.notes)
    # Requests that still run had their prefill's token too.
    running = scrape(RUNS[0] + TWENTY, 588, 8).replace(f"running{{{MAIN}}} 3.0", f"running{{{MAIN}}} 5.0")
    assert import_histogram("vllm-metrics", write(after, running), before=before).steps_without_draft == 23
    assert import_histogram("vllm-metrics", write(after, METRICS)).steps_without_draft is None


def test_counters_that_count_no_drafts_need_the_draft_length(path: Path) -> None:
    # vLLM issue 7301, of a server with K = 4; accepted counts matches after a rejection too.
    v0 = {"accepted_tokens": 32594, "draft_tokens": 53716, "emitted_tokens": 34244}
    words = ("accepted", "draft", "emitted")
    said = ", ".join(f"Number of {word} tokens: {v0[f'{word}_tokens']}" for word in words)
    log = f"INFO metrics.py:373] Speculative metrics: Draft acceptance rate: 0.607, {said}.\n"
    halved = log.replace("53716", "26858").replace("34244", "17000")
    counted = [f"vllm:spec_decode_num_{name}_total {value}\n" for name, value in v0.items()]
    for tool, content in (("vllm-metrics", counted), ("vllm-log", [halved, log])):
        write(path, *content)
        assert_refused(tool, path, r"no drafts, .* expected --k as well: num_speculative_tokens")
        found = import_histogram(tool, path, k=4)
        assert found.histogram.samples == pytest.approx(53716 / 4)
        assert found.histogram.tokens_per_round == pytest.approx(34244 / (53716 / 4))
        assert_refused(tool, path, r"0\.\d+ tokens a round, expected 1 to 2 with --k 1", k=1)
    named = log.replace("Number of accepted", "Number of speculative tokens: 4, Number of accepted")
    assert import_histogram("vllm-log", write(path, named)).histogram.draft_length == 4
    assert_refused("vllm-log", path, "draft length is 4 in this file, but --k is 3", k=3)
    assert_refused("vllm-log", write(path, log, halved), "fall from line to line", k=4)
    # 0.8 counts as today, without the drafts: 20 rounds of 4 accept 40.
    counted = [
        f"vllm:spec_decode_num_{name}_total {n}\n" for name, n in (("draft_tokens", 80), ("accepted_tokens", 40))
    ]
    for tool, content in (
        ("vllm-metrics", counted),
        ("vllm-log", [log_line(TWENTY[:9], words="0.8"), log_line(TWENTY[9:], words="0.8")]),
    ):
        write(path, *content)
        assert_refused(tool, path, "expected --k as well: num_speculative_tokens")
        found = import_histogram(tool, path, k=4)
        assert (found.histogram.samples, found.histogram.tokens_per_round) == pytest.approx((20, 3))


def test_lines_of_a_log_are_summed_whatever_release_words_them(path: Path) -> None:
    idle = "INFO SpecDecoding metrics: Draft acceptance rate: nan%, Accepted: 0 tokens, Drafted: 0 tokens\n"
    for words in ("today", "0.9"):
        # Engines write lines of their own; colours, containers and traffic come in between.
        lines = [log_line(run, words=words) for run in RUNS]
        lines[1] = f'{{"log":"\x1b[36m{lines[1].strip()}\\n","stream":"stderr"}}\n'
        write(path, "INFO Started\n", *lines, idle, "INFO SpecDecoding metrics: Accepted: many\n")
        check("vllm-log", path, counts_of(EVERY), "lines that are summed: 3", skipped=[6])
        assert import_histogram("vllm-metrics", path).format == "vllm-log"
        assert recognised(write(path, lines[1])) == "vllm-log"
    # Rates of many rounds are rounded, as is their sum.
    rounds = simulate(3000)
    found = import_histogram("vllm-log", write(path, log_line(rounds)))
    assert found.histogram.samples == 3000
    assert found.histogram.tokens_per_round == pytest.approx(1 + sum(r.accepted for r in rounds) / 3000, abs=2e-3)
    # Shorter drafts: the rates tell how many rounds there were.
    short = [*TWENTY * 5, *[Round(2, 1)] * 5]
    check("vllm-log", write(path, log_line(short)), counts_of(short), "3 to 10 of 105 rounds drafted fewer than 4")
    write(path, log_line(TWENTY), log_line([Round(2, 1)] * 4, k=2))
    assert_refused("vllm-log", path, "lines have 2 and 4 positions, expected --k 2 or --k 4")
    check("vllm-log", path, counts_of(TWENTY), "4 rounds of lines with other draft lengths", k=4)
    for old, new, message in (
        ("Accepted: 40", "Accepted: 81", "rate|81"),
        ("length: 3.00", "length: 2.00", "mean acceptance length 2, but its counts make 3"),
        ("0.750", "1.750", "not between 0 and 1"),
        ("Drafted: 80", "Drafted: x", "no number of drafted"),
    ):
        assert_refused("vllm-log", write(path, log_line(TWENTY).replace(old, new)), message)
    assert_refused("vllm-log", write(path, idle), "no line drafted a token")


def test_a_draft_length_that_changed_is_picked(path: Path) -> None:
    # Most rounds draft one token: positions 1 and 2 were mostly never drafted.
    rounds = [Round(1, 1)] * 60 + [Round(1, 0)] * 30 + [Round(3, 3)] * 6 + [Round(3, 0)] * 4
    write(path, prometheus(rounds, k=3))
    assert_refused("vllm-metrics", path, r"at least 60% of 100 drafts were shorter than their 3 positions.*--k 1")
    check("vllm-metrics", path, [34, 66], "the first of 3 positions", k=1)
    check("vllm-metrics", path, [34, 60, 6], "up to 90 of 100 drafts were shorter than 2", k=2)
    check("vllm-metrics", path, [34, 60, 0, 6], "60 to 100 of 100 rounds drafted fewer than 3", k=3)
    for level in ("by_length", "detailed"):
        write(path, vllm_response(rounds, 3, level))
        assert_refused("vllm-requests", path, "changed: 1 in 90, 3 in 10 rounds, expected --k 1 or --k 3")
        check("vllm-requests", path, [30, 60], "10 rounds that drafted other lengths are left out", k=1, apart=10)
        check("vllm-requests", path, [4, 0, 0, 6], k=3, apart=90)
        assert_refused("vllm-requests", path, "draft length is 3 in this file, but --k is 2", k=2)
    write(path, vllm_response(rounds, 3, "summary"))
    assert_refused("vllm-requests", path, "at least 60 of 100 rounds drafted fewer than 3 tokens")
    check("vllm-requests", path, [34, 60, 0, 6], "60 to 100 of 100 rounds", k=3)


# vllm-requests

# Of vLLM's documentation.
DOCUMENTED = {"acceptance_histogram": [39, 1, 0, 3], "num_spec_steps": 43, "num_accepted_draft_tokens": 10}
DOCUMENTED |= {"mean_acceptance_length": 1.2325581395348837, "draft_acceptance_rate": 0.07751937984496124}
RESPONSE = {"metrics": {"speculative_decoding": DOCUMENTED | {"num_draft_tokens": 129, "num_spec_tokens": 3}}}


def test_responses_of_vllm_are_summed_and_shorter_drafts_apart(path: Path) -> None:
    check("vllm-requests", write(path, json.dumps([RESPONSE] * 2, indent=2)), [78, 2, 0, 6])
    check("vllm-requests", write(path, json.dumps(RESPONSE, indent=2)), [39, 1, 0, 3])
    found = import_histogram("vllm-requests", path).histogram
    assert found.tokens_per_round == pytest.approx(DOCUMENTED["mean_acceptance_length"])
    assert found.draft_acceptance_rate == pytest.approx(DOCUMENTED["draft_acceptance_rate"])
    short = [Round(3, 3), Round(1, 0), Round(0, 0), Round(2, 1)]
    for level in ("by_length", "detailed"):
        write(path, *(vllm_response(run + short, level=level) for run in RUNS))
        check(
            "vllm-requests", path, counts_of(EVERY), "9 rounds that drafted other", "at least 3 decode steps", apart=12
        )
    # Of each request 1 + 3 + 4 + 2 drafts are missing: 30 in all.
    write(path, *(vllm_response(run + short, level="summary") for run in RUNS))
    check("vllm-requests", path, counts_of(EVERY + 3 * short), "8 to 30 of 132 rounds drafted fewer than 4 tokens")
    good = json.dumps(vllm_response(TWENTY))
    lines = [good, "{", "", '{"metrics": {"speculative_decoding": null}}', '{"metrics": null}', "[]", good]
    check("vllm-requests", write(path, "\r\n".join(lines)), [10, 6, 8, 6, 10], "n > 1", skipped=[2, 4, 5, 6])
    write(path, vllm_response(TWENTY), vllm_response([Round(2, 1)], k=2))
    assert_refused("vllm-requests", path, "draft length is 2 on line 2, but 4 on line 1")
    empty = dict.fromkeys(("num_spec_steps", "num_accepted_draft_tokens", "num_draft_tokens"), 0)
    empty |= {"acceptance_histogram": [0] * 5, "num_spec_tokens": 4}
    write(path, {"metrics": {"speculative_decoding": empty}})
    assert_refused("vllm-requests", path, "counts no round that drafted 4 tokens")


# vllm-bench


def test_appended_results_are_summed_and_rounding_noted(path: Path) -> None:
    check("vllm-bench", write(path, *map(bench_result, RUNS)), counts_of(EVERY), "percentage", "3 results")
    rounded = {"spec_decode_per_position_acceptance_rates": [0.7503, 0.5999, 0.40013, 0.2499]}
    expected = pytest.approx([749.1, 451.2, 599.31, 450.69, 749.7])
    check("vllm-bench", write(path, bench_result(TWENTY * 150) | rounded), expected, "rounded")
    write(path, bench_result(TWENTY), bench_result([Round(2, 1)], k=2))
    assert_refused("vllm-bench", path, "2 and 4 positions")
    # What the command prints at its end says the same, rates in percent to two digits.
    text = "Successful requests: 20\n---------------Speculative Decoding---------------\nAcceptance rate (%):  50.00\n"
    text += "Acceptance length:        3.00\nDrafts:   20\nDraft tokens:    80\nAccepted tokens:  40\n"
    text += "Per-position acceptance (%):\n  Position 0:   75.00 \n  Position 1:  60.00\n  Position 2:  40.00\n"
    assert import_histogram(None, write(path, text + "  Position 3:    25.00\n====\n")).format == "vllm-bench"
    check("vllm-bench", path, [5, 3, 4, 3, 5])
    assert_refused("vllm-bench", write(path, text + "  Position 3:    35.00\n"), "positions accepted 42 tokens in all")


# sglang

# From SGLang's pull request 33518: the last round was cut, so completion_tokens alone would say 62 accepted.
REPORTED = {"spec_accept_rate": 0.2930232558139535, "spec_accept_length": 2.4651162790697674, "spec_verify_ct": 43}
REPORTED |= {"spec_num_correct_drafts": 63, "spec_num_proposed_drafts": 215}
REPORTED |= {"spec_correct_drafts_histogram": [11, 14, 11, 4, 0, 3]}
EARLIER = {"spec_verify_ct": 3, "spec_accept_token_num": 2, "spec_draft_token_num": 9, "spec_accept_histogram": [1, 2]}


def test_the_fields_of_sglang_wherever_they_stand(path: Path) -> None:
    details = {"spec_tokens_details": REPORTED}
    for response in (
        {"meta_info": REPORTED | {"completion_tokens": 106}},
        {"sglext": details, "usage": {"completion_tokens": 106}, "choices": [{}]},
        {"choices": [{"meta_info": REPORTED}], "sglext": details},
        REPORTED,
    ):
        check("sglang", write(path, response), [11, 14, 11, 4, 0, 3])
    rate = import_histogram("sglang", path).histogram.draft_acceptance_rate
    assert rate == pytest.approx(REPORTED["spec_accept_rate"])
    write(path, {"choices": [{"meta_info": EARLIER}] * 2})  # choices are requests
    check("sglang", path, [2, 4, 0, 0], "K = 3 is inferred from the drafted tokens a round")
    unspeculative = {"meta_info": {"completion_tokens": 61, "spec_verify_ct": 20}}
    write(path, unspeculative, sglang_response(TWENTY), {"text": "no speculation"})
    check("sglang", path, [5, 3, 4, 3, 5], skipped=[1, 3])
    write(path, {"meta_info": {"spec_verify_ct": 0, "completion_tokens": 1}})
    assert_refused("sglang", path, "spec_verify_ct is 0 in all records", k=3)
    # An early release counted n-gram drafts one too few wherever one was accepted: 15 of these 20 rounds.
    response = sglang_response([Round(K, max(0, r.accepted - 1)) for r in TWENTY])
    write(path, {"meta_info": response["meta_info"] | {"completion_tokens": 61}})
    check("sglang", path, [8, 4, 3, 5, 0], "15 tokens are in no round")


def test_no_draft_is_longer_than_any_engine_drafts(path: Path) -> None:
    response = sglang_response(TWENTY)
    response["meta_info"] |= {"spec_num_proposed_drafts": 10**12}
    del response["meta_info"]["spec_accept_rate"]
    assert_refused("sglang", write(path, response), "the drafted tokens a round is 50000000000, expected at most 1024")


def test_a_tree_keeps_the_depth_that_is_given(path: Path) -> None:
    write(path, {"meta_info": REPORTED | {"spec_num_proposed_drafts": 43 * 15, "spec_accept_rate": 63 / 645}})
    counts = REPORTED["spec_correct_drafts_histogram"]
    check("sglang", path, counts, "a tree", k=5)
    check("sglang", path, [*counts, *[0] * 10], "give its depth as --k")
    check("sglang", path, [*counts, *[0] * 15], "11 to 43 of 43 rounds drafted fewer than 20", k=20)


SERVED = {"request_rate": float("inf"), "total_output_tokens": 3210, "accept_length": 3.21}
MEAN = {"avg_spec_accept_length": 2.5}
CHAIN = {"speculative_num_steps": 3, "speculative_num_draft_tokens": 4, "speculative_eagle_topk": 1}
STATES = {"internal_states": [MEAN]}


def test_a_server_of_sglang_states_its_draft_length(path: Path) -> None:
    block = {"speculative_num_steps": 1, "speculative_num_draft_tokens": 8, "speculative_eagle_topk": 1}
    served = SERVED | {"server_info": {"internal_states": [CHAIN]}}
    for content, k in ((STATES | CHAIN, 3), (STATES | block, 7), (served, 3), ({"internal_states": [MEAN | CHAIN]}, 3)):
        found = import_histogram("sglang", write(path, content))
        assert found.histogram.draft_length == k
        assert f"K = {k} is as the file states" in found.definition
        assert not any("tree" in note for note in found.notes)
        assert_refused("sglang", path, f"the draft length is {k} in this file, but --k is {k + 1}", k=k + 1)
    tree = STATES | CHAIN | {"speculative_eagle_topk": 4, "speculative_num_draft_tokens": 16}
    found = import_histogram("sglang", write(path, tree))
    assert found.histogram.draft_length == 3
    assert any("of a tree (speculative_eagle_topk 4), not of a chain" in note for note in found.notes)
    assert_refused("sglang", path, "the draft length is 3 in this file, but --k is 4", k=4)


# aiperf

# The documentation's numbers are illustrative: 34..22 accept 278 of 640, not 281, so the record is refused.
OF_AIPERF = {"acceptance_histogram": {"0": 34, "1": 22, "2": 19, "3": 16, "4": 15, "5": 22}}
OF_AIPERF |= {"num_draft_tokens": 640, "num_spec_steps": 128, "num_spec_tokens": 5}


def test_totals_of_aiperf_and_its_requests_agree(path: Path) -> None:
    check(
        "aiperf", write(path, aiperf_record(TWENTY, "warmup"), *map(aiperf_record, RUNS)), counts_of(EVERY), "1 warm-up"
    )
    check("aiperf", write(path, json.dumps(aiperf_totals(EVERY), indent=2)), counts_of(EVERY), "inferred")
    check("aiperf", path, [*counts_of(EVERY), 0, 0], k=6)
    write(path, {"spec_decode_acceptance": OF_AIPERF | {"num_accepted_draft_tokens": 281}})
    assert_refused("aiperf", path, "num_accepted_draft_tokens is 281, but acceptance_histogram makes 278")
    write(path, {"spec_decode_acceptance": OF_AIPERF | {"num_accepted_draft_tokens": 278}})
    check("aiperf", path, [34, 22, 19, 16, 15, 22])
    write(path, {"spec_decode_acceptance_length": {"avg": 4.19, "unit": "ratio"}})
    assert_refused("aiperf", path, "a mean over requests", k=5)


# spec-bench


def test_draft_length_of_spec_bench_is_inferred_or_given(path: Path) -> None:
    write(path, spec_bench_line([Round(8, a) for a in (0, 0, 1, 3)]))
    inferred = "K = 3 is inferred from the most drafts that a step accepted"
    check("spec-bench", path, [2, 1, 0, 1], inferred, "past the end")
    check("spec-bench", path, [2, 1, 0, 1, 0, 0, 0, 0, 0], k=8)
    write(path, spec_bench_line([Round(0, 0)] * 5))
    assert_refused("spec-bench", path, "no round accepted a draft")
    check("spec-bench", path, [5, 0, 0], k=2)
    good, failed = spec_bench_line(TWENTY), spec_bench_line(TWENTY)
    failed["choices"][0]["turns"] = ["An answer.", "ERROR"]
    write(path, good, failed, good, spec_bench_line([]))
    check("spec-bench", path, [10, 6, 8, 6, 10], "a turn failed (ERROR)", "of an earlier line: 1", skipped=[2, 4])


def test_lengths_without_the_targets_own_token_are_told_by_zeros_or_by_the_tokens(path: Path) -> None:
    def line(rounds: list[Round], own: int, **more: Any) -> dict[str, Any]:
        return {"choices": [{"turns": ["An answer."], "accept_lengths": [r.accepted + own for r in rounds]} | more]}

    # Zeros in one line tell of all lines.
    write(path, line(TWENTY[:4], 0), line(TWENTY[4:], 0))
    check("spec-bench", path, [5, 3, 4, 3, 5], "as its zeros show", k=4)
    write(path, line(TWENTY[:4], 1), line(TWENTY[4:], 1))
    check("spec-bench", path, [5, 3, 4, 3, 5], "target's own token in", k=4)
    accepting = TWENTY[:15]
    tokens = {"new_tokens": [sum(r.accepted + 1 for r in accepting)], "decoding_steps": [15]}
    check("spec-bench", write(path, line(accepting, 0, **tokens)), [0, 3, 4, 3, 5], "own token out, as 55 new_tokens")
    check("spec-bench", write(path, line(accepting, 1, **tokens)), [0, 3, 4, 3, 5], "own token in")
    # A turn may end within its last step, and hold a token of the prefill; what is far from both readings is neither.
    near, far = tokens | {"new_tokens": [50]}, tokens | {"new_tokens": [760]}
    check("spec-bench", write(path, line(accepting, 1, **near)), [0, 3, 4, 3, 5], "own token in")
    for own, expected in ((1, "55 or 70"), (0, "40 or 55")):
        assert_refused(
            "spec-bench", write(path, line(accepting, own, **far)), f"new_tokens sum to 760.*about {expected}"
        )
    assert_refused("spec-bench", write(path, line(TWENTY, 0, **far)), "new_tokens sum to 760.*about 60 ")
    odd = eagle_line(TWENTY)
    odd["choices"][0]["idxs"] = [5]
    assert_refused("eagle", write(path, odd), r"new_tokens has 2 turns, but 1 have steps")
    odd["choices"][0]["idxs"] = [50, 60]
    assert_refused("eagle", write(path, odd), "60 new_tokens in 112 steps, expected one a step at least")


# llama-cpp, rates, and which format a file is of


def test_requests_in_the_log_of_llama_cpp_are_summed_by_position(path: Path) -> None:
    def line(rounds: list[Round]) -> str:
        steps, drafted, accepted = totals_of(rounds)
        rates = ", ".join(f"{sum(r.accepted > j for r in rounds) / steps:.3f}" for j in range(rounds[0].drafted))
        counts = f"draft acceptance = 0.5 ({accepted:5d} accepted / {drafted:5d} generated)"
        mean = f"mean acceptance length = {1 + accepted / steps:5.2f}, acceptance rate per position = ({rates})"
        return f"I slot print_timing: id 1 | {counts}, {mean}\n"

    write(path, "I srv  update_slots: all slots are idle\n", *map(line, RUNS))
    check("llama-cpp", path, counts_of(EVERY), "drafts that stopped early", "a position's rate")
    # A request with shorter drafts has no later positions.
    check("llama-cpp", write(path, line(EVERY), line([Round(2, 1)] * 5)), counts_of([*EVERY, *[Round(2, 1)] * 5]))
    write(path, {"timings": {"predicted_n": 9}})
    assert_refused("llama-cpp", path, "nothing was drafted", k=4)
    for none, message in (
        ({"timings": {"predicted_n": 9, "draft_n": 0, "draft_n_accepted": 0}}, "nothing was drafted"),
        (prometheus([], "", server="llamacpp"), "spec_decode_num_drafts is 0: nothing was drafted"),
        (TIMED_LOG.partition("\n")[2].partition("\n")[2], "no line 'eval time = ' with the tokens of that request"),
        ({"timings": {"predicted_n": 9, "draft_n": 9, "draft_n_accepted": 9}}, "9 tokens of which 9 were drafted"),
    ):
        assert_refused("llama-cpp", write(path, none), message, k=4)
    warm, counters = prometheus(RUNS[0], "", server="llamacpp"), prometheus(EVERY, "", server="llamacpp")
    before = write(path.parent / "before", warm)
    found = import_histogram("llama-cpp", write(path, counters), before=before)
    assert list(found.histogram.counts) == counts_of(RUNS[1] + RUNS[2])
    assert "llama.cpp" in found.definition


def test_rates_by_hand_are_survival() -> None:
    for text in ("0.72,0.55,0.42,0.33", "72%, 55%, 42%, 33%", "[0.72, 0.55, 0.42, 0.33]"):
        found = import_rates(text).histogram
        assert found.is_law
        assert found.survival == pytest.approx([0.72, 0.55, 0.42, 0.33])
        assert found.tokens_per_round == pytest.approx(3.02)
    for text, message in (
        ("0.5,0.6", "position 2 is 0.6, above 0.5, expected shares of all rounds"),
        ("72,55", r"72 is not a fraction; 0\.72\?"),
        ("0.5,x", "'x' is no number"),
        ("0.5,,", "'' is no number"),
        ("nan", "position 1 is nan"),
        ("-0.1", "position 1 is -0.1"),
        ("720", "position 1 is 720"),
    ):
        with pytest.raises(UserError, match=f"--rates: {message}"):
            import_rates(text)
    with pytest.raises(UserError, match="has 2 positions, but --k is 3"):
        import_rates("0.5,0.4", 3)


def test_a_format_is_known_by_its_marks_and_a_wrong_one_names_it(path: Path) -> None:
    for tool, wrong in product(EXACT, ("vllm-bench", "eagle")):
        write(path, *written(tool, RUNS))
        looks = {"trtllm": "vllm-requests"}.get(tool, tool)
        if (tool, wrong) != ("spec-bench", "eagle") and tool != wrong:
            assert_refused(wrong, path, f"it looks like {looks}: --from {looks}, or none")
        # As a shell of Windows, or a rotation of logs, leaves it.
        for packed in (path.read_text().encode("utf-16"), gzip.compress(path.read_bytes())):
            path.write_bytes(packed)
            assert import_histogram(None, path).format == looks
    # What a model wrote bears no marks.
    text = json.dumps({"text": json.dumps(sglang_response(TWENTY)), "accept": 1})
    assert_refused(None, write(path, text), "looks like none of the 11 formats that --help lists")


def test_a_streamed_answer_counts_once_by_its_last_event(path: Path) -> None:
    # Every event of a stream counts so far; the last has no counts.
    streams = [[sglang_response(run[:20]), sglang_response(run), {"usage": None}] for run in RUNS]
    text = "".join(
        "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n" for events in streams
    )
    check("sglang", write(path, text), counts_of(EVERY))
    assert recognised(path) == "sglang"
    check("sglang", write(path, text.removesuffix("data: [DONE]\n\n"), "\ndata: {\n"), counts_of(EVERY))
    assert_refused("sglang", write(path, "data: [DONE]\n"), "a stream without events")


# Means alone.

# vLLM issue 26191: 4,816 drafts, 33,712 drafted, 12,208 accepted, mean acceptance length 3.53.
ISSUE = {"drafts": 4816, "draft_tokens": 33712, "accepted_tokens": 12208}
ISSUE_METRICS = "".join(f"vllm:spec_decode_num_{name} {value}\n" for name, value in ISSUE.items())
ISSUE_BENCH = {"spec_decode_num_drafts": 4816, "spec_decode_draft_tokens": 33712, "spec_decode_accepted_tokens": 12208}
ISSUE_BENCH |= {"spec_decode_acceptance_length": 3.53, "spec_decode_acceptance_rate": 36.21}
ISSUE_TOTALS = {"total_spec_decode_steps": 4816, "total_draft_tokens": 33712, "total_accepted_draft_tokens": 12208}
ISSUE_AIPERF = {name: {"unit": "tokens", "avg": value} for name, value in ISSUE_TOTALS.items()}
WEIGHTED = {"spec_decode_token_weighted_acceptance_length": {"avg": 4.63}, "total_spec_decode_steps": {"avg": 100}}
LENGTH = {name: bench_result(TWENTY)[name] for name in ("spec_decode_num_drafts", "spec_decode_acceptance_length")}
# Cut at the end of the text: the counts still hold what was accepted.
CUT = {k: v for k, v in sglang_response(TWENTY)["meta_info"].items() if "histogram" not in k} | {
    "completion_tokens": 59
}
# Of llama.cpp's pull request 12603: 200 tokens with 65 accepted are 135 passes. Its rounds are not told; MLX's are.
TIMED = {"timings": {"prompt_n": 1, "predicted_n": 200, "draft_n": 347, "draft_n_accepted": 65}}
TIMED_ROUNDS = {"timings": {"predicted_n": 112, "draft_rounds": 30, "draft_n": 90, "draft_n_accepted": 81}}
TIMED_LOG = """slot print_timing: id  0 | task 0 | prompt eval time = 9.1 ms / 99 tokens ( 0.1 ms per token)
       eval time =   11082.61 ms /   200 tokens (   55.41 ms per token)
draft acceptance rate = 0.18732 (   65 accepted /   347 generated)
"""
DECODED = (
    "Decode batch, #running-req: {}, #token: 99, token usage: 0.01, accept len: {}, accept rate: 0.61, #queue-req: 0\n"
)
AVERAGED = {"choices": [{"avg_decoded_tokens_per_iter": 2.5}], "usage": {"completion_tokens": 500}}
# A file's tool and content, its K, rounds and tokens a round, and how it is refused without K.
MEANS: list[tuple[str, list[Any], tuple[int, int, float], str]] = [
    ("sglang", [{"meta_info": {"spec_verify_ct": 20, "completion_tokens": 61}}], (4, 20, 3.0), "3 tokens a round"),
    ("sglang", [{"meta_info": {"spec_verify_ct": 20, "spec_accept_length": 3.05}}], (4, 20, 3.0), "3 tokens a round"),
    ("sglang", [{"meta_info": CUT}] * 3, (4, 60, 3.0), "3 tokens a round, 4 drafted"),
    ("vllm-metrics", [ISSUE_METRICS], (7, 4816, 1 + 12208 / 4816), "3.535 tokens a round, 7 drafted"),
    ("vllm-bench", [ISSUE_BENCH], (7, 4816, 1 + 12208 / 4816), "3.535 tokens a round, 7 drafted"),
    ("aiperf", [ISSUE_AIPERF], (7, 4816, 1 + 12208 / 4816), "3.535 tokens a round, 7 drafted"),
    ("vllm-bench", [LENGTH], (4, 20, 3.0), "3 tokens a round"),
    ("aiperf", [WEIGHTED], (7, 100, 4.63), "4.63 tokens a round"),
    ("eagle", [eagle_line(TWENTY)] * 2, (4, 40, 3.0), "3 tokens a round"),
    ("spec-bench", [eagle_line(TWENTY, turns=1)], (4, 20, 3.0), "3 tokens a round"),
    ("llama-cpp", [TIMED], (16, 135, 200 / 135), "1.481 tokens a round, 2.57 drafted"),
    ("llama-cpp", [TIMED_LOG] * 2, (16, 270, 200 / 135), "1.481 tokens a round, 2.57 drafted"),
    ("llama-cpp", [TIMED_ROUNDS], (3, 30, 3.7), "3.7 tokens a round, 3 drafted"),
    ("sglang", [SERVED] * 2, (4, 2000, 3.21), "3.21 tokens a round"),
    ("sglang", [{"internal_states": [MEAN] * 2}], (4, 1, 2.5), "2.5 tokens a round"),
    ("sglang", [DECODED.format(3, "2.00"), "INFO\n", DECODED.format(1, "4.00")], (4, 1, 2.5), "2.5 tokens a round"),
    ("sglang", ['sglang:spec_accept_length{model_name="m"} 2.5\n'], (4, 1, 2.5), "2.5 tokens a round"),
    (
        "sglang",
        ["== Result ==\nTotal generated tokens: 99\nAccept length:   2.50\n"],
        (4, 1, 2.5),
        "2.5 tokens a round",
    ),
    ("trtllm", [AVERAGED] * 2, (4, 400, 2.5), "2.5 tokens a round"),
]


@pytest.mark.parametrize(("tool", "content", "expected", "message"), MEANS)
def test_a_reconstruction_keeps_the_mean_and_says_so(
    path: Path, tool: str, content: list[Any], expected: tuple[int, int, float], message: str
) -> None:
    k, rounds, tokens_per_round = expected
    write(path, *content)
    assert_refused(tool, path, rf"states only a mean \({message}\), expected --k as well")
    beyond = r"a round, expected 1 to 2 with --k 1|\d tokens were drafted a round, but --k is 1"
    assert_refused(tool, path, beyond, k=1)
    found = import_histogram(tool, path, k=k)
    assert recognised(path) == {"spec-bench": "eagle"}.get(tool, tool)
    assert found.histogram.is_law == (rounds == 1)
    assert found.reconstructed
    assert "RECONSTRUCTED" in found.definition
    assert f"K = {k}" in found.definition
    assert ("(completion_tokens - 1) / spec_verify_ct" in found.definition) == (content in (MEANS[0][1], MEANS[1][1]))
    assert found.histogram.tokens_per_round == pytest.approx(tokens_per_round, abs=1e-12)
    assert found.histogram.samples == pytest.approx(rounds)
    conditional = found.histogram.conditional
    assert conditional == pytest.approx([conditional[0]] * k)
    assert sum(conditional[0] ** j for j in range(k + 1)) == pytest.approx(tokens_per_round)


# What contradicts itself is named, and not used.

LIST, OBJECT, WHOLE = "expected a list", "expected an object", "expected a whole number"
DENSE, BY_LENGTH = "acceptance_histogram", "acceptance_histogram_by_draft_length"
RATES, POOLED = "spec_decode_per_position_acceptance_rates", "pooled_spec_decode_acceptance_histogram"
BROKEN: dict[str, list[tuple[Any, str]]] = {
    "vllm-requests": [
        ({"metrics": {"speculative_decoding": statistics(TWENTY) | changes}}, message)
        for changes, message in (
            ({DENSE: None, BY_LENGTH: None}, LIST),
            ({DENSE: [5, 3, 4, 3]}, "4 buckets, but num_spec_tokens is 4"),
            ({DENSE: [5, 3, 4, 4, 4]}, "num_accepted_draft_tokens is 40"),
            ({DENSE: [5, 3, 4, 3, 6]}, "num_spec_steps is 20, but acceptance_histogram makes 21"),
            *(({DENSE: [5, 3, 4, 3, last]}, f"{last!r}, {WHOLE}") for last in (True, "5", 5.5)),
            ({DENSE: [5, 3, 4, 8, -5]}, f"-5, {WHOLE}"),
            ({DENSE: [5, 3, 4, 3, 10**400]}, rf"is 10+\.\.\., {WHOLE}"),
            ({DENSE: [[[[]]]] * 5}, WHOLE),
            ({DENSE: "5"}, LIST),
            ({DENSE: []}, "0 buckets"),
            ({DENSE: {"0": 5, "1": 3, "2": 4, "3": 3, "04": 5}}, "has key '04'"),
            ({BY_LENGTH: {"4": [4, 4, 4, 3, 5]}}, "not the sum"),
            ({BY_LENGTH: {"3": [5, 3, 4, 3, 5]}}, "5 buckets for 3"),
            *(({BY_LENGTH: {key: [5]}}, f"has key '{key}'") for key in ("x", "9999")),
            ({BY_LENGTH: [1]}, OBJECT),
            *(({"num_draft_tokens": n}, f"num_draft_tokens is {n}") for n in (39, 79)),
            ({"num_spec_steps": 19}, "num_spec_steps is 19"),
            ({"num_spec_tokens": 3}, "5 buckets, but num_spec_tokens is 3"),
            *(({"num_spec_tokens": n}, f"num_spec_tokens is {n}") for n in (0, 10**9)),
            ({"per_step_accepted": [1], "per_step_drafted": [4, 4]}, "2 steps"),
            ({"per_step_accepted": [5], "per_step_drafted": [4]}, "accepted 5 of 4"),
            ({"per_step_accepted": [5], "per_step_drafted": [10**9]}, "at most 1024"),
            ({"per_step_accepted": 5, "per_step_drafted": 5}, LIST),
        )
    ],
    "vllm-bench": [
        (bench_result(TWENTY) | {f"spec_decode_{name}": value for name, value in changes.items()}, message)
        for changes, message in (
            ({"acceptance_rate": 0.5}, "acceptance_rate is 0.5, but its counts make 50 percent"),
            ({"acceptance_length": 2.0}, "acceptance_length is 2, but its counts make 3"),
            ({"accepted_tokens": 30}, "positions accepted 40 tokens in all, but the accepted count is 30"),
            ({"accepted_tokens": 81}, "81 tokens accepted, but 80 drafted"),
            ({"draft_tokens": 81}, "81 tokens drafted, but 20 drafts have 4 positions"),
            ({"num_drafts": 0}, "no drafts"),
            ({"num_drafts": None}, f"spec_decode_num_drafts is None, {WHOLE}"),
            *(({"num_drafts": drafts}, WHOLE) for drafts in (19.5, True, "20")),
            ({"per_position_acceptance_rates": [0.5, 0.6, 0.5, 0.4]}, "position 1 accepted 12"),
            ({"per_position_acceptance_rates": [75, 60, 40, 25]}, "is 75, expected a number from 0 to 1"),
            ({"per_position_acceptance_rates": [-0.1]}, "expected a number"),
            ({"per_position_acceptance_rates": 0.5}, LIST),
            ({"per_position_acceptance_rates": [0] * 2000}, "2000 positions|positions accepted"),
            ({"accepted_tokens": None, "acceptance_length": 0.5}, "expected a number from 1"),
            ({"accepted_tokens": None, "acceptance_length": None}, "no count under"),
            ({"acceptance_rate": float("nan")}, "acceptance_rate is nan, expected a number"),
        )
    ],
    "sglang": [
        ({"meta_info": meta}, message)
        for meta, message in (
            (REPORTED | {"spec_verify_ct": 42}, "spec_verify_ct is 42"),
            (REPORTED | {"spec_num_correct_drafts": 62}, "spec_num_correct_drafts is 62"),
            (REPORTED | {"spec_num_proposed_drafts": 62}, "63 drafts .* but .*spec_num_proposed_drafts is 62"),
            (REPORTED | {"spec_correct_drafts_histogram": [0.5]}, WHOLE),
            (REPORTED | {"spec_correct_drafts_histogram": [1] * 2000}, "2000 buckets"),
            (REPORTED | {"spec_verify_ct": None}, WHOLE),
            ({"spec_verify_ct": 20}, "no spec_correct_drafts_histogram"),
            ({"spec_verify_ct": 20, "completion_tokens": 20}, "20 tokens with spec_verify_ct 20"),
            ({"spec_verify_ct": 0, "spec_num_correct_drafts": 3}, "spec_verify_ct is 0"),
            ({"completion_tokens": 20}, "no count under 'spec_verify_ct'"),
            ([], "no count under"),
        )
    ],
    "aiperf": [
        (aiperf_totals(TWENTY) | changes, message)
        for changes, message in (
            ({"total_spec_decode_steps": {"avg": 21}}, "total_spec_decode_steps.avg is 21"),
            ({"total_accepted_draft_tokens": {"avg": 41}}, "total_accepted_draft_tokens.avg is 41"),
            ({"total_draft_tokens": {"avg": 39}}, "total_draft_tokens is 39"),
            ({"total_draft_tokens": {"avg": "80"}}, WHOLE),
            ({"total_draft_tokens": {"unit": "tokens"}}, "total_draft_tokens.avg is missing, expected a number"),
            ({"total_draft_tokens": 80}, OBJECT),
            ({POOLED: 3}, LIST),
            ({POOLED: {"-1": 3}}, "has key '-1'"),
            ({POOLED: None, "total_spec_decode_steps": None}, f"no object under '{POOLED}'"),
        )
    ],
    "spec-bench": [
        ({"choices": [{"accept_lengths": [3, length]}]}, rf"accept_lengths\[1\] is .*, {WHOLE} from 0")
        for length in (-1, 1.5, True, "3", None, 2000, 10**400, [3])
    ],
}


@pytest.mark.parametrize("tool", BROKEN)
def test_what_contradicts_itself_is_not_used(path: Path, tool: str) -> None:
    for record, message in BROKEN[tool]:
        assert_refused(tool, write(path, record), f"line 1: .*({message})")
        if tool == "spec-bench":
            check(tool, write(path, record, spec_bench_line(TWENTY)), [5, 3, 4, 3, 5], skipped=[1])


def test_draft_lengths_out_of_range_and_unknown_formats_are_refused(tmp_path: Path) -> None:
    for k in (0, -1, 1025, True):
        with pytest.raises(UserError, match="--k"):
            import_histogram("spec-bench", tmp_path / "none", k=k)
    with pytest.raises(UserError, match="expected one of 11, nearest: vllm-log"):
        import_histogram("vllm", tmp_path / "none")


HOSTILE = [
    *(b"", b"\n \n", b"\xff\xfe\x00", b"not json", b"<html><body>502 Bad Gateway</body></html>"),
    *(b"null", b"true", b"5", b'"text"', b"[]", b"{}", b"[{}]", b"[" * 100_000, b'{"a":' * 50_000),
    b'{"choices": [{"accept_lengths": [NaN]}]}',
    b'{"choices": [{"accept_lengths": [1e999]}]}',
    b'{"choices": [{"accept_lengths": ' + b"9" * 5000 + b"}]}",
    b'{"choices": {"accept_lengths": [1]}, "meta_info": [], "metrics": [], "spec_decode_acceptance": []}',
    b'{"meta_info": {"spec_verify_ct": 1e999}}',
    b'{"metrics": {"speculative_decoding": {"acceptance_histogram": [Infinity, 1]}}}',
    b'{"spec_decode_num_drafts": 1e999}',
    b'{"pooled_spec_decode_acceptance_histogram": {"0": 1e999}}',
    b'{"pooled_spec_decode_acceptance_histogram": {}}',
    b"vllm:spec_decode_num_drafts_total",
    b"vllm:spec_decode_num_drafts_total{" + b'a="' * 10_000,
    b"vllm:spec_decode_num_drafts_total " + b"9" * 5000,
]


@pytest.mark.parametrize("tool", FORMATS)
def test_files_that_hold_nothing_or_are_not_there_are_one_line_that_names_them(tmp_path: Path, tool: str) -> None:
    path = tmp_path / "file"
    for content, k in product(HOSTILE, (None, 4)):
        path.write_bytes(content)
        assert_refused(tool, path, r"\A.{0,499}\Z", k=k)
    assert_refused(tool, tmp_path / "none", "no such file")
    assert_refused(tool, tmp_path, "cannot be read")


def test_the_command_offers_every_format() -> None:
    assert tuple(FORMATS) == import_cli.FORMATS
