"""Importers: simulated rounds written as each tool writes them come back as the histogram that they had.

Long because one simulated server is written in the format of each tool.
"""

import json
from collections import Counter
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from acceptance.cli import import_histogram as import_cli
from acceptance.importers.formats import FORMATS, import_histogram
from acceptance.importers.imported import Imported
from simulator.ground.artefacts import UserError

K = 4
MAIN = 'engine="0",model_name="m"'


class Round(NamedTuple):
    """One verification round: drafted and accepted tokens."""

    drafted: int
    accepted: int


def simulate(requests: int, rounds: int, seed: int = 0, k: int = K) -> list[list[Round]]:
    """Draw rounds whose acceptance probability falls with the position."""
    rng = np.random.default_rng(seed)
    heads = rng.random((requests, rounds, k)) < np.linspace(0.9, 0.4, k)
    accepted = np.cumprod(heads, axis=-1).sum(axis=-1)
    return [[Round(k, int(a)) for a in row] for row in accepted]


def true_counts(requests: list[list[Round]], k: int = K) -> list[int]:
    found = Counter(r.accepted for request in requests for r in request)
    return [found[a] for a in range(k + 1)]


def write(path: Path, *lines: Any) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


# What each tool would write of some rounds, by its own definitions.


def spec_bench_line(rounds: list[Round], question: int = 81) -> dict[str, Any]:
    lengths = [r.accepted + 1 for r in rounds]
    choice = {"index": 0, "turns": ["An answer."], "decoding_steps": [len(rounds)], "new_tokens": [sum(lengths)]}
    choice |= {"wall_time": [1.5], "accept_lengths": lengths}
    return {"question_id": question, "category": "writing", "choices": [choice], "tstamp": 1.0}


def prometheus(rounds: list[Round], labels: str = MAIN, k: int = K, total: str = "_total") -> str:
    name, braces = "vllm:spec_decode_num_", f"{{{labels}}}" if labels else ""
    lines = [
        f"# HELP {name}drafts{total} Number of spec decoding drafts.",
        f"# TYPE {name}drafts{total} counter",
        f"{name}drafts{total}{braces} {float(len(rounds))}",
        f"{name}drafts_created{braces} 1.781341706e+09",
        f"{name}draft_tokens{total}{braces} {float(sum(r.drafted for r in rounds))}",
        f"{name}accepted_tokens{total}{braces} {float(sum(r.accepted for r in rounds))}",
        f"vllm:num_requests_running{braces} 3.0",
    ]
    for position in range(k):
        accepted = sum(r.accepted > position for r in rounds)
        inner = ",".join(filter(None, (labels, f'position="{position}"')))
        lines.append(f"{name}accepted_tokens_per_pos{total}{{{inner}}} {float(accepted)}")
    return "\n".join(lines) + "\n"


def statistics(rounds: list[Round], k: int = K, level: str = "by_length") -> dict[str, Any]:
    accepted, drafted = sum(r.accepted for r in rounds), sum(r.drafted for r in rounds)
    found: dict[str, Any] = {"num_spec_steps": len(rounds), "num_spec_tokens": k}
    found |= {"num_accepted_draft_tokens": accepted, "num_draft_tokens": drafted}
    found |= {"mean_acceptance_length": 1 + accepted / len(rounds), "draft_acceptance_rate": accepted / drafted}
    found["acceptance_histogram"] = [sum(r.accepted == a for r in rounds) for a in range(k + 1)]
    if level == "by_length":
        lengths = sorted({r.drafted for r in rounds})
        found["acceptance_histogram_by_draft_length"] = {
            str(d): [sum(r == Round(d, a) for r in rounds) for a in range(d + 1)] for d in lengths
        }
    if level == "detailed":
        found["per_step_accepted"] = [r.accepted for r in rounds]
        found["per_step_drafted"] = [r.drafted for r in rounds]
    return found


def vllm_response(rounds: list[Round], k: int = K, level: str = "by_length") -> dict[str, Any]:
    return {"id": "cmpl-1", "choices": [], "metrics": {"speculative_decoding": statistics(rounds, k, level)}}


def bench_result(rounds: list[Round], k: int = K) -> dict[str, Any]:
    accepted, drafted = sum(r.accepted for r in rounds), sum(r.drafted for r in rounds)
    rates = [sum(r.accepted > j for r in rounds) / len(rounds) for j in range(k)]
    found = {"acceptance_rate": 100 * accepted / drafted, "acceptance_length": 1 + accepted / len(rounds)}
    found |= {"num_drafts": len(rounds), "draft_tokens": drafted, "accepted_tokens": accepted}
    found["per_position_acceptance_rates"] = rates
    return {"backend": "vllm", "request_rate": "inf"} | {f"spec_decode_{name}": v for name, v in found.items()}


def sglang_response(rounds: list[Round]) -> dict[str, Any]:
    accepted, drafted = sum(r.accepted for r in rounds), sum(r.drafted for r in rounds)
    tokens = 1 + len(rounds) + accepted  # the prefill's token, the target's own of each round, the accepted
    # SGLang's list grows with what was accepted; it has no bucket above the largest.
    histogram = [sum(r.accepted == a for r in rounds) for a in range(max(r.accepted for r in rounds) + 1)]
    meta = {"id": "a", "finish_reason": {"type": "length", "length": tokens}, "completion_tokens": tokens}
    meta |= {"spec_verify_ct": len(rounds), "spec_accept_length": tokens / len(rounds)}
    meta |= {"spec_accept_rate": accepted / drafted, "spec_correct_drafts_histogram": histogram}
    meta |= {"spec_num_correct_drafts": accepted, "spec_num_proposed_drafts": drafted}
    return {"text": "An answer.", "meta_info": meta}


def aiperf_record(rounds: list[Round], phase: str = "profiling") -> dict[str, Any]:
    found = statistics(rounds, level="summary")
    found["acceptance_histogram"] = {str(a): n for a, n in enumerate(found["acceptance_histogram"]) if n}
    metadata = {"session_num": 0, "benchmark_phase": phase}
    return {"metadata": metadata, "metrics": {}, "spec_decode_acceptance": {"engine": "vllm", **found}}


def aiperf_totals(rounds: list[Round]) -> dict[str, Any]:
    accepted, steps = sum(r.accepted for r in rounds), len(rounds)
    found, drafted = Counter(r.accepted for r in rounds), sum(r.drafted for r in rounds)
    totals = {"total_spec_decode_steps": steps, "total_accepted_draft_tokens": accepted, "total_draft_tokens": drafted}
    totals["spec_decode_token_weighted_acceptance_length"] = 1 + accepted / steps
    histogram = {str(a): found[a] for a in sorted(found)}
    metrics = {name: {"unit": "count", "avg": float(value)} for name, value in totals.items()}
    return metrics | {"schema_version": "1.1", "pooled_spec_decode_acceptance_histogram": histogram}


def written(tool: str, path: Path, requests: list[list[Round]]) -> Path:
    """Write the file that this tool would leave behind after these rounds."""
    every = [r for request in requests for r in request]
    one_each: dict[str, Callable[[list[Round]], dict[str, Any]]] = {
        "spec-bench": spec_bench_line,
        "vllm-requests": vllm_response,
        "sglang": sglang_response,
        "aiperf": aiperf_record,
    }
    if tool in one_each:
        return write(path, *map(one_each[tool], requests))
    path.write_text(prometheus(every) if tool == "vllm-metrics" else json.dumps(bench_result(every)))
    return path


def assert_counts(found: Imported, expected: list[int]) -> None:
    assert list(found.histogram.counts) == expected
    assert not found.reconstructed
    assert "RECONSTRUCTED" not in found.definition


def assert_notes(found: Imported, *texts: str) -> None:
    for text in texts:
        assert any(f" {text}" in f" {note}" for note in found.notes), text


def assert_refused(tool: str, path: Path, message: str, **options: Any) -> None:
    """Check for one line that names the file."""
    with pytest.raises(UserError, match=message) as error:
        import_histogram(tool, path, **options)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("tool", FORMATS)
def test_simulated_rounds_come_back_and_another_draft_length_is_refused(tmp_path: Path, tool: str) -> None:
    requests = simulate(6, 50)
    path = written(tool, tmp_path / "file", requests)
    for k in (None, K):
        found = import_histogram(tool, path, k=k)
        assert_counts(found, true_counts(requests))
        assert (found.rounds_apart, found.skipped) == (0, ())
        assert f"K = {K} is " in found.definition
        assert found.definition.endswith(".")
    assert_refused(tool, path, r"--k is 3", k=3)
    if tool not in ("spec-bench", "sglang"):
        assert_refused(tool, path, r"draft length is 4 .* --k is 5", k=5)
    if tool != "vllm-metrics":
        assert_refused(tool, path, "--before", before=path)


# Section 1 of the design: 20 rounds, 3 tokens a round, under each tool's own definition.

TWENTY = [Round(K, a) for a in [4] * 5 + [3] * 3 + [2] * 4 + [1] * 3 + [0] * 5]


def test_twenty_rounds_of_three_tokens_are_three_tokens_whatever_the_tool_calls_them(tmp_path: Path) -> None:
    assert sum(r.accepted for r in TWENTY) == 40
    assert bench_result(TWENTY)["spec_decode_acceptance_length"] == 3.0
    assert sglang_response(TWENTY)["meta_info"]["spec_accept_length"] == pytest.approx(3.05)
    assert np.mean(spec_bench_line(TWENTY)["choices"][0]["accept_lengths"]) == 3.0
    for tool in FORMATS:
        found = import_histogram(tool, written(tool, tmp_path / tool, [TWENTY]))
        assert_counts(found, [5, 3, 4, 3, 5])
        assert found.histogram.tokens_per_round == pytest.approx(3.0)
        assert found.histogram.tokens_per_round - 1 == pytest.approx(2.0)  # gpt-fast's and EAGLE's count
        assert found.histogram.draft_acceptance_rate == pytest.approx(0.5)


def test_a_reconstruction_keeps_the_mean_and_says_so(tmp_path: Path) -> None:
    meta = {"completion_tokens": 61, "spec_verify_ct": 20, "spec_accept_length": 3.05}
    for known in ({"completion_tokens", "spec_verify_ct"}, {"spec_accept_length", "spec_verify_ct"}):
        path = write(tmp_path / "file", {"meta_info": {key: meta[key] for key in known}})
        assert_refused("sglang", path, r"states only a mean \(3 tokens a round\), expected --k as well")
        found = import_histogram("sglang", path, k=4)
        assert found.reconstructed
        assert "RECONSTRUCTED" in found.definition
        assert "K = 4" in found.definition
        assert "(completion_tokens - 1) / spec_verify_ct" in found.definition
        assert found.histogram.tokens_per_round == pytest.approx(3.0, abs=1e-12)
        assert found.histogram.samples == pytest.approx(20)
        conditional = found.histogram.conditional
        assert conditional == pytest.approx([conditional[0]] * 4)
        assert sum(conditional[0] ** j for j in range(5)) == pytest.approx(3.0)


# vLLM issue 26191: 4,816 drafts, 33,712 drafted, 12,208 accepted, mean acceptance length 3.53.

ISSUE = {"drafts": 4816, "draft_tokens": 33712, "accepted_tokens": 12208}


def test_the_four_counters_of_a_vllm_issue(tmp_path: Path) -> None:
    metrics, bench, aiperf = tmp_path / "metrics", tmp_path / "bench", tmp_path / "aiperf"
    metrics.write_text("".join(f"vllm:spec_decode_num_{name} {value}\n" for name, value in ISSUE.items()))
    write(bench, {f"spec_decode_{name}": ISSUE[name] for name in ("draft_tokens", "accepted_tokens")} | {
        "spec_decode_num_drafts": 4816, "spec_decode_acceptance_length": 3.53, "spec_decode_acceptance_rate": 36.21,
    })  # fmt: skip
    totals = {"total_spec_decode_steps": 4816, "total_draft_tokens": 33712, "total_accepted_draft_tokens": 12208}
    write(aiperf, {name: {"unit": "tokens", "avg": value} for name, value in totals.items()})
    for tool, path in (("vllm-metrics", metrics), ("vllm-bench", bench), ("aiperf", aiperf)):
        assert_refused(tool, path, r"only a mean \(3.535 tokens a round, 7 drafted\), expected --k")
        assert_refused(tool, path, r"7 tokens were drafted a round, but --k is 4", k=4)
        found = import_histogram(tool, path, k=7)
        assert found.reconstructed
        assert found.histogram.samples == pytest.approx(4816)
        assert f"{found.histogram.tokens_per_round:.2f}" == "3.53"
        assert found.histogram.draft_acceptance_rate == pytest.approx(12208 / 33712)


# vllm-metrics


@pytest.mark.parametrize("total", ["", "_total"])
def test_engines_and_models_are_summed(tmp_path: Path, total: str) -> None:
    first, second = simulate(1, 40, seed=1), simulate(1, 70, seed=2)
    idle = prometheus([], 'engine="2",model_name="m"', total=total)
    odd = 'engine="1",model_name="a \\"quoted\\" {name}, position=9"'
    text = prometheus(first[0], total=total) + prometheus(second[0], odd, total=total) + idle
    path = tmp_path / "metrics.txt"
    path.write_text(text)
    found = import_histogram("vllm-metrics", path)
    assert_counts(found, true_counts([*first, *second]))
    assert_notes(found, "2 engines", "since the server started")


def test_an_earlier_file_is_subtracted(tmp_path: Path) -> None:
    warm, measured = simulate(1, 30, seed=3), simulate(1, 60, seed=4)
    before, after = tmp_path / "before.txt", tmp_path / "after.txt"
    before.write_text(prometheus(warm[0]) + "<html>\n")
    after.write_text("oops {\n" + prometheus(warm[0] + measured[0]) + prometheus(warm[0], 'engine="1"'))
    found = import_histogram("vllm-metrics", after, before=before)
    assert_counts(found, true_counts([*warm, *measured]))  # engine 1 is new: all of it was counted in between
    assert [s.line for s in found.skipped] == [1, 12]
    assert str(before) in found.skipped[1].reason
    assert not any("since the server started" in note for note in found.notes)
    assert_refused("vllm-metrics", before, r"--before .*after.txt: .* there and is", before=after)
    after.write_text(before.read_text())
    assert_refused("vllm-metrics", after, "drafts is 0", before=before)
    after.write_text(prometheus(measured[0], 'engine="1"'))
    assert_refused("vllm-metrics", after, "there and is not in", before=before)


def test_counters_read_while_they_changed_are_noted_and_contradictions_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.txt"
    rounds = simulate(1, 400)[0]
    accepted = sum(r.accepted for r in rounds)
    text = prometheus(rounds)
    path.write_text(text.replace(f"}} {float(accepted)}", f"}} {accepted + 2}"))
    found = import_histogram("vllm-metrics", path)
    assert list(found.histogram.counts) == true_counts([rounds])
    assert_notes(found, f"{accepted + 2}")
    path.write_text(text.replace(f"}} {float(accepted)}", f"}} {accepted // 2}"))
    assert_refused("vllm-metrics", path, r"the positions accepted .* but the accepted count is")


def test_shorter_drafts_that_cannot_be_told_apart_are_noted(tmp_path: Path) -> None:
    path = tmp_path / "metrics.txt"
    rounds = [Round(4, 4), Round(4, 0), Round(4, 2), Round(2, 2), Round(1, 0)]
    path.write_text(prometheus(rounds))
    found = import_histogram("vllm-metrics", path)
    assert_counts(found, [2, 0, 2, 0, 1])
    # 5 drafts are missing: two rounds at the least, five at the most.
    assert_notes(found, "2 to 5 of 5 rounds drafted fewer than 4 tokens")


METRICS = prometheus(TWENTY)
BROKEN_COUNTERS = [
    ("drafts_total{", "drafted_total{", "no vllm:spec_decode_num_drafts beside"),
    *(("} 20.0", "} " + value, "no whole number") for value in ("NaN", "-20", "20.5", "1e99", "+Inf")),
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
    ("vllm:", "llamacpp:", r"holds no vllm:spec_decode_num_\* counter \(\d+ other samples\)"),
]


def test_broken_counters_are_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "metrics.txt"
    for old, new, message in BROKEN_COUNTERS:
        path.write_text(METRICS.replace(old, new))
        assert_refused("vllm-metrics", path, message)


# vllm-requests


@pytest.mark.parametrize("level", ["by_length", "detailed"])
def test_rounds_with_shorter_drafts_are_counted_apart(tmp_path: Path, level: str) -> None:
    full = simulate(3, 40, seed=5)
    short = [Round(3, 3), Round(1, 0), Round(0, 0), Round(2, 1)]
    path = write(tmp_path / "r.jsonl", *(vllm_response(request + short, level=level) for request in full))
    found = import_histogram("vllm-requests", path)
    assert_counts(found, true_counts(full))
    assert found.rounds_apart == 12
    summary = write(tmp_path / "s.jsonl", *(vllm_response(request + short, level="summary") for request in full))
    mixed = import_histogram("vllm-requests", summary)
    assert_counts(mixed, true_counts([request + short for request in full]))
    assert mixed.rounds_apart == 0
    # Of each request 1 + 3 + 4 + 2 drafts are missing: 30 in all.
    assert_notes(mixed, "8 to 30 of 132 rounds drafted fewer than 4 tokens")


def test_the_documented_response_of_vllm(tmp_path: Path) -> None:
    documented = {"mean_acceptance_length": 1.2325581395348837, "draft_acceptance_rate": 0.07751937984496124}
    documented |= {"acceptance_histogram": [39, 1, 0, 3], "num_spec_steps": 43, "num_accepted_draft_tokens": 10}
    response = {"metrics": {"speculative_decoding": documented | {"num_draft_tokens": 129, "num_spec_tokens": 3}}}
    path = tmp_path / "r.json"
    for times, content in ((2, [response] * 2), (1, response)):
        path.write_text(json.dumps(content, indent=2))
        found = import_histogram("vllm-requests", path)
        assert_counts(found, [39 * times, times, 0, 3 * times])
        assert found.histogram.tokens_per_round == pytest.approx(documented["mean_acceptance_length"])
        assert found.histogram.draft_acceptance_rate == pytest.approx(documented["draft_acceptance_rate"])


def test_two_draft_lengths_make_no_one_histogram(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", vllm_response(TWENTY), vllm_response([Round(2, 1)], k=2))
    assert_refused("vllm-requests", path, "draft length is 2 on line 2, but 4 on line 1")
    path = write(tmp_path / "b.json", bench_result(TWENTY), bench_result([Round(2, 1)], k=2))
    assert_refused("vllm-bench", path, "2 and 4 positions")
    path.write_text(METRICS + prometheus([Round(2, 1)], 'engine="1"', k=2))
    assert_refused("vllm-metrics", path, "engines draft 2 and 4 tokens")


def test_requests_that_cannot_be_used_are_counted_and_named(tmp_path: Path) -> None:
    good = json.dumps(vllm_response(TWENTY))
    lines = [good, "{", "", '{"metrics": {"speculative_decoding": null}}', '{"metrics": null}', "[]", good]
    path = tmp_path / "r.jsonl"
    path.write_text("\r\n".join(lines))
    found = import_histogram("vllm-requests", path)
    assert_counts(found, [10, 6, 8, 6, 10])
    assert [s.line for s in found.skipped] == [2, 4, 5, 6]
    assert "n > 1" in found.skipped[1].reason


def test_requests_without_a_round_of_k_drafts_make_no_histogram(tmp_path: Path) -> None:
    empty = statistics(TWENTY, level="summary") | {"acceptance_histogram": [0] * 5, "num_spec_steps": 0}
    empty |= {"num_accepted_draft_tokens": 0, "num_draft_tokens": 0}
    for found in (empty, statistics([Round(3, 1), Round(2, 2)])):
        path = write(tmp_path / "r.jsonl", {"metrics": {"speculative_decoding": found}})
        assert_refused("vllm-requests", path, "counts no round that drafted 4 tokens")


# vllm-bench


def test_appended_results_are_summed_and_the_percentage_noted(tmp_path: Path) -> None:
    runs = simulate(3, 37, seed=6)
    found = import_histogram("vllm-bench", write(tmp_path / "b.json", *map(bench_result, runs)))
    assert_counts(found, true_counts(runs))
    assert_notes(found, "percentage", "3 results")


def test_rounded_rates_give_fractional_counts_and_a_note(tmp_path: Path) -> None:
    result = bench_result(TWENTY) | {"spec_decode_num_drafts": 3000, "spec_decode_accepted_tokens": 6000}
    result |= {"spec_decode_draft_tokens": 12000}
    result["spec_decode_per_position_acceptance_rates"] = [0.7503, 0.5999, 0.40013, 0.2499]
    found = import_histogram("vllm-bench", write(tmp_path / "b.json", result))
    assert found.histogram.counts == pytest.approx([749.1, 451.2, 599.31, 450.69, 749.7])
    assert_notes(found, "rounded")


def test_a_mean_length_alone_is_enough_for_a_reconstruction(tmp_path: Path) -> None:
    keys = ("spec_decode_num_drafts", "spec_decode_acceptance_length")
    path = write(tmp_path / "b.json", {key: bench_result(TWENTY)[key] for key in keys})
    found = import_histogram("vllm-bench", path, k=4)
    assert found.reconstructed
    assert found.histogram.tokens_per_round == pytest.approx(3.0)
    assert_refused("vllm-bench", path, "3 tokens a round, expected 1 to 2 with --k 1", k=1)


# sglang

# From SGLang's pull request 33518: the last round was cut, so completion_tokens alone would say 62 accepted.
REPORTED = {"spec_accept_rate": 0.2930232558139535, "spec_accept_length": 2.4651162790697674, "spec_verify_ct": 43}
REPORTED |= {"spec_num_correct_drafts": 63, "spec_num_proposed_drafts": 215}
REPORTED |= {"spec_correct_drafts_histogram": [11, 14, 11, 4, 0, 3]}


def test_the_fields_of_sglang_wherever_they_stand(tmp_path: Path) -> None:
    details = {"spec_tokens_details": REPORTED}
    for response in (
        {"meta_info": REPORTED | {"completion_tokens": 106}},
        {"sglext": details, "usage": {"completion_tokens": 106}, "choices": [{}]},
        {"choices": [{"meta_info": REPORTED}], "sglext": details},
        REPORTED,
    ):
        found = import_histogram("sglang", write(tmp_path / "s.jsonl", response))
        assert_counts(found, [11, 14, 11, 4, 0, 3])
        assert found.histogram.draft_acceptance_rate == pytest.approx(REPORTED["spec_accept_rate"])


def test_choices_are_requests_and_earlier_names_are_read(tmp_path: Path) -> None:
    old = {"spec_verify_ct": 3, "spec_accept_token_num": 2, "spec_draft_token_num": 9, "spec_accept_histogram": [1, 2]}
    found = import_histogram("sglang", write(tmp_path / "s.jsonl", {"choices": [{"meta_info": old}] * 2}))
    assert_counts(found, [2, 4, 0, 0])
    assert "K = 3 is inferred from the drafted tokens a round" in found.definition


def test_counts_without_a_histogram_give_the_mean(tmp_path: Path) -> None:
    meta = {k: v for k, v in sglang_response(TWENTY)["meta_info"].items() if "histogram" not in k}
    # Cut at the end of the text: the counts still hold what was accepted.
    path = write(tmp_path / "s.jsonl", *[{"meta_info": meta | {"completion_tokens": 59}}] * 3)
    assert_refused("sglang", path, r"only a mean \(3 tokens a round, 4 drafted\)")
    found = import_histogram("sglang", path, k=4)
    assert found.reconstructed
    assert found.histogram.tokens_per_round == pytest.approx(3.0)
    assert found.histogram.samples == pytest.approx(60)


def test_tokens_that_no_round_accounts_for_are_noted(tmp_path: Path) -> None:
    # An early release counted n-gram drafts one too few wherever one was accepted: 15 of these 20 rounds.
    counted = [Round(K, max(0, r.accepted - 1)) for r in TWENTY]
    meta = sglang_response(counted)["meta_info"] | {"completion_tokens": 61}
    found = import_histogram("sglang", write(tmp_path / "s.jsonl", {"meta_info": meta}))
    assert_notes(found, "15 tokens are in no round")
    sound = import_histogram("sglang", write(tmp_path / "s.jsonl", sglang_response(TWENTY)))
    assert not any("in no round" in note for note in sound.notes)


def test_requests_without_the_histogram_that_others_have_are_named(tmp_path: Path) -> None:
    meta = {"completion_tokens": 61, "spec_verify_ct": 20}
    path = write(tmp_path / "s.jsonl", {"meta_info": meta}, sglang_response(TWENTY), {"text": "no speculation"})
    found = import_histogram("sglang", path)
    assert_counts(found, [5, 3, 4, 3, 5])
    assert [s.line for s in found.skipped] == [1, 3]


def test_a_tree_keeps_the_depth_that_is_given(tmp_path: Path) -> None:
    meta = REPORTED | {"spec_num_proposed_drafts": 43 * 15, "spec_accept_rate": 63 / 645}
    path = write(tmp_path / "s.jsonl", {"meta_info": meta})
    found = import_histogram("sglang", path, k=5)
    assert_counts(found, [11, 14, 11, 4, 0, 3])
    assert_notes(found, "a tree")
    inferred = import_histogram("sglang", path)
    assert inferred.histogram.draft_length == 15
    assert_notes(inferred, "give its depth as --k")
    longer = import_histogram("sglang", path, k=20)
    assert_notes(longer, "11 to 43 of 43 rounds drafted fewer than 20")


def test_requests_that_did_not_speculate_make_no_histogram(tmp_path: Path) -> None:
    path = write(tmp_path / "s.jsonl", {"meta_info": {"spec_verify_ct": 0, "completion_tokens": 1}})
    assert_refused("sglang", path, "spec_verify_ct is 0 in all records", k=3)


# aiperf


def test_totals_of_aiperf_and_its_requests_agree(tmp_path: Path) -> None:
    requests = simulate(4, 50, seed=7)
    records = write(tmp_path / "profile_export.jsonl", aiperf_record(TWENTY, "warmup"), *map(aiperf_record, requests))
    totals = tmp_path / "profile_export_aiperf.json"
    totals.write_text(json.dumps(aiperf_totals([r for request in requests for r in request]), indent=2))
    of_records, of_totals = (import_histogram("aiperf", path) for path in (records, totals))
    assert_counts(of_records, true_counts(requests))
    assert_counts(of_totals, true_counts(requests))
    assert_notes(of_records, "1 warm-up")
    assert "inferred" in of_totals.definition
    assert import_histogram("aiperf", totals, k=6).histogram.draft_length == 6


def test_the_documented_record_of_aiperf(tmp_path: Path) -> None:
    # The documentation's numbers are illustrative: 34..22 accept 278 of 640, not 281, so the record is refused.
    documented = {"acceptance_histogram": {"0": 34, "1": 22, "2": 19, "3": 16, "4": 15, "5": 22}}
    documented |= {"num_draft_tokens": 640, "num_spec_steps": 128, "num_spec_tokens": 5}
    path = tmp_path / "profile_export.jsonl"
    write(path, {"spec_decode_acceptance": documented | {"num_accepted_draft_tokens": 281}})
    assert_refused("aiperf", path, "num_accepted_draft_tokens is 281, but acceptance_histogram makes 278")
    write(path, {"spec_decode_acceptance": documented | {"num_accepted_draft_tokens": 278}})
    assert_counts(import_histogram("aiperf", path), [34, 22, 19, 16, 15, 22])


def test_a_mean_over_requests_is_not_one_over_rounds(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", {"spec_decode_acceptance_length": {"avg": 4.19, "unit": "ratio"}})
    assert_refused("aiperf", path, "a mean over requests", k=5)
    weighted = {"spec_decode_token_weighted_acceptance_length": {"avg": 4.63}, "total_spec_decode_steps": {"avg": 100}}
    found = import_histogram("aiperf", write(path, weighted), k=7)
    assert found.reconstructed
    assert found.histogram.tokens_per_round == pytest.approx(4.63)


# spec-bench


def test_draft_length_of_spec_bench_is_inferred_or_given(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", spec_bench_line([Round(8, a) for a in (0, 0, 1, 3)]))
    inferred = import_histogram("spec-bench", path)
    assert_counts(inferred, [2, 1, 0, 1])
    assert "K = 3 is inferred from the most drafts that a step accepted" in inferred.definition
    assert_notes(inferred, "past the end")
    given_k = import_histogram("spec-bench", path, k=8)
    assert_counts(given_k, [2, 1, 0, 1, 0, 0, 0, 0, 0])
    baseline = write(tmp_path / "baseline.jsonl", spec_bench_line([Round(0, 0)] * 5))
    assert_refused("spec-bench", baseline, "no round accepted a draft")
    assert_counts(import_histogram("spec-bench", baseline, k=2), [5, 0, 0])


def test_questions_that_failed_or_repeat_are_told(tmp_path: Path) -> None:
    failed = spec_bench_line(TWENTY)
    failed["choices"][0]["turns"] = ["An answer.", "ERROR"]
    good = spec_bench_line(TWENTY)
    found = import_histogram("spec-bench", write(tmp_path / "a.jsonl", good, failed, good, spec_bench_line([])))
    assert_counts(found, [10, 6, 8, 6, 10])
    assert [s.line for s in found.skipped] == [2, 4]
    assert "ERROR" in found.skipped[0].reason
    assert_notes(found, "of an earlier line: 1")


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
            ({"acceptance_rate": float("nan")}, "holds NaN"),
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
        ({"choices": [{"accept_lengths": [3, length]}]}, rf"accept_lengths\[1\] is .*, {WHOLE} from 1")
        for length in (0, -1, 1.5, True, "3", None, 2000, 10**400, [3])
    ],
}


@pytest.mark.parametrize("tool", [tool for tool in FORMATS if tool != "vllm-metrics"])
def test_what_contradicts_itself_is_not_used(tmp_path: Path, tool: str) -> None:
    for record, message in BROKEN[tool]:
        path = write(tmp_path / "file", record)
        assert_refused(tool, path, f"line 1: .*({message})")
        if tool == "spec-bench":
            assert_counts(import_histogram(tool, write(path, record, spec_bench_line(TWENTY))), [5, 3, 4, 3, 5])


def test_draft_lengths_out_of_range_and_unknown_formats_are_refused(tmp_path: Path) -> None:
    for k in (0, -1, 1025, True):
        with pytest.raises(UserError, match="--k"):
            import_histogram("spec-bench", tmp_path / "none", k=k)
    with pytest.raises(UserError, match="expected one of spec-bench, vllm-metrics"):
        import_histogram("vllm", tmp_path / "none")


HOSTILE = [
    b"",
    b"\n \n",
    b"\xff\xfe\x00",
    b"not json",
    b"<html><body>502 Bad Gateway</body></html>",
    b"null",
    b"true",
    b"5",
    b'"text"',
    b"[]",
    b"{}",
    b"[{}]",
    b"[" * 100_000,
    b'{"a":' * 50_000,
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


ODD = st.one_of(
    *(st.none(), st.booleans(), st.integers(-3, 12), st.integers(-(10**30), 10**30), st.floats()),
    *(st.text(max_size=4), st.just([]), st.just({}), st.lists(st.integers(0, 6), max_size=7)),
    st.dictionaries(st.sampled_from(["0", "1", "3", "avg", "-1", "4"]), st.integers(-1, 9), max_size=3),
)


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the paths to everything in a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(place for key, item in inner for place in places(item, (*here, key)))]


def replaced(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    copy = value.copy()
    copy[place[0]] = replaced(value[place[0]], place[1:], new)
    return copy


SMALL = [Round(K, a) for a in (4, 0, 2, 1)]
SAMPLES: list[tuple[str, Any]] = [
    ("spec-bench", spec_bench_line(SMALL)),
    ("vllm-requests", vllm_response(SMALL)),
    ("vllm-requests", vllm_response(SMALL, level="detailed")),
    ("vllm-bench", bench_result(SMALL)),
    ("sglang", sglang_response(SMALL)),
    ("sglang", {"choices": [sglang_response(SMALL)], "sglext": {"spec_tokens_details": REPORTED}}),
    ("aiperf", aiperf_record(SMALL)),
    ("aiperf", aiperf_totals(SMALL)),
]


@given(data=st.data())
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_files_give_a_sound_histogram_or_one_line(tmp_path: Path, data: st.DataObject) -> None:
    tool, sample = data.draw(st.sampled_from(SAMPLES))
    for _ in range(data.draw(st.integers(1, 3))):
        sample = replaced(sample, data.draw(st.sampled_from(places(sample))), data.draw(ODD))
    path = tmp_path / "file"
    path.write_text(json.dumps(sample) + "\n" + data.draw(st.sampled_from(["", "{", "[1]", "\x00"])))
    check_sound(tool, path, data.draw(st.sampled_from([None, 4, 7])))


@given(
    lines=st.lists(st.sampled_from(METRICS.split("\n")), max_size=12),
    text=st.text(st.sampled_from('{}",=\\ 0123eE+-.NaN_positionvllm:\n#'), max_size=20),
    place=st.integers(0, 900),
    k=st.sampled_from([None, 4]),
)
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_mutated_metrics_give_a_sound_histogram_or_one_line(
    tmp_path: Path, lines: list[str], text: str, place: int, k: int | None
) -> None:
    path = tmp_path / "file"
    whole = METRICS[:place] + text + METRICS[place:] if place % 2 else "\n".join(lines) + text
    path.write_text(whole)
    check_sound("vllm-metrics", path, k)


def check_sound(tool: str, path: Path, k: int | None) -> None:
    try:
        found = import_histogram(tool, path, k=k)
    except UserError as error:
        found = str(error)
    if isinstance(found, str):
        assert "\n" not in found
        assert str(path) in found
        return
    assert k in (None, found.histogram.draft_length)
    assert 0 < found.histogram.samples < 1e30
    assert 1 <= found.histogram.tokens_per_round <= found.histogram.draft_length + 1
    assert found.rounds_apart >= 0
    assert found.reconstructed == ("RECONSTRUCTED" in found.definition)


def test_the_command_offers_every_format() -> None:
    assert tuple(FORMATS) == import_cli.FORMATS
