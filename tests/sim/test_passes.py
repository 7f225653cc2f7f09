"""Passes of rounds, one by one: their tokens and kernels, in reports as in costs, and what they need beside them."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from simulator.answers.round_passes import PLAIN, VERIFY, passes
from simulator.costs.drafters.methods import methods
from simulator.costs.drafters.plan import Tree, branched
from simulator.costs.model_costs import ModelPair
from simulator.costs.profile_file import load_profile
from simulator.costs.shapes import read_shape

from .builders import GLM


@pytest.mark.parametrize(
    ("method", "target", "found"),
    [
        # Tokens through the layers and the head, times, kernels, and whether the pass lies within the one before it.
        ("draft_model", "llama-3.1-70b", [(1, 1, 4, None, False)]),
        ("eagle", "llama-3.1-8b", [(5, 1, 1, None, False), (1, 1, 3, None, False)]),
        ("peagle", "llama-3.1-8b", [(8, 4, 1, None, False)]),
        ("dflash", "llama-3.1-8b", [(5, 4, 1, None, False)]),
        ("domino", "llama-3.1-8b", [(5, 4, 1, None, False), (1, 1, 4, 3, True)]),
        # The last committed token's place gives one too.
        ("dspark", "llama-3.1-8b", [(4, 4, 1, None, False), (1, 1, 4, 1, True)]),
        ("medusa", "llama-3.1-8b", [(1, 1, 1, 2, False), (1, 1, 3, 2, True)]),
        ("hydra", "llama-3.1-8b", [(1, 1, 4, 2, False), (1, 1, 6, 0, True)]),
        ("mlp_speculator", "llama-3.1-8b", [(1, 1, 1, 2, False), (1, 1, 3, 2, False)]),
        ("ngram_gpu", "llama-3.1-8b", [(1, 1, 1, 4, True)]),
        ("suffix", "llama-3.1-8b", []),
    ],
)
def test_rounds_of_four_drafts_are_these_passes(method: str, target: str, found: list[tuple[object, ...]]) -> None:
    of = methods()[method]
    plan = of.plan(of.usual(read_shape(target)), np.asarray(4))
    assert [(p.rows, p.head_rows, p.times, p.launches, p.is_part) for p in plan.passes] == found


def test_engines_pad_what_a_parallel_draft_takes_in() -> None:
    pard = methods()["pard"].plan(read_shape("llama-68m"), np.arange(4))
    assert [(p.rows.tolist(), p.head_rows.tolist()) for p in pard.passes] == [([1, 2, 4, 6], [1, 1, 2, 3])]


def test_a_report_leaves_no_pass_out(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GLM))
    targets = {"mtp": tmp_path, "draft_model": "llama-3.1-70b", "pard": "llama-3.1-70b"}
    for name, method in methods().items():
        target = read_shape(targets.get(name, "llama-3.1-8b"))
        draft, profile = method.usual(target), load_profile("h200")
        for tree in (None, Tree(topk=2, nodes=8)):
            pair = ModelPair(
                profile=profile,
                target=target,
                draft=draft,
                dtype="bfloat16",
                draft_dtype="bfloat16",
                method=method,
                tree=tree,
                batch=4,
            )
            told = [p for of, p in passes(pair, 4).items() if of not in (PLAIN, VERIFY)]
            spent_s = sum(p.ms * p.times for p in told) / 1e3 + 4 * float(pair.plan(4).host_s)
            assert float(pair.round_cost(4).draft_s) == pytest.approx(spent_s), (name, tree)


def test_modules_that_take_turns_take_in_what_was_verified_once(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(GLM))
    modules = methods()["mtp"].plan(methods()["mtp"].usual(read_shape(tmp_path)), np.asarray(6))
    tree = branched(modules, Tree(topk=3, nodes=16))
    # Seven tokens; then six and three branches, by the two other modules; then a token of each branch.
    assert [(int(p.rows), int(p.head_rows), int(p.times)) for p in tree.passes] == [(7, 1, 1), (9, 3, 2), (3, 3, 3)]
    assert len({p.name for p in tree.passes}) == 3


def test_what_a_head_borrows_lies_on_its_own_device_as_well() -> None:
    target = read_shape("llama-3.1-8b")
    heads = {"eagle": 2, "eagle3": 1, "medusa": 0}
    for method, copies in heads.items():
        draft = methods()[method].usual(target)
        pair = ModelPair(profile=load_profile("h200"), target=target, draft=draft, dtype="bfloat16", draft_dtype="fp8")
        (together,), apart = pair.held_bytes, replace(pair, placement="separate", draft_devices=2).held_bytes
        # Output head and embeddings of 128,256 words; of EAGLE-3 the embeddings alone.
        own = draft.weight_bytes("fp8") + float(draft.kv_bytes(1, 1024, "bfloat16"))
        assert float(together) == pytest.approx(float(apart[0]) + own)
        kept = draft.weight_bytes("fp8") / 2 + float(draft.kv_bytes(1, 1024, "bfloat16", 2))
        assert float(apart[1]) == pytest.approx(kept + copies * 4096 * 128_256)
