"""Policies of engines by name: `NAME[:setting=value,...]`, settings as the engines write them."""

import json
import re
from collections.abc import Callable
from typing import Any, Protocol

from acceptance.estimate.play import Policy
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field, parse_json, shortened
from simulator.ground.names import one_of

from . import NAMES
from .adaptive_verification import NAME as ADAPTIVE
from .adaptive_verification import adaptive_verification
from .by_batch import static, trt_llm, vllm_by_batch
from .llama_cpp import llama_cpp
from .sglang import sglang


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
    "static": static,
    "vllm-by-batch": vllm_by_batch,
    "sglang-adaptive": sglang,
    "trt-llm": trt_llm,
    "llama-cpp": llama_cpp,
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
# Settings by the names that engines have for them.
OTHER_NAMES = {
    "num_speculative_tokens": "k",
    "speculative_num_steps": "k",
    "num_speculative_tokens_per_batch_size": "ranges",
    "draft_len_schedule": "schedule",
    "max_draft_len": "k",
    "spec_draft_p_min": "p_min",
    "spec_draft_n_max": "n_max",
    "speculative_adaptive_config": "config",
}
SETTING = re.compile(r"\s*-{0,2}([A-Za-z][\w-]*)\s*=\s*(.*)", re.DOTALL)
BARE_KEY = re.compile(r"([{,]\s*)(\d+)(\s*:)")


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
        return adaptive_verification(settings, greedy=greedy, most=most)
    if name not in ALONE:
        raise UserError(f"--policy: {shortened(name)} is not known, expected {one_of(NAMES, name)}")
    return ALONE[name](settings)


def settings_of(name: str, text: str) -> dict[str, Any]:
    """Return settings by our names; commas within a value are its own, values are JSON or text."""
    settings: dict[str, Any] = {}
    for part in re.split(r",(?=\s*-{0,2}[A-Za-z][\w-]*\s*=)", text) if text.strip() else []:
        found = SETTING.fullmatch(part)
        if not found:
            raise UserError(f"--policy {name}: {shortened(part)} is no setting, expected NAME:setting=value,...")
        own = found[1].replace("-", "_")
        own = OTHER_NAMES.get(own, own)
        if own in settings:
            raise UserError(f"--policy {name}: {own} is stated twice, expected it once")
        settings[own] = value_of(found[2].strip())
    return settings


def value_of(text: str) -> Any:
    """Return a value: JSON, whose keys may be bare numbers, else the text itself."""
    try:
        return parse_json(BARE_KEY.sub(r'\1"\2"\3', text))
    except (ValueError, json.JSONDecodeError):
        return text
