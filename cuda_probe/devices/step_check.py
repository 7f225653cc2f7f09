"""Whether a GPU's draft, verification and baseline do what the references say, to the last bit. Times nothing."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from cuda_probe.kernels import reference
from cuda_probe.kernels.probe_kernels import STORE_ALL, Buffers, Device, Geometry, Knobs, Steps, chain_start

DRAFTS, LAP = 40, 3  # verification ballots over 32 drafts at a time; passes until the buffer begins anew
NOISE_PPM = (300_000, 300_000, 300_000, 0)  # a round each: prefixes that break off, and a whole one
WORK_FLOPS, WORK_MEM = 2, 1


def wrong_steps(device: Device, geometry: Geometry, zeros: Callable[[int, type[Any]], Any], seed: int) -> str | None:
    """Say what is wrong with rounds whose draft often errs and whose burns are all stored; None if nothing.

    The kernels are the same at every point, so once is enough: the reference takes a second. `zeros` makes buffers of
    the device, whose `get` brings them to the host.
    """
    knobs = Knobs(draft_n=DRAFTS, work_flops=WORK_FLOPS, work_mem=WORK_MEM, mem_len=LAP * geometry.threads, seed=seed)
    buffers = Buffers.allocate(zeros, geometry, knobs)
    at = 0
    for number, noise_ppm in enumerate(NOISE_PPM):
        steps = Steps(device, geometry, buffers, replace(knobs, noise_ppm=noise_ppm), STORE_ALL)
        wrong, at = wrong_round(steps, number * DRAFTS, at)
        if wrong is not None:
            return wrong
    passes = len(NOISE_PPM) * (DRAFTS + 2) * WORK_MEM
    memory = reference.memory_passes(np.zeros(knobs.mem_len, np.float32), geometry.threads, 0, passes)
    return None if (buffers.memory.get() == memory).all() else "the buffer is not what the steps' passes leave"


def wrong_round(steps: Steps, position: int, first_pass: int) -> tuple[str | None, int]:
    """Say what is wrong with a draft, its verification and a baseline step behind it, and which pass comes next."""
    knobs, buffers = steps.knobs, steps.buffers
    buffers.chain[:1] = int(chain_start(position))
    at = steps.draft(position, first_pass)
    drafted = position + np.arange(knobs.draft_n)
    expected = reference.proposed_tokens(knobs.seed, drafted, knobs.noise_ppm, knobs.vocab)
    if not (buffers.proposed.get() == expected).all():
        return "the draft does not propose what its generator says", at
    if wrong_burn(steps, position + knobs.draft_n - 1, 1):
        return "the draft's burn is not where its iterations lead", at
    at = steps.verify(position, at)
    accepted = reference.accepted_prefix(expected, position, knobs.vocab)
    following = reference.truth_tokens(position + accepted + np.arange(2), knobs.vocab).tolist()
    if buffers.result.get().tolist() != [accepted, following[0]]:
        return "verification found another prefix", at
    if wrong_burn(steps, position + knobs.draft_n, knobs.draft_n + 1):
        return "verification's burn is not where its iterations lead", at
    at = steps.baseline(0, at)  # goes on from the token that verification ended with
    if int(buffers.tokens[1].get()) != following[1]:
        return "the baseline does not emit the target's token", at
    if wrong_burn(steps, position + accepted + 1, 1):
        return "the baseline's burn is not where its iterations lead", at
    return None, at


def wrong_burn(steps: Steps, position: int, tokens: int) -> bool:
    """Whether the stored results are not those of a burn over so many tokens that begins before this position."""
    started = reference.start_values(steps.geometry.threads, int(chain_start(position)))
    return not (steps.buffers.sink.get() == reference.burn(started, steps.knobs.work_flops * tokens)).all()
