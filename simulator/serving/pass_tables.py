"""Tables of what steps take, from models on a device, from knobs in burn units, or from a line."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from simulator.costs.drafters.plan import DraftPass, DraftPlan, Ints
from simulator.costs.layers import Attention
from simulator.costs.model_costs import SEPARATE, ModelPair, Placed
from simulator.costs.profile import Curve, constant
from simulator.costs.source import source_passes
from simulator.costs.step import Floats, Knobs
from simulator.costs.work import Work, stored

from .step_costs import StepCosts

# Of unit work: so many of one field alone, of which the rest of a pass rounds nothing off.
MANY = float(1 << 30)
Slot = tuple[float, int, int]


class Table(NamedTuple):
    """One kind of pass: what `StepCosts` has of tokens, of the host without and with prompts, [2, tokens].

    numbers: to the overlap of experts. kinds: attention to no more than some tokens, with a pair's FLOPs and a token's
    bytes.
    """

    flops_s: Floats
    flop_s: Floats
    moved: Floats
    link_s: Floats
    host_s: Floats
    host_sequence_s: Floats
    mem_scale: Curve
    numbers: tuple[float, ...]
    experts: tuple[tuple[float, float], ...] = ()
    kinds: tuple[tuple[Attention, float, float], ...] = ()


def step_costs(models: ModelPair | Placed, longest: int, *, tokens: int, sequences: int) -> StepCosts:
    """Return what steps take of models.

    Args:
        models: A target, or a pair, none of it sampled.
        longest: The longest draft.
        tokens: Of a pass at most.
        sequences: Of a step at most.
    """
    pair = models if isinstance(models, ModelPair) else None
    target = models.placed_target if isinstance(models, ModelPair) else models
    drafts = np.arange(longest + 1)
    plan = DraftPlan(passes=(), width=drafts + 1) if pair is None else pair.plan(drafts)
    spread = [[np.broadcast_to(v, drafts.shape) for v in (p.rows, p.head_rows, p.times)] for p in plan.passes]
    counts = np.array([[drafts + 1, drafts + 1, 1 + 0 * drafts], *spread], np.int64)
    most = tokens + sequences * int(counts[1:, 0].max(initial=0))
    kept: list[tuple[DraftPass | None, Table]] = [(None, table_of(target, None, most))]
    table, after = [0], [0.0]
    for of in plan.passes if pair else ():
        draft = replace(pair.placed_draft, shape=of.shape)  # type: ignore[union-attr]  # passes are a pair's
        alike = [t for t, (p, _) in enumerate(kept) if p and (p.shape, p.launches) == (of.shape, of.launches)]
        if not alike:
            kept.append((of, table_of(draft, of.launches, most)))
        table.append(alike[0] if alike else len(kept) - 1)
        after.append(-float(draft.cost.fixed_s) if of.is_part else 0.0)
    load_s = [float(target.engine.under_load_s(target.shape.layers, np.asarray(n))) for n in (0.0, 1.0)]
    rounds_s = [0 * drafts if pair is None else beside_s(pair, plan, n) + 0 * drafts for n in (0, 1)]
    power = target.profile.power
    devices = target.devices + (pair.placed_draft.devices if pair and pair.placement == SEPARATE else 0)
    return joined(
        [of for _, of in kept],
        counts,
        table,
        [1, *(int(q == 0 and bool(of.shape.attentions)) for q, of in enumerate(plan.passes))],
        after_s=after,
        widths=np.broadcast_to(plan.width, drafts.shape),
        load_s=load_s[0],
        load_sequence_s=load_s[1] - load_s[0],
        source_s=float(sum(each.seconds(np.ones(())) for each in source_passes(models))),
        round_s=np.column_stack((rounds_s[0], rounds_s[1] - rounds_s[0])),
        watts=float(power.load_w * devices if power else np.nan),
    )


def beside_s(pair: ModelPair, plan: DraftPlan, batch: int) -> Floats:
    """Return the seconds of rounds of so many sequences besides passes, by K."""
    return np.asarray(pair.overhead_s(np.asarray(batch)) + pair.beside_passes_s(plan, np.asarray(batch)))


def linear_costs(step_s: float, token_s: float, *, tokens: int) -> StepCosts:
    """Return steps that take a time of their own and one for each token; drafts cost nothing."""
    table = plain_table(np.arange(tokens + 1.0) * token_s, 0.0, constant(1.0), step_s, np.inf)
    return of_tokens([table], np.ones((1, 3, 1), np.int64), 0.0)


def knob_costs(knobs: Knobs, longest: int, *, tokens: int) -> StepCosts:
    """Return steps in burn units: compute grows with all tokens, memory work does not.

    A draft pass takes a token of each sequence; where nothing is drafted one keeps up with the text.
    """
    flop_s, bytes_s = float(knobs.work_flops) * float(knobs.flop_scale_s), constant(float(knobs.mem_scale_s))
    fixed_s, m = float(knobs.pass_overhead_s), float(knobs.overlap_exponent)
    tables = [
        plain_table(np.arange(tokens + 1) * flop_s * scale, float(knobs.work_mem) * scale, bytes_s, fixed_s, m)
        for scale in (1.0, float(knobs.draft_cost))
    ]
    one = np.ones(longest + 1, np.int64)
    counts = np.array([[one, one, one], [one, one, np.maximum(np.arange(longest + 1), 1)]])
    return of_tokens(tables, counts, float(knobs.round_overhead_s))


def of_tokens(tables: Sequence[Table], counts: Ints, overhead_s: float) -> StepCosts:
    """Return the costs of passes that know of tokens alone."""
    longest, passes = counts.shape[2] - 1, len(tables)
    return joined(
        tables,
        counts,
        range(passes),
        [1] * passes,
        after_s=[0.0] * passes,
        widths=np.arange(longest + 1) + 1,
        load_s=0.0,
        load_sequence_s=0.0,
        source_s=0.0,
        round_s=np.tile([overhead_s, 0.0], (longest + 1, 1)),
        watts=np.nan,
    )


def plain_table(flops_s: Any, moved: float, mem_scale: Curve, constant_s: float, m: float) -> Table:
    """Return passes that know of tokens alone."""
    none = np.zeros(len(flops_s))
    host = np.zeros((2, len(none)))
    return Table(flops_s, none, none + moved, none, host, host, mem_scale, (0.0,) * 5 + (constant_s, m, 0.0))


def table_of(placed: Placed, launches: float | None, most: int) -> Table:
    """Return passes of a model over up to so many tokens."""
    cost, shape, engine = placed.cost, placed.shape, placed.engine
    tokens = np.arange(most + 1.0)
    base = placed.doing(work_of(placed, tokens=tokens), launches)
    flop_s = np.broadcast_to(cost.flop_scale.at(base.computed), tokens.shape)
    hosts = np.array([
        [host_s(placed, tokens, sequences, prompts, launches) for prompts in (0.0, 1.0)] for sequences in (0.0, 1.0)
    ])  # fmt: skip
    moved, experts, overlap = np.asarray(base.moved), tuple[tuple[float, float], ...](), engine.expert_overlap
    if overlap and shape.experts:
        sizes: dict[float, float] = {}
        for matrix, size in stored(shape, placed.storage).experts:
            missed = 1 - matrix.used / matrix.copies
            sizes[missed] = sizes.get(missed, 0.0) + size / placed.devices
        experts = tuple(sizes.items())
        moved = moved - sum(size * (1 - missed**tokens) for missed, size in experts)
    zero, kinds, longer = work_of(placed), len(shape.attentions), engine.attention_flops

    def unit(**more: object) -> tuple[float, float]:
        """Return FLOPs and bytes of one of something alone."""
        work = zero._replace(**more)  # type: ignore[arg-type]
        flops = float(shape.flops_of(work, longer) - shape.flops_of(zero, longer)) / placed.devices
        return flops / MANY, float(placed.moved_of(work) - placed.moved_of(zero)) / MANY

    pairs = [unit(pairs=one_of(kinds, a))[0] for a in range(kinds)]
    held = [unit(kv_tokens=one_of(kinds, a))[1] for a in range(kinds)]
    logits, each = unit(logit_rows=np.asarray(MANY)), unit(sequences=np.asarray(MANY))
    pair_flops = kv_bytes = 0.0
    sequence_bytes, bounded = each[1], list[tuple[Attention, float, float]]()
    flops_s = flop_s * base.flops
    for attention, flops, size in zip(shape.attentions, pairs, held, strict=True):
        if attention.fixed:
            flops_s = flops_s + flop_s * (tokens * attention.fixed * flops)
            sequence_bytes += attention.fixed * size
        elif attention.window is None and attention.chosen is None:
            pair_flops, kv_bytes = pair_flops + flops, kv_bytes + size
        else:
            bounded.append((attention, flops, size))
    after = float(cost.launch_s) * float(base.launches) + float(cost.fixed_s), float(cost.overlap_exponent)
    return Table(
        flops_s=np.asarray(flops_s),
        flop_s=np.array(flop_s),
        moved=moved,
        link_s=np.broadcast_to(base.link_s, tokens.shape),
        host_s=hosts[0],
        host_sequence_s=hosts[1] - hosts[0],
        mem_scale=cost.mem_scale,
        numbers=(pair_flops, logits[0], kv_bytes, sequence_bytes, logits[1], *after, overlap if experts else 0.0),
        experts=experts,
        kinds=tuple(bounded),
    )


def work_of(placed: Placed, tokens: Floats | float = 0.0, **more: Floats | float) -> Work:
    """Return work of some tokens, and of nothing else that is not stated."""
    tokens = np.asarray(tokens, np.float64)
    none, kinds = np.zeros(tokens.shape), len(placed.shape.attentions)
    nothing = (none,) * kinds
    return Work(tokens, nothing, nothing, none, none.copy())._replace(**{k: none + v for k, v in more.items()})  # type: ignore[arg-type]


def one_of(kinds: int, at: int) -> tuple[Floats, ...]:
    """Return so much of one kind, and nothing of the others."""
    return tuple(np.asarray(MANY if kind == at else 0.0) for kind in range(kinds))


def host_s(placed: Placed, tokens: Floats, sequences: float, prompts: float, launches: float | None) -> Floats:
    """Return the seconds on the host of passes over tokens of so many sequences."""
    done = placed.doing(work_of(placed, tokens=tokens, sequences=sequences, prompts=prompts), launches)
    return np.broadcast_to(np.asarray(done.host_s, np.float64), tokens.shape)


def joined(
    tables: Sequence[Table],
    counts: Ints,
    table: Sequence[int],
    reads: Sequence[int],
    *,
    round_s: Floats,
    after_s: Sequence[float],
    widths: Ints,
    **of: Any,
) -> StepCosts:
    """Return all tables as one.

    Args:
        tables: Of passes.
        counts: Rows, heads and times of passes, [q, 3, K].
        table: Which each pass has.
        reads: Whether it reads prompts.
        round_s: Seconds of a round besides, and of each sequence, [K, 2].
        after_s: Of each pass.
        widths: Tokens of a sequence that are verified, by K.
        of: The rest.
    """
    slots, kind_slot = slots_of(tables, counts, table)
    each = np.broadcast_to(np.array([table, reads]).T[..., None], (len(counts), 2, counts.shape[2]))
    bounded = [kind[1:] for t in tables for kind in t.kinds]
    ends, experts = (
        np.cumsum([0, *(len(t.kinds) for t in tables)]),
        [np.array(t.experts).reshape(-1, 2) for t in tables],
    )
    curves = [knots_of(t.mem_scale) for t in tables]
    ranges = zip(tables, ends[:-1], ends[1:], strict=True)
    parts = {
        "columns": np.stack([np.stack([*t[:4], *t.host_s, *t.host_sequence_s], -1) for t in tables]),
        "numbers": np.array([(*t.numbers, len(t.mem_scale.sizes), len(t.experts), *of) for t, *of in ranges]),
        "curves": filled(curves).transpose(0, 2, 1),
        "experts": filled(experts),
        "kinds": np.column_stack((np.reshape(bounded, (-1, 2)), kind_slot)),
        "slots": np.array(slots, np.float64),
        "rounds": round_s,
        "after": np.array(after_s, np.float64),
        "widths": widths,
    }
    starts = np.cumsum([0, *(part.size for part in parts.values())]).tolist()
    begins: dict[str, Any] = {f"at_{name}": at for name, at in zip(parts, starts, strict=False) if name != "columns"}
    return StepCosts(
        ints=np.concatenate((counts, each), 1).transpose(2, 0, 1).ravel().astype(np.int64),
        floats=np.concatenate([part.ravel() for part in parts.values()]).astype(np.float64),
        longest=counts.shape[2] - 1,
        passes=len(counts),
        tokens=len(tables[0].flops_s) - 1,
        knots=max(len(curve) for curve in curves),
        experts=max(len(size) for size in experts),
        rows=kind_slot.shape[1],
        slots=len(slots),
        **begins,
        **of,
    )


def slots_of(tables: Sequence[Table], counts: Ints, table: Sequence[int]) -> tuple[list[Slot], Ints]:
    """Return the sums that attention to no more than some tokens takes, and of each kind which are its, by rows."""
    found: dict[Slot, int] = {}
    kinds = [(t, attention) for t, each in enumerate(tables) for attention, _, _ in each.kinds]
    by_rows = np.zeros((len(kinds), int(counts[1:, 0].max(initial=0)) + 1), np.int64)
    for kind, (t, attention) in enumerate(kinds):
        most, is_window = attention.window or attention.chosen or 0, int(attention.window is not None)
        by_rows[kind, 0] = found.setdefault((most, is_window, -1 if t else 0), len(found))
        for rows in np.unique(counts[1:, 0][np.array(table[1:], np.int64) == t]).tolist():
            by_rows[kind, rows] = found.setdefault((most, is_window, rows), len(found))
    return list(found), by_rows


def knots_of(curve: Curve) -> Floats:
    """Return logarithms of sizes and seconds, [knots, 2]; of one knot its seconds, which hold everywhere."""
    knots = np.column_stack((curve.sizes, curve.seconds))
    return np.log(knots) if len(knots) > 1 else knots


def filled(rows: Sequence[Floats]) -> Floats:
    """Return rows of pairs as one array, zeros behind the shorter ones."""
    array = np.zeros((len(rows), max(map(len, rows)), 2))
    for into, row in zip(array, rows, strict=True):
        into[: len(row)] = row
    return array
