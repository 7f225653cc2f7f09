"""Draft length by batch size: brute force over batches, ranges without gaps, what must not get worse."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.answers.schedule import LARGEST_BATCH, Range, off_above, ranges, schedule, vllm_config
from simulator.costs.model_costs import SEPARATE, ModelPair, largest_batch
from simulator.costs.profile_file import load_profile
from simulator.costs.shapes import read_shape
from simulator.ground.histogram import AcceptanceHistogram
from simulator.rounds.acceptance_law import HistogramAcceptance, IidAcceptance
from simulator.rounds.analytic import closed_form

from .builders import model_pair

PAIR = model_pair(load_profile("h100-sxm"), "llama-3.1-8b", "llama-3.2-1b", context=1024, round_overhead_s=6e-4)
ROOMY = replace(PAIR, profile=replace(PAIR.profile, memory_bytes=2**42))
MEASURED = HistogramAcceptance((AcceptanceHistogram((552, 412, 168, 145, 654)),))


def best_by_hand(pair: ModelPair, acceptance: IidAcceptance | HistogramAcceptance, longest: int, overlap: bool) -> int:
    """The best draft length of one batch size, 0 where plain decoding is as fast; one scalar call for each length."""
    gains = [1.0]
    for k in range(1, longest + 1):
        law, rate = acceptance.law(k), acceptance.bonus_guess_rate(k)
        gains.append(float(closed_form(pair.round_cost(k), law, rate, overlap=overlap).speedup))
    return int(np.argmax(gains))


PLANNED = [
    ("llama-3.1-8b", 1024, MEASURED, 4),
    ("llama-3.1-8b", 8192, IidAcceptance(0.7), 8),
    ("llama-3.2-1b", 2048, IidAcceptance(0.9), 6),
    ("qwen1.5-moe-a2.7b", 1024, MEASURED, 4),
]


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(("target", "context", "acceptance", "longest"), PLANNED)
def test_the_schedule_is_the_best_of_every_batch_that_fits(
    target: str, context: int, acceptance: IidAcceptance | HistogramAcceptance, longest: int, overlap: bool
) -> None:
    pair = replace(PAIR, target=read_shape(target), context=context, placement=SEPARATE if overlap else "same")
    found = schedule(pair, acceptance, longest, overlap=overlap)
    last = largest_batch(pair)
    assert found[-1].last == last
    # Some of the batches, and those about every change.
    rng = np.random.default_rng(0)
    batches = {1, last, *(b for r in found for b in (r.first, r.last)), *rng.integers(1, last, 20).tolist()}
    for batch in sorted(batches):
        (length,) = (r.draft_length for r in found if r.first <= batch <= r.last)
        assert length == best_by_hand(replace(pair, batch=batch), acceptance, longest, overlap), batch


def test_the_batch_of_the_pair_does_not_count_nor_what_no_engine_runs() -> None:
    assert schedule(PAIR, MEASURED, 4, overlap=False) == schedule(replace(PAIR, batch=77), MEASURED, 4, overlap=False)
    endless = replace(PAIR, profile=replace(PAIR.profile, memory_bytes=None))
    assert schedule(endless, MEASURED, 4, overlap=False)[-1].last == LARGEST_BATCH


@given(st.lists(st.integers(0, 3), min_size=1, max_size=60))
def test_ranges_cover_every_batch_once_and_speculation_is_off_from_the_last_on(lengths: list[int]) -> None:
    found = ranges(np.array(lengths))
    assert [r.draft_length for r in found for _ in range(r.first, r.last + 1)] == lengths
    assert found[0].first == 1
    assert all(a.last + 1 == b.first and a.draft_length != b.draft_length for a, b in pairwise(found))
    last = off_above(found)
    if last is None:
        assert lengths[-1] > 0
    else:
        assert not any(lengths[last:])
        assert last == 0 or lengths[last - 1] > 0


def test_the_form_of_vllm() -> None:
    # Both ends of a range are in it; num_speculative_tokens is the largest.
    found = ranges(np.array([3, 3, 1, 0, 0]))
    assert found == (
        Range(first=1, last=2, draft_length=3),
        Range(first=3, last=3, draft_length=1),
        Range(first=4, last=5, draft_length=0),
    )
    assert vllm_config(found) == {
        "num_speculative_tokens": 3,
        "num_speculative_tokens_per_batch_size": [[1, 2, 3], [3, 3, 1], [4, 5, 0]],
    }
    # It takes none that never drafts.
    never = ranges(np.array([0, 0]))
    assert off_above(never) == 0
    assert vllm_config(never) is None


def test_a_faster_draft_never_turns_speculation_off_earlier() -> None:
    # The memory is large, so that arithmetic binds and speculation stops to pay at all.
    for alpha in (0.5, 0.65, 0.8):
        ends = []
        for layers in (16, 8, 4, 1):
            pair = replace(ROOMY, draft=replace(PAIR.draft, layers=layers), context=256)
            end = off_above(schedule(pair, IidAcceptance(alpha), 8, overlap=False))
            ends.append(LARGEST_BATCH if end is None else end)
        assert ends == sorted(ends)
        assert 0 < ends[0] < min(LARGEST_BATCH, ends[-1])


def test_a_dense_model_at_a_short_context_drafts_less_the_larger_the_batch() -> None:
    for name in ("llama-3.1-8b", "llama-2-7b", "qwen2.5-7b"):
        pair = replace(ROOMY, target=read_shape(name), context=128)
        lengths = [r.draft_length for r in schedule(pair, IidAcceptance(0.8), 8, overlap=False)]
        assert lengths == sorted(lengths, reverse=True)
        assert lengths[0] > lengths[-1]
