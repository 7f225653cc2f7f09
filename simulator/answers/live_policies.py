"""Policies that a live engine may follow, by name: `NAME[:setting=value,...]`, settings as engines write them."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from simulator.costs.step import Floats
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field, shortened
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.names import one_of
from simulator.ground.policies import (
    MAX_BATCH,
    AdaptiveSteps,
    Candidates,
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
# Policies that are compared at most, and letters of settings by which those of one name are told apart.
MOST, TOLD = 8, 20


class Weighed(NamedTuple):
    """What policies that weigh costs know.

    accepted, drafted: mean accepted and verified drafts, by K from 0 on. sequences: that run at once at most. context:
    tokens of one on average. prompt_tokens: for each token of an answer.
    """

    costs: StepCosts
    accepted: Floats
    drafted: Floats
    sequences: int
    context: float
    prompt_tokens: float


class Live(NamedTuple):
    """A policy by name.

    longest: its longest draft. follows: whether drafts follow the number of requests. cuts: whether only some drafts of
    a chain are verified.
    """

    name: str
    longest: int
    make: Callable[[Weighed], Policy]
    follows: bool = True
    cuts: bool = False


def own(settings: Field) -> Live:
    """Ours: drafts of the most tokens a second, of at most k; cuts: verified as far as each is worth its time."""
    settings.only(("k", "cuts"))
    k = settings["k"].whole(1, MAX_DRAFT_LENGTH, default=4)
    cuts = settings["cuts"].value
    if not isinstance(cuts, bool | None):
        settings["cuts"].refuse("true or false")

    def make(of: Weighed) -> Policy:
        return policy_tables.goodput(
            of.costs,
            of.accepted,
            sequences=of.sequences,
            contexts=[of.context * times for times in CONTEXTS],
            offered=of.drafted,
            prompt_tokens=of.prompt_tokens,
            cuts=bool(cuts),
        )

    return Live("goodput", k, make, cuts=bool(cuts))


def fixed(settings: Field) -> Live:
    """Return one draft length."""
    k = static(settings).longest
    return Live(f"K={k}", k, lambda _: policy_tables.fixed(k), follows=False)


def confident(settings: Field) -> Live:
    """llama.cpp's stop."""
    by = llama_cpp(settings)
    return Live("llama-cpp", by.n_max, lambda _: policy_tables.confident(by.n_max, by.p_min), follows=False, cuts=True)


def adaptive(settings: Field) -> Live:
    """vLLM's adaptive verification."""
    by = adaptive_verification(settings)
    make = policy_tables.adaptive_verification
    return Live("vllm-adaptive", by.k, lambda of: make(by, of.costs, of.sequences), follows=False, cuts=True)


def steps(settings: Field) -> Live:
    """SGLang's adaptive steps."""
    by = sglang(settings)
    return Live("sglang-adaptive", by.longest, lambda _: policy_tables.adaptive_steps(by))


def tiers(lengths: Sequence[tuple[int, int]]) -> Live:
    """SGLang's adaptive steps of one draft length from each batch size on."""
    by = AdaptiveSteps(
        slots=tuple((first, Candidates(candidate_steps=(k,))) for first, k in lengths), initial=lengths[0][1]
    )
    return Live("sglang-adaptive", by.longest, lambda _: policy_tables.adaptive_steps(by))


def schedule(settings: Field) -> Live:
    """vLLM's draft lengths by batch."""
    by = vllm_by_batch(settings)
    return Live("vllm-by-batch", by.longest, lambda of: policy_tables.by_batch(by, of.sequences))


def thresholds(settings: Field) -> Live:
    """TensorRT-LLM's draft lengths by batch."""
    by = trt_llm(settings)
    return Live("trt-llm", by.longest, lambda of: policy_tables.by_batch(by, of.sequences))


def idle_above(settings: Field) -> Live:
    """One draft length, and none in larger batches or while more requests wait."""
    settings.only(("k", "batch", "waiting"))
    k = settings["k"].whole(1, MAX_DRAFT_LENGTH, default=4)
    most = [settings[name].whole(0, MAX_BATCH) if settings[name].is_given else None for name in ("batch", "waiting")]
    if most == [None, None]:
        settings["batch"].refuse("a number of sequences, or waiting=NUMBER")

    def make(of: Weighed) -> Policy:
        # Of more sequences than run at once none are looked up.
        batch = None if most[0] is None else min(most[0], of.sequences)
        return policy_tables.off_above(policy_tables.fixed(k), sequences=batch, waiting=most[1])

    return Live("off-above", k, make)


KNOWN: dict[str, Callable[[Field], Live]] = {
    "static": fixed,
    "vllm-by-batch": schedule,
    "vllm-adaptive": adaptive,
    "sglang-adaptive": steps,
    "trt-llm": thresholds,
    "llama-cpp": confident,
    "off-above": idle_above,
    "goodput": own,
}


def live_policies(texts: Sequence[str]) -> list[Live]:
    """Return the policies that a user names; those of one name are told apart by their settings, or in turn.

    Raises:
        UserError: A policy is not allowed, there are too many, or one twice.
    """
    if len(texts) > MOST:
        raise UserError(f"--policy: {len(texts)} of them, expected at most {MOST}")
    if again := [text for text, n in Counter(texts).items() if n > 1]:
        raise UserError(f"--policy {shortened(again[0])}: twice, expected it once")
    found = [live_policy(text) for text in texts]
    names = Counter(policy.name for policy in found)
    rests = [text.partition(":")[2] for text in texts]
    marks = [rest if rest and len(rest) <= TOLD else f"#{i}" for i, rest in enumerate(rests, 1)]
    return [p._replace(name=f"{p.name} {m}") if names[p.name] > 1 else p for p, m in zip(found, marks, strict=True)]


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
