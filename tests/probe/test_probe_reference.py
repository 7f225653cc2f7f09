"""The references themselves: the token law as published, the noise rate, and a multiply-add that rounds once."""

from fractions import Fraction

import numpy as np
import pytest

from cuda_probe.kernels.reference import (
    accepted_prefix,
    burn,
    fused_multiply_add,
    memory_passes,
    noise,
    proposed_tokens,
    start_values,
    truth_states,
    truth_tokens,
)

POSITIONS = np.array([0, 1, 7, 2**31 - 1, 2**31, 2**32 - 1, 2**32 + 3, -1])


def test_tokens_follow_the_published_law() -> None:
    wanted = [(1103515245 * int(i) + 12345) % 2**32 % 32000 for i in POSITIONS]
    assert truth_tokens(POSITIONS, 32000).tolist() == wanted


def test_one_position_is_as_good_as_many() -> None:
    wraps = next(i for i in range(10**7) if (1103515245 * i) % 2**32 >= 2**32 - 12345)  # the increment wraps around
    for position in (3, wraps, 2**31):
        assert truth_states(position) == (1103515245 * position + 12345) % 2**32
        assert noise(1, position) == noise(1, [position])[0]
        assert proposed_tokens(1, position, 500_000, 7) == proposed_tokens(1, [position], 500_000, 7)[0]


def test_the_next_state_is_one_multiplier_on() -> None:
    following = truth_states(POSITIONS + 1) - truth_states(POSITIONS)
    assert set(following.tolist()) == {1103515245}


def noise_in_python(seed: int, position: int) -> int:
    """The hash as its comment defines it, in Python's integers."""

    def mix(z: int) -> int:
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
        return z ^ (z >> 31)

    golden = 0x9E3779B97F4A7C15
    z = mix((mix((seed + golden) % 2**64) + position * golden) % 2**64)
    return (z >> 32) * 1_000_000 >> 32


@pytest.mark.parametrize("seed", [0, 12345, -1, -(2**63), 2**63 - 1])
def test_noise_is_the_hash_it_says(seed: int) -> None:
    assert noise(seed, POSITIONS).tolist() == [noise_in_python(seed, int(i)) for i in POSITIONS]


@pytest.mark.statistical
@pytest.mark.parametrize("ppm", [3000, 200_000, 700_000])
def test_errors_come_at_their_rate_and_independently(ppm: int) -> None:
    count, rate = 400_000, ppm / 1e6
    errs = noise(12345, np.arange(count)) < ppm
    standard_error = np.sqrt(rate * (1 - rate) / count)
    assert abs(errs.mean() - rate) < 4 * standard_error
    neighbours = np.corrcoef(errs[1:], errs[:-1])[0, 1]
    assert abs(neighbours) < 4 / np.sqrt(count)
    other_seed = np.corrcoef(errs, noise(12346, np.arange(count)) < ppm)[0, 1]
    assert abs(other_seed) < 4 / np.sqrt(count)


@pytest.mark.parametrize("vocab", [2, 3, 32000, 2**31 - 1])
def test_a_draft_without_noise_is_right_and_with_all_of_it_wrong(vocab: int) -> None:
    right, wrong = (proposed_tokens(5, POSITIONS, ppm, vocab) for ppm in (0, 1_000_000))
    assert (right == truth_tokens(POSITIONS, vocab)).all()
    assert (wrong.astype(np.int64) == (right.astype(np.int64) + 1) % vocab).all()


def test_accepted_prefix_is_the_count_before_the_first_error() -> None:
    tokens = truth_tokens(np.arange(10, 16), 50)
    assert accepted_prefix(tokens, 10, 50) == 6
    for at in range(6):
        spoiled = tokens.copy()
        spoiled[at] += 1
        assert accepted_prefix(spoiled, 10, 50) == at


def nearest_float32(exact: Fraction) -> np.float32:
    """The nearest float32, ties to even, by search among the neighbours of a first guess."""
    guess = np.float32(float(exact))
    candidates = [np.nextafter(guess, np.float32(-np.inf)), guess, np.nextafter(guess, np.float32(np.inf))]
    return min(candidates, key=lambda x: (abs(Fraction(float(x)) - exact), int(x.view(np.int32)) & 1))


def test_the_multiply_add_rounds_once() -> None:
    rng = np.random.default_rng(3)
    a, b, c = rng.uniform(-2, 2, (3, 4000)).astype(np.float32)
    # Sums that end within float64's rounding of the middle between two float32: two roundings go wrong there.
    a[0], b[0], c[0] = np.float32(1 + 2**-12), np.float32(1 + 2**-12), np.float32(2**-70)
    a[1], b[1], c[1] = np.float32(1 + 2**-12), np.float32(1 + 2**-12), np.float32(-(2**-70))
    exact = [Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z)) for x, y, z in zip(a, b, c, strict=True)]
    wanted = np.array([nearest_float32(value) for value in exact])
    assert (fused_multiply_add(a, b, c) == wanted).all()
    twice = (a.astype(np.float64) * b + c).astype(np.float32)
    assert (twice != wanted).any()  # or the cases above test nothing


def test_the_burn_stays_in_bounds_and_never_settles() -> None:
    values = start_values(64, 99)
    after = [burn(values, n) for n in range(40)]
    assert max(np.abs(x).max() for x in after) <= 1.5
    assert len({x.tobytes() for x in after}) == len(after)


def test_passes_go_round_each_threads_own_floats() -> None:
    memory = np.zeros(10, dtype=np.float32)
    once = memory_passes(memory, threads=4, first_pass=0, passes=1)
    assert (once != 0).tolist() == [True] * 4 + [False] * 6
    # Threads 0 and 1 own three floats, 2 and 3 own two: pass 2 touches floats 8 and 9, and 2 and 3 again.
    third = memory_passes(memory, threads=4, first_pass=2, passes=1)
    assert np.flatnonzero(third).tolist() == [2, 3, 8, 9]
    in_two = memory_passes(memory_passes(memory, 4, 0, 3), 4, 3, 4)
    assert (in_two == memory_passes(memory, 4, 0, 7)).all()
