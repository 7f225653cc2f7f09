"""`calibrate` from steps of servers: known costs are found again, wrong ones are not, bad input is refused."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acceptance.servers.answer import Answer
from calibration.cli.from_server import are_loads
from calibration.fit.from_server import Models
from calibration.fit.server_rows import read_seen
from calibration.servers.steps import steps_of
from simulator.costs.drafters import draft_model
from simulator.costs.drafters.methods import method_named
from simulator.costs.engine import Engine as EngineCosts
from simulator.costs.model_costs import ModelPair
from simulator.costs.parameters import DeviceOptions
from simulator.costs.placing import place_models
from simulator.costs.profile import CALIBRATED, PassCost, Profile, constant
from simulator.costs.profile_file import load_profile
from simulator.costs.shapes import read_shape
from simulator.serving.pass_tables import step_costs
from simulator.serving.step_costs import StepCosts, add, no_totals, seconds

from .made_load import Engine, write_load

TARGET, DRAFT, FRONT_S = "llama-3.1-8b", "llama-3.2-1b", 0.006
ACCEPTS = (0.8, 0.6, 0.45)
# A device that no data sheet is of: 2 TB/s, 60 TFLOP/s, attention at half of that and small products at a fifth.
TRUTH = Profile(
    name="truth",
    device="made",
    status=CALIBRATED,
    passes={"bfloat16": PassCost(flop_scale=constant(1 / 6e13), mem_scale=constant(5e-13), fixed_s=1e-3)},
    launches_per_layer=10.0,
    engine=EngineCosts(load_layer_sequence_s=1e-6, draft_round_s=4e-4, draft_flops=5.0, attention_flops=2.0),
    round_overhead_s=5e-4,
)
# Steps of another kind than those of the plan: sequences, context of each, tokens of a prompt.
OTHERS = ((1, 300, 0), (2, 200, 0), (8, 250, 0), (12, 250, 180), (6, 180, 260), (0, 0, 200))


def pair_of(profile: Profile, method: str = "draft_model") -> ModelPair:
    """The models on a profile."""
    target, of = read_shape(TARGET), method_named(method)
    draft = read_shape(DRAFT) if of is draft_model.METHOD else of.usual(target)
    pair = place_models(profile, DeviceOptions(method=of.name), target, draft, of)
    return replace(pair, round_overhead_s=profile.round_overhead_s)


def costs_on(profile: Profile, k: int, method: str = "draft_model") -> StepCosts:
    """Steps of them, as a simulated server has them."""
    pair = pair_of(profile, method)
    return step_costs(pair if k else pair.placed_target, k, tokens=16_384, sequences=32)


def step_s(costs: StepCosts, k: int, sequences: int, context: int, prompt: int) -> float:
    """Seconds of one step."""
    totals = no_totals(costs)
    for _ in range(sequences):
        add(costs, totals, k + 1, context, k, False, True)
    if prompt:
        add(costs, totals, prompt, 0, 0, True, True)
    return seconds(costs, totals, k or -1)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plan of loads on made servers: plain, with a draft model, with look-up that finds half the time."""
    folder = tmp_path_factory.mktemp("plan")
    engines = {
        "plain": Engine(costs_on(TRUTH, 0), FRONT_S),
        "draft3": Engine(costs_on(TRUTH, 3), FRONT_S, ACCEPTS),
        "ngram3": Engine(costs_on(TRUTH, 3, "ngram"), FRONT_S, ACCEPTS, found=0.5),
    }
    for seed, (name, isl) in enumerate({"short": (32, 97), "long": (384, 641)}.items()):
        write_load(folder / f"{name}.jsonl", engines, (1, 4, 16), isl, 2.5, seed)
    (folder / "counts.json").write_text(json.dumps({name: e.counts for name, e in engines.items()}))
    return folder


@pytest.fixture(scope="module")
def calibrated(plan: Path, run_in: Any) -> Any:
    """What the command says of it."""
    files = ("short.jsonl", "long.jsonl")
    words = ("--target-model", TARGET, "--draft-model", DRAFT, "--chunk", 2048, "--max-running", 16)
    return run_in(plan, "calibrate", "--from-serving", *files, *words, "--out", "p.json", "--report", "r.json")


def errors_of(profile: Profile) -> dict[str, list[float]]:
    """Relative errors of steps of other kinds, by the arm."""
    arms = {"plain": (0, "draft_model"), "draft3": (3, "draft_model")}
    return {
        arm: [
            step_s(costs_on(profile, k, of), k, *other) / step_s(costs_on(TRUTH, k, of), k, *other) - 1
            for other in OTHERS
        ]
        for arm, (k, of) in arms.items()
    }


def test_known_costs_are_found_again(plan: Path, calibrated: Any) -> None:
    """Steps that the plan had none of are within 4 %, by seconds that clients saw alone; a wrong device's are not."""
    assert calibrated.returncode == 0, calibrated.stderr
    profile = load_profile(plan / "p.json")
    found = errors_of(profile)
    assert np.abs(found["plain"]).max() < 0.04
    assert np.abs(found["draft3"]).max() < 0.05
    assert profile.engine is not None
    assert float(profile.engine.front_s) == pytest.approx(FRONT_S, rel=0.2)
    # Negative control: a device of two thirds of the arithmetic.
    cost = TRUTH.passes["bfloat16"].scaled({"flop_scale": 1.5})
    assert np.abs(errors_of(replace(TRUTH, passes={"bfloat16": cost}))["plain"]).max() > 0.2


def test_what_is_written_says_how_well_it_is_known(plan: Path, calibrated: Any, run_in: Any) -> None:
    fit = load_profile(plan / "p.json").fitted
    assert fit is not None
    assert (fit.model, fit.engine, fit.served.chunk, fit.served.most_running) == (TARGET, "vllm", 2048, 16)
    assert fit.ranges["concurrency"].most == 16
    assert fit.tpot_error < 0.05
    report = json.loads((plan / "r.json").read_text())
    assert report["held_out"]["step"]["median_error"] < 0.05
    assert {load["arm"] for load in report["loads"]} == {"plain", "draft3", "ngram3"}
    assert "left out" in calibrated.stdout
    shown = run_in(plan, "profiles", "show", "p.json")
    assert shown.returncode == 0, shown.stderr
    assert "time of a FLOP of attention" in shown.stdout


def test_what_rounds_accepted_lies_beside(plan: Path, calibrated: Any) -> None:
    counts = json.loads((plan / "counts.json").read_text())
    drafted, searched = (
        json.loads((plan / "p_accepted" / method / "accept_hist_k3.json").read_text())
        for method in ("draft_model", "ngram")
    )
    assert list(drafted["hist"].values()) == counts["draft3"]
    table = searched["by_draft_length"]
    assert table["3"] == counts["ngram3"]
    # Half of the rounds found nothing; the last of an answer may be cut, and is then counted in part.
    assert table["0"][0] / (table["0"][0] + sum(table["3"])) == pytest.approx(0.5, abs=0.04)
    low, high = drafted["metrics"]["ci95"]["tokens_per_round"]
    assert low < drafted["metrics"]["tokens_per_round"] < high
    # All made rounds are alike: the interval is that of independent ones, up to what chance does to their spread.
    rounds = np.repeat(np.arange(4), counts["draft3"])
    assert 1 <= (high - low) / 2 / (1.959964 * rounds.std() / np.sqrt(len(rounds))) < 1.2


def test_a_forecast_takes_both_as_they_are(plan: Path, calibrated: Any, run: Any) -> None:
    words = ("--profile", plan / "p.json", "--target-model", TARGET, "--draft-model", DRAFT)
    words += ("--hist", plan / "p_accepted" / "draft_model", "--draftN", 3, "--concurrency", 4, "--requests", 60)
    done = run("simulate-serving", *words, "--isl", "100:300", "--osl", 40, "--max-model-len", 4096, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["points"][0]["plain"]["tpot_mean"] > 0


def test_steps_are_told_by_the_chunks_of_all_clients() -> None:
    """A step ends with a chunk of each; the second reads a prompt of 50 beside one that decodes."""
    one = Answer(sent_s=0.0, first_s=1.0, last_s=1.6, gaps_s=[0.2, 0.3, 0.1], prompt_tokens=100, output_tokens=4)
    two = Answer(sent_s=0.9, first_s=1.203, last_s=1.502, gaps_s=[0.299], prompt_tokens=50, output_tokens=2)
    steps = steps_of([one, two])
    assert steps.seconds == pytest.approx([0.2, 0.3, 0.1])
    assert steps.decoding.tolist() == [1, 2, 1]
    assert steps.prompts.tolist() == [1, 0, 0]
    assert steps.prompt_tokens.tolist() == [50, 0, 0]
    assert steps.context[0] == pytest.approx(101)
    assert 50 < steps.context[1] < 101
    # Behind its end the engine waits: what comes then begins no step.
    late = Answer(sent_s=5.0, first_s=5.5, last_s=5.6, gaps_s=[0.1], prompt_tokens=70, output_tokens=2)
    assert steps_of([one, late]).seconds == pytest.approx([0.2, 0.3, 0.1, 0.1])
    assert not len(steps_of([]).seconds)


RECORDED = Path(__file__).with_name("server_load.jsonl")


def test_a_recorded_load_of_a_real_server_falls_into_its_steps() -> None:
    """vLLM 0.32 on a processor: one client decodes faster than four, and a prompt takes what its length does."""
    seen = read_seen([RECORDED])
    assert [(arm.name, arm.k) for arm in seen.arms] == [("plain", 0), ("draft3", 3)]
    steps = {(r.arm, r.clients): r.seconds for r in seen.rows if not r.prompts and r.decoding == r.clients}
    assert 0.005 < steps["plain", 1] < steps["plain", 4] < steps["draft3", 4] < 0.05
    mixed = sorted((r.prompt_tokens, r.seconds) for r in seen.rows if r.prompts and r.seconds > 0)
    assert mixed[-1][1] > 1.2 * mixed[0][1]


def spaced(lines: str) -> str:
    """The same records, written another way."""
    return "".join(json.dumps(json.loads(line)) + "\n" for line in lines.splitlines())


def test_a_load_is_told_by_what_it_says_and_a_cut_end_is_said(plan: Path, run_in: Any) -> None:
    text = (plan / "short.jsonl").read_text()
    (plan / "spaced.jsonl").write_text(spaced(text))
    (plan / "cut.jsonl").write_text(text[:-100])
    assert are_loads([plan / "spaced.jsonl"])
    assert read_seen([plan / "spaced.jsonl"]) == read_seen([plan / "short.jsonl"])
    assert not read_seen([plan / "spaced.jsonl"]).broken
    words = ("--target-model", TARGET, "--draft-model", DRAFT, "--tp", 1)
    assert "--tp: 1 of servers" in run_in(plan, "calibrate", "--from-serving", "spaced.jsonl", *words).stderr
    records = text.splitlines()
    (plan / "headless.jsonl").write_text("\n".join(records[1:]) + "\n")
    done = run_in(plan, "calibrate", "--from-serving", "headless.jsonl", "--draft-model", DRAFT)
    assert "headless.jsonl: begins with no record of kind 'server_load'" in done.stderr
    failed = [json.dumps({k: v for k, v in json.loads(r).items() if k != "ttft_s"}) for r in records[2:5]]
    (plan / "failed.jsonl").write_text("\n".join([*records[:2], *failed, *records[5:]]) + "\n")
    assert " requests failed, or tell no first token, and are left out." in read_seen([plan / "failed.jsonl"]).broken[0]
    broken = read_seen([plan / "cut.jsonl"]).broken
    assert "cut.jsonl: its last line is cut (" in broken[0]
    assert "cut.jsonl: interrupted: 8 blocks are whole, 9 were begun." in broken[1]


def test_a_draft_larger_than_its_target_is_doubted() -> None:
    large, small = read_shape(TARGET), read_shape(DRAFT)
    assert not Models(target=large, draft=small).doubts
    assert not Models(target=large).doubts
    assert "more than the target's" in Models(target=small, draft=large).doubts[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--from-serving", "short.jsonl"), "--target-model: the servers call it m, expected its config.json"),
        (("--from-serving", "short.jsonl", "--target-model", TARGET), "--draft-model: is missing, and draft3 drafts"),
        (("--from-serving", "short.jsonl", "rows.csv"), "holds no load of bench-server"),
        (("--from-serving", "short.jsonl", "--target-model", TARGET, "--tp", 2), "--tp: 2 of servers whose steps"),
        (("--from-serving", "short.jsonl", "--compare", "p.json"), "--compare: p.json beside --from-serving"),
        (("--clients", "1,4"), "expected either PROBE"),
        (("probe.json", "--seconds", 3), "--seconds: 3.0 without --from-server URL"),
        (("probe.json", "--draft-model", DRAFT), f"--draft-model: {DRAFT} without a load of servers"),
        (("--from-server", "http://127.0.0.1:9"), "http://127.0.0.1:9"),
        (("--from-server", "plain=ftp://x"), "--from-server plain: 'ftp://x' is no address"),
        (("--from-serving", "rates.jsonl", "--target-model", TARGET), "holds no load of clients"),
        (("--from-serving", "short.jsonl", "./short.jsonl"), "short.jsonl: has requests that short.jsonl has too"),
        (("--from-serving", "short.jsonl", "copy.jsonl"), "copy.jsonl: has requests that short.jsonl has too"),
        (("--from-serving", "missing.jsonl", "--draft-model", DRAFT), "missing.jsonl: no such file"),
        (("--from-serving", "empty.jsonl", "--draft-model", DRAFT), "empty.jsonl: is empty, expected rows"),
        (("--from-serving", "rows.csv", "--draft-model", DRAFT), "without a load of servers, expected files of bench"),
    ],
)
def test_bad_input_is_refused_in_one_line(plan: Path, run_in: Any, words: Any, said: str) -> None:
    (plan / "rows.csv").write_text("concurrency,isl,osl,tpot_ms\n1,2,3,4\n")
    text = (plan / "short.jsonl").read_text()
    (plan / "copy.jsonl").write_text(spaced(text))
    (plan / "empty.jsonl").write_text("\n")
    (plan / "rates.jsonl").write_text(text.replace('"load_kind":"clients"', '"load_kind":"rate"'))
    done = run_in(plan, "calibrate", *words, "--out", "none.json")
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (plan / "none.json").exists()
