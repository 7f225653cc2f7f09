"""Counter-based numbers: known answers, the same bits in NumPy, torch and the kernels' source."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from cuda_probe.sampling import torch_backend
from cuda_probe.sampling.random import Purpose, accept_uniforms, philox, race_uniforms, words

from . import sampling_device
from .shim.shim import build, launch

SOURCE = Path(__file__).with_name("philox_words.cu")


def library() -> Path:
    """Build the kernels that show numbers, anew whenever the source they include has changed."""
    included = hashlib.sha256(sampling_device.SOURCE.read_bytes()).hexdigest()[:16]
    return build(SOURCE, defines=(f"INCLUDES_{included}",))


# Random123's kat_vectors, philox4x32 10: counter, key (low word first), answer.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_the_published_answers_come_out(
    counter: tuple[int, ...], key: tuple[int, int], answer: tuple[int, ...]
) -> None:
    seed = key[0] | key[1] << 32
    assert philox(counter, seed).tolist() == list(answer)
    drawn = np.zeros(4, np.uint32)
    launch(library(), "philox_words", 1, 1, (np.array(counter, np.uint32), np.uint64(seed), np.int32(1), drawn))
    assert drawn.tolist() == list(answer)


def test_the_kernels_source_draws_the_same_bits() -> None:
    counters = np.random.default_rng(1).integers(0, 2**32, (500, 4), dtype=np.uint32)
    seed, drawn = 0x9E3779B97F4A7C15, np.zeros((500, 4), np.uint32)
    launch(library(), "philox_words", 1, 32, (counters, np.uint64(seed), np.int32(500), drawn))
    np.testing.assert_array_equal(drawn, philox(counters, seed))


def test_uniform_numbers_are_the_same_in_all_three() -> None:
    count, sequence, step, seed = 1000, 3, 2**32 - 1, 2**64 - 3
    accept, race = np.zeros(count, np.float32), np.zeros(4 * count, np.float32)
    args = (np.int32(count), np.uint32(sequence), np.uint32(step), np.uint64(seed), accept, race)
    launch(library(), "uniforms", 1, 32, args)
    np.testing.assert_array_equal(accept, accept_uniforms(sequence + 1, count, step, seed)[sequence])
    np.testing.assert_array_equal(race, race_uniforms(sequence, 0, 4 * count, step, Purpose.TOKEN, seed))
    np.testing.assert_array_equal(race[512:515], race_uniforms(sequence, 512, 515, step, Purpose.TOKEN, seed))
    index, sequences = torch.arange(count), torch.tensor([sequence])
    numbers = torch.arange(4 * count).expand(sequence + 1, -1)
    raced = torch_backend.race_uniforms(numbers, step, Purpose.TOKEN, seed)
    np.testing.assert_array_equal(raced[sequence].numpy(), race)
    drawn = torch.stack(torch_backend.philox(index, sequences, step, Purpose.TOKEN, seed), -1)
    np.testing.assert_array_equal(drawn.numpy(), words(np.arange(count), sequence, step, Purpose.TOKEN, seed))
    ids = torch.zeros((sequence + 1, count))
    np.testing.assert_array_equal(torch_backend.accept_uniforms(ids, step, seed)[sequence].numpy(), accept)


def test_race_numbers_stay_inside_the_open_interval() -> None:
    edges = np.array([0, 1, 2**24 - 1, 2**31, 2**32 - 129, 2**32 - 1], np.uint32)
    found = np.zeros(len(edges), np.float32)
    launch(library(), "extreme_uniforms", 1, 32, (edges, np.int32(len(edges)), found))
    assert (found > 0).all()
    assert (found < 1).all()
    assert found[0] == np.float32(2.0**-33)
    assert (np.diff(found) >= 0).all()


def test_half_precision_is_decoded_bit_by_bit_as_numpy_does() -> None:
    bits = np.arange(2**16, dtype=np.uint16)
    values = np.zeros(2**16, np.float32)
    launch(library(), "halves", 1, 32, (bits, np.int32(2**16), values))
    np.testing.assert_array_equal(values, bits.view(np.float16).astype(np.float32))


def test_sequences_steps_purposes_and_seeds_share_no_numbers() -> None:
    streams = [
        words(np.arange(50), sequence, step, purpose, seed).reshape(-1)
        for sequence in (0, 1)
        for step in (0, 1)
        for purpose in Purpose
        for seed in (0, 1, 2**32)
    ]
    drawn = np.concatenate(streams)
    # 7200 words of 32 bits: 0.006 equal pairs are expected of independent ones.
    assert len(np.unique(drawn)) == drawn.size
