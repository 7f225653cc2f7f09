"""What a user states of a forecast: numeric parameters, with option, unit, default and bounds of each; and a device.

`simulate` takes one value of each parameter, `sweep` lists and ranges; both check against this table.
"""

# ruff: noqa: RUF009 - a field with its parameter is as immutable as any.

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, NamedTuple

from simulator.ground.artefacts import UserError
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.ranges import allowed_numbers, not_a_number

if TYPE_CHECKING:
    # NumPy is imported where values are checked: --help answers without it.
    from numpy.typing import ArrayLike

    from .step import Real

# Far beyond anything real, and far enough within a float that no product of parameters leaves it.
LARGEST = 1e15
MIN_PASS_MS = 1e-30


class Parameter(NamedTuple):
    """One numeric parameter: `name` in `Point`, `label` on plots, `flags` on the command line, `key` in results."""

    flags: tuple[str, ...]
    default: float
    label: str
    unit: str
    name: str = ""
    help: str = ""
    least: float = 0.0
    most: float = LARGEST
    above: bool = False
    whole: bool = False
    column: str | None = None

    @property
    def key(self) -> str:
        """What results and tables call it."""
        return self.column or self.name

    @property
    def allowed(self) -> str:
        """What a value may be, in words."""
        return allowed_numbers(self.least, self.most, whole=self.whole, above=self.above)

    def check(self, values: "ArrayLike") -> None:
        """Refuse a value outside the bounds, fractional where whole numbers are meant, or NaN."""
        import numpy as np

        flat = np.atleast_1d(np.asarray(values, np.float64)).ravel()
        low = flat > self.least if self.above else flat >= self.least
        good = low & (flat <= self.most)
        if self.whole:
            good &= flat == np.floor(flat)
        if not good.all():
            value = repr(float(flat[~good][0])).removesuffix(".0")
            raise UserError(f"{self.flags[0]}: {not_a_number(value, self.allowed, self.most)}")


def numeric(flags: str, default: float, label: str, unit: str, **bounds: Any) -> Any:
    """Return a field of `Point` that carries its parameter."""
    parameter = Parameter(flags=tuple(flags.split()), default=default, label=label, unit=unit, **bounds)
    return field(default=default if parameter.whole else float(default), metadata={"parameter": parameter})


HELP = {
    "total": "Tokens that both arms produce.",
    "draft_length": "Draft length K: tokens the draft proposes in a round.",
    "alpha": "Acceptance of one drafted token, i.i.d., where no histogram is sampled.",
    "workflops": "Compute work of one target pass over one token.",
    "workmem": "Memory work of one target pass, whatever its tokens.",
    "flop_scale_ms": "Time of one unit of compute work.",
    "mem_scale_ms": "Time of one unit of memory work.",
    "draft_cost": "Work of one draft pass over that of one target pass.",
    "pass_overhead_ms": "What a pass of either model costs besides its work: launches, for one.",
    "round_overhead_ms": "What a round costs besides draft and verification; engines show 9 to 18 % of a token.",
    "overlap_exponent": "How compute and memory time join: inf is the longer of the two, 1 their sum.",
    "batch": "Sequences decoded together; as --concurrency, clients of a server: a load. With --target-model.",
    "context": "Tokens of each sequence that the KV cache holds, on average; with --target-model.",
    "isl": "Tokens of a prompt, of a load; --concurrency, --isl or --osl make one: each client sends again and again.",
    "osl": "Tokens of an answer, of such a load; of 1 there is no time a token.",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A value of every parameter, in its unit; or arrays that broadcast, many points in one.

    Raises:
        UserError: Names the option, the value and what is allowed; or a pass in burn units takes no time.
    """

    total: "Real" = numeric("--total", 512, "output length", "tokens", least=1, whole=True)
    draft_length: "Real" = numeric(
        "--draftN --draft-n", 4, "draft length K", "tokens", least=1, most=MAX_DRAFT_LENGTH, whole=True, column="draftN"
    )
    alpha: "Real" = numeric("--alpha", 0.8, "acceptance α", "probability", most=1)
    workflops: "Real" = numeric("--workflops", 50_000, "compute work of a pass", "burn units")
    workmem: "Real" = numeric("--workmem", 8, "memory work of a pass", "burn units")
    flop_scale_ms: "Real" = numeric("--flopScale --flop-scale", 4e-7, "compute time", "ms per unit", column="flopScale")
    mem_scale_ms: "Real" = numeric("--memScale --mem-scale", 0.5, "memory time", "ms per unit", column="memScale")
    draft_cost: "Real" = numeric("--draft-cost", 0.1, "draft cost", "of a target pass", above=True, most=1000)
    pass_overhead_ms: "Real" = numeric("--pass-overhead", 0, "overhead a pass", "ms")
    round_overhead_ms: "Real" = numeric("--round-overhead", 0, "overhead a round", "ms")
    overlap_exponent: "Real" = numeric("--overlap-exponent", math.inf, "overlap exponent", "m", least=1, most=math.inf)
    batch: "Real" = numeric("--batch", 1, "batch size", "sequences", least=1, most=1_000_000, whole=True)
    context: "Real" = numeric("--context", 1024, "context", "tokens", most=100_000_000, whole=True)
    isl: "Real" = numeric("--isl", 1024, "prompt length", "tokens", least=1, most=100_000_000, whole=True)
    osl: "Real" = numeric("--osl", 256, "answer length", "tokens", least=1, most=100_000_000, whole=True)

    def __post_init__(self) -> None:
        import numpy as np

        for p in PARAMETERS:
            p.check(getattr(self, p.name))
        compute_ms = np.asarray(self.workflops) * np.asarray(self.flop_scale_ms)
        memory_ms = np.asarray(self.workmem) * np.asarray(self.mem_scale_ms)
        if np.any(np.maximum(compute_ms, memory_ms) < MIN_PASS_MS):
            raise UserError(
                "--workflops x --flopScale and --workmem x --memScale are both 0, "
                f"expected one of them to be at least {MIN_PASS_MS:g} ms"
            )


PARAMETERS = tuple(f.metadata["parameter"]._replace(name=f.name, help=HELP[f.name]) for f in fields(Point))
BY_NAME = {p.name: p for p in PARAMETERS}


def key_of(name: str, load: object = None) -> str:
    """Return what results call a parameter; the batch of a load are its clients, as its option says."""
    return "concurrency" if load is not None and name == "batch" else BY_NAME[name].key


# What a pass costs, stated either as work in burn units or as models on a profiled device.
UNIT_NAMES: tuple[str, ...] = ("workflops", "workmem", "flop_scale_ms", "mem_scale_ms", "draft_cost")
UNIT_NAMES += ("overlap_exponent", "pass_overhead_ms")
LOAD_NAMES = ("isl", "osl")
MODEL_NAMES = ("batch", "context", *LOAD_NAMES)


# Tokens of a pass at most, where nobody says: what vLLM takes on a large device.
CHUNK = 8192


class Load(NamedTuple):
    """How an engine serves a load, and how that comes; as `serving.steady` takes it.

    chunk: tokens of a pass at most. prefix_hit: share of a prompt that lies in the KV cache already. most_running:
    sequences that run at once at most. requests: in all, whose first come at once. mixed: whether prompts are read in
    passes that decode. alike: whether all answers are of one length.
    """

    chunk: int = CHUNK
    prefix_hit: float = 0.0
    most_running: float = math.inf
    requests: float = math.inf
    mixed: bool = True
    alike: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """The same by the names of options, as results have it."""
        named = {"chunk": self.chunk, "max_running": self.most_running, "prefix_hit": self.prefix_hit}
        return named | {"requests": self.requests, "prompts_first": not self.mixed, "same_length": self.alike}

    @property
    def words(self) -> dict[str, str]:
        """What is not as usual, in words, by the names of options."""
        said = {
            "chunk": f"passes of {self.chunk:,} tokens at most",
            "max_running": f"{self.most_running:,.0f} sequences at once at most",
            "prefix_hit": f"{self.prefix_hit:.0%} of prompts in the cache",
            "requests": f"{self.requests:,.0f} requests",
            "prompts_first": "prompts in passes of their own",
            "same_length": "answers of one length",
        }
        usual, own = Load().options, self.options
        return {name: words for name, words in said.items() if own[name] != usual[name]}

    def with_options(self, given: Mapping[str, Any]) -> "Load":
        """Return it with what options state, None where one does not.

        Raises:
            UserError: Two of them are at odds.
        """
        told = self.options | {name: value for name, value in given.items() if value is not None}
        if given.get("prompts_first") and given.get("same_length"):
            raise UserError("--same-length: beside --prompts-first, expected one of them")
        # Of a pair that is at odds, the one that is given stands.
        first = told["prompts_first"] and not given.get("same_length")
        return Load(
            chunk=told["chunk"],
            prefix_hit=told["prefix_hit"],
            most_running=told["max_running"],
            requests=told["requests"],
            mixed=not first,
            alike=told["same_length"] and not first,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOptions:
    """Device and models as a user names them, and how they are to run; None where the user does not say.

    profile: a file, or a name of those that come along. target_model, draft_model: config.json, its folder, or a name
    of the catalogue. head: what an engine calls a drafter of which there is no file here. params, active_params,
    kv_bytes_per_token: of a target that no reader knows; with draft_ of a draft. method: how it drafts; topk, nodes:
    how its drafts branch, and how many tokens of them are verified. tp, draft_tp: devices that share the target and the
    draft; dp: groups of these, with attention of their own beside experts that all share. placement: of the draft,
    "same" or "separate". source: tokens or frames that an encoder reads. gpu_memory_utilization: share of a device's
    memory that the engine uses.
    """

    profile: str | None = None
    target_model: str | None = None
    draft_model: str | None = None
    head: str | None = None
    params: str | None = None
    active_params: str | None = None
    kv_bytes_per_token: str | None = None
    draft_params: str | None = None
    draft_active_params: str | None = None
    draft_kv_bytes_per_token: str | None = None
    method: str | None = None
    topk: int | None = None
    nodes: int | None = None
    branching: str | None = None
    dtype: str | None = None
    draft_dtype: str | None = None
    kv_dtype: str | None = None
    tp: int | None = None
    dp: int | None = None
    draft_tp: int | None = None
    placement: str | None = None
    gpu_memory_utilization: float | None = None
    source: int | None = None
    overlap: bool = False

    @property
    def drafter(self) -> str | None:
        """What the user calls the drafter."""
        return self.draft_model or self.head
