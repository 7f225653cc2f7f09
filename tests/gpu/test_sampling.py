"""On a real GPU: the sampling kernels against the NumPy law, on CuPy arrays and torch tensors, of every type."""

from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import smoke
from numpy.typing import NDArray
from sampling_cases import a_round, assert_same, draw_ids
from smoke import disagreeing, host, rounded, wrong_append

from cuda_probe.sampling import reference, sigmoid_sample, speculative_sample, verify_prefix
from simulator.ground.artefacts import UserError

pytestmark = pytest.mark.usefixtures("device")
# batch, drafts, vocabulary, then what `a_round` takes; odd vocabularies leave rows of 16 bits misaligned
CASES: list[tuple[int, int, int, dict[str, Any]]] = [
    (1, 1, 32_000, {}),
    (4, 4, 32_000, {"ragged": True}),
    (2, 3, 151_937, {}),
    (1, 8, 262_144, {}),
    (64, 2, 1_001, {"ragged": True}),
    (48, 3, 2_049, {"kind": "masked"}),
    (48, 4, 515, {"kind": "tied"}),
    (40, 2, 4_099, {"kind": "equal"}),
    (40, 2, 700, {"kind": "disjoint"}),
    (40, 3, 1_024, {"kind": "unknown"}),  # the residual is zero: rows begin alike, so that both laws round alike
    (8, 0, 5_000, {}),
    (2, 32, 40, {}),
    (3, 33, 17, {"ragged": True}),
    (1, 1, 1, {}),
]
NO_TORCH = pytest.mark.skipif(find_spec("torch") is None, reason="torch is not installed")
KINDS = [
    *(("cupy", dtype) for dtype in ("float32", "float16")),
    *(pytest.param("torch", dtype, marks=NO_TORCH) for dtype in ("float32", "float16", "bfloat16")),
]


def put(array: Any, library: str, dtype: str | None = None) -> Any:
    """Bring an array to the GPU, as a library's, where that is installed."""
    if library == "torch":
        pytest.importorskip("torch", reason="torch is not installed")
    return smoke.put(array, library, dtype)


def agree(found: Any, wanted: Any) -> None:
    """Compare what was decided; fast exponentials may turn a near tie, in one sequence of forty at most."""
    assert disagreeing(found, wanted) <= len(wanted.accepted) // 40, (found, wanted)


@pytest.mark.parametrize(("library", "dtype"), KINDS)
@pytest.mark.parametrize(("batch", "drafts", "vocabulary", "how"), CASES)
def test_kernels_follow_the_reference(
    batch: int, drafts: int, vocabulary: int, how: dict[str, Any], library: str, dtype: str
) -> None:
    case, arrays = rounded(a_round(vocabulary, batch, drafts, vocabulary, **how), library, dtype)
    lengths = None if case.lengths is None else put(case.lengths, library)
    given = (case.target, case.draft, case.ids)
    for sample, more in ((speculative_sample, {}), (sigmoid_sample, {"scale": 30.0})):
        named: dict[str, Any] = {"seed": 2**63 + 5, "step": 3, "temperature": 0.9, **more}
        found = sample(*arrays, lengths=lengths, backend="cuda", **named)
        agree(found, sample(*given, lengths=case.lengths, backend="numpy", **named))
    verified = verify_prefix(arrays[0], arrays[2], lengths=lengths, backend="cuda")
    expected = verify_prefix(case.target, case.ids, lengths=case.lengths, backend="numpy")
    for name in vars(expected):
        np.testing.assert_array_equal(host(getattr(verified, name)), getattr(expected, name))  # nothing is rounded here


def test_verification_accepts_a_prefix_of_every_length() -> None:
    rng = np.random.default_rng(1)
    target = rng.normal(size=(9, 9, 3001)).astype(np.float32)
    ids = target[:, :8].argmax(-1)
    for b in range(8):
        ids[b, b] += 1
    found = verify_prefix(put(target, "cupy"), put(ids, "cupy"), backend="cuda")
    assert host(found.accepted).tolist() == [*range(8), 8]


@pytest.mark.parametrize(("library", "dtype"), KINDS)
def test_rows_that_begin_anywhere_are_read_where_they_lie(library: str, dtype: str) -> None:
    case = a_round(3, 6, 3, 1200)
    whole = [put(x, library, dtype) for x in (case.target, case.draft)]
    for begin in (1, 3, 8):
        logits = [x[..., begin : begin + 999] for x in whole]
        ids = np.minimum(case.ids, 998)
        found = speculative_sample(*logits, put(ids, library), seed=4, backend="cuda")
        wide = [host(x).astype(np.float32)[..., begin : begin + 999] for x in whole]
        agree(found, speculative_sample(*wide, ids, seed=4, backend="numpy"))


def test_results_are_of_the_callers_library_and_the_best_backend_is_picked() -> None:
    case = a_round(1, 2, 2, 100)
    for library in ("cupy", "torch"):
        arrays = [put(x, library) for x in (case.target, case.draft, case.ids)]
        picked, forced = (speculative_sample(*arrays, seed=1, backend=b) for b in (None, "cuda"))
        for name in ("accepted", "token", "out_ids"):
            assert type(getattr(picked, name)) is type(arrays[0])
            assert (host(getattr(picked, name)) == host(getattr(forced, name))).all()


def test_arrays_on_the_host_beside_logits_on_the_gpu_are_refused() -> None:
    case = a_round(1, 2, 2, 100)
    target, draft, ids = (put(x, "cupy") for x in (case.target, case.draft, case.ids))
    with pytest.raises(UserError):
        speculative_sample(target, draft, case.ids, seed=1, backend="cuda")
    with pytest.raises(UserError):
        speculative_sample(target, draft, ids, lengths=np.array([1, 2]), seed=1, backend="cuda")


# ---- the law --------------------------------------------------------------------------------------------------------

SEQUENCES, DRAFTS, VOCABULARY, TEMPERATURE = 60_000, 2, 7, 0.8


def largest_excess(target_shift: float = 0.0, draft_shift: float = 0.0) -> float:
    """Return how far, in standard errors, chi-square of the tokens at any position is beyond its expectation.

    The shifts falsify what the sampler is told: negative controls.
    """
    rng = np.random.default_rng(11)
    target = rng.normal(scale=1.2, size=(DRAFTS + 1, VOCABULARY)).astype(np.float32)
    draft = rng.normal(scale=1.2, size=(DRAFTS, VOCABULARY)).astype(np.float32)
    target[0, 3], draft[1, 5] = -np.inf, -np.inf
    many = [np.broadcast_to(x, (SEQUENCES, *x.shape)).copy() for x in (target, draft)]
    ids = draw_ids(rng, many[1], TEMPERATURE)
    many[0][..., 0] += np.float32(target_shift)
    many[1][..., 0] += np.float32(draft_shift)
    arrays = [put(x, "cupy") for x in (*many, ids)]
    found = speculative_sample(*arrays, seed=1, temperature=TEMPERATURE, backend="cuda")
    accepted, out_ids, law = host(found.accepted), host(found.out_ids), reference.softmax(target, TEMPERATURE)
    excess = []
    for position in range(DRAFTS + 1):
        counts = np.bincount(out_ids[accepted >= position, position], minlength=VOCABULARY)
        possible = law[position] > 0
        assert counts[~possible].sum() == 0
        excess.append(chi_square_excess(counts[possible], law[position][possible] * counts.sum()))
    return max(excess)


def chi_square_excess(counts: NDArray[np.int64], expected: NDArray[np.float64]) -> float:
    """Return a chi-square statistic as a standard normal (Wilson and Hilferty 1931)."""
    freedom = len(counts) - 1
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / (2 / (9 * freedom)) ** 0.5


def test_the_committed_tokens_have_the_targets_law() -> None:
    assert largest_excess() < 5


@pytest.mark.parametrize("shifts", [{"target_shift": 0.15}, {"draft_shift": 0.5}])
def test_a_wrong_law_is_seen(shifts: dict[str, float]) -> None:
    assert largest_excess(**shifts) > 5


def test_the_draw_from_a_large_vocabulary_has_the_law_of_its_weights() -> None:
    rng = np.random.default_rng(5)
    row = rng.normal(scale=2, size=5003).astype(np.float32)
    batch = 8192
    target = np.broadcast_to(row, (batch, 1, len(row))).copy()
    nothing = put(target[:, :0], "cupy"), put(np.zeros((batch, 0), np.int64), "cupy")
    found = speculative_sample(put(target, "cupy"), *nothing, seed=9, backend="cuda")
    law = reference.softmax(row, 1.0)
    order = np.argsort(-law)
    bins = np.empty(len(row), int)
    bins[order] = np.minimum((np.cumsum(law[order]) * 40).astype(int), 39)
    expected = np.bincount(bins, weights=law, minlength=40) * batch
    counts = np.bincount(bins[host(found.token)], minlength=40)
    assert chi_square_excess(counts[expected > 0], expected[expected > 0]) < 5
    flat = np.bincount(bins, minlength=40) / len(row) * batch
    assert chi_square_excess(counts[flat > 0], flat[flat > 0]) > 5


# ---- streams, graphs, size ------------------------------------------------------------------------------------------


def test_two_streams_do_not_share_their_scratch() -> None:
    import cupy

    cases = [a_round(seed, 16, 4, 50_000) for seed in (1, 2)]
    arrays = [[put(x, "cupy") for x in (c.target, c.draft, c.ids)] for c in cases]
    alone = [speculative_sample(*a, seed=7, backend="cuda") for a in arrays]
    cupy.cuda.Device().synchronize()
    streams = [cupy.cuda.Stream(non_blocking=True) for _ in cases]
    found: list[list[Any]] = [[], []]
    for _ in range(50):
        for stream, given, kept in zip(streams, arrays, found, strict=True):
            with stream:
                kept.append(speculative_sample(*given, seed=7, backend="cuda"))
    for stream in streams:
        stream.synchronize()
    for one, many in zip(alone, found, strict=True):
        for other in many:
            for name in vars(one):
                assert (host(getattr(one, name)) == host(getattr(other, name))).all()


def test_a_captured_graph_replays_with_the_step_that_the_array_holds() -> None:
    import cupy

    case = a_round(4, 12, 3, 20_000)
    arrays = [put(x, "cupy") for x in (case.target, case.draft, case.ids)]
    step = cupy.zeros((), cupy.int64)
    speculative_sample(*arrays, seed=3, step=step, backend="cuda")  # loads the kernels, which a capture must not
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        captured = speculative_sample(*arrays, seed=3, step=step, backend="cuda")
        graph = stream.end_capture()
        seen = []
        for number in (0, 1, 1, 5):
            step.fill(number)
            graph.launch(stream)
            stream.synchronize()
            expected = speculative_sample(case.target, case.draft, case.ids, seed=3, step=number, backend="numpy")
            agree(captured, expected)
            seen.append(host(captured.out_ids).tolist())
    assert seen[1] == seen[2] != seen[0]
    assert seen[3] not in seen[:3]


def test_a_graph_of_torch_draws_new_numbers_at_each_replay() -> None:
    case = a_round(4, 12, 3, 20_000)
    arrays = [put(x, "torch") for x in (case.target, case.draft, case.ids)]
    import torch

    step = torch.zeros((), dtype=torch.int64, device="cuda")
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        speculative_sample(*arrays, seed=3, step=step, backend="cuda")
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = speculative_sample(*arrays, seed=3, step=step, backend="cuda")
        step += 1
    step.zero_()
    for number in range(3):
        graph.replay()
        torch.cuda.synchronize()
        agree(captured, speculative_sample(case.target, case.draft, case.ids, seed=3, step=number, backend="numpy"))


def test_more_logits_than_32_bits_can_count() -> None:
    import cupy

    batch, drafts, vocabulary = 257, 32, 262_144
    size_bytes = 2 * batch * (2 * drafts + 1) * vocabulary
    if cupy.cuda.runtime.memGetInfo()[0] < 1.2 * size_bytes:
        pytest.skip(f"it takes {size_bytes / 2**30:.0f} GiB of GPU memory")
    assert batch * drafts * vocabulary > 2**31
    target = cupy.zeros((batch, drafts + 1, vocabulary), cupy.float16)
    draft = cupy.zeros((batch, drafts, vocabulary), cupy.float16)
    ids = np.zeros((batch, drafts), np.int64)
    # The last sequence has one token that it can be at every position, towards the end of its row.
    chosen = vocabulary - 1 - 7 * np.arange(drafts + 1)
    ids[-1] = chosen[:drafts]
    target[-1], draft[-1] = -np.inf, -np.inf
    for row, token in enumerate(chosen):
        target[-1, row, int(token)] = 1
        if row < drafts:
            draft[-1, row, int(token)] = 1
    found = speculative_sample(target, draft, cupy.asarray(ids), seed=1, backend="cuda")
    assert (host(found.accepted) == drafts).all()  # target and draft are equal everywhere
    assert host(found.out_ids)[-1].tolist() == chosen.tolist()
    assert len(set(host(found.token)[:-1].tolist())) > 200  # drawn evenly from all of the vocabulary
    verified = verify_prefix(target, cupy.asarray(ids), backend="cuda")
    assert (host(verified.accepted) == drafts).all()
    assert host(verified.ids)[-1].tolist() == chosen.tolist()
    assert (host(verified.ids)[:-1] == 0).all()
    target[-1, 0, 0] = 2  # and now its first draft is rejected
    assert host(verify_prefix(target, cupy.asarray(ids), backend="cuda").accepted).tolist() == [drafts] * 256 + [0]


@pytest.mark.parametrize(("library", "dtype"), KINDS)
def test_kv_append_keeps_accepted_positions_alone(library: str, dtype: str) -> None:
    assert wrong_append(library, dtype) is None


def test_the_comparison_sees_a_wrong_result() -> None:
    case = a_round(1, 3, 2, 50)
    given = (case.target, case.draft, case.ids)
    one, other = (speculative_sample(*given, seed=seed, backend="numpy") for seed in (1, 2))
    assert_same(one, one)
    with pytest.raises(AssertionError):
        agree(speculative_sample(*[put(x, "cupy") for x in given], seed=1, backend="cuda"), other)
