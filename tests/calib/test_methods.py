"""Forecasts of methods from parts of their rounds: plans against passes that decoders run, times against known ones."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from acceptance.bench.load import trained_folders
from acceptance.bench.options import DecodeOptions
from acceptance.decoders.batch import Task
from acceptance.decoders.decoder import run as decode
from acceptance.decoders.eagle import Reader
from acceptance.decoders.heads import Medusa
from acceptance.decoders.method import Models, Options
from acceptance.decoders.methods import METHODS
from acceptance.models.bundled import place_of
from acceptance.models.context import Context
from acceptance.models.load import load_pair
from acceptance.models.rule import SamplingRule
from acceptance.results.journal import to_line
from acceptance.results.parts import PARTS, Part, parts_record
from calibration.sources.methods import PartTimes, Rounds
from calibration.validate import live
from calibration.validate.decoder_plans import PLANS, Drafting
from simulator.costs.drafters.plan import BLOCK_PASS, FIRST_PASS, DraftPlan
from simulator.costs.shapes import config_file, shape_of
from simulator.ground.artefacts import UserError
from simulator.ground.fields import read_json

from .made_decode import Truth, write_decode

Run = Callable[..., subprocess.CompletedProcess[str]]
GREEDY = SamplingRule(temperature=0.0)
KNOBS: dict[str, Any] = {"k": 3, "parallel_branches": 4, "tree_budget": 12}
PROMPT = "def add(self, other):\n    return self.value + "


@pytest.fixture(scope="module")
def pair() -> Any:
    return load_pair(place_of("bundled", "target"), place_of("bundled", "draft"), device="cpu", dtype="float32")


def shape(role: str) -> Any:
    path, name = config_file(place_of("bundled", role))
    return shape_of(read_json(path), name)


def passes_run(pair: Any, method: str, monkeypatch: pytest.MonkeyPatch) -> tuple[list[tuple[str, int]], Rounds]:
    """Decode a prompt; return every pass, whose and of how many rows or heads, and the rounds."""
    seen: list[tuple[str, int]] = []
    run, step, forward = Context.run, Reader.step, Medusa.forward

    def run_seen(self: Context, tokens: torch.Tensor, *given: Any) -> torch.Tensor:
        seen.append(("verify" if self.model.module is pair.target.module else "draft", tokens.shape[1]))
        return run(self, tokens, *given)

    def step_seen(self: Reader, tokens: torch.Tensor, *given: Any) -> torch.Tensor:
        seen.append(("draft", tokens.shape[1]))
        return step(self, tokens, *given)

    def forward_seen(self: Medusa, hidden: torch.Tensor, heads: int) -> torch.Tensor:
        seen.append(("draft", heads))
        return forward(self, hidden, heads)

    folders = trained_folders(DecodeOptions())
    begin = METHODS[method].begin(
        Models(target=pair.target, draft=pair.draft, **folders), Options(draft_rule=GREEDY, **KNOBS)
    )
    prompt = pair.tokenizer(PROMPT).input_ids
    decoder = begin([prompt], Task(rule=GREEDY, max_new_tokens=24, rngs=[np.random.default_rng(0)]))
    with monkeypatch.context() as patch:
        patch.setattr(Context, "run", run_seen)
        patch.setattr(Reader, "step", step_seen)
        patch.setattr(Medusa, "forward", forward_seen)
        rounds = decode(decoder)[0].rounds
    names = ("drafted", "accepted", "depth", "draft_passes")
    return seen, Rounds(*(np.array([getattr(r, name) for r in rounds]) for name in names))


def passes_of(plan: DraftPlan, rounds: int) -> list[tuple[str, int]]:
    """Return the passes of a plan, round after round; a pass over nothing is none."""
    found: list[tuple[str, int]] = []
    for i in range(rounds):
        for each in plan.passes:
            rows = each.head_rows if each.name == BLOCK_PASS else each.rows
            values = [int(np.broadcast_to(v, rounds)[i]) for v in (rows, each.times)]
            found += [("draft", values[0])] * (values[1] if values[0] else 0)
        found.append(("verify", int(plan.width[i])))
    return found


def plan_of(method: str, rounds: Rounds) -> DraftPlan:
    sizes = {role: shape(role) for role in ("target", "draft")}
    return PLANS[method](Drafting(**sizes, knobs=KNOBS, rounds=rounds, host=lambda levels: np.zeros(len(levels))))


@pytest.mark.parametrize("method", list(PLANS))
def test_plans_are_the_passes_that_decoders_run(method: str, pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, rounds = passes_run(pair, method, monkeypatch)
    plan, count = plan_of(method, rounds), len(rounds.drafted)
    assert 0 < rounds.accepted.sum() < rounds.drafted.sum()
    planned = passes_of(plan, count)
    if method == "specexec":
        # What its first pass has to read of the path, and how many nodes are worth a pass, no record says.
        assert [who for who, _ in seen] == [who for who, _ in planned]
        assert [rows for who, rows in seen if who == "verify"] == [rows for who, rows in planned if who == "verify"]
        apart = np.array([a - b for (_, a), (_, b) in zip(seen, planned, strict=True)])
        assert np.abs(apart).mean() < 0.3
    else:
        assert seen == planned
    if plan.passes and plan.passes[0].name == FIRST_PASS:
        # Negative control: an engine's first pass is padded.
        assert passes_of(DraftPlan(passes=plan.passes[1:], width=plan.width), count) != seen


def made(path: Path, slower: float = 1.0) -> Path:
    """Write a run whose rounds take what their parts do; drafts are so many times slower where they are timed alone."""
    truth = Truth()
    write_decode(path, truth, lengths=(1, 2, 4), prompts=6, tokens=24)
    header, *lines = path.read_bytes().splitlines(keepends=True)
    document = json.loads(header)
    document["parameters"]["models"] = {role: {"name": "bundled", "sha256": None} for role in ("target", "draft")}
    for arm in document["parameters"]["methods"]:
        arm["knobs"] |= KNOBS | {"k": arm["knobs"]["k"]}
    start_s, step_s = slower * (truth.draft_start_s + truth.draft_step_s), slower * truth.draft_step_s
    times = {Part("plain", "verify", 1, 1): truth.target_s(1), Part("plain", "decide", 1, 1): truth.plain_rest_s}
    times |= {Part("speculative", "first draft", rows, 1): start_s for rows in (1, 2)}
    times[Part("speculative", "draft step", 1, 1)] = step_s
    for rows in range(1, 6):
        times[Part("speculative", "verify", rows, rows)] = truth.target_s(rows)
        times[Part("speculative", "decide", rows, rows)] = truth.rest_s
    parts = [part._asdict() | {"seconds": [0.5 * s, s, 9 * s]} for part, s in times.items()]
    records = [parts_record(0, turn, parts) for turn in range(6)]
    path.write_bytes(b"".join([*map(to_line, [document, *records]), *lines]))
    return path


def test_rounds_that_take_what_their_parts_take_are_forecast(run: Run, tmp_path: Path) -> None:
    path = made(tmp_path / "made.jsonl")
    done = run("validate", path, "--methods", "--json", "--plot", "made.png")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(r["name"], r["drafts"]) for r in found["rows"]] == [("k1", "1"), ("k2", "2"), ("k4", "4")]
    for row in found["rows"]:
        assert row["error"] == pytest.approx(0, abs=1e-9)
        assert row["parts_s"] == pytest.approx(row["round_s"])
    assert found["verdict"]["best_k_loss"] == 0
    text = run("validate", path, "--methods").stdout
    assert text.startswith("The forecasts hold: median error 0.00% of 3 methods")
    assert (tmp_path / "made.png").stat().st_size > 0
    # Negative control: drafts that take three times as long alone.
    off = run("validate", made(tmp_path / "off.jsonl", slower=3.0), "--methods")
    assert off.returncode == 1
    assert off.stdout.startswith("The forecasts do not hold")
    assert run("validate", tmp_path / "off.jsonl", "--methods", "--max-error", "5").returncode == 0


def test_between_rows_that_were_timed_a_part_is_on_a_line() -> None:
    times = {Part("a", "verify", 1, 1): [1.0, 1.0, 9.0], Part("a", "verify", 3, 3): [3.0]}
    heads = {Part("a", "draft block", 1, k): [0.1 * k] for k in (1, 2)}
    parts = PartTimes(times | heads)
    assert parts.at("a", "verify", np.array([1, 2, 3, 9])).tolist() == [1, 2, 3, 3]
    assert parts.at("a", "draft block", 2) == 0.2
    with pytest.raises(UserError, match="host of a was not timed"):
        parts.at("a", "host", 1)


def test_a_run_without_parts_is_refused(run: Run, user_error: Callable[..., None], tmp_path: Path) -> None:
    path = write_decode(tmp_path / "bare.jsonl", lengths=(1, 2), prompts=2, tokens=8)
    user_error(run("validate", path, "--methods"), "bare.jsonl: holds no parts of rounds", "--time-parts")
    user_error(run("validate", path, "--methods", "--profile", "h200"), "--methods: expected --live, or DECODE")
    user_error(run("validate", "--live", "--methods", "--fit-k", "1,2"), "--fit-k: 1,2, but of --methods nothing")
    user_error(run("bench-decode", "--time-parts", "--batch-size", 2), "--time-parts: --batch-size is 2")


def test_time_of_the_processor_is_none_that_a_process_sleeps(
    output: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A processor's time is less than the clock's, where each pass of the target waits for a while."""
    waits_s, run_pass, threads = 0.02, Context.run, torch.get_num_threads()

    def waiting(self: Context, *given: Any) -> torch.Tensor:
        time.sleep(waits_s)
        return run_pass(self, *given)

    monkeypatch.setattr(Context, "run", waiting)
    words = ("bench-decode", "--method", "baseline", "--max-prompts", 1, "--max-new-tokens", 4, "--out", "decode.jsonl")
    output(*words, "--processor-time")
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)
    header, record = (json.loads(line) for line in (tmp_path / "decode.jsonl").read_text().splitlines()[:2])
    assert header["parameters"]["processor_time"] is True
    assert record["verify_ms"] < 4 * 1e3 * waits_s
    # Negative control: the clock goes on.
    output(*words, "--force")
    assert json.loads((tmp_path / "decode.jsonl").read_text().splitlines()[1])["verify_ms"] > 4 * 1e3 * waits_s


def test_live_it_decodes_times_parts_and_forecasts(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def call_here(name: str, *words: str) -> None:
        done = run(name, *words)
        assert done.returncode == 0, done.stderr

    kept = ("eagle-k2", "medusa-tree-32", "ngram-k4", "specexec-16")
    monkeypatch.setattr(live, "call", call_here)
    monkeypatch.setattr(live, "METHOD_ARMS", {name: live.METHOD_ARMS[name] for name in kept})
    words = ("--live", "--methods", "--inflate", "1", "--k", "2", "--max-prompts", 1, "--max-new-tokens", 6)
    done = run("validate", *words, "--json")
    assert done.returncode in (0, 1), done.stderr
    found, path = json.loads(done.stdout), tmp_path / "live" / "decode_x1.jsonl"
    assert [r["name"] for r in found["rows"]] == ["k2", *kept]
    for row in found["rows"]:
        # Of a few rounds on a busy machine.
        assert 0.02 < row["forecast"] / row["measured"] < 50
    (parts,) = (r for r in map(json.loads, path.read_text().splitlines()) if r["kind"] == PARTS)
    assert all(len(p["seconds"]) >= 3 and min(p["seconds"]) > 0 for p in parts["parts"])
    assert run("bench-decode", "validate-results", path, "--strict").returncode == 0
    # From its files alone, and behind what is done, it says the same.
    for again in (run("validate", path, "--methods", "--json"), run("validate", *words, "--json")):
        assert json.loads(again.stdout)["rows"] == found["rows"], again.stderr
