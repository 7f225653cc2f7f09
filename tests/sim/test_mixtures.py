"""The work of passes over any mixture of sequences: sums over them, weights read once."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.costs.engine import Engine
from simulator.costs.formats import storage_of
from simulator.costs.shapes import read_shape
from simulator.costs.work import stored

# Dense, a window in every other layer, experts and latent attention, states of fixed size.
MODELS = ("llama-3.1-8b", "gemma-3-12b", "deepseek-v3", "qwen3-next-80b-a3b")
sequences = st.tuples(st.integers(1, 64), st.integers(1, 3000), st.integers(0, 20_000))


@given(name=st.sampled_from(MODELS), groups=st.lists(sequences, min_size=1, max_size=4))
def test_a_mixture_is_the_sum_of_its_sequences_and_reads_weights_once(
    name: str, groups: list[tuple[int, int, int]]
) -> None:
    shape, storage = read_shape(name), storage_of("bfloat16")
    works = [shape.work(*group) for group in groups]
    whole = works[0]
    for other in works[1:]:
        whole = whole.beside(other)
    assert float(shape.flops_of(whole)) == pytest.approx(sum(float(shape.flops(*g)) for g in groups), rel=1e-12)
    always = stored(shape, storage).always_bytes
    alone = sum(float(shape.bytes_moved(*g, "bfloat16")) - always for g in groups)
    moved = float(shape.bytes_of(whole, storage)) - always
    if shape.experts:
        # Experts that several touch are read once.
        assert moved <= alone * (1 + 1e-12)
    else:
        assert moved == pytest.approx(alone, rel=1e-9)


@given(name=st.sampled_from(MODELS), one=sequences, more=st.integers(1, 40))
def test_sequences_that_are_alike_may_be_counted_together_or_apart(
    name: str, one: tuple[int, int, int], more: int
) -> None:
    shape, (batch, new, context) = read_shape(name), one
    together = shape.work(batch + more, new, context, 1)
    apart = shape.work(batch, new, context, 1).beside(shape.work(more, new, context, 1))
    for measure in (shape.flops_of, lambda work: shape.bytes_of(work, "fp8", "fp8", 4, 0.3)):
        assert float(measure(together)) == pytest.approx(float(measure(apart)), rel=1e-12)


def test_tokens_that_no_one_asks_for_miss_the_output_head_alone() -> None:
    shape, head = read_shape("llama-3.1-8b"), 4096 * 128_256
    assert shape.flops(3, 5, 100) - shape.flops(3, 5, 100, 1) == 2 * head * 3 * 4
    # States in, logits out, of 16 bits each.
    whole, asked = (float(shape.bytes_moved(3, 5, 100, "bfloat16", logit_rows=rows)) for rows in (None, 1))
    assert whole - asked == 2 * (4096 + 128_256) * 3 * 4


def test_a_cache_of_fewer_bits_moves_less_and_is_shared_by_no_more_devices_than_it_has_heads() -> None:
    shape = read_shape("llama-3.1-8b")
    wide, narrow = (float(shape.bytes_moved(3, 1, 1000, "bfloat16", kv)) for kv in ("bfloat16", "fp8"))
    assert wide - narrow == 3 * 1001 * 32 * 2048
    alone, shared = (float(shape.bytes_moved(3, 1, 1000, "bfloat16", "fp8", devices)) for devices in (1, 16))
    # Eight heads of keys and values.
    kept = 3 * 1001 * 32 * 2048
    assert shared == pytest.approx((alone - kept) / 16 + kept / 8)


def test_arrays_of_mixtures_broadcast() -> None:
    shape = read_shape("gemma-3-12b")
    decoding = shape.work(np.arange(1, 5)[:, None], 1, np.array([100, 5000, 9000]))
    mixed = decoding.beside(shape.work(1, 512, 0, 1))
    assert shape.flops_of(mixed).shape == (4, 3) == shape.bytes_of(mixed, "bfloat16").shape
    assert float(shape.flops_of(mixed)[2, 1]) == pytest.approx(
        float(shape.flops(3, 1, 5000)) + float(shape.flops(1, 512, 0, 1)), rel=1e-12
    )


def test_the_host_works_beside_passes_that_no_graph_replays() -> None:
    shape, engine = read_shape("llama-3.1-8b"), Engine(graph_tokens=(8, 64), host_s=0.02, host_sequence_s=1e-3)
    decoding = shape.work(8, 1, 1000)
    prompt = shape.work(1, 40, 0, 1)._replace(prompts=1.0)
    assert float(engine.on_host_s(decoding)) == 0
    assert float(engine.on_host_s(decoding.beside(prompt))) == pytest.approx(0.02 + 9e-3)
    assert float(engine.on_host_s(shape.work(65, 1, 1000))) == pytest.approx(0.02 + 65e-3)
    without = Engine(host_s=0.02)
    assert [float(without.on_host_s(work)) for work in (decoding, decoding.beside(prompt))] == [0, 0.02]
