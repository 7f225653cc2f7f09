"""What rounds of two real models cost on a profiled device: the work of `work` priced by a profile (model §2)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from simulator.ground.artefacts import UserError

from .beyond import ERROR_A_DOUBLING, ERROR_OF_FORMAT, ERROR_OF_SHEET, Beyond, beyond_rows, error_beyond
from .drafters import draft_model
from .drafters.plan import DraftPass, DraftPlan, Method, Tree, branched, longest_of
from .encoders import shared_bytes
from .engine import Engine, side_by_side
from .formats import Storage
from .moved import drafting
from .parts import Done, PassParts
from .profile import PassCost, Profile
from .step import Floats, Real, RoundCost, is_nothing, spread
from .work import Count, ModelShape, Work, as_storage

SAME, SEPARATE = "same", "separate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A model in a number format on `devices` devices, its matrices divided among them (tensor parallelism).

    replicas: groups of these devices that each hold all but the experts, for a share of the sequences (data parallelism
    of attention); experts are divided among all devices, whole or not.
    """

    shape: ModelShape
    dtype: str | Storage
    kv_dtype: str | None
    devices: int
    profile: Profile
    replicas: int = 1

    @property
    def cost(self) -> PassCost:
        """What a pass costs in this number format."""
        return self.profile.cost(self.arithmetic)

    @property
    def storage(self) -> Storage:
        """How the weights are stored."""
        return as_storage(self.dtype)

    @property
    def arithmetic(self) -> str:
        """The number format of the arithmetic: the first that the device has, of those that the weights allow."""
        formats = self.storage.format.arithmetic
        return next((f for f in formats if f in self.profile.passes), formats[0])

    @property
    def is_untimed(self) -> bool:
        """Whether a device was timed, though in no pass of weights that are stored like this."""
        return self.profile.is_timed and self.storage.name not in self.profile.passes

    def parts(
        self, batch: Real, new_tokens: Real, context: Real, head_rows: Real | None = None, launches: Real | None = None
    ) -> PassParts:
        """Return the seconds of passes, [*samples, *S]; counts as of `ModelShape.flops` broadcast to S."""
        done, cost = self.done(batch, new_tokens, context, head_rows, launches), self.cost
        axes, ones = done.computed.ndim, np.ones(done.computed.shape)
        launch_s = spread(cost.launch_s, axes) * done.launches * ones
        return PassParts(
            compute_s=cost.flop_scale.at(done.computed) * done.flops,
            memory_s=cost.mem_scale.at(done.moved) * done.moved,
            launch_s=np.maximum(launch_s, done.host_s),
            fixed_s=spread(cost.fixed_s, axes) * ones,
            link_s=done.link_s,
            total_s=self.total_s(done),
        )

    def done(
        self, batch: Real, new_tokens: Real, context: Real, head_rows: Real | None = None, launches: Real | None = None
    ) -> Done:
        """Return what passes do, on each device."""
        counts = (np.asarray(v, np.float64) for v in (batch, new_tokens, context))
        batch, new_tokens, context = np.broadcast_arrays(*counts)
        return self.doing(self.shape.work(batch, new_tokens, context, head_rows), launches)

    def doing(self, work: Work, launches: Real | None = None) -> Done:
        """Return what passes of any mixture of sequences do, on each device."""
        tokens = np.asarray(work.tokens, np.float64)
        flops, moved = self.shape.flops_of(work, self.engine.attention_flops) / self.devices, self.moved_of(work)
        computed, launches = self.engine.padded(tokens), np.asarray(self.launches if launches is None else launches)
        host_s = self.engine.on_host_s(work, launches, self.shape.layers)
        if computed is not tokens:
            flops = flops + 2 * self.shape.active_parameters * (computed - tokens) / self.devices
        return Done(flops, moved, computed, launches, self.link_s(tokens), host_s)

    def pass_of_s(self, work: Work) -> Floats:
        """Return the seconds of passes over any mixture of sequences, [*samples, *S]."""
        return self.total_s(self.doing(work))

    def total_s(self, done: Done) -> Floats:
        """Return the seconds of passes that do so much."""
        total_s = self.cost.pass_s(done.flops, done.moved, done.computed, done.launches) + done.link_s
        return side_by_side(total_s, done.host_s) if not is_nothing(done.host_s) else total_s

    @property
    def engine(self) -> Engine:
        """What the engine adds; nothing where the profile does not say."""
        return self.profile.engine or Engine()

    @property
    def launches(self) -> float:
        """Kernels that a pass launches: of each layer, and of what the engine says that some layers have."""
        special = sum(self.shape.layers_with(kind) * each for kind, each in self.engine.layer_launches.items())
        return self.shape.layers * self.profile.launches_per_layer + special

    def pass_parts(self, of: DraftPass, batch: Real, context: Real) -> PassParts:
        """Return the seconds of one pass of a drafter, as this model's; a part of another costs its kernels alone."""
        parts = replace(self, shape=of.shape).parts(batch, of.rows, context, of.head_rows, of.launches)
        if not of.is_part:
            return parts
        return replace(parts, fixed_s=np.zeros(np.shape(parts.fixed_s)), total_s=parts.total_s - parts.fixed_s)

    def pass_s(self, of: DraftPass, batch: Real, context: Real) -> Floats:
        """Return the same, all of it."""
        placed = replace(self, shape=of.shape)
        total_s = placed.total_s(placed.done(batch, of.rows, context, of.head_rows, of.launches))
        return total_s - spread(self.cost.fixed_s, np.ndim(of.rows)) if of.is_part else total_s

    def pass_bytes(self, of: DraftPass, batch: Count, context: Count) -> Floats:
        """Return the bytes that one pass of a drafter moves on each device."""
        return replace(self, shape=of.shape).moved_bytes(batch, of.rows, context, of.head_rows)

    @property
    def kv_format(self) -> str:
        """The number format of the KV cache."""
        return self.kv_dtype or self.shape.kv_dtype or self.storage.plain.name

    def moved_bytes(self, batch: Count, new_tokens: Count, context: Count, head_rows: Real | None = None) -> Floats:
        """Return the bytes that one device moves in a pass over sequences that are alike."""
        return self.moved_of(self.shape.work(batch, new_tokens, context, head_rows))

    def moved_of(self, work: Work) -> Floats:
        """Return the bytes that one device moves in passes."""
        sizes = self.storage, self.kv_format, self.devices
        moved = self.shape.bytes_of(work, *sizes, self.engine.expert_overlap, self.replicas)
        chosen = work.logit_rows * self.shape.head_words * self.engine.logit_bytes
        return np.asarray(moved + chosen) if self.engine.logit_bytes else moved

    def link_s(self, tokens: Floats) -> Floats:
        """Return the seconds of two all-reduces a layer: 2 (n - 1) / n of the hidden states of the pass each.

        They go over one link of a device, round a ring or in one shot; in a mesh over its n - 1 links at once.
        """
        if self.devices == 1:
            return np.zeros(tokens.shape)
        link = self.profile.link
        if link is None:
            raise UserError(
                f"--tp: {self.devices} devices, but the profile {self.profile.name} names no link, expected 1"
            )
        links = min(self.devices, link.devices or self.devices) - 1 if link.mesh else 1
        sent = self.engine.sent(self.devices, tokens, self.shape.hidden_size * self.storage.plain.bits / 8) / links
        bytes_per_s, latency_s = (spread(value, tokens.ndim) for value in (link.bytes_per_s, link.latency_s))
        return np.asarray(2 * self.shape.layers * (latency_s + sent / bytes_per_s))

    def memory_bytes(self, batch: Real, context: Real) -> Floats:
        """Return the bytes of weights and KV cache on each device; a sequence has one token at least."""
        sharing, here = self.devices // self.replicas, np.asarray(batch, np.float64) / self.replicas
        kept = self.shape.kv_bytes(here, np.maximum(context, 1), self.kv_format, sharing)
        weights = self.shape.weight_bytes(self.storage)
        if self.replicas > 1:
            weights += (self.replicas - 1) * (weights - self.shape.expert_bytes(self.storage))
        return np.asarray(weights / self.devices + kept)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPair:
    """Two models at work on a profiled device: the costs of a forecast.

    batch, context: scalars or arrays that broadcast with draft lengths; context is what the KV cache holds on average.
    method: how the draft drafts, whose shape is of nothing where it reads no weights; tree: how drafts branch, if so.
    drafted: P(D = d), of a method that drafts no more than it finds, where it is known. guesses: outcomes that drafts
    ahead are made for.
    devices: that share the target; replicas: see `Placed`. placement: "same" puts the draft on those as well,
    "separate" on one of its own; draft_devices: that share the draft, where they are others.
    round_overhead_s: what a round costs besides its passes; round_overhead_error: its standard error, relative;
    round_overhead_factors: what samples of it are multiplied by, [samples] or 1; draft_normals,
    verify_normals: normal draws of what passes are off by besides, [2, samples] or 0: see `off_by`. server: the engine
    that the user names; "" for none.
    """

    profile: Profile
    target: ModelShape
    draft: ModelShape
    dtype: str | Storage
    draft_dtype: str | Storage
    kv_dtype: str | None = None
    batch: Real = 1
    context: Real = 1024
    method: Method = draft_model.METHOD
    tree: Tree | None = None
    drafted: tuple[float, ...] | None = None
    guesses: int = 1
    devices: int = 1
    replicas: int = 1
    draft_devices: int | None = None
    placement: str = SAME
    round_overhead_s: Real = 0.0
    round_overhead_error: float = 0.0
    round_overhead_factors: Real = 1.0
    draft_normals: Real = 0.0
    verify_normals: Real = 0.0
    server: str = ""

    @property
    def longest(self) -> int | None:
        """The longest draft that is made in one go; None: any."""
        levels = len(self.tree.levels) if self.tree and self.tree.levels else None
        return min((k for k in (longest_of(self.draft), levels) if k is not None), default=None)

    @property
    def has_weights(self) -> bool:
        """Whether anything drafts that lies in memory."""
        return self.draft.parameters > 0

    @property
    def varies(self) -> bool:
        """Whether rounds draft no more than they find."""
        return self.plan(1).varies

    @property
    def tp(self) -> int:
        """Devices that share all of the target."""
        return self.devices // self.replicas

    @property
    def topk(self) -> int | None:
        """Children of a node, of drafts that branch."""
        return self.tree.topk if self.tree else None

    @property
    def branching(self) -> str | None:
        """Children of every node by level, of static trees."""
        return ",".join(map(str, self.tree.levels)) if self.tree and self.tree.levels else None

    @property
    def nodes(self) -> int | None:
        """Tokens of such a tree that are verified."""
        return self.tree.nodes if self.tree else None

    def plan(self, draft_length: Count) -> DraftPlan:
        """Return what a round runs besides, and how wide verification is."""
        plan = self.method.plan(self.draft, np.asarray(draft_length, np.int64))
        return plan if self.tree is None else branched(plan, self.tree)

    @property
    def placed_target(self) -> Placed:
        """The target where it runs."""
        placed = self.placed(self.target, self.dtype, self.devices)
        return placed if self.replicas == 1 else replace(placed, replicas=self.replicas)

    @property
    def placed_draft(self) -> Placed:
        """The draft where it runs: on the target's devices, unless said, or on one of its own."""
        shared = self.devices if self.placement == SAME else 1
        placed = self.placed(self.draft, self.draft_dtype, self.draft_devices or shared)
        return replace(placed, profile=drafting(self.profile, self.server, self.method.name))

    def placed(self, shape: ModelShape, dtype: str | Storage, devices: int) -> Placed:
        """Put a model on devices of the profile."""
        return Placed(shape=shape, dtype=dtype, kv_dtype=self.kv_dtype, devices=devices, profile=self.profile)

    def round_cost(self, draft_length: Real, plain_s: Floats | None = None) -> RoundCost:
        """Return the phases' seconds, [*samples, *S]; S is what draft lengths, batch and context broadcast to.

        plain_s: what a plain step takes, where that is known already.
        """
        if self.drafted is not None and self.varies:
            from .mean_round import mean_round

            return mean_round(replace(self, drafted=None), np.asarray(draft_length, np.int64), self.drafted)
        k, batch, context = np.broadcast_arrays(np.asarray(draft_length, np.int64), self.batch, self.context)
        target, plan = self.placed_target, self.plan(k)
        each_s = [self.drafted_s(of, batch, context) for of in plan.passes]
        draft_s = sum((np.asarray(of.times * s) for of, s in zip(plan.passes, each_s, strict=True)), np.zeros(k.shape))
        off_by = self.off_by(self.verify_normals, target, batch, plan.width, context)
        verify_s = target.total_s(target.done(batch, plan.width, context))
        plain_s = target.total_s(target.done(batch, 1, context)) if plain_s is None else plain_s
        return RoundCost(
            draft_length=np.asarray(k),
            baseline_s=plain_s,
            draft_step_s=each_s[0] if each_s else np.zeros(k.shape),
            draft_s=draft_s + self.beside_passes_s(plan, batch),
            # It does all that a plain step does: no draw makes it shorter than that.
            verify_s=np.maximum(verify_s * off_by, np.minimum(plain_s, verify_s)),
            overhead_s=self.overhead_s(batch),
            drafted=np.asarray(plan.width - 1, np.float64) if self.tree else None,
            ahead_s=None if self.guesses == 1 else self.ahead_s(plan, batch, context),
        )

    def ahead_s(self, plan: DraftPlan, batch: Count, context: Count) -> Floats:
        """Return the seconds of the next draft, made ahead: a guess of the bonus token, and K tokens behind each."""
        wide = [p._replace(rows=p.rows * self.guesses, head_rows=p.head_rows * self.guesses) for p in plan.passes]
        drafted_s = sum((of.times * self.drafted_s(of, batch, context) for of in wide), np.zeros(np.shape(batch)))
        first_s = self.drafted_s(plan.passes[0], batch, context) if plan.passes else 0.0
        return np.asarray(first_s + drafted_s + self.beside_passes_s(plan, batch), np.float64)

    def beside_passes_s(self, plan: DraftPlan, batch: Real) -> Floats:
        """Return the seconds of a round's drafts outside of their passes."""
        drafting_s = self.placed_target.engine.drafting_s(batch, has_passes=bool(plan.passes))
        return np.asarray(np.asarray(plan.host_s) * batch + drafting_s, np.float64)

    def overhead_s(self, batch: Count) -> Floats:
        """Return the seconds of rounds besides their passes."""
        each_s = spread(self.round_overhead_factors, np.ndim(batch)) * self.round_overhead_s * np.ones(np.shape(batch))
        engine = self.placed_target.engine
        sequence_s = spread(engine.round_sequence_s, np.ndim(batch))
        return np.asarray(each_s + sequence_s * batch + (engine.tree_round_s if self.tree else 0.0))

    def drafted_s(self, of: DraftPass, batch: Count, context: Count) -> Floats:
        """Return the seconds of one pass of the draft."""
        placed = self.placed_draft
        total_s = placed.pass_s(of, batch, context)
        return total_s * self.off_by(self.draft_normals, replace(placed, shape=of.shape), batch, of.rows, context)

    def off_by(self, normals: Real, placed: Placed, batch: Count, new_tokens: Count, context: Count) -> Floats:
        """Return what passes are multiplied by where they were not timed themselves, [*samples, *S].

        Plain steps are not: an error that they share cancels in a speedup. How passes grow with a sequence's tokens is
        what is not known: the logarithm of the factor walks on with each doubling of them, from the first draws at two
        tokens, by the second beyond. Its spread is the same at all of them.
        """
        if np.ndim(normals) == 0:
            return np.ones(())
        tokens, weights = (np.asarray(v, np.float64) for v in (batch * new_tokens, placed.shape.parameters))
        values = {"batch": batch, "context": context, "tokens": tokens, "weights": weights}
        beyond = {name: ends.doublings_beyond(values[name]) for name, ends in self.profile.timed.items()}
        error = ERROR_A_DOUBLING * sum(beyond.values(), start=np.zeros(np.shape(batch)))
        error = error + ERROR_OF_FORMAT * placed.is_untimed + self.besides(placed) * (not self.profile.is_timed)
        at_two, beyond_two = np.asarray(normals, np.float64)
        doublings, axes = np.log2(np.maximum(new_tokens, 2)), np.ndim(batch)
        walked = (spread(at_two, axes) + np.sqrt(doublings - 1) * spread(beyond_two, axes)) / np.sqrt(doublings)
        return np.asarray(np.exp(walked * error))

    def besides(self, placed: Placed) -> Floats | float:
        """Return what passes that nobody timed are off by against a plain step.

        Rows of a server with so many sequences tell of passes over as many tokens: those of its model are known as rows
        are.
        """
        fit = self.profile.fitted
        if fit is None or placed.shape.name != fit.model:
            return ERROR_OF_SHEET
        return np.hypot(fit.tpot_error, error_beyond(self.beyond(context=self.context)))

    def beyond(self, **loads: Real) -> Iterator[Beyond]:
        """Yield what lies beyond the rows that the profile was fitted to; loads: see `beyond.WORDS`."""
        here = {"concurrency": self.batch, "devices": self.devices} | loads
        stored = (self.placed_target.storage.name,)
        yield from beyond_rows(self.profile, self.target.name, stored, self.server, here)

    def sample(self, rng: np.random.Generator, samples: int) -> "ModelPair":
        """Draw the profile anew within its uncertainty; a leading axis of samples."""
        from .sampled import sampled

        return sampled(self, rng, samples)

    def scaled(self, factors: Mapping[str, float]) -> "ModelPair":
        """Multiply constants of all passes by name, `link_s`, `host_s` (all of the host) or `round_overhead_s`."""
        passes = {dtype: cost.scaled(factors) for dtype, cost in self.profile.passes.items()}
        overhead_s = np.asarray(self.round_overhead_s, np.float64) * factors.get("round_overhead_s", 1.0)
        link = self.profile.link and self.profile.link.slower(factors.get("link_s", 1.0))
        engine = self.profile.engine and self.profile.engine.slower(factors.get("host_s", 1.0))
        profile = replace(self.profile, passes=passes, link=link, engine=engine)
        return replace(self, profile=profile, round_overhead_s=overhead_s)

    @property
    def held_bytes(self) -> tuple[Floats, ...]:
        """Bytes on each device that holds both models, or on each of the target's and on the draft's."""
        placed = self.placed_draft
        target, draft = (m.memory_bytes(self.batch, self.context) for m in (self.placed_target, placed))
        if self.placement == SAME:
            shared = shared_bytes(self.target, self.draft, placed.storage) / placed.devices
            return (np.asarray(target + draft - shared),)
        # What a drafter borrows of its target has a copy beside it.
        borrowed = self.draft.borrowed_size * placed.storage.plain.bits / 8 / placed.devices
        return target, np.asarray(draft + borrowed)

    @property
    def memory_bytes(self) -> Floats:
        """Bytes on the fullest device."""
        return np.asarray(np.max(np.broadcast_arrays(*self.held_bytes), axis=0))

    @property
    def fits(self) -> NDArray[np.bool_] | None:
        """Whether that much is free; None where the profile does not say."""
        usable = self.profile.usable_bytes
        return None if usable is None else np.asarray(self.memory_bytes <= usable)
