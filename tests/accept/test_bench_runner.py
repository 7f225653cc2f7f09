"""Turns: every prompt by every arm in a drawn order, on streams of its own; a failure is a record.

Long because one run of small models is looked at from all sides.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from acceptance.bench import outcome, runner, timed
from acceptance.bench.forecast import forecast_run
from acceptance.bench.load import bind
from acceptance.bench.machine import Energy, MemoryPeak
from acceptance.bench.record import next_token_match
from acceptance.bench.runner import left_out, measure
from acceptance.bench.turns import Bench, Runnable, batches, plan_turns
from acceptance.decoders.method import Models, Options
from acceptance.decoders.methods import METHODS
from acceptance.measure.loop_check import finer_copy, next_logits
from acceptance.models import static_context as static
from acceptance.models.model import Model
from acceptance.models.rule import SamplingRule
from acceptance.models.static_context import ATTRIBUTE, static_context
from acceptance.results.records import done_keys, latest
from acceptance.results.report import forecast_text
from acceptance.results.settings import Arm, Settings
from acceptance.results.summary import AT, summarise, sums
from acceptance.results.validate import disagreements, line_problems
from acceptance.trace.trace import PromptInfo
from simulator.ground.artefacts import UserError

from .tiny_models import random_model, related_model

GREEDY, SAMPLED = SamplingRule(temperature=0.0), SamplingRule(temperature=1.0)
TARGET = random_model("llama", 1, 24)
DRAFT = related_model(TARGET, 2, 0.3)


def arm(name: str, rule: SamplingRule = GREEDY, models: Models | None = None) -> Runnable:
    method = METHODS[name]
    begin = method.begin(models or Models(target=TARGET, draft=DRAFT), Options(draft_rule=rule))
    return Runnable(arm=Arm(name=name, method=name), is_exact=method.is_exact, begin=begin)


def arm_of(name: str, method: str, begin: Callable[..., Any]) -> Runnable:
    """An exact arm of our own making."""
    return Runnable(arm=Arm(name=name, method=method), is_exact=True, begin=begin)


def plain_begin(prompts, task):
    return METHODS["baseline"].begin(Models(target=TARGET), Options(draft_rule=GREEDY))(prompts, task)


def bench_of(*arms: Runnable | str, prompts: int = 6, references=(), rule: SamplingRule = GREEDY, **settings) -> Bench:
    runnable = tuple(arm(a) if isinstance(a, str) else a for a in arms)
    devices = ("cpu",)
    return Bench(
        arms=runnable,
        target=TARGET,
        prompts=tuple((i + 1, 3, 5 + i % 3) for i in range(prompts)),
        infos=tuple(PromptInfo(source=f"p{i}", category="") for i in range(prompts)),
        references=references,
        settings=Settings(arms=tuple(a.arm for a in runnable), rule=rule, **{"max_new_tokens": 10} | settings),
        devices=devices,
        dtype="float32",
        memory=MemoryPeak(devices),
        energy=Energy(devices),
    )


def measured(bench: Bench, done=(), tracks: list[object] | None = None):
    records, todo = [], plan_turns(bench, done)
    watch = (lambda *_: None) if tracks is None else (lambda *track: tracks.append(track))
    measure(bench, todo, emit=records.append, progress=lambda _: None, watch=watch)
    return records


def of(name: str, records):
    return [r for r in records if r["method"] == name]


def hook_warm_up(monkeypatch: pytest.MonkeyPatch, behind: Callable[[], None]) -> None:
    """Have this called behind the warm-up."""
    right = runner.warm_up

    def warm_up(*arguments):
        found = right(*arguments)
        behind()
        return found

    monkeypatch.setattr(runner, "warm_up", warm_up)


def test_every_arm_takes_every_prompt_in_every_run_and_says_what_it_did() -> None:
    """Greedy outputs are the baseline's; lossy ones and the baseline's are judged; trees have metrics of their own."""
    names = ("baseline", "speculative", "ngram", "specexec", "adaptive", "topk")
    tracks = []
    bench = bench_of(*names, runs=2, references=((1, 2, 3),) * 6)
    records = measured(bench, tracks=tracks)
    assert Counter((r["method"], r["prompt_index"], r["run"]) for r in records) == Counter(
        {(n, p, run): 1 for n in names for p in range(6) for run in range(2)}
    )
    assert len(tracks) == len(records)
    exact = [r for r in records if r["method"] != "topk"]
    assert all(r["identical_to_baseline"] for r in exact)
    assert len({r["output_sha256"] for r in exact if r["prompt_index"] == 0}) == 1
    apart = [r for r in records if not r["identical_to_baseline"]]
    assert apart
    for r in apart:
        assert 0 <= r["first_divergence"]["position"] < 10
        assert r["first_divergence"]["verdict"] is None
        assert r["overruled"] > 0
    assert {r["method"] for r in records if r["quality"]} == {"baseline", "topk"}
    assert [r["quality"]["argmax_share"] for r in of("baseline", records)] == [1.0] * 12
    assert {r["method"] for r in records if r["tree"]} == {"specexec"}
    for r in of("specexec", records):
        assert r["tree"]["effective_parallelism"] > 1
        assert r["tree"]["branch_prune_rate"] == 0  # without a threshold
        assert sum(r["rounds"]["over_budget"]) > 0
    for r in records:
        assert (r["status"], r["generated_tokens"]) == ("ok", 10)
        assert 0 < r["ttft_s"] <= r["total_s"] * (1 + 1e-9)
        assert r["memory_peak_bytes"] > 0
        assert r["exact_match"]["trials"] in range(1, 4)
        assert not r["judge"]
        assert r["timestamp_utc"][:2] == "20"
        assert list(disagreements(r)) == []
    # Records say which place a method had.
    for turn in plan_turns(bench, ()):
        here = [r for r in records if (r["prompt_index"], r["run"]) == (turn.batch.start, turn.run)]
        assert [r["method"] for r in sorted(here, key=lambda r: r["order"])] == [r.arm.name for r in turn.order]


def test_the_order_of_turns_is_drawn_anew_each_time_and_is_the_seeds() -> None:
    names = "baseline", "speculative", "ngram", "adaptive"
    orders, again, other = (
        [[r.arm.name for r in t.order] for t in plan_turns(bench_of(*names, prompts=60, seed=seed), ())]
        for seed in (3, 3, 4)
    )
    assert orders == again != other
    firsts = Counter(order[0] for order in orders)
    # 60 turns over 4 arms: 15 each, give or take four standard errors.
    assert all(abs(firsts[name] - 15) <= 4 * np.sqrt(60 * 0.25 * 0.75) for name in names)
    repeats = [t.order for t in plan_turns(bench_of(*map(arm, names), runs=2, prompts=30), ())]
    assert repeats[:30] != repeats[30:]


def test_sampled_output_is_the_streams_whatever_the_order_and_differs_between_runs_and_seeds() -> None:
    runs = {}
    for seed in range(3):
        names = ("baseline", "specexec") if seed == 1 else ("baseline",)
        records = measured(bench_of(*(arm(n, SAMPLED) for n in names), rule=SAMPLED, runs=2, seed=seed, prompts=3))
        by = {(r["method"], r["prompt_index"], r["run"]): r["output_sha256"] for r in records}
        # A tree draws from a stream what plain decoding draws from it.
        assert all(by["baseline", p, run] == by[n, p, run] for n in names for p in range(3) for run in range(2))
        assert {r["identical_to_baseline"] for r in records} == {None}
        runs |= {(seed, run): tuple(by["baseline", p, run] for p in range(3)) for run in range(2)}
    # A repeat is not the first run of another seed.
    assert len(set(runs.values())) == 6


class Breaks(Exception):
    """What a model's own code may raise."""


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object) -> None:
        raise error

    return fail


def failing(prompt: int) -> Runnable:
    def begin(prompts, task):
        if prompts[0][0] == prompt + 1:
            raise Breaks("first line\nsecond line")
        return METHODS["ngram"].begin(Models(target=TARGET), Options(draft_rule=GREEDY))(prompts, task)

    return arm_of("fails", "ngram", begin)


def test_a_failure_is_a_record_does_not_stop_the_rest_and_is_tried_again() -> None:
    records = measured(bench_of("baseline", failing(2)))
    failed = [r for r in records if r["status"] == "error"]
    assert [(r["method"], r["prompt_index"], r["error"]) for r in failed] == [("fails", 2, "Breaks: first line")]
    assert len([r for r in records if r["status"] == "ok"]) == 11
    mended = bench_of("baseline", replace(arm("ngram"), arm=failing(2).arm))
    more = measured(mended, done_keys(records))
    # The whole turn again: a time is compared with one that was taken beside it. What was missing comes last.
    assert [(r["method"], r["prompt_index"], r["status"]) for r in more] == [("baseline", 2, "ok"), ("fails", 2, "ok")]
    assert more[1]["identical_to_baseline"] is True
    assert {r["total_s"] for r in latest(records + more) if r["prompt_index"] == 2} == {r["total_s"] for r in more}
    assert len(latest(records + more)) == 12
    assert measured(mended, done_keys(records + more)) == []


def test_a_turn_of_which_arms_are_missing_is_measured_as_a_whole_wherever_it_was_cut() -> None:
    bench = bench_of("baseline", "speculative", "ngram", prompts=2)
    records = measured(bench)
    for left in range(1, 3):
        more = measured(bench, done_keys(records[: 3 + left]))
        assert {r["prompt_index"] for r in more} == {1}
        assert {r["method"]: r["order"] for r in more} == {r["method"]: r["order"] for r in records[3:]}
        # Cut anywhere within the second time, the turn is still not done.
        for cut in range(3):
            assert plan_turns(bench, done_keys(records[: 3 + left] + more[:cut]))


def broken(error: BaseException) -> Model:
    """The target, but every call of it fails."""
    module = deepcopy(TARGET.module)
    module.register_forward_pre_hook(raising(error))
    return replace(TARGET, module=module)


def test_what_fails_behind_the_clock_leaves_a_note_and_the_times() -> None:
    whole_bench = bench_of("baseline", "speculative", "topk", prompts=3)
    sound = measured(whole_bench)
    for error in (MemoryError("no room\nat all"), RuntimeError("CUDA out of memory"), Breaks("odd")):
        records = measured(replace(whole_bench, target=broken(error)))
        assert [(r["status"], r["output_sha256"]) for r in records] == [("ok", r["output_sha256"]) for r in sound]
        assert {r["first_divergence"] for r in records} == {r["quality"] for r in records} == {None}
        reason = f"{type(error).__name__}: " + str(error).partition("\n")[0]
        for r, whole in zip(records, sound, strict=True):
            assert whole["note"] is None
            missing = [name for name in ("first_divergence", "quality") if whole[name]]
            assert (r["note"] or "") == "; ".join(f"{name}: {reason}" for name in missing)
            assert list(line_problems(r, first=False)) == list(disagreements(r)) == []
        assert any("; " in (r["note"] or "") for r in records)
        assert all(s["speedup"] for s in summarise(records, 0))


def test_an_interruption_is_no_failure_within_a_method_or_behind_the_clock() -> None:
    stops = arm_of("stops", "ngram", raising(KeyboardInterrupt()))
    late = replace(bench_of("baseline", "topk", prompts=2), target=broken(KeyboardInterrupt()))
    for bench in (bench_of("baseline", stops, prompts=1), late):
        with pytest.raises(KeyboardInterrupt):
            measured(bench)


def test_a_failing_baseline_leaves_nothing_to_compare_with() -> None:
    records = measured(bench_of(arm_of("baseline", "baseline", raising(Breaks("no"))), "ngram", prompts=2))
    assert {r["identical_to_baseline"] for r in of("ngram", records)} == {None}
    assert [s["speedup"] for s in summarise(records, 0)] == [None, None]


def test_what_cannot_take_a_batch_is_skipped_with_the_reason() -> None:
    tree = replace(arm("specexec"), begin=None, reason="takes one sequence at a time")
    bench = bench_of("baseline", "speculative", tree, batch_size=4, runs=2)
    (skipped,) = left_out(bench, ())
    assert list(line_problems(skipped, first=False)) == list(disagreements(skipped)) == []
    assert (skipped["status"], skipped["error"]) == ("skipped", "takes one sequence at a time")
    assert skipped["resume_key"] == "specexec/0/0"
    assert left_out(bench, done_keys([skipped])) == []
    ok = measured(bench)
    assert {(r["method"], r["status"]) for r in ok} == {("baseline", "ok"), ("speculative", "ok")}
    assert {r["order"] for r in ok} == {0, 1}
    assert sorted({(r["batch_index"], r["batch_size"]) for r in ok}) == [(0, 4), (1, 2)]
    assert all(r["identical_to_baseline"] for r in ok)
    assert {s["compared_units"] for s in summarise([skipped, *ok], 0) if s["method"] != "specexec"} == {2}


def test_a_method_that_lacks_something_is_left_out_or_refused_by_its_own_name() -> None:
    own = Arm(name="mine", method="medusa")
    told = own, Options(draft_rule=GREEDY), Models(target=TARGET, draft=DRAFT), Settings(arms=(own,), rule=GREEDY)
    left = bind(*told, strict=False)
    assert (left.begin, left.reason) == (None, "needs Medusa heads")
    with pytest.raises(UserError, match="--method: 'mine' is not allowed without Medusa heads"):
        bind(*told, strict=True)


def test_a_decoder_that_is_wrong_in_reduced_precision_is_a_bug_and_rounding_is_not() -> None:
    """Plain decoding in bfloat16, against the same weights in float32, which rounding alone tells apart.

    The negative control writes, once, the second choice.
    """
    target = replace(TARGET, module=deepcopy(TARGET.module).to(torch.bfloat16))
    models = Models(target=target)
    finer = arm("baseline", GREEDY, Models(target=finer_copy(target, "bfloat16")))
    rounded = arm_of("rounded", "ngram", finer.begin)
    arms = arm("baseline", GREEDY, models), arm("ngram", GREEDY, models), rounded, wrong_once(models)
    bench = replace(bench_of(*arms, prompts=16, max_new_tokens=40), target=target, dtype="bfloat16")
    records = measured(bench)
    found = {s["method"]: s["identical"] for s in summarise(records, 0)}
    for name in ("ngram", "rounded"):
        assert (found[name]["bug"], found[name]["unchecked"]) == (0, 0)
    assert found["rounded"]["rounding"] == 16 - found["rounded"]["same"] > 2
    # Where the two best are a rounding apart, a wrong choice cannot be told from one.
    assert found["wrong"]["bug"] > 10
    assert found["wrong"]["bug"] + found["wrong"]["rounding"] == 16
    for r in records:
        known = r["first_divergence"]
        assert not known or known["verdict"] != "rounding" or known["deficit"] <= known["spread"]
        assert list(line_problems(r, first=False)) == []


def wrong_once(models: Models) -> Runnable:
    def begin(prompts, task):
        plain = METHODS["baseline"].begin(models, Options(draft_rule=GREEDY))(prompts, task)
        read = plain.batch.target.read

        def spoilt(*arguments):
            logits = read(*arguments)
            if len(plain.batch.outputs[0].tokens) == 3:
                return logits.scatter(-1, logits.argmax(-1, keepdim=True), -1e9)
            return logits

        plain.batch.target.read = spoilt
        return plain

    return arm_of("wrong", "ngram", begin)


def test_in_float32_every_wrong_choice_and_an_output_that_ends_early_is_a_bug() -> None:
    short = arm_of("short", "ngram", lambda prompts, task: plain_begin(prompts, replace(task, max_new_tokens=4)))
    records = measured(bench_of("baseline", short, wrong_once(Models(target=TARGET))))
    found = [r["first_divergence"] for r in of("short", records)]
    assert {(d["position"], d["verdict"], d["deficit"]) for d in found} == {(4, "bug", None)}
    found = [r["first_divergence"] for r in of("wrong", records)]
    assert {d["verdict"] for d in found} == {"bug"}
    assert all(0 < d["spread"] < 1e-3 < d["deficit"] for d in found)


def test_a_finer_copy_leaves_caches_of_fixed_size_behind() -> None:
    model = replace(TARGET, module=deepcopy(TARGET.module), graphs=True)
    context = static_context(model, 32, keep_hidden=False)
    copied = finer_copy(model, "float32")
    assert model.module.__dict__[ATTRIBUTE]
    assert copied.module.__dict__[ATTRIBUTE] == {}
    assert copied.module.dtype == torch.float64
    assert static_context(model, 32, keep_hidden=False) is context
    found, expected = (next_logits(m, [1, 2, 3]) for m in (copied, TARGET))
    torch.testing.assert_close(found.float(), expected)


def test_where_no_finer_copy_can_be_made_a_difference_is_unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outcome, "finer_copy", raising(RuntimeError("out of memory")))
    records = measured(bench_of("baseline", wrong_once(Models(target=TARGET))))
    wrong = of("wrong", records)
    assert {r["first_divergence"]["verdict"] for r in wrong} == {"unchecked"}
    assert {r["note"] for r in wrong} == {"recheck: RuntimeError: out of memory"}
    assert of("wrong", summarise(records, 0))[0]["identical"]["unchecked"] == 6


def test_only_what_follows_the_true_text_counts_as_a_next_token() -> None:
    for output, reference, expected in (
        ([1, 2, 3, 4], [1, 2, 3, 4], (4, 4)),
        ([1, 9, 3, 4], [1, 2, 3, 4], (1, 2)),  # what stands behind a mismatch says nothing
        ([9, 1, 2, 3], [1, 2, 3, 4], (0, 1)),
        ([1, 2], [1, 2, 3], (2, 2)),  # the budget's end is no mismatch
        ([1, 2, 3, 4], [1, 2], (2, 2)),
    ):
        found = next_token_match(output, reference)
        assert (found["matched"], found["trials"]) == expected


def test_warm_ups_are_run_for_each_shape_and_leave_no_record(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def begin(prompts, task):
        seen.append((len(prompts), task.max_new_tokens))
        return plain_begin(prompts, task)

    monkeypatch.setattr(timed, "WARM_UP_TOKENS", 3)
    assert len(measured(bench_of(arm_of("baseline", "baseline", begin), batch_size=4))) == 6
    assert seen == [(4, 3), (2, 3), (4, 10), (2, 10)]


@pytest.mark.parametrize("name", ["speculative", "adaptive", "heuristic"])
def test_the_draft_passes_of_a_ragged_batch_are_its_calls(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    hook_warm_up(monkeypatch, calls.clear)
    hook = DRAFT.module.register_forward_hook(lambda *_: calls.append(1))
    rows = of(name, measured(bench_of("baseline", name, batch_size=6, max_new_tokens=40)))
    hook.remove()
    assert sums(rows)[AT["step_passes"]] == len(calls) - 1  # the prompts
    # No single row's count is that of the batch, but where all rows draft as much in every round.
    assert max(sum(r["rounds"]["draft_passes"]) for r in rows) <= len(calls) - 1


def captures_of(monkeypatch: pytest.MonkeyPatch) -> tuple[list[tuple[str, int, int]], list[tuple[int, int]]]:
    """Measure with caches of fixed size as a GPU would; return each capture, and the tokens each pass read behind.

    A capture: in what ("warm-up" or "turns"), tokens of the cache, tokens of the pass. A pass stands for its graph.
    """
    target = replace(random_model("llama", 1, 24, max_position_embeddings=1024), graphs=True)
    models = Models(target=target, draft=replace(related_model(target, 2, 0.3), graphs=True))
    captured: list[tuple[str, int, int]] = []
    behind: list[tuple[int, int]] = []
    phases = ["warm-up"]

    def capture(one: static.Pass, length: int) -> None:
        captured.append((phases[-1], one.context.columns, one.tokens.shape[1]))
        behind.append((length, one.tokens.shape[1]))

        def replay() -> None:
            one.output = one.run()

        one.graph = SimpleNamespace(replay=replay)

    monkeypatch.setattr(static, "has_graphs", lambda _: True)
    monkeypatch.setattr(static.Pass, "capture", capture)
    hook_warm_up(monkeypatch, lambda: phases.append("turns"))
    arms = [arm(n, GREEDY, models) for n in ("baseline", "speculative", "adaptive", "ngram")]
    rng = np.random.default_rng(0)
    prompts = tuple(tuple(rng.integers(24, size=n).tolist()) for n in (20, 300, 2))
    bench = bench_of(*arms, prompts=3, max_new_tokens=24)
    records = measured(replace(bench, target=target, prompts=prompts))
    assert {(r["status"], r["identical_to_baseline"]) for r in records} == {("ok", True)}
    return captured, behind


def test_graphs_are_captured_in_the_warm_up_alone_and_never_of_a_prompt(monkeypatch: pytest.MonkeyPatch) -> None:
    captured, behind = captures_of(monkeypatch)
    assert {(phase, columns) for phase, columns, _ in captured} == {("warm-up", 256), ("warm-up", 512)}
    # Plain decoding reads one token at a time, drafts of K = 4 are verified with the token before them.
    for columns in (256, 512):
        assert {1, 2, 5} <= {count for _, c, count in captured if c == columns}
    assert min(length for length, _ in behind) > 0


@pytest.mark.parametrize("may_capture", [False, True])
def test_what_no_warm_up_met_is_captured_in_no_turn(monkeypatch: pytest.MonkeyPatch, may_capture: bool) -> None:
    """The warm-up meets one size of cache of two. The negative control: turns that may capture do."""
    first = timed.shapes
    monkeypatch.setattr(timed, "shapes", lambda bench: first(bench)[:1])
    if may_capture:
        monkeypatch.setattr(runner, "no_captures", nullcontext)
    assert ("turns" in {phase for phase, _, _ in captures_of(monkeypatch)[0]}) == may_capture


def test_a_forecast_scales_the_warm_up_and_names_what_cannot_run() -> None:
    skipped = Runnable(arm=Arm(name="no", method="ngram"), is_exact=True, begin=None, reason="cannot")
    found = forecast_run(bench_of("baseline", skipped, batch_size=4, runs=3), start_s=50.0)
    assert (found["prompts"], found["batches"], found["runs"], found["decodings"]) == (6, 2, 3, 6)
    plain, other = found["methods"]
    assert plain["total_s"] == pytest.approx(plain["output_s"] * 6)
    assert found["warm_up_s"] > 0
    assert found["total_s"] == pytest.approx(plain["total_s"] + found["warm_up_s"] + 50)
    assert plain["output_s"] > plain["prefill_s"] > 0
    assert (other["reason"], other["total_s"]) == ("cannot", None)
    assert forecast_text({"max_new_tokens": 10}, found).startswith("6 prompts in 2 batches x 3 runs x 1 methods = 6 ")
    assert [list(b) for b in batches(5, 2)] == [[0, 1], [2, 3], [4]]


def test_a_forecast_is_an_estimate_in_seconds_up_to_two_minutes() -> None:
    methods = [{"method": "baseline", "reason": None, "output_s": 0.5, "total_s": 3.0}]
    found = {"prompts": 6, "batches": 6, "runs": 1, "decodings": 6, "methods": methods}
    for total, told in ((7.25, "7.2 s"), (119.9, "119.9 s"), (120.0, "2.0 min"), (600.0, "10.0 min")):
        shown = forecast_text({"max_new_tokens": 8}, found | {"start_s": 4.0, "warm_up_s": 0.25, "total_s": total})
        assert shown.splitlines()[-1] == f"estimate: {told}, of them 4.0 s to load and 0.2 s to warm up"
        assert shown.splitlines()[3].split() == ["baseline", "0.5", "3.0", "s"]
