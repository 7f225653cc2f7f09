"""A forecast for two models on a device, as people and programs read it: passes, memory, energy, schedule, and why."""

from dataclasses import asdict
from typing import Any

from simulator.costs.model_costs import SEPARATE, USABLE_MEMORY, ModelPair, PassParts, largest_batch
from simulator.costs.work import bytes_per_weight
from simulator.ground.command import table
from simulator.rounds.acceptance_law import AcceptanceModel
from simulator.rounds.experiment import Summary

from .forecast import Uncertainty
from .schedule import LARGEST_BATCH, Range, engine_settings, longest_draft, off_above, vllm_config

PARTS = ("compute", "memory", "launch", "link")
# Below this many steps a verification counts as no longer than one.
SAME_AS_A_STEP = 1.05
PLAIN, DRAFT, VERIFY = "plain step", "draft step", "verification"
WORDS = {
    "compute": "arithmetic",
    "memory": "reading weights and KV cache",
    "launches": "launching kernels",
    "link": "exchanging sums between devices",
}


def passes(pair: ModelPair, draft_length: int) -> dict[str, tuple[int, PassParts]]:
    """Return tokens a sequence and seconds of the three passes of a forecast; scalars only."""
    target, draft = pair.placed_target, pair.placed_draft
    return {
        PLAIN: (1, target.parts(pair.batch, 1, pair.context)),
        DRAFT: (1, draft.parts(pair.batch, 1, pair.context)),
        VERIFY: (draft_length + 1, target.parts(pair.batch, draft_length + 1, pair.context)),
    }


def models_json(
    pair: ModelPair,
    draft_length: int,
    summary: Summary,
    found: tuple[Range, ...],
    acceptance: AcceptanceModel,
    *,
    overlap: bool,
) -> dict[str, Any]:
    """Return what a forecast says of models and device."""
    joules = energy_j_per_token(pair, summary, overlap=overlap)
    return {
        "device": pair.profile.device,
        "profile_status": pair.profile.status,
        "passes": {name: pass_json(tokens, parts) for name, (tokens, parts) in passes(pair, draft_length).items()},
        "tokens_per_s": {name: int(pair.batch) * 1e3 / ms for name, ms in times_ms(summary).items()},
        "energy_j_per_token": joules and dict(zip(times_ms(summary), joules, strict=True)),
        "memory": {
            "bytes_per_device": float(pair.memory_bytes),
            "device_bytes": pair.profile.memory_bytes,
            "largest_batch": largest_batch(pair),
        },
        "schedule": {
            "ranges": [asdict(r) for r in found],
            "off_above_batch": off_above(found),
            "vllm": vllm_config(found),
            "synthetic_acceptance": engine_settings(acceptance, longest_draft(found)),
        },
    }


def pass_json(tokens: int, parts: PassParts) -> dict[str, Any]:
    """Return one pass."""
    times = {f"{name}_ms": float(getattr(parts, f"{name}_s")) * 1e3 for name in (*PARTS, "total")}
    return {"tokens": tokens, "binds": parts.binds} | times


def times_ms(summary: Summary) -> dict[str, float]:
    """Return the time a token of a sequence, of both arms."""
    return {"baseline": summary.baseline_ms_per_token, "speculative": summary.speculative_ms_per_token}


def energy_j_per_token(pair: ModelPair, summary: Summary, *, overlap: bool) -> tuple[float, float] | None:
    """Return joules a token of plain and of speculative decoding; None where the profile has no power.

    Devices are under load, except that those of one model rest while the other's alone compute; plain decoding has no
    device of the draft.
    """
    power = pair.profile.power
    if power is None:
        return None
    plain_ms, spec_ms = times_ms(summary).values()
    resting = (0.0, 0.0)
    if pair.placement == SEPARATE and not overlap:
        resting = summary.draft_ms_per_token, spec_ms - summary.draft_ms_per_token
    saved_w = power.load_w - power.idle_w
    spec_mj = pair.devices * (power.load_w * spec_ms - saved_w * resting[0])
    if pair.placement == SEPARATE:
        spec_mj += power.load_w * spec_ms - saved_w * resting[1]
    return power.load_w * pair.devices * plain_ms / 1e3 / int(pair.batch), spec_mj / 1e3 / int(pair.batch)


def models_text(
    pair: ModelPair, draft_length: int, summary: Summary, found: tuple[Range, ...], *, overlap: bool
) -> str:
    """Return the part of the report that models on a device add."""
    rows = [("pass", "tokens", "ms", "of a step", "binds", *(f"{name} ms" for name in PARTS))]
    step_s = float(passes(pair, draft_length)[PLAIN][1].total_s)
    for name, (tokens, parts) in passes(pair, draft_length).items():
        times = (f"{float(getattr(parts, f'{part}_s')) * 1e3:.3f}" for part in PARTS)
        total_s = float(parts.total_s)
        rows.append((name, f"{tokens}", f"{total_s * 1e3:.3f}", f"{total_s / step_s:.3f}", parts.binds, *times))
    energy = energy_text(pair, summary, overlap=overlap)
    about = [placement_text(pair), vocabulary_text(pair), throughput_text(pair, summary), energy]
    lines = [*about, memory_text(pair), schedule_text(found)]
    return "\n".join([table(rows, left=(0, 4)), "", *filter(None, lines)])


def placement_text(pair: ModelPair) -> str:
    """Say in which number formats the models are, and on which devices."""
    target, draft = pair.placed_target, pair.placed_draft
    where = ("1 device", "it") if pair.devices == 1 else (f"{pair.devices} devices", "them")
    apart = "a device of its own" if pair.placement == SEPARATE else where[1]
    bits = 8 * bytes_per_weight(target.kv_format)
    models = f"target in {target.dtype} on {where[0]}, draft in {draft.dtype} on {apart}"
    return f"{models}; KV cache in {bits:.0f} bits a number"


def vocabulary_text(pair: ModelPair) -> str:
    """Say that two models cannot work together as they are, or nothing."""
    mine, theirs = pair.target.vocabulary, pair.draft.vocabulary
    if mine == theirs:
        return ""
    return f"vocabularies differ ({mine:,} and {theirs:,} tokens): make sure that both models share a tokenizer"


def throughput_text(pair: ModelPair, summary: Summary) -> str:
    """Return tokens a second of both arms."""
    plain, spec = (int(pair.batch) * 1e3 / ms for ms in times_ms(summary).values())
    return f"tokens/s: {plain:,.1f} plain, {spec:,.1f} speculative"


def energy_text(pair: ModelPair, summary: Summary, *, overlap: bool) -> str:
    """Return joules a token, or nothing."""
    joules = energy_j_per_token(pair, summary, overlap=overlap)
    if joules is None:
        return ""
    rest = " but for waits" if pair.placement == SEPARATE and not overlap else ""
    return "energy at full load{}: {:.3g} J a token plain, {:.3g} J speculative".format(rest, *joules)


def memory_text(pair: ModelPair) -> str:
    """Say whether models and KV cache fit into the device."""
    needed, there, most = float(pair.memory_bytes) / 1e9, pair.profile.memory_bytes, largest_batch(pair)
    where = "models and KV cache on each device"
    if pair.placement == SEPARATE:
        where = "model and KV cache on the fullest device"
    told = f"memory: {needed:.2f} GB of {where}"
    if there is None or most is None:
        return told
    fits = int(pair.batch) <= most
    batches = f"batches up to {most:,} do" if most else "not even a batch of 1 does"
    told = f"{told} {'fit' if fits else 'do NOT fit'} into {USABLE_MEMORY * there / 1e9:.1f} GB; {batches}"
    return told if fits else f"{told}. All figures are as if they did."


def schedule_text(found: tuple[Range, ...]) -> str:
    """Say which draft length at which batch size."""
    if not found:
        return "best K by batch size: none, no batch fits"
    words = [f"{f'K = {r.draft_length}' if r.draft_length else 'off'} at batch {span(r)}" for r in found]
    beyond = " (no larger ones were looked at)" if found[-1].last == LARGEST_BATCH else ""
    return f"best K by batch size: {', '.join(words)}{beyond}"


def span(own: Range) -> str:
    """Return the batch sizes of a range."""
    return f"{own.first}" if own.first == own.last else f"{own.first}-{own.last}"


def uncertainty_text(found: Uncertainty, draft_length: int) -> str:
    """Say how sure a forecast is."""
    low, high = found.speedup_ci95
    first, last = found.best_draft_length_ci95
    best = f"{found.best_draft_length} in {found.best_share:.0%} of the draws"
    if not first == last == found.best_draft_length:
        best = f"{first} to {last} in 95 % of the draws, {found.best_draft_length} in {found.best_share:.0%}"
    gain = f"{low:.2f}x to {high:.2f}x at K = {draft_length}"
    return f"As well as constants and acceptance are known: {gain}; best K {best}."


def why_text(pair: ModelPair, draft_length: int, summary: Summary, effects: dict[str, float]) -> str:
    """Say in plain words where the time goes, and what would change the outcome."""
    own = passes(pair, draft_length)
    step, draft, verify = (own[name][1] for name in (PLAIN, DRAFT, VERIFY))
    plain_ms, draft_ms, verify_ms = (float(p.total_s) * 1e3 for p in (step, draft, verify))
    tau = summary.closed_form_tokens_per_round
    round_ms = summary.closed_form_speculative_ms_per_token * tau
    lines = [
        f"A plain step takes {plain_ms:.3f} ms, most of it {WORDS[step.binds]}.",
        f"Verifying {draft_length + 1} tokens takes {verify_ms:.3f} ms, {verify_ms / plain_ms:.2f} steps: "
        + verify_reason(step, verify, experts=pair.target.experts > 0),
        f"A drafted token takes {draft_ms:.3f} ms, {draft_ms / plain_ms:.3f} steps, most of it {WORDS[draft.binds]}; "
        f"{draft_length} of them are {draft_length * draft_ms / round_ms:.0%} of a round.",
        f"A round takes on average {round_ms:.3f} ms, {round_ms / plain_ms:.2f} steps, and yields {tau:.2f} tokens: "
        f"{tau:.2f} / {round_ms / plain_ms:.2f} = {tau / (round_ms / plain_ms):.2f}x.",
        "1 % more of these changes the speedup by: " + effects_text(effects) + ".",
    ]
    return "\n".join(lines)


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
        "link": "devices exchange the sums of every token",
    }
    return more[max(growth, key=lambda name: growth[name])] + "."


def effects_text(effects: dict[str, float]) -> str:
    """Return sensitivities in words, the largest first."""
    names = {
        "flop_scale": "time of arithmetic",
        "mem_scale": "time of memory",
        "launch_s": "time of a launch",
        "fixed_s": "fixed time of a pass",
        "link_s": "time of the link",
        "round_overhead_s": "overhead of a round",
        "mean_accepted": "accepted tokens",
    }
    shown = sorted(((value, names[name]) for name, value in effects.items()), key=lambda e: -abs(e[0]))
    return ", ".join(f"{name} {value:+.2f} %" for value, name in shown if abs(value) >= 0.005) or "nothing"
