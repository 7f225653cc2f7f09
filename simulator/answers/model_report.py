"""A forecast for two models on a device, as people and programs read it: passes, memory, energy, schedule, and why."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np

from simulator.costs.formats import bytes_per_weight
from simulator.costs.model_costs import SEPARATE, ModelPair, Placed
from simulator.costs.parts import PARTS, PassParts
from simulator.costs.room import largest_batch
from simulator.costs.source import source_passes
from simulator.ground.command import table, wrapped
from simulator.rounds.experiment import Summary

from .forecast import Forecast
from .recommendation import recommended
from .round_passes import PLAIN, VERIFY, Pass, passes
from .schedule import LARGEST_BATCH, LEAST_GAIN, Range, engine_settings, longest_draft, off_above

# Below this many steps a verification counts as no longer than one.
SAME_AS_A_STEP = 1.05
WORDS = {
    "compute": "arithmetic",
    "memory": "reading weights and KV cache",
    "launch": "launching kernels",
    "fixed": "what any pass costs",
    "link": "exchanging sums between devices",
}


def models_json(pair: ModelPair, forecast: Forecast, draft: str | None) -> dict[str, Any]:
    """Return what a forecast says of models and device; draft: what the user calls the drafter."""
    from simulator.costs.engines.all import as_engines_take_it

    summary, ranges, draft_length = forecast.summary, forecast.ranges, forecast.setting.draft_length
    joules = energy_j_per_token(pair, forecast)
    return {
        "device": pair.profile.device,
        "profile_status": pair.profile.status,
        "target": model_json(pair.placed_target),
        "draft": model_json(pair.placed_draft),
        "passes": {name: pass_json(one) for name, one in passes(pair, draft_length).items()},
        **source_json(pair),
        "tokens_per_s": {name: int(pair.batch) * 1e3 / ms for name, ms in times_ms(summary).items()},
        "energy_j_per_token": joules and dict(zip(times_ms(summary), joules, strict=True)),
        "memory": {
            "bytes_per_device": float(pair.memory_bytes),
            "device_bytes": pair.profile.memory_bytes,
            "fits": None if pair.fits is None else bool(pair.fits),
            "largest_batch": largest_batch(pair),
        },
        "schedule": {
            "ranges": [asdict(r) for r in ranges],
            "off_above_batch": off_above(ranges),
            **as_engines_take_it(recommended(pair, draft, ranges, int(pair.batch))),
            "synthetic_acceptance": engine_settings(forecast.setting.acceptance, longest_draft(ranges)),
        },
    }


def model_json(placed: Placed) -> dict[str, Any]:
    """Return what was read of a model, and in which formats it is priced; all of its bytes, on however many devices."""
    shape = placed.shape
    return {
        "family": shape.family,
        "parameters": shape.parameters,
        "active_parameters": shape.active_parameters,
        "weight_format": placed.storage.name,
        "arithmetic": placed.arithmetic,
        "weight_bytes": shape.weight_bytes(placed.storage),
        "kv_format": placed.kv_format,
        "kv_bytes_per_token": shape.kv_bytes_per_token(placed.kv_format),
        "state_bytes_per_sequence": shape.state_bytes,
        "longest_context": shape.longest_context,
        "drafting": shape.drafting and shape.drafting._asdict(),
    }


def sizes_text(pair: ModelPair) -> str:
    """Return a table of what was read of the models."""
    rows: list[tuple[str, ...]] = [("model", "weights", "active", "bytes", "KV bytes a token", "state a sequence")]
    both = (("target", pair.placed_target), ("draft", pair.placed_draft))
    for role, placed in both if pair.has_weights else both[:1]:
        found = model_json(placed)
        counts = (f"{found[key] / 1e9:.2f} B" for key in ("parameters", "active_parameters"))
        state = found["state_bytes_per_sequence"]
        kept = f"{found['kv_bytes_per_token']:,.0f}", f"{state / 1e6:,.1f} MB" if state else "none"
        rows.append((role, *counts, f"{found['weight_bytes'] / 1e9:.2f} GB", *kept))
    return table(rows)


def pass_json(one: Pass) -> dict[str, Any]:
    """Return one pass."""
    times = {f"{name}_ms": float(getattr(one.parts, f"{name}_s")) * 1e3 for name in PARTS}
    return {"tokens": one.tokens, "times": one.times, "binds": one.parts.binds} | times | {"total_ms": one.ms}


def source_json(pair: ModelPair) -> dict[str, Any]:
    """Return what comes before the first token where an encoder reads a source; nothing elsewhere."""
    found = {
        one.role: {
            "source": one.source,
            "total_ms": 1e3 * float(one.parts.total_s),
            "flops": float(one.placed.shape.flops(1, one.source, 0, 0)),
            "bytes": float(one.placed.moved_bytes(1, one.source, 0, 0)),
            "is_shared": one.is_shared,
        }
        for one in source_passes(pair)
    }
    return {"encoder": found} if found else {}


def source_text(pair: ModelPair) -> str:
    """Say how long encoders read a source, before the first token; nothing without one."""
    words = []
    for one in source_passes(pair):
        ms, what = 1e3 * float(one.parts.total_s), "frames" if one.placed.shape.family == "whisper" else "tokens"
        if one.role == "target":
            words.append(f"before the first token: the encoder reads {one.source:,} {what} in {ms:.3g} ms")
        elif one.is_shared:
            words.append(f"the draft takes what it has read, its encoder is of the same sizes ({ms:.3g} ms)")
        else:
            words.append(f"the draft's encoder reads {one.source:,} {what} in {ms:.3g} ms")
    return "; ".join(words)


def times_ms(summary: Summary) -> dict[str, float]:
    """Return the time a token of a sequence, of both arms."""
    return {"baseline": summary.baseline_ms_per_token, "speculative": summary.speculative_ms_per_token}


def energy_j_per_token(pair: ModelPair, forecast: Forecast) -> tuple[float, float] | None:
    """Return joules a token of plain and of speculative decoding; None where the profile has no power.

    Devices are under load, except that those of one model rest while the other's alone compute; plain decoding has none
    of the draft.
    """
    power = pair.profile.power
    if power is None:
        return None
    plain_ms, spec_ms = times_ms(forecast.summary).values()
    resting = (0.0, 0.0)
    if pair.placement == SEPARATE and not forecast.setting.overlap:
        resting = forecast.summary.draft_ms_per_token, spec_ms - forecast.summary.draft_ms_per_token
    saved_w = power.load_w - power.idle_w
    spec_mj = pair.devices * (power.load_w * spec_ms - saved_w * resting[0])
    if pair.placement == SEPARATE:
        spec_mj += pair.placed_draft.devices * (power.load_w * spec_ms - saved_w * resting[1])
    return power.load_w * pair.devices * plain_ms / 1e3 / int(pair.batch), spec_mj / 1e3 / int(pair.batch)


def models_text(pair: ModelPair, forecast: Forecast) -> str:
    """Return the part of the report that models on a device add."""
    rows = [("pass", "tokens", "ms", "of a step", "binds", *(f"{name} ms" for name in PARTS))]
    of_round = passes(pair, forecast.setting.draft_length)
    step_ms = of_round[PLAIN].ms
    for name, one in of_round.items():
        times = (f"{float(getattr(one.parts, f'{part}_s')) * 1e3:.3f}" for part in PARTS)
        width = f"{one.times} x {one.tokens}" if one.times > 1 else f"{one.tokens}"
        rows.append((name, width, f"{one.ms:.3f}", f"{one.ms / step_ms:.3f}", one.parts.binds, *times))
    plain, spec = (int(pair.batch) * 1e3 / ms for ms in times_ms(forecast.summary).values())
    rates = f"tokens/s: {plain:,.1f} plain, {spec:,.1f} speculative"
    about = [placement_text(pair), rates]
    lines = [*about, source_text(pair), energy_text(pair, forecast), memory_text(pair), schedule_text(forecast.ranges)]
    return "\n".join([table(rows, left=(0, 4)), "", sizes_text(pair), "", wrapped(filter(None, lines))])


def placement_text(pair: ModelPair) -> str:
    """Say in which number formats the models are, and on which devices."""
    target, draft = pair.placed_target, pair.placed_draft
    where = ("1 device", "it") if pair.devices == 1 else (f"{pair.devices} devices", "them")
    if pair.placement == SEPARATE:
        apart = "a device of its own" if draft.devices == 1 else f"{draft.devices} devices of its own"
    else:
        apart = where[1] if draft.devices == pair.devices else f"{draft.devices} of {where[1]}"
    both = (target, draft) if pair.has_weights else (target,)
    kept = {f"{8 * bytes_per_weight(placed.kv_format):g}": None for placed in both}
    models = f"target in {format_text(target)} on {where[0]}, "
    models += f"draft in {format_text(draft)} on {apart}" if pair.has_weights else "drafts without weights"
    states = ", states beside it" if pair.target.states or pair.draft.states else ""
    return f"{models}; KV cache in {' and '.join(kept)} bits a number{states}"


def format_text(placed: Placed) -> str:
    """Name a model's number format, and that of the arithmetic where it is another."""
    name = placed.storage.name
    unlike = placed.storage.is_quantized and placed.arithmetic != placed.storage.format.arithmetic[0]
    # What a device has for int4 is arithmetic of 16 bits on weights that are unpacked on the way.
    how = "weights alone" if placed.arithmetic == "int4" else f"arithmetic in {placed.arithmetic}"
    return f"{name} ({how})" if unlike else name


def energy_text(pair: ModelPair, forecast: Forecast) -> str:
    """Return joules a token, or nothing."""
    joules = energy_j_per_token(pair, forecast)
    if joules is None:
        return ""
    rest = " but for waits" if pair.placement == SEPARATE and not forecast.setting.overlap else ""
    words = "energy, were power the limit all the time{}: {:.3g} J a token plain, {:.3g} J speculative"
    return words.format(rest, *joules)


def memory_text(pair: ModelPair) -> str:
    """Say whether models and KV cache fit into the device."""
    needed, there, most = float(pair.memory_bytes) / 1e9, pair.profile.memory_bytes, largest_batch(pair)
    where = f"model{'s' if pair.has_weights else ''} and KV cache on each device"
    if pair.placement == SEPARATE:
        where = "model and KV cache on the fullest device"
    # As many digits as tell what there is from what it takes.
    room = (pair.profile.usable_bytes or 0) / 1e9
    digits = next((n for n in range(1, 9) if round(room, n) != round(needed, n)), 9)
    needs = f"memory: {needed:.{max(2, digits)}f} GB of {where}"
    if there is None:
        return f"{needs}; {unknown_memory(pair)}"
    if most is None:
        return needs
    fits = int(pair.batch) <= most
    batches = f"batches up to {most:,} do" if most else "no batch does"
    return f"{needs} {'fit' if fits else 'do NOT fit'} into {room:.{digits}f} GB; {batches}"


def unknown_memory(pair: ModelPair) -> str:
    """Say that nobody knows whether models fit."""
    return f"whether that fits is not known: {pair.profile.name} does not say how much its device has"


def schedule_text(ranges: tuple[Range, ...]) -> str:
    """Say which draft length at which batch size."""
    if not ranges:
        return "best K by batch size: none, no batch fits"
    words = [f"{f'K = {r.draft_length}' if r.draft_length else 'off'} at batch {span(r)}" for r in ranges]
    beyond = " (no larger ones were looked at)" if ranges[-1].last == LARGEST_BATCH else ""
    return f"best K by batch size, to {LEAST_GAIN:.0%}: {', '.join(words)}{beyond}"


def span(batches: Range) -> str:
    """Return the batch sizes of a range."""
    return f"{batches.first}" if batches.first == batches.last else f"{batches.first}-{batches.last}"


def why_text(pair: ModelPair, forecast: Forecast) -> str:
    """Say in plain words where the time goes, and what would change the outcome."""
    draft_length, summary = forecast.setting.draft_length, forecast.summary
    of_round = passes(pair, draft_length)
    step, verify = of_round.pop(PLAIN), of_round.pop(VERIFY)
    plain_ms, verify_ms = step.ms, verify.ms
    tau = summary.closed_form_tokens_per_round
    round_ms = summary.closed_form_speculative_ms_per_token * tau
    lines = [
        f"A plain step takes {plain_ms:.3f} ms, most of it {WORDS[step.parts.binds]}.",
        f"Verifying {verify.tokens} tokens takes {verify_ms:.3f} ms, {verify_ms / plain_ms:.2f} steps: "
        + verify_reason(step.parts, verify.parts, experts=pair.target.experts > 0),
        *lengths_text(pair, draft_length, summary),
        *(drafted_text(pair, name, one, plain_ms, round_ms) for name, one in of_round.items()),
        *host_text(pair, draft_length, plain_ms, round_ms),
        f"A round takes on average {round_ms:.3f} ms, {round_ms / plain_ms:.2f} steps, and yields {tau:.2f} tokens: "
        f"{tau:.2f} / {round_ms / plain_ms:.2f} = {tau / (round_ms / plain_ms):.2f}x.",
    ]
    return "\n".join(lines)


def lengths_text(pair: ModelPair, draft_length: int, summary: Summary) -> list[str]:
    """Say how many tokens rounds verify that draft no more than they find, where that is known."""
    if pair.drafted is None or not pair.varies:
        return []
    tokens, none = (
        1 + float(pair.round_cost(draft_length).tokens_drafted),
        f"{pair.drafted[0]:.0%} of them drafted none",
    )
    return [
        f"Rounds verify {tokens:.2f} tokens on average, no more than was found: {none}, "
        f"and the mean takes {summary.verify_ms_per_round:.3f} ms."
    ]


def drafted_text(pair: ModelPair, name: str, one: Pass, plain_ms: float, round_ms: float) -> str:
    """Say in words what a pass of the draft takes."""
    ms, tokens = one.ms, f"{one.tokens} token" + "s" * (one.tokens > 1)
    words = f"{name.capitalize()} ({pair.method.title}, {tokens}): {ms:.3f} ms, {ms / plain_ms:.3f} steps, most of it "
    times = f"{one.times} of them are" if one.times > 1 else "it is"
    return f"{words}{WORDS[one.parts.binds]}; {times} {one.times * ms / round_ms:.0%} of a round."


def host_text(pair: ModelPair, draft_length: int, plain_ms: float, round_ms: float) -> Iterator[str]:
    """Yield what the host takes for drafts, or that nothing drafts but the target's own pass."""
    plan = pair.plan(draft_length)
    ms = float(np.max(plan.host_s)) * float(pair.batch) * 1e3
    if not plan.passes:
        # All that drafting takes: the mean over what rounds find, where that is known.
        ms = float(pair.round_cost(draft_length).draft_s) * 1e3
    if ms:
        words = f"{ms:.3f} ms of the host, {ms / plain_ms:.3f} steps; it is {ms / round_ms:.0%} of a round."
        yield f"Drafts ({pair.method.title}): {words}"
    elif not plan.passes:
        yield f"Drafts ({pair.method.title}) take no pass of their own."


def verify_reason(step: PassParts, verify: PassParts, *, experts: bool) -> str:
    """Say why verification costs more than a step, or does not."""
    if float(verify.total_s) < SAME_AS_A_STEP * float(step.total_s):
        if verify.binds == "memory":
            return "the weights are read once for all of them."
        return f"most of it is {WORDS[verify.binds]}, whatever the tokens."
    growth = {name: float(getattr(verify, f"{name}_s")) - float(getattr(step, f"{name}_s")) for name in PARTS}
    more = {
        "compute": "arithmetic grows with the tokens",
        "memory": "more tokens touch more experts" if experts else "every token reads and writes its own activations",
        "launch": "more is launched",
        "fixed": "any pass costs as much",
        "link": "devices exchange the sums of every token",
    }
    return more[max(growth, key=lambda name: growth[name])] + "."
