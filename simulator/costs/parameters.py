"""What a user states of a forecast: numeric parameters, with option, unit, default and bounds of each; and a device.

`simulate` takes one value of each parameter, `sweep` lists and ranges; both check against this table.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.ground.artefacts import UserError
from simulator.ground.limits import MAX_DRAFT_LENGTH

if TYPE_CHECKING:
    # NumPy is imported where values are checked: --help answers without it.
    from numpy.typing import ArrayLike

    from .step import Real

# Far beyond anything real, and far enough within a float that no product of parameters leaves it.
LARGEST = 1e15
MIN_PASS_MS = 1e-30


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One numeric parameter: `name` in the code, `label` on plots, `flags` on the command line, `key` in results."""

    name: str
    label: str
    flags: tuple[str, ...]
    default: float
    minimum: float
    maximum: float = LARGEST
    above_minimum: bool = False
    integer: bool = False
    unit: str
    help: str
    column: str | None = None

    @property
    def key(self) -> str:
        """What results and tables call it."""
        return self.column or self.name

    @property
    def allowed(self) -> str:
        """What a value may be, in words."""
        kind = "a whole number" if self.integer else "a number"
        start = "above" if self.above_minimum else "from"
        return f"{kind} {start} {self.minimum:g} to {self.maximum:g}"

    def check(self, values: "ArrayLike") -> None:
        """Refuse a value outside the bounds, fractional where whole numbers are meant, or NaN.

        Raises:
            UserError: Names the option, the value found and what is allowed.
        """
        import numpy as np

        flat = np.atleast_1d(np.asarray(values, np.float64)).ravel()
        low = flat > self.minimum if self.above_minimum else flat >= self.minimum
        good = low & (flat <= self.maximum)
        if self.integer:
            good &= flat == np.floor(flat)
        if not good.all():
            found = repr(float(flat[~good][0])).removesuffix(".0")
            raise UserError(f"{self.flags[0]}: {found} is not allowed, expected {self.allowed}")


PARAMETERS = (
    Parameter(
        name="total",
        label="output length",
        flags=("--total",),
        default=512,
        minimum=1,
        integer=True,
        unit="tokens",
        help="Tokens that both arms produce.",
    ),
    Parameter(
        name="draft_length",
        column="draftN",
        label="draft length K",
        flags=("--draftN", "--draft-n"),
        default=4,
        minimum=1,
        maximum=MAX_DRAFT_LENGTH,
        integer=True,
        unit="tokens",
        help="Draft length K: tokens the draft proposes in a round.",
    ),
    Parameter(
        name="alpha",
        label="acceptance α",
        flags=("--alpha",),
        default=0.8,
        minimum=0,
        maximum=1,
        unit="probability",
        help="Acceptance of one drafted token, i.i.d., where no histogram is sampled.",
    ),
    Parameter(
        name="workflops",
        label="compute work of a pass",
        flags=("--workflops",),
        default=50_000,
        minimum=0,
        unit="burn units",
        help="Compute work of one target pass over one token.",
    ),
    Parameter(
        name="workmem",
        label="memory work of a pass",
        flags=("--workmem",),
        default=8,
        minimum=0,
        unit="burn units",
        help="Memory work of one target pass, whatever its tokens.",
    ),
    Parameter(
        name="flop_scale_ms",
        column="flopScale",
        label="compute time",
        flags=("--flopScale", "--flop-scale"),
        default=4e-7,
        minimum=0,
        unit="ms per unit",
        help="Time of one unit of compute work.",
    ),
    Parameter(
        name="mem_scale_ms",
        column="memScale",
        label="memory time",
        flags=("--memScale", "--mem-scale"),
        default=0.5,
        minimum=0,
        unit="ms per unit",
        help="Time of one unit of memory work.",
    ),
    Parameter(
        name="draft_cost",
        label="draft cost",
        flags=("--draft-cost",),
        default=0.1,
        minimum=0,
        above_minimum=True,
        maximum=1000,
        unit="of a target pass",
        help="Work of one draft pass over that of one target pass.",
    ),
    Parameter(
        name="pass_overhead_ms",
        label="overhead a pass",
        flags=("--pass-overhead",),
        default=0,
        minimum=0,
        unit="ms",
        help="What a pass of either model costs besides its work: launches, for one.",
    ),
    Parameter(
        name="round_overhead_ms",
        label="overhead a round",
        flags=("--round-overhead",),
        default=0,
        minimum=0,
        unit="ms",
        help="What a round costs besides draft and verification; engines show 9 to 18 % of a token.",
    ),
    Parameter(
        name="overlap_exponent",
        label="overlap exponent",
        flags=("--overlap-exponent",),
        default=math.inf,
        minimum=1,
        maximum=math.inf,
        unit="m",
        help="How compute and memory time join: inf is the longer of the two, 1 their sum.",
    ),
    Parameter(
        name="batch",
        label="batch size",
        flags=("--batch",),
        default=1,
        minimum=1,
        maximum=1_000_000,
        integer=True,
        unit="sequences",
        help="Sequences decoded together; with --target-model.",
    ),
    Parameter(
        name="context",
        label="context",
        flags=("--context",),
        default=1024,
        minimum=0,
        maximum=100_000_000,
        integer=True,
        unit="tokens",
        help="Tokens of each sequence that the KV cache holds, on average; with --target-model.",
    ),
)
BY_NAME = {p.name: p for p in PARAMETERS}
# What a pass costs, told either as work in burn units or as models on a profiled device.
UNIT_NAMES = (
    "workflops",
    "workmem",
    "flop_scale_ms",
    "mem_scale_ms",
    "draft_cost",
    "overlap_exponent",
    "pass_overhead_ms",
)
MODEL_NAMES = ("batch", "context")


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A value of every parameter, in its unit; or arrays that broadcast, many points in one.

    Raises:
        UserError: Names the option, the value found and what is allowed; or a pass in burn units takes no time.
    """

    total: "Real" = BY_NAME["total"].default
    draft_length: "Real" = BY_NAME["draft_length"].default
    alpha: "Real" = BY_NAME["alpha"].default
    workflops: "Real" = BY_NAME["workflops"].default
    workmem: "Real" = BY_NAME["workmem"].default
    flop_scale_ms: "Real" = BY_NAME["flop_scale_ms"].default
    mem_scale_ms: "Real" = BY_NAME["mem_scale_ms"].default
    draft_cost: "Real" = BY_NAME["draft_cost"].default
    pass_overhead_ms: "Real" = BY_NAME["pass_overhead_ms"].default
    round_overhead_ms: "Real" = BY_NAME["round_overhead_ms"].default
    overlap_exponent: "Real" = BY_NAME["overlap_exponent"].default
    batch: "Real" = BY_NAME["batch"].default
    context: "Real" = BY_NAME["context"].default

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


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceOptions:
    """Device and models as a user names them, and how they are to run; None where the user does not say.

    profile: a file, or a name of those that come along. target_model, draft_model: config.json, its folder, or a name
    of the catalogue. tp: devices that share the target. placement: of the draft, "same" or "separate".
    """

    profile: str | None = None
    target_model: str | None = None
    draft_model: str | None = None
    dtype: str | None = None
    draft_dtype: str | None = None
    kv_dtype: str | None = None
    tp: int | None = None
    placement: str | None = None
    overlap: bool = False
