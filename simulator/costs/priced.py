"""Where the costs of a forecast come from: knobs in burn units, a profile's burn units, or two models on a profile."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from simulator.ground.artefacts import UserError
from simulator.ground.limits import SEARCHED_DRAFT_LENGTHS
from simulator.ground.names import number_format

from .parameters import BY_NAME, LOAD_NAMES, MODEL_NAMES, PARAMETERS, UNIT_NAMES, DeviceOptions, Load, Point
from .step import Costs, Knobs, Real

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    # What is of profiles, models and servers is imported where there are any.
    from .model_costs import ModelPair
    from .profile import BurnUnits, Decoding, Profile
    from .timed_pair import TimedTokens

# Parameters of a profile's burn units: their names in `Knobs.scaled`, and in `Point`.
FITTED = {
    "flop_scale[0]": ("flop_scale", "flop_scale_ms"),
    "mem_scale[0]": ("mem_scale", "mem_scale_ms"),
    "launch_s": ("fixed_s", "pass_overhead_ms"),
}
# How models run: fields of `DeviceOptions`, as results have them too, and what `ModelPair` calls each.
HOW_MODELS_RUN = {
    "method": "method",
    "topk": "topk",
    "nodes": "nodes",
    "branching": "branching",
    "dtype": "dtype",
    "draft_dtype": "draft_dtype",
    "kv_dtype": "kv_dtype",
    "tp": "tp",
    "dp": "replicas",
    "draft_tp": "draft_devices",
    "placement": "placement",
}
# Fields of `DeviceOptions`: models, with what the options of each begin with, and what may be stated of one.
ROLES = {"target_model": "", "draft_model": "draft-"}
NUMBERS = ("params", "active_params", "kv_bytes_per_token")
STATED = tuple(prefix.replace("-", "_") + number for prefix in ROLES.values() for number in NUMBERS)
MEMORY_SHARE, SOURCE = "gpu_memory_utilization", "source"


class Pricing(NamedTuple):
    """Costs from the parameters of a point; without models, from its burn units.

    models: as they run, at whatever batch and context. timed: what a server's times a token tell, in place of both.
    load: that the models serve; None: a batch that decodes.
    guesses: outcomes that drafts ahead are made for.
    """

    profile: "Profile | None" = None
    models: "ModelPair | None" = None
    timed: "TimedTokens | None" = None
    load: Load | None = None
    guesses: int = 1

    @property
    def decoding(self) -> "Decoding | None":
        """The pair that the profile was fitted to, where no models are named."""
        return None if self.models or self.profile is None else self.profile.decoding

    @property
    def names(self) -> tuple[str, ...]:
        """The parameters that count."""
        unused: tuple[str, ...] = MODEL_NAMES
        if self.models:
            unused = (*UNIT_NAMES, *(("total", "context") if self.load else LOAD_NAMES))
        if self.decoding is not None:
            unused = (*UNIT_NAMES, *MODEL_NAMES)
        if self.timed is not None:
            unused = (*UNIT_NAMES, *MODEL_NAMES, "round_overhead_ms")
        return tuple(p.name for p in PARAMETERS if p.name not in unused)

    @property
    def usual_length(self) -> int:
        """The draft length where nobody says one."""
        default = int(BY_NAME["draft_length"].default)
        if self.models is None:
            return default
        from .drafters.plan import usual_length

        tree = self.models.tree
        return len(tree.levels) if tree and tree.levels else usual_length(self.models.draft, default)

    def defaults(self, lengths: "ArrayLike | None" = None) -> dict[str, float]:
        """Return what profile and models say of parameters that have other values without these, by name.

        lengths: the draft lengths that are stated, None for none.
        """
        values: dict[str, float] = {}
        if self.usual_length != BY_NAME["draft_length"].default:
            values["draft_length"] = self.usual_length
        if self.models is not None and self.models.target.encoder:
            # What a decoder begins with; its prompt is the source.
            values["isl"] = 1
            # Its positions hold what is drafted, too.
            longest = min(m.longest_context or np.inf for m in (self.models.target, self.models.draft))
            drafted = max(SEARCHED_DRAFT_LENGTHS, 0 if lengths is None else int(np.max(lengths)))
            values["context"] = max(min(BY_NAME["context"].default, longest - drafted), 1)
        if self.profile is not None:
            values["round_overhead_ms"] = float(self.profile.round_overhead_s) * 1e3
            if self.models is None and self.decoding is None and self.profile.units is not None:
                values |= unit_defaults(self.profile.units)
        return values

    def overhead_error(self, point: Point) -> float:
        """Return how well the overhead of a round is known, relative: one that the user states is taken as known."""
        if self.profile is None or np.any(point.round_overhead_ms != self.defaults()["round_overhead_ms"]):
            return 0.0
        return self.profile.round_overhead_error

    def unit_uncertainty(self, point: Point) -> dict[str, Any]:
        """Return how well the profile's burn units are known, as `Knobs` has it; what the user states is known."""
        if self.profile is None or self.profile.units is None:
            return {}
        cost, there = self.profile.units.cost, self.defaults()
        fitted = {n: FITTED[n] for n in cost.uncertain if n in FITTED}
        kept = [n for n, (_, name) in fitted.items() if np.all(getattr(point, name) == there[name])]
        at = [cost.uncertain.index(n) for n in kept]
        return {"uncertain": tuple(FITTED[n][0] for n in kept), "covariance": cost.covariance[np.ix_(at, at)]}

    def costs(self, point: Point) -> Costs:
        """Return the costs at a point; arrays of points stay arrays."""
        if self.guesses > 1 and (self.timed is not None or self.decoding is not None):
            raise UserError(f"--guesses: {self.guesses}, but what was timed drafted for one outcome, expected 1")
        if self.timed is not None:
            return self.timed
        overhead_s = np.asarray(point.round_overhead_ms, np.float64) / 1e3
        if self.profile is not None and self.decoding is not None:
            from .timed_pair import DecodedPair

            pair = DecodedPair(
                decoding=self.decoding, round_overhead_s=overhead_s, round_overhead_error=self.overhead_error(point)
            )
            length = int(np.max(point.draft_length))
            if length > pair.longest:
                known = f"the longest that {self.profile.name} was fitted to"
                raise UserError(f"--draftN: {length} is above {pair.longest}, {known}, expected 1 to {pair.longest}")
            return pair
        if self.models is None:
            return replace(knobs(point), guesses=self.guesses, **self.unit_uncertainty(point))
        from .drafters.plan import check_lengths

        check_lengths(self.models.draft, (int(k) for k in np.unique(point.draft_length)))
        return replace(
            self.models,
            guesses=self.guesses,
            batch=point.batch,
            context=point.context if self.load is None else np.asarray(point.isl) + np.asarray(point.osl) // 2,
            round_overhead_s=overhead_s,
            round_overhead_error=self.overhead_error(point),
        )

    def point(self, stated: Mapping[str, Real]) -> Point:
        """Return a point: parameters as stated, else what the profile says of them, else their defaults."""
        self.refuse_unused(stated)
        self.check_work(stated)
        return Point(**{**self.defaults(stated.get("draft_length")), **stated})

    def check_work(self, stated: Collection[str]) -> None:
        """Refuse a device's burn units where nobody says how many a pass takes.

        Raises:
            UserError: Neither models nor the work of a pass is stated.
        """
        if self.profile is None or self.models or self.decoding:
            return
        for name in ("workflops", "workmem"):
            if name not in stated:
                raise UserError(
                    f"--profile {self.profile.name}: says what a burn unit takes, not how many your target has; "
                    f"expected {BY_NAME[name].flags[0]}, or --target-model and --draft-model beside it"
                )

    def refuse_unused(self, stated: Collection[str]) -> None:
        """Refuse parameters that were stated and that have no part in these costs; names the first, and why."""
        for name in BY_NAME:
            if name in stated and name not in self.names:
                why = "needs --profile and --target-model, expected those beside it"
                if self.load and self.models and name not in UNIT_NAMES:
                    why = "has no part in a load, which --isl and --osl tell, expected one or the other"
                elif self.timed:
                    why = "has no part in times a token of a server, expected one or the other"
                elif self.models:
                    why = "has no part in models on a profile, expected one or the other"
                elif self.decoding:
                    why = "is not told by a profile of a pair that decoded, expected no such option"
                raise UserError(f"{BY_NAME[name].flags[0]}: {why}")


def knobs(point: Point) -> Knobs:
    """Return the cost knobs in SI units at a point; arrays stay arrays."""
    return Knobs(
        work_flops=point.workflops,
        work_mem=point.workmem,
        flop_scale_s=np.asarray(point.flop_scale_ms, np.float64) / 1e3,
        mem_scale_s=np.asarray(point.mem_scale_ms, np.float64) / 1e3,
        draft_cost=point.draft_cost,
        overlap_exponent=point.overlap_exponent,
        pass_overhead_s=np.asarray(point.pass_overhead_ms, np.float64) / 1e3,
        round_overhead_s=np.asarray(point.round_overhead_ms, np.float64) / 1e3,
    )


def unit_defaults(units: "BurnUnits") -> dict[str, float]:
    """Return the parameters that a calibrated device has for burn units, by name, in ms."""
    cost = units.cost
    return {
        "flop_scale_ms": float(cost.flop_scale.seconds[0]) * units.workflops_flop * 1e3,
        "mem_scale_ms": float(cost.mem_scale.at(units.workmem_bytes)) * units.workmem_bytes * 1e3,
        "overlap_exponent": float(cost.overlap_exponent),
        "pass_overhead_ms": float(cost.launch_s + cost.fixed_s) * 1e3,
    }


def load_pricing(options: DeviceOptions) -> Pricing:
    """Read the files that a user names.

    Raises:
        UserError: A file or name is wrong, or options are missing or at odds.
    """
    if options.profile is None:
        refuse_stated(
            options, (*ROLES, *STATED, *HOW_MODELS_RUN, MEMORY_SHARE, SOURCE), "a device, expected --profile NAME"
        )
        return Pricing()
    from .placing import drafter, model_shape, place_models
    from .profile_file import load_profile
    from .source import sourced
    from .stated import StatedModel

    roles = {role: StatedModel(**stated_numbers(options, prefix), prefix=prefix) for role, prefix in ROLES.items()}
    formats = (text and number_format(text) for text in (options.dtype, options.draft_dtype, options.kv_dtype))
    options = replace(options, **dict(zip(("dtype", "draft_dtype", "kv_dtype"), formats, strict=True)))  # type: ignore[arg-type]
    profile = with_share(load_profile(str(options.profile)), options.gpu_memory_utilization)
    stated = [role for role in roles if getattr(options, role) is not None or roles[role].first]
    if not stated:
        refuse_stated(
            options, (*HOW_MODELS_RUN, MEMORY_SHARE, SOURCE), "models, expected --target-model and --draft-model"
        )
        if profile.units is None and profile.decoding is None:
            raise UserError(
                f"--profile {profile.name}: has costs of models and none is named, "
                "expected --target-model and --draft-model beside it"
            )
        return Pricing(profile=profile)
    if "target_model" not in stated:
        given = options.draft_model
        what = f"--draft-model: {given}" if given is not None else f"{roles['draft_model'].first}: a model"
        raise UserError(f"{what} alone, expected --target-model beside it")
    target = sourced(model_shape(options.target_model, roles["target_model"]), options.source, "--target-model")
    method, draft = drafter(options, roles["draft_model"], target)
    if draft.encoder:
        draft = sourced(draft, options.source, "--draft-model")
    return Pricing(profile=profile, models=place_models(profile, options, target, draft, method))


def with_share(profile: "Profile", share: float | None) -> "Profile":
    """Return a profile whose engine uses a share of the memory; None: as it is.

    Raises:
        UserError: It does not say how much memory there is.
    """
    if share is None:
        return profile
    if profile.memory_bytes is None:
        lacking = f"the profile {profile.name} does not say how much memory its device has"
        raise UserError(f"{flag(MEMORY_SHARE)}: {share:g}, but {lacking}, expected no such option")
    return replace(profile, memory_share=share)


def stated_numbers(options: DeviceOptions, prefix: str) -> dict[str, str | None]:
    """Return the numbers that are stated of one of the models."""
    return {name: getattr(options, prefix.replace("-", "_") + name) for name in NUMBERS}


def refuse_stated(options: DeviceOptions, names: Iterable[str], without: str) -> None:
    """Refuse options that mean nothing without others."""
    for name in names:
        if getattr(options, name) is not None:
            raise UserError(f"{flag(name)}: {getattr(options, name)} without {without} beside it")


def flag(name: str) -> str:
    """Return the option of a field of `DeviceOptions`."""
    return f"--{name.replace('_', '-')}"
