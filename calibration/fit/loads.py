"""Rows of servers as loads that a profile prices: models placed as the rows say, through the one closed form."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.sources.serving import ServingRow
from simulator.costs.datasheet import MACHINE
from simulator.costs.drafters import draft_model
from simulator.costs.drafters.methods import method_named
from simulator.costs.drafters.plan import check_lengths
from simulator.costs.fitted import LOADED
from simulator.costs.formats import Storage, format_of
from simulator.costs.model_costs import ModelPair, Placed
from simulator.costs.parameters import DeviceOptions, Load
from simulator.costs.placing import place_models
from simulator.costs.profile import Profile
from simulator.costs.profile_file import load_profile
from simulator.costs.ranges import TimedRange
from simulator.costs.room import hangs
from simulator.costs.shapes import read_shape
from simulator.costs.work import ModelShape, as_storage
from simulator.ground.artefacts import UserError
from simulator.serving.steady import Steady, steady

from .row_words import UNFIT, left_in_words

# What benches send where a row does not say: requests a client, of which the first all come at once.
REQUESTS_A_CLIENT = 10.0
# Of all rows: where fewer are used, that is said first.
FEW_USED = 0.5
# How a server takes loads where nobody says.
USUAL = Load()
# What of a row was measured, or is of its file: rows that are alike but for it are of one load.
SILENT: dict[str, Any] = {"line": 0, "path": "", "columns": ("", ""), "tpot_s": 1.0, "is_derived": False}
SILENT |= dict.fromkeys(("ttft_s", "tokens_per_round", "output_tok_s"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What rows do not say, as it was given; "" and None: not. served: how the server takes loads."""

    target_model: str = ""
    engine: str = ""
    dtype: str = ""
    kv_dtype: str = ""
    tp: int | None = None
    memory_share: float | None = None
    served: Load = USUAL


@dataclass(frozen=True, slots=True)
class Placing:
    """How a row's model lies on devices; memory_share: of these, what the engine uses, None where the row is silent."""

    storage: Storage | str
    kv_dtype: str | None
    devices: int
    replicas: int
    memory_share: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Loads:
    """Rows of one model and engine, with where each lies.

    left_out: why how many others were not used; others: what those are of, by the reason.
    """

    shape: ModelShape
    engine: str
    rows: tuple[ServingRow, ...]
    placings: tuple[Placing, ...]
    left_out: Mapping[str, int]
    others: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    assumed: tuple[str, ...] = ()
    dtype: str = ""
    kv_dtype: str = ""
    tp: int | None = None
    served: Load = USUAL

    def __len__(self) -> int:
        """Rows."""
        return len(self.rows)

    def column(self, name: str) -> NDArray[np.float64]:
        """Return a number of each row, NaN where it has none."""
        values = (getattr(row, name) for row in self.rows)
        return np.array([np.nan if v is None else v for v in values], np.float64)

    @property
    def formats(self) -> tuple[str, ...]:
        """How weights are stored, by name."""
        return tuple(sorted({as_storage(p.storage).name for p in self.placings}))

    def loaded(self) -> dict[str, NDArray[np.float64]]:
        """Return what rows were loaded with, by `LOADED`."""
        devices = np.array([p.devices for p in self.placings], np.float64)
        return {name: devices if name == "devices" else self.column(name) for name in LOADED}

    def ranges(self) -> dict[str, TimedRange]:
        """Return their ranges."""
        return {n: TimedRange(least=float(v.min()), most=float(v.max())) for n, v in self.loaded().items()}

    def numbers(self) -> NDArray[np.int64]:
        """Return a number of each row's load, the same for rows of one: alike but for what was measured."""
        known: dict[tuple[ServingRow, Placing], int] = {}
        silent = (replace(row, **SILENT) for row in self.rows)
        keys = zip(silent, self.placings, strict=True)
        return np.array([known.setdefault(key, len(known)) for key in keys], np.int64)

    @property
    def has_drafts(self) -> bool:
        """Whether any row is of rounds with drafts."""
        return any(row.draft_length for row in self.rows)

    @property
    def distinct(self) -> int:
        """How many loads the rows are of: those of one count once."""
        return len(set(self.numbers().tolist()))

    def select(self, kept: Sequence[int]) -> "Loads":
        """Return some of the rows."""
        return replace(self, rows=tuple(self.rows[i] for i in kept), placings=tuple(self.placings[i] for i in kept))

    @property
    def read(self) -> int:
        """How many rows there were, with those that are not used."""
        return len(self) + sum(self.left_out.values())

    @property
    def are_few(self) -> bool:
        """Whether most rows are not used."""
        return len(self) < FEW_USED * self.read

    def fitting(self, fits: NDArray[np.bool_]) -> "Loads":
        """Return the rows that fit into memory; the others are left out and counted."""
        found = self.select([int(i) for i in np.flatnonzero(fits)])
        unfit = {UNFIT: len(self) - len(found)} if len(found) < len(self) else {}
        return replace(found, left_out={**self.left_out, **unfit})

    def placed(self, placing: Placing, profile: Profile) -> Placed:
        """Return the model as a row has it."""
        if placing.memory_share is not None:
            profile = replace(profile, memory_share=placing.memory_share)
        names = {"kv_dtype": placing.kv_dtype, "devices": placing.devices, "replicas": placing.replicas}
        return Placed(shape=self.shape, dtype=placing.storage, profile=profile, **names)  # type: ignore[arg-type]

    @property
    def memory_share(self) -> float | None:
        """The share of the memory that all rows say; None where one is silent, or they differ."""
        shares = {placing.memory_share for placing in self.placings}
        return shares.pop() if len(shares) == 1 else None

    def hanging(self, profile: Profile) -> NDArray[np.bool_]:
        """Return which rows' requests wait or not by a share of the memory that nobody states."""
        running = np.minimum(self.column("concurrency"), self.served.most_running)
        context = self.column("isl") + self.column("osl") / 2
        found = np.zeros(len(self), np.bool_)
        for placing in dict.fromkeys(self.placings):
            at = [i for i, other in enumerate(self.placings) if other == placing]
            found[at] = hangs(self.placed(placing, profile), running[at], context[at])
        return found

    def priced(self, profile: Profile) -> Steady:
        """Return what the rows' loads come to on a profile, [*samples, rows]."""
        clients, isl, osl, sent = (self.column(name) for name in ("concurrency", "isl", "osl", "requests"))
        requests = np.where(np.isnan(sent), REQUESTS_A_CLIENT * clients, np.maximum(sent, clients))
        parts, drafts = [], [row.method if row.draft_length else "" for row in self.rows]
        for placing, method in dict.fromkeys(zip(self.placings, drafts, strict=True)):
            at = [i for i, both in enumerate(zip(self.placings, drafts, strict=True)) if both == (placing, method)]
            placed = self.placed(placing, profile)
            served, k, tau = drafting(placed, method) if method else placed, None, None
            if method:
                k, tau = (self.column(name)[at] for name in ("draft_length", "tokens_per_round"))
            load, how = (clients[at], isl[at], osl[at]), self.served._asdict() | {"requests": requests[at]}
            parts.append((at, steady(served, *load, **how, draft_length=k, tokens_per_round=tau)))
        shape = (*np.shape(parts[0][1].tpot_s)[:-1], len(self))
        found = {name: np.full(shape, np.nan) for name in Steady._fields}
        for at, come_to in parts:
            for name, values in come_to._asdict().items():
                found[name][..., at] = values
        return Steady(**found)


# Reasons that a row is left out for what it names, and that.
NAMED: Mapping[str, Callable[[ServingRow], str]] = {
    "of other models": lambda row: row.model,
    "of other engines": lambda row: row.engine,
    "on other devices": lambda row: row.device,
}


def loads_of(rows: Sequence[ServingRow], profile: Profile, given: Options) -> Loads:
    """Return the rows that a profile can price: of one model and engine, and on its device.

    Raises:
        UserError: No row is left, or rows of several models or engines and none is named.
    """
    target = given.target_model or one_of("model", "--target-model", rows)
    shape = read_shape(target)
    left: Counter[str] = Counter()
    others: dict[str, Counter[str]] = {}
    kept = []
    for row in rows:
        reason = no_use(row, shape, profile, given)
        if reason:
            left[reason] += 1
            others.setdefault(reason, Counter())[NAMED[reason](row) if reason in NAMED else ""] += 1
        else:
            kept.append(row)
    names = {reason: tuple(name for name, _ in of.most_common() if name) for reason, of in others.items()}
    engine = given.engine or one_of("engine", "--engine", kept, needed=False)
    if not kept:
        most = "; ".join(left_in_words(left, names)[:3])
        raise UserError(f"no row of {target} on {profile.name} to use ({most})")
    placings = tuple(placing_of(row, shape, given) for row in kept)
    assumed = list(assumed_of_cache(kept, placings, given))
    derived = sum(row.is_derived for row in kept)
    if derived:
        assumed.append(f"time a token of {derived} rows follows from output_tok_s, concurrency, osl and ttft_ms")
    alone = [row for row in kept if row.tp is None and given.tp is None]
    if alone:
        assumed.append(f"{len(alone)} rows that state no tp are taken to be of one device each; --tp says another")
    wide = [r for r, p in zip(kept, placings, strict=True) if not (r.dtype or given.dtype) and p.storage == "bfloat16"]
    if wide:
        assumed.append(
            f"{len(wide)} rows that state no number format are taken to be in bfloat16; --dtype says another"
        )
    if any(row.requests is None for row in kept):
        assumed.append(
            f"rows without a count of requests are taken to have sent {REQUESTS_A_CLIENT:g} for each client, whose "
            "first came all at once"
        )
    return Loads(
        shape=shape,
        engine=engine,
        rows=tuple(kept),
        placings=placings,
        left_out=dict(left),
        others=names,
        assumed=tuple(assumed),
        dtype=given.dtype,
        kv_dtype=given.kv_dtype,
        tp=given.tp,
        served=given.served,
    )


def assumed_of_cache(rows: Sequence[ServingRow], placings: Sequence[Placing], given: Options) -> Iterator[str]:
    """Yield what is assumed of the KV cache of rows that do not state it, of weights of fewer bits than 16."""
    unsaid = [at for at, row in enumerate(rows) if has_few_bits(row, given) and not (row.kv_dtype or given.kv_dtype)]
    narrow = sum(placings[at].kv_dtype == "fp8" for at in unsaid)
    wide = len(unsaid) - narrow
    if narrow:
        said = f"the KV cache of {narrow} rows is taken to be in fp8, as NVIDIA's checkpoints of fewer bits state"
        yield f"{said}; --kv-dtype says another"
    if wide:
        said = f"the KV cache of {wide} rows with weights of fewer than 16 bits is taken to be as the model's file says"
        yield f"{said}, else in 16 bits; --kv-dtype says another"


def has_few_bits(row: ServingRow, given: Options) -> bool:
    """Whether a row's weights are said to have fewer bits than 16."""
    return format_of(row.dtype or given.dtype or "bfloat16").bits < 16


def one_of(name: str, option: str, rows: Sequence[ServingRow], *, needed: bool = True) -> str:
    """Return what all rows say; refuse several, and nothing where it is needed."""
    found = sorted({getattr(row, name) for row in rows} - {""})
    if len(found) > 1 or (needed and not found):
        said = f"the rows are of {', '.join(found[:4])}" if found else f"the rows name no {name}"
        raise UserError(f"{option}: {said}, expected one named")
    return found[0] if found else ""


def no_use(row: ServingRow, shape: ModelShape, profile: Profile, given: Options) -> str:
    """Say why a row cannot be priced, "" where it can."""
    if row.model and shape_name(row.model) != shape.name:
        return "of other models"
    if given.engine and row.engine and row.engine != given.engine:
        return "of other engines"
    if row.device and device_of(row.device) not in ("", profile.device):
        return "on other devices"
    if row.draft_length and (reason := no_drafts(row, shape)):
        return reason
    if row.osl < 2:
        return "of answers of one token"
    devices = (row.tp or given.tp or 1) * row.dp
    joined = (profile.link and profile.link.devices) or MACHINE
    if row.pp > 1:
        return "with pipeline parallelism"
    if devices > joined:
        return f"on more than {joined} joined devices"
    if shape.heads % (row.tp or given.tp or 1):
        return "whose tp does not divide the heads"
    if row.dp > 1 and not shape.experts:
        return "of replicas of a dense model"
    return ""


def no_drafts(row: ServingRow, shape: ModelShape) -> str:
    """Say why the drafts of a row cannot be priced, "" where they can."""
    if not row.method or not row.tokens_per_round:
        return "with drafts, without method, draft length and tokens a round"
    if not 1 <= row.tokens_per_round <= row.draft_length + 1:
        return "with more tokens a round than drafts, or less than one"
    if row.dp > 1:
        return "with drafts and attention of several groups"
    try:
        method = method_named(row.method)
        check_lengths(method.usual(shape), (row.draft_length,))
    except UserError:
        return "with drafts of a method that is not known, or longer than it drafts"
    return "with drafts of a model, whose sizes rows do not state" if method is draft_model.METHOD else ""


def drafting(target: Placed, name: str) -> ModelPair:
    """Put the usual drafter of a method beside a target."""
    method, profile, plain = method_named(name), target.profile, target.storage.plain.name
    options = DeviceOptions(method=method.name, dtype=plain, kv_dtype=target.kv_dtype, tp=target.devices)
    pair = place_models(profile, options, target.shape, method.usual(target.shape), method)
    # What a round costs besides may be samples, as factors may.
    return replace(pair, dtype=target.dtype, round_overhead_s=1.0, round_overhead_factors=profile.round_overhead_s)


@lru_cache(maxsize=256)
def shape_name(text: str) -> str:
    """Return the name of a model's sizes; "" where it is not known."""
    try:
        return read_shape(text).name
    except UserError:
        return ""


@lru_cache(maxsize=256)
def stored_as(text: str) -> Storage | None:
    """Return how a model's weights are stored, where its name says; None where it is not known."""
    try:
        return read_shape(text).storage if text else None
    except UserError:
        return None


@lru_cache(maxsize=256)
def device_of(text: str) -> str:
    """Return the device that a row names, "" where the name is not known."""
    try:
        return load_profile(text).device
    except UserError:
        return ""


def placing_of(row: ServingRow, shape: ModelShape, given: Options) -> Placing:
    """Return how a row's model lies on devices; its own format where the row's has as many bits."""
    dtype = row.dtype or given.dtype
    storage: Storage | str = dtype or stored_as(row.model) or shape.storage or "bfloat16"
    if dtype and shape.storage and int(shape.storage.format.bits) == int(format_of(dtype).bits):
        storage = shape.storage
    kv_dtype = row.kv_dtype or given.kv_dtype or None
    # `auto` of any engine is what the checkpoint says. Those that TensorRT-LLM takes are NVIDIA's, and say fp8; so do
    # those in nvfp4, which vLLM heeds.
    engine = row.engine or given.engine
    is_nvidia = engine == "trtllm" or (engine, dtype) == ("vllm", "nvfp4") or row.model.lower().startswith("nvidia/")
    if kv_dtype is None and is_nvidia and has_few_bits(row, given):
        kv_dtype = "fp8"
    share = row.memory_share or given.memory_share
    return Placing(storage, kv_dtype, (row.tp or given.tp or 1) * row.dp, row.dp, share)
