"""Timed passes: they really read what the cache holds, and the file says what was timed."""

import gc
import json
import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from acceptance.bench import passes
from acceptance.bench.clock import Clock
from acceptance.bench.passes import DRAFT, TARGET, Grid, Point, Subject
from acceptance.models.compat import growing_cache, read_on
from simulator.costs.shapes import read_shape
from simulator.ground import partial
from tests.conftest import instead

LLAMA = {"model_type": "llama", "vocab_size": 96, "max_position_embeddings": 512, "tie_word_embeddings": False}


def write_model(folder: Path, hidden: int = 64, layers: int = 3, **changes: Any) -> Path:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    sizes = {"hidden_size": hidden, "intermediate_size": 2 * hidden, "num_hidden_layers": layers}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA | heads | sizes | changes))
    return folder


def subject_of(folder: Path, dtype: str = "float32") -> Subject:
    config = json.loads((folder / "config.json").read_text())
    module = passes.build("--target-model", folder, config, "cpu", dtype)
    return Subject(name=folder.name, config=config, shape=read_shape(folder), module=module)


@pytest.fixture
def subject(tmp_path: Path) -> Subject:
    return subject_of(write_model(tmp_path / "target"))


def cache_of(subject: Subject, tokens: torch.Tensor, room: int) -> Any:
    """Return a cache as timed passes have it, of what the model says of a text."""
    batch, context = tokens.shape
    cache = passes.filled_cache(subject, batch, context, room, torch.Generator())
    read = growing_cache()
    subject.module.set_attn_implementation("sdpa")
    read_on(subject.module, tokens, read)
    subject.module.set_attn_implementation("grouped")
    for ours, theirs in zip(cache.layers, read.layers, strict=True):
        assert ours.keys.shape == theirs.keys.shape
        ours.keys.copy_(theirs.keys)
        ours.values.copy_(theirs.values)
    return cache


@torch.inference_mode()
@pytest.mark.parametrize("new", [1, 2, 5])
def test_a_pass_over_a_cache_is_a_full_forward(subject: Subject, new: int) -> None:
    tokens = torch.randint(96, (3, 11 + new), generator=torch.Generator().manual_seed(0))
    cache = cache_of(subject, tokens[:, :11], 5)
    subject.module.set_attn_implementation("sdpa")
    plain = subject.module(input_ids=tokens).logits[:, 11:]
    subject.module.set_attn_implementation("grouped")
    for _ in range(2):  # what was cut back leaves no trace
        torch.testing.assert_close(passes.run_pass(subject, cache, tokens[:, 11:]), plain, rtol=1e-4, atol=1e-5)
        assert passes.held(cache) == [11 + new] * 3
        passes.cut_back(cache, 11)
    # The negative control: what the cache holds matters.
    cache.layers[0].values.mul_(2)
    assert not torch.allclose(passes.run_pass(subject, cache, tokens[:, 11:]), plain, rtol=1e-2, atol=1e-3)


@torch.inference_mode()
def test_a_cache_has_the_asked_size_grows_in_place_and_gives_its_memory_back_at_once(subject: Subject) -> None:
    gc.collect()
    gc.disable()
    try:
        cache = passes.filled_cache(subject, 2, 7, 4, torch.Generator().manual_seed(1))
        assert [layer.keys.shape for layer in cache.layers] == [(2, 2, 7, 16)] * 3
        before = [(layer.keys.data_ptr(), layer.keys.clone(), layer.values.clone()) for layer in cache.layers]
        passes.run_pass(subject, cache, torch.zeros((2, 4), dtype=torch.long))
        for layer, (place, keys, values) in zip(cache.layers, before, strict=True):
            assert layer.keys.data_ptr() == place
            assert torch.equal(layer.keys[:, :, :7], keys)
            assert torch.equal(layer.values[:, :, :7], values)
        held = [weakref.ref(layer) for layer in cache.layers]
        del cache, layer
        assert [ref() for ref in held] == [None] * 3
    finally:
        gc.enable()


@torch.inference_mode()
def test_a_model_that_does_not_read_behind_the_cache_is_caught(subject: Subject) -> None:
    subject.module.set_attn_implementation("sdpa")
    deaf = replace(subject, module=Recorder(subject.module, lambda _: False, hears=False))
    cache = passes.filled_cache(subject, 1, 7, 4, torch.Generator())
    with pytest.raises(RuntimeError, match=r"layers hold \[7, 7, 7\] tokens, expected \[9, 9, 9\]"):
        passes.time_pass(deaf, cache, torch.zeros((1, 2), dtype=torch.long), Clock())


class Recorder:
    """A model that says what it was asked behind a context, and has no memory for some of it, or does not read it."""

    def __init__(self, module: Any, refuse: Callable[[Sequence[int]], bool], hears: bool = True) -> None:
        self.module, self.refuse, self.hears, self.asked = module, refuse, hears, []
        self.device, self.dtype = module.device, module.dtype

    def __call__(self, *, input_ids: torch.Tensor, past_key_values: Any, use_cache: bool) -> Any:
        asked = (*input_ids.shape, past_key_values.get_seq_length())
        if not asked[2]:  # what it takes is tried out
            return read_on(self.module, input_ids, past_key_values)
        self.asked.append(asked)
        if self.refuse(asked):
            # Half way: some layers have grown.
            past_key_values.update(*(torch.zeros(asked[0], 2, asked[1], 16),) * 2, 0)
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried\nmore")
        return read_on(self.module, input_ids, past_key_values) if self.hears else self.module(input_ids)


def record(subject: Subject, refuse: Callable[[Sequence[int]], bool] = lambda _: False) -> Subject:
    return replace(subject, config={}, module=Recorder(subject.module, refuse))


def time_all(target: Subject, draft: Subject, grid: Grid, progress: Callable[[int], None] = lambda _: None) -> Any:
    return passes.time_all({TARGET: target, DRAFT: draft}, grid, Clock(), 3, np.random.default_rng(0), progress)


def test_every_pass_is_run_at_its_batch_tokens_and_context(subject: Subject) -> None:
    target, draft = record(subject), record(subject)
    done: list[int] = []
    samples, left_out, _ = time_all(
        target, draft, Grid(batches=(1, 3), contexts=(4, 9), draft_lengths=(1, 4)), done.append
    )
    assert not left_out
    assert {len(own) for own in samples.values()} == {3}
    assert all(seconds > 0 for own in samples.values() for seconds in own)
    settings = [(b, s) for b in (1, 3) for s in (4, 9)]
    kinds = ((TARGET, 1), (DRAFT, 1), (TARGET, 2), (TARGET, 5))
    assert set(samples) == {Point(role, b, s, n) for b, s in settings for role, n in kinds}
    assert set(target.module.asked) == {(b, n, s) for b, s in settings for n in (1, 2, 5)}
    assert set(draft.module.asked) == {(b, 1, s) for b, s in settings}
    # A round that does not count, and in each group one pass more.
    assert len(target.module.asked) == 4 * (3 + 1) * 4
    assert len(done) == 4 * 2 * 4
    assert len({tuple(target.module.asked[i : i + 16]) for i in range(0, 64, 16)}) == 4


def test_passes_without_memory_are_left_out_and_the_others_are_timed(subject: Subject) -> None:
    grid = Grid(batches=(1, 2), contexts=(4,), draft_lengths=(1, 3))
    target = record(subject, lambda asked: asked == (2, 4, 4))
    samples, left_out, _ = time_all(target, subject, grid)
    reason = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"
    assert left_out == {Point(TARGET, 2, 4, 4): reason}
    assert set(samples) == set(grid.points()) - set(left_out)
    assert {len(own) for own in samples.values()} == {3}
    # What failed half way was cut back: nothing that follows sees a longer cache.
    assert {asked[2] for asked in target.module.asked} == {4}

    def fail() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):  # other errors are no want of memory
        passes.within_memory(fail)


TOLD = ("time-passes", "--target-model", "target", "--draft-model", "draft", "--k", "1:2", "--repeats", 3)


@pytest.fixture
def models(tmp_path: Path) -> None:
    write_model(tmp_path / "target")
    write_model(tmp_path / "draft", hidden=32, layers=2)


def test_the_command_writes_what_it_timed(run, user_error, models: None, tmp_path: Path) -> None:
    done = run("bench-decode", *TOLD, "--batch", "1,2", "--context", "8,32", "--out", "p.json")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("wrote p.json\n")
    first, _, *rows = done.stdout.splitlines()
    assert first.startswith("A pass at batch ")
    assert sum(" target " in row for row in rows) == 12
    written = (tmp_path / "p.json").read_bytes()
    found = json.loads(written)
    assert (found["kind"], found["schema_version"]) == ("pass_times", 1)
    assert (found["device"], found["dtype"], found["left_out"]) == ("cpu", "bfloat16", [])
    assert found["models"]["draft"]["config"]["hidden_size"] == 32
    assert len(found["points"]) == 16
    shapes = {name: read_shape(tmp_path / name) for name in ("target", "draft")}
    for own in found["points"]:
        shape, size = shapes[own["role"]], (own["batch"], own["new_tokens"], own["context"])
        assert (own["model"], own["layers"]) == (own["role"], shape.layers)
        assert (own["flops"], own["bytes"]) == (shape.flops(*size), shape.bytes_moved(*size, "bfloat16"))
        assert len(own["samples_s"]) == 3
        assert own["median_s"] == sorted(own["samples_s"])[1] > 0
    user_error(run("bench-decode", *TOLD, "--out", "p.json"), "exists already")
    assert (tmp_path / "p.json").read_bytes() == written


def test_ctrl_c_keeps_what_was_timed_often_enough(
    run, models: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time_group, left = passes.time_group, [0]

    def interrupted(*given: Any) -> Any:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return time_group(*given)

    monkeypatch.setattr(passes, "time_group", interrupted)
    words = (TOLD[0], *instead(TOLD[1:], ("--repeats", 5)), "--out", "p.json")
    # A round that does not count, and 5 that do, of 2 groups each.
    for reached, points, said in ((6, 0, "nothing was timed often"), (9, 4, "what was timed is kept in p.json, with")):
        left[0] = reached
        done = run("bench-decode", *words)
        assert (done.returncode, done.stderr.count("\n")) == (130, 1)
        assert f"interrupted; {said}" in done.stderr
        assert (tmp_path / "p.json").exists() == (points > 0)
    kept = json.loads((tmp_path / "p.json").read_text())
    assert kept["interrupted"] is True
    assert {len(p["samples_s"]) for p in kept["points"]} <= {3, 4}
    assert {p["reason"] for p in kept["left_out"]} <= {"not run: interrupted"}


def test_a_kill_leaves_what_was_timed_until_then(
    run, models: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(partial, "EVERY_S", 0.0)
    time_group, left = passes.time_group, [9]
    kept: list[bytes] = []

    def look(*given: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            kept.append((tmp_path / "p.json").read_bytes())
        return time_group(*given)

    monkeypatch.setattr(passes, "time_group", look)
    done = run("bench-decode", TOLD[0], *instead(TOLD[1:], ("--repeats", 5)), "--out", "p.json")
    assert done.returncode == 0, done.stderr
    # Of 5 rounds, 3 were over.
    found, whole = json.loads(kept[0]), json.loads((tmp_path / "p.json").read_text())
    assert (found["interrupted"], whole["interrupted"]) == (True, False)
    assert [p["samples_s"] for p in found["points"]] == [p["samples_s"][:3] for p in whole["points"]]
    assert found["parameters"] == whole["parameters"]


REFUSED = [
    (("--k", "0:4"), "--k: 0 is not allowed, expected whole numbers from 1 to 64"),
    (("--batch", "1.5"), "--batch: 1.5 is not allowed"),
    (("--context", "0"), "--context: 0 is not allowed"),
    (("--dtype", "int8"), "'int8' is not allowed, expected one of"),
    (("--device", "cuda:9"), "--device: 'cuda:9' is not here"),
    (("--repeats", "2"), "2 is not allowed, expected a whole number from 3 to 100000"),
    (("--out", "p.csv"), "--out p.csv: suffix '.csv', expected .json"),
    (("--target-model", "nowhere"), "nowhere: no such file or folder, nor a model of `shapes list`"),
    (("--draft-model", "deepseek-v2-lite"), "--draft-model deepseek-v2-lite: has latent attention"),
    (("--target-model", "gemma-2-2b", "--context", "8000"), "gemma-2-2b: sees 4096 tokens, expected 8003"),
    (("--target-model", "opt-125m", "--context", "4096"), "opt-125m: has 2048 positions, expected at least 4099"),
    (("--target-model", "capped"), "--target-model capped/config.json: cannot be built and run (attention has"),
    (("--batch", 1_000_000, "--context", 10_000_000), "--batch: no pass fits into memory ("),
]


def test_what_cannot_be_timed_is_refused_and_writes_nothing(run, user_error, models: None, tmp_path: Path) -> None:
    capped = {"model_type": "gemma2", "head_dim": 16, "sliding_window": 4096, "attn_logit_softcapping": 50.0}
    write_model(tmp_path / "capped", **capped)
    for arguments, message in REFUSED:
        user_error(run("bench-decode", TOLD[0], *instead(TOLD[1:], arguments)), message)
        assert not list(tmp_path.glob("*.json"))
    # A model's own config is never overwritten, --force or not.
    config = tmp_path / "own.json"
    config.write_text((write_model(tmp_path / "own", 32, 1) / "config.json").read_text())
    before = config.read_bytes()
    both = ("--target-model", config, "--draft-model", config)
    user_error(
        run("bench-decode", TOLD[0], *both, *TOLD[5:], "--out", config, "--force"), "model too, expected another one"
    )
    assert config.read_bytes() == before
