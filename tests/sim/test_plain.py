"""One source, two engines: what is compiled and what plain Python runs come to the same bits, without a warning."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from simulator.ground.compiled import IS_COMPILED, PLAIN
from simulator.ground.fields import Field
from simulator.ground.policies import Verification, sglang
from simulator.serving.draw_tables import Laws, Texts, Walks, acceptance_of
from simulator.serving.draws import accepted, confidence, offered, uniform
from simulator.serving.policies import learn, new_memory, next_k
from simulator.serving.policy_tables import adaptive_steps, adaptive_verification, goodput

from .test_draws import FALLING, SEED, cut
from .test_policies import verified
from .test_step_costs import by_sums, costs_of

pytestmark = [pytest.mark.whole, pytest.mark.skipif(not IS_COMPILED, reason="needs numba")]


def hexes(values: list[float]) -> str:
    return " ".join(float(value).hex() for value in values)


def drawn() -> str:
    """Bits of all kinds of draws."""
    laws = Laws(np.stack([cut(FALLING), cut(FALLING**2)]), found=np.full((2, 4), 0.5), sharp=0.5)
    acceptance = acceptance_of([laws, laws._replace(sharp=0.0), Walks([[1, 0, 2]]), Texts([[0.3, 0.9]])])
    seeds = (0, SEED, 2**62, -5)
    words = [(seed, r, c, i) for seed in seeds for r in (0, 7, 10**9) for c in range(4) for i in (0, 3, 10**7)]
    counts = [accepted(acceptance, *each, 11, 4) for each in words] + [offered(acceptance, *each, 4) for each in words]
    sure = [confidence(acceptance, *each, 11, 4, 2) for each in words]
    return f"{counts} {hexes([*sure, *(uniform(seed, r, i, r % 9) for seed, r, _, i in words)])}"


def priced() -> str:
    """Bits of steps that cross every branch of their costs."""
    mixtures = [([(3, 90), (1, 70_000)], [(200, 64, True), (9, 0, False)]), ([(2, 500)] * 12, [])]
    names = ("graphs", "windows, also of the draft", "experts", "states", "tree")
    return hexes([by_sums(costs_of(name), mixture, k) for name in names for mixture in mixtures for k in (-1, 0, 3)])


def decided() -> str:
    """Decisions of policies."""
    steps = adaptive_steps(sglang(Field({})))
    memory, found = new_memory(steps), list[int]()
    for at in range(60):
        learn(steps, memory, 1 + at % 9, (at * 7 % 10) / 2)
        found.append(next_k(steps, memory, 1 + at % 9, 0, 0.0))
    own = goodput(costs_of("graphs"), np.arange(5) * 0.4, sequences=9, contexts=(9.0,), cuts=True)
    live = adaptive_verification(Verification(k=4, warm_up_refits=0), costs_of("graphs"), 16)
    cuts = [verified(policy, [(i, i % 2, i, 0) for i in range(9)], [4] * 9, 5) for policy in (own, live)]
    return f"{found} {own.ints.tolist()} {cuts} {hexes(live.floats.tolist())}"


def test_plain_python_comes_to_the_same_bits() -> None:
    code = f"import {__name__} as here; print(here.drawn(), here.priced(), here.decided())"
    env = os.environ | {PLAIN: "1", "PYTHONPATH": str(Path(__file__).parents[2]), "PYTHONWARNINGS": "error"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=env)
    assert (done.stderr, done.stdout.strip()) == ("", f"{drawn()} {priced()} {decided()}")
