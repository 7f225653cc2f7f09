"""A server under load in closed form: limits, a loop of passes as the oracle, what holds of any load."""

import numpy as np
import pytest

from simulator.costs.model_costs import ModelPair
from simulator.costs.parameters import DeviceOptions
from simulator.costs.priced import load_pricing
from simulator.serving.steady import steady


def pair_on(profile: str = "h100-sxm", method: str = "eagle3", target: str = "llama-3.1-8b") -> ModelPair:
    pair = load_pricing(DeviceOptions(profile=profile, target_model=target, method=method)).models
    assert pair is not None
    return pair


def test_alone_a_token_takes_a_decode_step() -> None:
    pair = pair_on()
    found = steady(pair, 1, 2048, np.array([2, 256, 1000]))
    step_s = pair.placed_target.parts(1, 1, 2048 + np.array([0, 127, 499])).total_s
    assert found.tpot_s == pytest.approx(step_s, rel=1e-12)
    assert found.ttft_s == pytest.approx(float(pair.placed_target.parts(1, 2048, 0, 1).total_s), rel=1e-12)
    assert not found.queueing_s.any()


def test_long_answers_take_decode_steps_of_the_whole_batch() -> None:
    pair = pair_on()
    found = steady(pair.placed_target, 32, 512, 4_000)
    step_s = pair.placed_target.parts(32, 1, 512 + 1999).total_s
    assert found.tpot_s == pytest.approx(float(step_s), rel=0.03)
    assert found.tpot_s > step_s
