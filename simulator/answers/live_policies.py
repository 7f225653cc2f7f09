"""Policies that a live engine may follow, by name: `NAME[:setting=value,...]`, settings as engines write them."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from simulator.costs.step import Floats
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field, shortened
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.names import one_of
from simulator.ground.policies import (
    adaptive_verification,
    llama_cpp,
    settings_of,
    sglang,
    static,
    trt_llm,
    vllm_by_batch,
)
from simulator.serving import policy_tables
from simulator.serving.policies import Policy
from simulator.serving.step_costs import StepCosts

# Of a load's mean context, those at which our own policy prices steps.
CONTEXTS = (0.5, 1.0, 2.0)


class Weighed(NamedTuple):
    """What policies that weigh costs know.

    accepted: mean accepted drafts, by K from 0 on. sequences: that run at once at most. context: tokens of one on
    average. prompt_tokens: for each token of an answer.
    """

    costs: StepCosts
    accepted: Floats
    sequences: int
    context: float
    prompt_tokens: float


class Live(NamedTuple):
    """A policy by name; longest: its longest draft. follows: whether drafts follow the number of requests."""

    name: str
    longest: int
    make: Callable[[Weighed], Policy]
    follows: bool = True


def own(settings: Field) -> Live:
    """Ours: drafts of the most tokens a second, of at most k; cuts: verified as far as each is worth its time."""
    settings.only(("k", "cuts"))
    k = settings["k"].whole(1, MAX_DRAFT_LENGTH, default=4)
    cuts = settings["cuts"].is_given and settings["cuts"].choice(("true", "false")) == "true"

    def make(of: Weighed) -> Policy:
        return policy_tables.goodput(
            of.costs,
            of.accepted,
            sequences=of.sequences,
            contexts=[of.context * times for times in CONTEXTS],
            prompt_tokens=of.prompt_tokens,
            cuts=cuts,
        )

    return Live("goodput", k, make)


def fixed(settings: Field) -> Live:
    """Return one draft length."""
    k = static(settings).longest
    return Live(f"K={k}", k, lambda _: policy_tables.fixed(k), follows=False)


def confident(settings: Field) -> Live:
    """llama.cpp's stop."""
    by = llama_cpp(settings)
    return Live("llama-cpp", by.n_max, lambda _: policy_tables.confident(by.n_max, by.p_min), follows=False)


def adaptive(settings: Field) -> Live:
    """vLLM's adaptive verification."""
    by = adaptive_verification(settings)
    make = policy_tables.adaptive_verification
    return Live("vllm-adaptive", by.k, lambda of: make(by, of.costs, of.sequences), follows=False)


def steps(settings: Field) -> Live:
    """SGLang's adaptive steps."""
    by = sglang(settings)
    return Live("sglang-adaptive", by.longest, lambda _: policy_tables.adaptive_steps(by))


def schedule(settings: Field) -> Live:
    """vLLM's draft lengths by batch."""
    by = vllm_by_batch(settings)
    return Live("vllm-by-batch", by.longest, lambda of: policy_tables.by_batch(by, of.sequences))


def thresholds(settings: Field) -> Live:
    """TensorRT-LLM's draft lengths by batch."""
    by = trt_llm(settings)
    return Live("trt-llm", by.longest, lambda of: policy_tables.by_batch(by, of.sequences))


KNOWN: dict[str, Callable[[Field], Live]] = {
    "static": fixed,
    "vllm-by-batch": schedule,
    "vllm-adaptive": adaptive,
    "sglang-adaptive": steps,
    "trt-llm": thresholds,
    "llama-cpp": confident,
    "goodput": own,
}


def live_policy(text: str) -> Live:
    """Return the policy that a user names.

    Raises:
        UserError: Names the policy, the setting and what is allowed.
    """
    name, _, rest = text.partition(":")
    settings = Field(settings_of(name, rest), f"--policy {name}")
    if name not in KNOWN:
        raise UserError(f"--policy: {shortened(name)} is not known, expected {one_of(KNOWN, name)}")
    found = KNOWN[name](settings)
    if found.longest < 1:
        raise UserError(f"--policy {name}: drafts nothing, expected a draft length of at least 1")
    return found


def accepted_by(tokens_per_round: Floats) -> Floats:
    """Return mean accepted drafts by K from 0 on, of tokens a round from K = 1 on."""
    return np.concatenate(([0.0], tokens_per_round - 1))
