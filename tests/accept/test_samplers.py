"""Who decides on drafts in the loop's place: the kernels, what transformers does, and one of a user's own."""

import json
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from acceptance.decoders import samplers
from acceptance.decoders.chain import Proposal, Seen
from acceptance.decoders.samplers import TRANSFORMERS, decide, load_sampler
from acceptance.models import compat, laws
from acceptance.models.rule import SamplingRule
from acceptance.results.journal import read_records
from acceptance.results.records import RECORD, SUMMARY
from acceptance.results.validate import problems
from simulator.ground.artefacts import UserError

V, K = 5, 2
RULE = SamplingRule(temperature=0.8, top_k=4)
DRAFT_RULE = SamplingRule(temperature=1.4)


def seen_of(rows: int, rng: np.random.Generator, dtype: torch.dtype = torch.float32) -> Seen:
    """Rounds of one law each, with drafts that are drawn from what the draft says."""
    target, draft = (
        torch.from_numpy(np.random.default_rng(s).normal(size=(n, V)) * 1.5) for s, n in ((1, K + 1), (2, K))
    )
    target, draft = (x.to(dtype).expand(rows, -1, -1) for x in (target, draft))
    q = laws.probabilities(draft, DRAFT_RULE)
    drafted = laws.draw(q, torch.from_numpy(rng.random((rows, K))))
    lengths = np.full(rows, K)
    proposal = Proposal(tokens=drafted, lengths=lengths, passes=lengths, logits=draft, rule=DRAFT_RULE)
    return Seen(logits=target, proposal=proposal, rule=RULE, numbers=rng.random((rows, K + 1)))


def law_of_rounds(seen: Seen) -> np.ndarray:
    """The law of (accepted, token behind), [K + 1, V], by the algorithm written down (model §1)."""
    p, q = (
        laws.probabilities(seen.logits[0], RULE).double(),
        laws.probabilities(seen.proposal.logits[0], DRAFT_RULE).double(),
    )
    law, stays = np.zeros((K + 1, V)), 1.0
    for j in range(K):
        kept = float(torch.minimum(p[j], q[j]).sum())
        law[j] = stays * (p[j] - q[j]).clamp(min=0)
        stays *= kept
    law[K] = stays * p[K]
    return law / law.sum()


def fits(seen: Seen, decided: list[tuple[int, int]]) -> float:
    """The p-value of a chi-square test against the law; 0 where something impossible was seen."""
    law, counts = law_of_rounds(seen), np.zeros((K + 1, V))
    for accepted, token in decided:
        counts[accepted, token] += 1
    there = law > 1e-12
    if counts[~there].any():
        return 0.0
    return float(stats.chisquare(counts[there], law[there] * len(decided)).pvalue)


def one_by_one(seen: Seen, sampler: samplers.Sampler) -> list[tuple[int, int]]:
    """Have each row decided on by itself."""
    decided = []
    for row in range(len(seen.logits)):
        part = {n: getattr(seen.proposal, n)[row : row + 1] for n in ("tokens", "lengths", "passes", "logits")}
        alone = replace(
            seen,
            logits=seen.logits[row : row + 1],
            numbers=seen.numbers[row : row + 1],
            proposal=replace(seen.proposal, **part),
        )
        decided.append(tuple(int(x[0]) for x in decide(alone, sampler)))
    return decided


@pytest.mark.statistical
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_exact_kernel_keeps_the_law_of_rounds_at_other_temperatures_and_the_sigmoid_does_not(dtype) -> None:
    seen = seen_of(6000, np.random.default_rng(3), dtype)
    exact = list(zip(*(x.tolist() for x in decide(seen, load_sampler("exact"))), strict=True))
    sigmoid = list(zip(*(x.tolist() for x in decide(seen, load_sampler("sigmoid"))), strict=True))
    assert fits(seen, exact) > 1e-3
    assert fits(seen, sigmoid) < 1e-9
    # The negative control of the test itself: drafts said to come from another temperature.
    wrong = replace(seen, proposal=replace(seen.proposal, rule=SamplingRule(temperature=1.0)))
    assert fits(seen, list(zip(*(x.tolist() for x in decide(wrong, load_sampler("exact"))), strict=True))) < 1e-6


@pytest.mark.statistical
def test_transformers_keeps_the_law_and_leaves_torchs_draws_as_they_were() -> None:
    seen = seen_of(1500, np.random.default_rng(4))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    decided = one_by_one(seen, TRANSFORMERS)
    assert torch.equal(state, torch.get_rng_state())
    assert fits(seen, decided) > 1e-3
    assert decided[:50] == one_by_one(seen, TRANSFORMERS)[:50]


def test_transformers_of_older_releases_are_told_that_the_draft_has_not_ended(monkeypatch) -> None:
    from transformers.generation import utils

    now = utils._speculative_sampling
    told = []

    def older(candidate_input_ids, candidate_logits, candidate_length, new_logits, is_done_candidate):
        told.append(is_done_candidate)
        return now(candidate_input_ids, candidate_logits, candidate_length, new_logits)

    seen = seen_of(3, np.random.default_rng(6))
    expected = one_by_one(seen, TRANSFORMERS)
    monkeypatch.setattr(utils, "_speculative_sampling", older)
    compat.own_sampling.cache_clear()
    try:
        assert one_by_one(seen, TRANSFORMERS) == expected
    finally:
        compat.own_sampling.cache_clear()
    assert told == [False] * 3


@pytest.mark.parametrize("name", ["exact", "transformers"])
def test_a_round_without_drafts_draws_from_the_target_alone(name: str) -> None:
    seen = seen_of(1, np.random.default_rng(7))
    none = Proposal(
        tokens=torch.zeros((1, 0), dtype=torch.long), lengths=np.zeros(1, np.int64), passes=np.zeros(1, np.int64)
    )
    certain = torch.tensor([[[-50.0, -50.0, 0.0, -50.0, -50.0]]])
    accepted, token = decide(replace(seen, logits=certain, proposal=none), load_sampler(name))
    assert (accepted.tolist(), token.tolist()) == ([0], [2])


class Own:
    """Keeps every draft, and draws nothing."""

    is_exact, batched = False, True

    def __init__(self) -> None:
        self.seen: list[tuple[torch.dtype, torch.dtype]] = []

    def __call__(self, target_logits, draft_logits, draft_ids, *, seed, temperature, lengths):
        self.seen.append((target_logits.dtype, draft_logits.dtype))
        return compat.OneRound(lengths, target_logits[torch.arange(len(lengths)), lengths].argmax(-1))


OWN = Own()


def test_samplers_are_found_by_name_and_those_that_are_none_are_refused_in_one_line(monkeypatch) -> None:
    points = [
        EntryPoint("own", f"{__name__}:OWN", samplers.GROUP),
        EntryPoint("gone", "no.such:thing", samplers.GROUP),
        EntryPoint("poor", "json:dumps", samplers.GROUP),
    ]
    monkeypatch.setattr(samplers, "entry_points", lambda group: points)
    monkeypatch.setattr(EntryPoint, "load", lambda point: OWN if point.name == "own" else __import__("json").dumps)
    assert load_sampler("own") is OWN
    half = seen_of(2, np.random.default_rng(8), torch.float16)
    same = replace(half, proposal=replace(half.proposal, rule=RULE))
    assert decide(same, OWN)[0].tolist() == [2, 2]
    assert OWN.seen == [(torch.float16, torch.float16)]
    with pytest.raises(UserError, match="'other' is not allowed, expected one of loop, gone, own, poor"):
        load_sampler("other")
    with pytest.raises(UserError, match="'poor' has no is_exact"):
        load_sampler("poor")


@pytest.fixture
def call(run, random_pair: tuple[Path, Path], tmp_path: Path):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": f"w{i} w{i + 1} w{i % 7}"}) + "\n" for i in range(4)))
    target, draft = random_pair
    told = ["--target", target, "--draft", draft, "--dataset", prompts, "--max-new-tokens", 8, "--device", "cpu"]
    return lambda *more: run("bench-decode", *map(str, told), *map(str, more))


def test_arms_of_samplers_are_measured_in_turns_recorded_by_round_and_shown(call, tmp_path: Path) -> None:
    out, trace = tmp_path / "a.jsonl", tmp_path / "t.json"
    asked = ("--method", "speculative,specexec", "--sampler", "loop,exact,sigmoid,transformers", "--temperature", 1)
    done = call(*asked, "--out", out, "--trace-out", trace)
    assert done.returncode == 0, done.stderr
    assert not problems(out, strict=True)
    records = read_records(out)[0]
    by_method = {r["method"]: r for r in records if r["kind"] == RECORD}
    arms = {f"speculative-{name}" for name in ("exact", "sigmoid", "transformers")}
    assert set(by_method) == {"baseline", "speculative", "specexec", *arms}
    for name in arms:
        used = by_method[name]["sampler"]
        assert f"speculative-{used['name']}" == name
        assert len(used["ms"]) == len(by_method[name]["rounds"]["drafted"])
        assert sum(used["ms"]) == pytest.approx(by_method[name]["sample_ms"])
    assert {name for name, r in by_method.items() if not r["is_exact"]} == {"speculative-sigmoid"}
    assert by_method["speculative-sigmoid"]["quality"] is not None
    assert not any("sampler" in by_method[name] for name in ("baseline", "speculative", "specexec"))
    gains = {
        r["method"]: r["sampler"]["speedup_over_loop"]["value"]
        for r in records
        if r["kind"] == SUMMARY and "sampler" in r
    }
    total = {
        n: [
            sum(r[part] for r in records if r["kind"] == RECORD and r["method"] == n)
            for part in ("total_s", "generated_tokens")
        ]
        for n in by_method
    }
    (loop_s, loop_tokens), (s, tokens) = total["speculative"], total["speculative-exact"]
    assert gains["speculative-exact"] == pytest.approx((loop_s / loop_tokens) / (s / tokens))
    spans = {e["name"] for e in json.loads(trace.read_text())["traceEvents"] if e["ph"] == "X"}
    assert {"sample", "sample exact", "sample sigmoid", "sample transformers"} <= spans
    assert "who decides on drafts" in done.stdout
    assert "real time" not in done.stdout, "nothing was heard"
    again = tmp_path / "b.jsonl"
    assert call(*asked, "--out", again).returncode == 0
    outputs = [
        {(r["method"], r["prompt_index"]): r["output_sha256"] for r in read_records(p)[0] if r["kind"] == RECORD}
        for p in (out, again)
    ]
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (("--sampler", "exact"), "--sampler: exact samples, and at --temperature 0 nothing is, expected it above 0"),
        (("--sampler", "exakt", "--temperature", 1), "--sampler: 'exakt' is not allowed, expected one of loop, exact,"),
        (("--sampler", "exact", "--temperature", 1, "--method", "topk"), "--sampler: no method of --method takes one"),
        (("--sampler", "exact", "--temperature", 1, "--time-parts"), "--time-parts: --sampler is exact, expected none"),
    ],
)
def test_what_no_sampler_can_decide_is_refused_in_one_line(call, asked, said: str, tmp_path: Path) -> None:
    done = call(*asked, "--out", tmp_path / "never.jsonl")
    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "never.jsonl").exists()


def test_in_a_batch_the_kernels_decide_and_transformers_is_left_out_by_name(call, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    asked = ("--method", "ngram", "--sampler", "exact,transformers", "--temperature", 1, "--batch-size", 3)
    done = call(*asked, "--out", out)
    assert done.returncode == 0, done.stderr
    assert not problems(out, strict=True)
    statuses = {(r["method"], r["status"]) for r in read_records(out)[0] if r["kind"] == RECORD}
    assert statuses == {("baseline", "ok"), ("ngram-exact", "ok"), ("ngram-transformers", "skipped")}
    assert "takes one sequence at a time, --batch-size is 3" in done.stdout


def test_a_method_of_a_file_is_not_lost_behind_a_sampler_of_its_name(call, tmp_path: Path) -> None:
    config = tmp_path / "arms.toml"
    config.write_text('[methods.speculative-exact]\nmethod = "speculative"\nk = 2\n')
    asked = ("--config", config, "--method", "speculative,speculative-exact", "--temperature", 1)
    done = call(*asked, "--sampler", "loop,exact", "--out", tmp_path / "never.jsonl")
    assert done.returncode == 2
    assert "--sampler: two arms are named speculative-exact, expected another name in --config" in done.stderr
    assert not (tmp_path / "never.jsonl").exists()
