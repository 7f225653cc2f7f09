"""Policies of engines by name: `NAME[:setting=value,...]`, settings as the engines write them."""

from collections.abc import Callable
from typing import Protocol

from acceptance.estimate.play import Policy
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field, shortened
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

from . import NAMES
from .adaptive_verification import NAME as ADAPTIVE
from .adaptive_verification import AdaptiveVerification
from .by_batch import BatchPolicy
from .llama_cpp import ConfidencePolicy
from .sglang import SglangAdaptive


class EnginePolicy(Policy, Protocol):
    """A policy, and what it asks for.

    longest: its longest draft. needs: arrays that a trace has to hold. keeps_up: whether the drafter runs a pass
    where nothing is drafted, so that its KV cache knows the text. asks_costs: whether it weighs what steps cost.
    warm_up: steps before it begins to choose.
    """

    @property
    def longest(self) -> int: ...

    @property
    def needs(self) -> tuple[str, ...]: ...

    @property
    def keeps_up(self) -> bool: ...

    @property
    def asks_costs(self) -> bool: ...

    @property
    def warm_up(self) -> int: ...


ALONE: dict[str, Callable[[Field], EnginePolicy]] = {
    "static": lambda settings: BatchPolicy(static(settings)),
    "vllm-by-batch": lambda settings: BatchPolicy(vllm_by_batch(settings)),
    "sglang-adaptive": lambda settings: SglangAdaptive(sglang(settings)),
    "trt-llm": lambda settings: BatchPolicy(trt_llm(settings)),
    "llama-cpp": lambda settings: ConfidencePolicy(llama_cpp(settings)),
}

# The settings that say how long drafts are.
LENGTHS = {
    "static": "k",
    ADAPTIVE: "k",
    "vllm-by-batch": "ranges",
    "sglang-adaptive": "candidate_steps",
    "trt-llm": "schedule",
    "llama-cpp": "n_max",
}


def policy_of(text: str, *, greedy: bool, most: int) -> EnginePolicy:
    """Return the policy that a user names.

    Args:
        text: `NAME[:setting=value,...]`.
        greedy: Whether the draft proposes its first choice.
        most: Sequences that run at once, at most.

    Raises:
        UserError: Names the policy, the setting and what is allowed.
    """
    name, _, rest = text.partition(":")
    settings = Field(settings_of(name, rest), f"--policy {name}")
    if name == ADAPTIVE:
        return AdaptiveVerification(by=adaptive_verification(settings), greedy=greedy, most=most)
    if name not in ALONE:
        raise UserError(f"--policy: {shortened(name)} is not known, expected {one_of(NAMES, name)}")
    return ALONE[name](settings)
