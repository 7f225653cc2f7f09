"""From loads on servers to a profile: what steps take by what they were over, with and without drafts.

A step that clients saw tells more than a mean over requests: passes over one token and over many, with prompts and
without. So hardly anything has to be known of the device before, and constants begin at what the load itself suggests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from simulator.costs.drafters import draft_model
from simulator.costs.drafters.methods import method_beginning
from simulator.costs.drafters.plan import Method
from simulator.costs.engine import Engine
from simulator.costs.fitted import ServingFit
from simulator.costs.formats import Storage
from simulator.costs.model_costs import Placed
from simulator.costs.moved import moved
from simulator.costs.parameters import DeviceOptions, Load
from simulator.costs.placing import place_models
from simulator.costs.profile import CALIBRATED, Curve, PassCost, Profile, constant
from simulator.costs.step import Floats
from simulator.costs.work import ModelShape, as_storage
from simulator.ground.artefacts import UserError
from simulator.serving.passes import Passes, Prompts, passes_of

from .from_serving import Constant, factors_of
from .server_rows import Arm, Seen
from .told import Rows, Told
from .told import told as rows_told

# Tokens of passes between which the seconds of a FLOP change, as small products reach less than large ones.
KNOTS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
# Of logarithms, before anything is seen: what a constant may be off by, and one knot against the others.
WEAK, KNOT = 1.5, 0.3
EXPONENT = 1.5
# Of steps and of first tokens, besides noise.
STEP_NOISE, FIRST_NOISE = 0.03, 0.05
LAUNCHES = 10.0
# By how much longer a FLOP takes of small products, and of attention, than of large ones.
SLOWER = 3.0
# A round besides its passes, of the shortest step.
ROUND = 0.05
GUESSED = "what the load suggests"


USUAL = Load()


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """What was served: sizes, and number formats as they were stated, "" and None where nobody does.

    draft: the model that drafts, None where none is named. served: how the server took loads.
    """

    target: ModelShape
    draft: ModelShape | None = None
    dtype: str = ""
    kv_dtype: str | None = None
    served: Load = USUAL

    @property
    def doubts(self) -> tuple[str, ...]:
        """What is odd of them."""
        sizes = [0 if shape is None else shape.parameters for shape in (self.draft, self.target)]
        if sizes[0] <= sizes[1]:
            return ()
        return (f"--draft-model: has {sizes[0]:,} weights, more than the target's {sizes[1]:,}: are they swapped?",)

    @property
    def storage(self) -> Storage:
        """How the target's weights are stored."""
        return as_storage(self.dtype or self.target.storage or "bfloat16")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCalibration:
    """A profile that was fitted to loads on servers, and what there is to say of the fit.

    constants, logs, covariance: as of `ServingCalibration`. step, first: errors of rows by the fit, relative, NaN of
    the other kind; held_out_step, held_out_first: by fits without their load.
    """

    profile: Profile
    prior: Profile
    seen: Seen
    constants: tuple[Constant, ...]
    logs: Floats
    covariance: Floats
    step: Floats
    first: Floats
    held_out_step: Floats
    held_out_first: Floats


def method_of(arm: Arm, models: Models) -> Method | None:
    """Return how an arm drafts, as the beginning of its name says; None where it does not draft.

    Raises:
        UserError: It drafts, and neither its name nor a draft model tells how.
    """
    if not arm.k:
        return None
    named = method_beginning(arm.name)
    method = named or draft_model.METHOD
    if not named and models.draft is None:
        raise UserError(
            f"{arm.name}: drafts, and its name tells no method, expected one such as eagle3=URL, or --draft-model"
        )
    if method is draft_model.METHOD and models.draft is None:
        raise UserError(f"--draft-model: is missing, and {arm.name} drafts with a model, expected its config.json")
    return method


def prior_of(seen: Seen, models: Models, device: Profile | None) -> Profile:
    """Return where constants begin: of a device that is known, else at what steps and first tokens suggest."""
    tokens, seconds = seen.column("prompt_tokens"), seen.column("ttft_s")
    first = np.isfinite(seconds)
    step_s = float(np.nanmin(seen.column("seconds")))
    token_s = step_s / 10
    if len(set(tokens[first])) > 1:
        token_s = max(float(np.polyfit(tokens[first], seconds[first], 1)[0]), step_s / 1000)
    if device is None:
        device = guessed(models, step_s, token_s)
    own, guess = device.engine or Engine(), engine_of(models.target.layers, step_s)
    unsaid: dict[str, Any] = {name: value for name, value in guess.items() if not getattr(own, name)}
    overhead_s = float(device.round_overhead_s) or ROUND * step_s
    return replace(device, engine=replace(own, **unsaid), round_overhead_s=overhead_s)


def engine_of(layers: int, step_s: float) -> dict[str, float]:
    """Return what an engine may take besides passes, of which the shortest takes so long."""
    return {
        "load_layer_s": 0.05 * step_s / layers,
        "load_layer_sequence_s": 0.02 * step_s / layers,
        "front_s": 0.3 * step_s,
        "round_sequence_s": 0.01 * step_s,
        "draft_round_s": 0.05 * step_s,
        "search_s": 0.01 * step_s,
    }


def guessed(models: Models, step_s: float, token_s: float) -> Profile:
    """Return a device whose shortest pass takes so long, and a token of a prompt so much."""
    shape, names = models.target, tuple(f"flop_scale[{i}]" for i in range(len(KNOTS)))
    flops, moved = float(shape.flops(1, 1, 0)), float(shape.bytes_moved(1, 1, 0, models.storage))
    cost = PassCost(
        flop_scale=Curve(np.array(KNOTS), np.full(len(KNOTS), token_s / flops)),
        mem_scale=constant(0.6 * step_s / moved),
        launch_s=0.1 * step_s / (LAUNCHES * shape.layers),
        fixed_s=0.05 * step_s,
        overlap_exponent=EXPONENT,
        uncertain=(*names, "mem_scale[0]", "launch_s", "fixed_s", "overlap_exponent"),
        covariance=WEAK**2 * np.eye(len(names) + 4),
    )
    return Profile(
        name=GUESSED,
        device="a server's",
        status=CALIBRATED,
        passes={models.storage.format.arithmetic[0]: cost},
        launches_per_layer=LAUNCHES,
        engine=Engine(draft_flops=SLOWER, attention_flops=SLOWER),
    )


def constants_of(seen: Seen, models: Models, prior: Profile) -> tuple[Constant, ...]:
    """Return what loads may tell: of a device that is known within what it states, else of anything."""
    cost, knots = next(iter(prior.passes.values())), tuple[Constant, ...]()
    if len(cost.flop_scale.sizes) > 1:
        knots = tuple(Constant(f"flop_scale[{i}]", KNOT) for i in range(len(cost.flop_scale.sizes)))
    is_known = prior.name != GUESSED
    of_passes = ("flop_scale", "mem_scale", "launch_s", "fixed_s", "overlap_exponent")
    stated = {name: is_known and (cost.error(name) or cost.error(f"{name}[0]")) for name in of_passes}
    found = [Constant(name, error or WEAK) for name, error in stated.items()]
    names = ["attention_flops", "load_layer_s", "load_layer_sequence_s"]
    drafting = [method for arm in seen.arms if (method := method_of(arm, models))]
    if drafting:
        names += ["round_overhead_s", "round_sequence_s"]
    if any(not method.is_weightless for method in drafting):
        names += ["draft_round_s", "draft_flops"]
    if any(method.is_weightless for method in drafting):
        names.append("search_s")
    if np.isfinite(seen.column("ttft_s")).any():
        names.append("front_s")
    return (*found, *knots, *(Constant(name, WEAK) for name in names))


def passes_on(profile: Profile, arm: Arm, models: Models) -> Passes:
    """Return the passes of an arm on a profile; its constants may be samples."""
    method = method_of(arm, models)
    if method is None:
        kv_dtype = models.kv_dtype
        target = Placed(shape=models.target, dtype=models.storage, kv_dtype=kv_dtype, devices=1, profile=profile)
        return passes_of(target, None)
    draft = models.draft if method is draft_model.METHOD and models.draft else method.usual(models.target)
    options = DeviceOptions(method=method.name, dtype=models.dtype or None, kv_dtype=models.kv_dtype)
    pair = place_models(profile, options, models.target, draft, method)
    drafted = arm.drafted if pair.varies else None
    # What a round costs besides may be samples, as factors may.
    pair = replace(pair, round_overhead_s=1.0, round_overhead_factors=profile.round_overhead_s)
    return passes_of(replace(pair, dtype=models.storage, drafted=drafted), arm.k)


def priced(seen: Seen, profile: Profile, models: Models) -> tuple[Floats, Floats]:
    """Return the seconds of steps and of first tokens, each [*samples, rows]."""
    arms = {arm.name: arm for arm in seen.arms}
    names = np.array([row.arm for row in seen.rows])
    each: list[tuple[np.ndarray, Floats]] = []
    for name in dict.fromkeys(names.tolist()):
        at = np.flatnonzero(names == name)
        decoding, context, prompts, tokens = (
            seen.column(part)[at] for part in ("decoding", "context", "prompts", "prompt_tokens")
        )
        read = Prompts(prompts, tokens / np.maximum(prompts, 1e-9), np.zeros(len(at)), prompts)
        each.append((at, passes_on(profile, arms[name], models).seconds(decoding, context, read)))
    seconds = np.zeros((*np.shape(each[0][1])[:-1], len(names)))
    for at, of_arm in each:
        seconds[..., at] = of_arm
    engine = profile.engine or Engine()
    return seconds, seconds + engine.in_front_s(np.ones(len(names)))


def fit_server(
    seen: Seen, models: Models, name: str, device: Profile | None = None, sha256: str = ""
) -> ServerCalibration:
    """Fit constants to what was seen of servers."""
    prior = prior_of(seen, models, device)
    constants = constants_of(seen, models, prior)
    told = fit_rows(seen, models, prior, constants)
    fitted = moved(prior, factors_of(constants, told.logs))
    step, first = priced(seen, fitted, models)
    held_step, held_first = np.expm1(told.held_out)
    covariance = told.draws.T @ told.draws / len(told.draws)
    return ServerCalibration(
        profile=profile_of(fitted, seen, models, constants, told, name, sha256),
        prior=prior,
        seen=seen,
        constants=constants,
        logs=told.logs,
        covariance=covariance,
        step=step / seen.column("seconds") - 1,
        first=first / seen.column("ttft_s") - 1,
        held_out_step=held_step,
        held_out_first=held_first,
    )


def fit_rows(seen: Seen, models: Models, prior: Profile, constants: Sequence[Constant]) -> Told:
    """Return what rows tell of constants."""
    measured = np.log([seen.column("seconds"), seen.column("ttft_s")])

    def off(logs: Floats) -> Floats:
        factors: Mapping[str, Floats] = {c.name: np.exp(logs[..., i]) for i, c in enumerate(constants)}
        return np.asarray(np.log(np.stack(priced(seen, moved(prior, factors), models), -2)) - measured)

    errors, noises = np.array([c.error for c in constants]), np.array([STEP_NOISE, FIRST_NOISE])
    blocks = seen.column("block").astype(np.int64)
    return rows_told(Rows(off, noises, errors, blocks, noises, shares=seen.column("share")))


def profile_of(
    fitted: Profile, seen: Seen, models: Models, constants: Sequence[Constant], told: Told, name: str, sha256: str
) -> Profile:
    """Return the profile, with how well its constants are known and what it was fitted to."""
    names, covariance = [c.name for c in constants], told.draws.T @ told.draws / len(told.draws)
    passes = {}
    for dtype, cost in fitted.passes.items():
        # A knot moves with its curve.
        moves = [[float(n in (u, u.partition("[")[0])) for n in names] for u in cost.uncertain]
        passes[dtype] = replace(cost, covariance=np.array(moves) @ covariance @ np.array(moves).T)
    errors = dict(zip(names, np.sqrt(np.diag(covariance)).tolist(), strict=True))
    step_error, first_error = (None if np.isnan(s) else float(s) for s in told.spreads)
    fit = ServingFit(
        sheet=fitted.name,
        model=models.target.name,
        engine=seen.engine,
        rows=len(seen.rows),
        loads=told.loads,
        constants=tuple(names),
        covariance=covariance,
        draws=told.draws,
        tpot_error=step_error or STEP_NOISE,
        ttft_error=first_error,
        source_sha256=sha256,
        dtype=models.dtype,
        kv_dtype=models.kv_dtype or "",
        tp=1,
        served=models.served,
        formats=(models.storage.name,),
        ranges=seen.ranges,
    )
    arms = ", ".join(arm.name for arm in seen.arms)
    note = f"Fitted to steps that clients of {models.target.name} saw ({arms})."
    return replace(
        fitted,
        name=name,
        status=CALIBRATED,
        passes=passes,
        round_overhead_s=float(fitted.round_overhead_s),
        round_overhead_error=errors.get("round_overhead_s", 0.0),
        notes=(note, *(n for n in fitted.notes if not n.startswith("Assumed"))),
        fitted=fit,
    )
