"""Advice as people and programs read it: the answer, both ways side by side, what to type, what would settle more."""

from collections.abc import Sequence
from typing import Any

from simulator.costs.engines.all import written_for
from simulator.costs.engines.settings import Written
from simulator.ground.command import table, wrapped

from .advice import BATCHES, Advice, Asked, Way
from .basis import Basis
from .latency import time_text
from .load_curve import PLAIN
from .load_curve_report import as_fast, is_open, last_of, limit_text, number, pays_in_words, spans
from .load_search import Turning
from .recommendation import of_pair
from .scene import loaded
from .slowness import Slowness
from .verdict import CANNOT_TELL, DOES_NOT_PAY, PAYS

# A choice that measuring betters by less is settled.
SETTLED = 0.005


def verdict(advice: Advice) -> str:
    """Return whether speculation pays."""
    if not advice.take:
        return DOES_NOT_PAY
    gain, servers = advice.gains[advice.take - 1], advice.servers
    fewer = servers[PLAIN] is None or (servers[advice.take] or 0) < (servers[PLAIN] or 0)
    return CANNOT_TELL if is_open(gain) and gain.low <= 1 and not fewer else PAYS


def headline(advice: Advice, asked: Asked, basis: Basis) -> str:
    """Return the answer in one sentence, with what it is conditional on."""
    said = answer(advice, asked)
    condition = basis.condition if advice.ways else ""
    return f"{condition[0].upper()}{condition[1:]}: {said[0].lower()}{said[1:]}" if condition else said


def answer(advice: Advice, asked: Asked) -> str:
    """Return the answer."""
    said, load = verdict(advice), loaded(asked.load, asked.traffic.unit)
    if not advice.take:
        best = max(advice.gains, key=lambda gain: gain.value, default=None)
        tried = f": the best way makes answers {as_fast(best)}" if best else ": no method applies"
        return f"Speculation does not pay at {load}{tried}."
    arm, gain = advice.take, advice.gains[advice.take - 1]
    name, servers = advice.scene.arms[arm].name, advice.servers
    counts = f", on {in_servers(servers[arm])}" if servers[arm] == servers[PLAIN] else ""
    fewer = (
        ""
        if counts
        else f"; it takes {in_servers(servers[arm])} where plain decoding takes {in_servers(servers[PLAIN])}"
    )
    begins = "Take" if said == PAYS else "Cannot tell whether speculation pays; the best guess is"
    return f"{begins} {name}: answers come {as_fast(gain)} at {load}{counts}{fewer}."


def in_servers(count: int | None) -> str:
    """Return a number of servers in words."""
    return "no number of servers" if count is None else f"{count:,} server{'s' * (count != 1)}"


def advice_text(
    advice: Advice,
    asked: Asked,
    basis: Basis,
    heading: str,
    warnings: Sequence[str],
    draft: str | None,
    slow: Slowness | None,
) -> str:
    """Return the report for a terminal."""
    unit = asked.traffic.unit
    count = advice.scene.traffic.count
    if advice.short:
        few = f"{count:,} requests are sent in hardly more time than answers take: "
        few += "with more --requests fewer servers may do"
        warnings = [*warnings, few]
    lines = [*(f"warning: {warning}" for warning in warnings), headline(advice, asked, basis), *basis.lines]
    if advice.turning is not None:
        each = " a server" * (advice.spread_over > 1)
        lines.append(f"{advice.scene.arms[advice.take].name} {pays_in_words(advice.turning, unit + each)}")
    if others := adapting(advice):
        lines.append(others)
    if asked.limits:
        lines.append(f"servers are those of {limit_text(asked.limits)} for {asked.share:.0%} of the requests")
    parts = [wrapped(lines), wrapped(heading.splitlines()), both_table(advice, asked)]
    parts.append("the fastest draft length, by sequences that run at once and tokens of each\n" + lengths_table(advice))
    told = written(advice, asked.engine, draft)
    pasted = told.lines if advice.take else ("plain decoding: no option of speculation",)
    parts.append("\n".join([f"for {asked.engine}:", *(f"  {line}" for line in pasted)]))
    if told.notes and advice.take:
        parts[-1] += "\n" + wrapped(f"  note: {note}" for note in told.notes)
    parts.append(wrapped(settles(advice)))
    if slow is not None:
        parts.append(slow_text(slow))
    return "\n\n".join(parts)


def adapting(advice: Advice) -> str:
    """Say from how many sequences on the engine's adaptive mode drafts how much; empty without one."""
    if not advice.take:
        return ""
    taken = advice.ways[advice.take - 1]
    way = next((w for w in advice.ways if w.plan and w.contender == taken.contender), None)
    if way is None:
        return ""
    name = advice.scene.arms[1 + advice.ways.index(way)].name
    steps = ", ".join(f"{f'K={r.draft_length}' if r.draft_length else 'none'} from {r.first:,}" for r in way.plan)
    running = float(advice.point.arms[advice.take]["running"][0])
    return f"{name} drafts by sequences at once: {steps}; here {running:.3g} run at once"


def both_table(advice: Advice, asked: Asked) -> str:
    """Return what each way of serving comes to."""
    last = "within limits" if asked.limits else "tokens a second"
    head = ["", "servers", "first token, ms", "a token, ms", "answers", last]
    rows = [["", "", "p50/p99", "p50/p99", "faster by", "a server" if not asked.limits else ""]]
    first, each = (spans(advice.point, name) for name in ("ttft", "tpot"))
    for arm, way in enumerate(advice.scene.arms):
        count = advice.servers[arm]
        gain = f"{advice.gains[arm - 1].value:.2f}x" if arm else ""
        shown = "none" if count is None else f"{count:,}"
        rows.append([way.name, shown, first[arm], each[arm], gain, last_of(advice.scene, advice.point.arms[arm])])
    return table([head, *rows])


def lengths_table(advice: Advice) -> str:
    """Return the best method and draft length by batch size and context."""
    words = {0: "off", -1: "-"}
    rows = [["at once", *(f"{context:,}" for context in advice.contexts)]]
    for batch, row in zip(BATCHES, advice.best, strict=True):
        rows.append([f"{batch}", *(words.get(k, f"{name} K={k}") for name, k in row)])
    return table(rows)


def written(advice: Advice, engine: str, draft: str | None) -> Written:
    """Return what is taken in the engine's words."""
    if not advice.take:
        return Written(None)
    way: Way = advice.ways[advice.take - 1]
    of = advice.comparison.contenders[way.contender]
    rows = tuple((r.first, r.last, r.draft_length) for r in way.plan)
    return written_for(engine, of_pair(of.pair, draft, rows, way.draft_length))


def settles(advice: Advice) -> list[str]:
    """Say which measurement would better the choice most."""
    if not advice.questions or advice.questions[0].gain < SETTLED:
        return ["what is not known hardly changes the choice: no measurement is worth its time for it"]
    lines = []
    for question in advice.questions:
        if question.gain < SETTLED:
            continue
        what = (
            f"what {question.method} accepts on your texts (measure-acceptance, or its /metrics)"
            if question.method
            else "times of your device (probe-gpu, or calibrate --from-serving with rows of a load test)"
        )
        lines.append(
            f"worth measuring: {what}: it would better the choice by {question.gain:.1%} on average, and "
            f"change it in {question.changes:.0%} of what is possible"
        )
    return lines


def slow_text(slow: Slowness) -> str:
    """Say what a round takes, cause by cause."""
    head = (
        f"a round of K = {slow.draft_length} takes {time_text(slow.round_ms / 1e3)} at {slow.batch:,} at once, a plain "
        f"token {time_text(slow.plain_ms / 1e3)}: it pays from {slow.pays_from:.2f} tokens on, and writes "
        f"{slow.tokens:.2f}"
    )
    beyond_ms = slow.round_ms - slow.tokens * slow.plain_ms
    short = f"too few tokens are accepted by {time_text(beyond_ms / 1e3)} a round" if beyond_ms > 0 else ""
    first = f"the first token comes {time_text(slow.first_ms / 1e3)} later" if slow.first_ms > 0 else ""
    rows = [["ms a round", "cause"], *([f"{cause_ms:.3g}", name] for name, cause_ms in slow.causes)]
    return "\n".join([wrapped([head, *filter(None, (short, first))]), table(rows, left=(1,))])


def turning_json(turning: Turning | None) -> dict[str, Any] | None:
    """Return where speculation stops paying under plain keys."""
    if turning is None:
        return None
    return turning._asdict() | {"ci95": turning.ci95 and [number(end) for end in turning.ci95]}


def advice_json(
    advice: Advice, asked: Asked, basis: Basis, warnings: Sequence[str], draft: str | None, slow: Slowness | None
) -> dict[str, Any]:
    """Return the same under plain keys, in seconds."""
    sides = {}
    for arm, way in enumerate(advice.scene.arms):
        told: dict[str, Any] = {name: number(float(figure[0])) for name, figure in advice.point.arms[arm].items()}
        sides[way.name] = told | {"servers": advice.servers[arm]}
        if arm:
            gain = advice.gains[arm - 1]
            sides[way.name] |= {"gain": number(gain.value), "gain_ci95": [number(gain.low), number(gain.high)]}
    said = written(advice, asked.engine, draft)
    return {
        "headline": headline(advice, asked, basis),
        "verdict": verdict(advice),
        "take": advice.scene.arms[advice.take].name,
        "basis": basis._asdict(),
        "load_a_server": advice.point.load,
        "unit": asked.traffic.unit,
        "serving": sides,
        "requests": advice.scene.traffic.count,
        "too_short_to_tell": advice.short,
        "turning": turning_json(advice.turning),
        "adaptive": [
            {"name": advice.scene.arms[arm].name, "ranges": [[r.first, r.last, r.draft_length] for r in way.plan]}
            for arm, way in enumerate(advice.ways, 1)
            if way.plan
        ],
        "lengths": [
            {"batch": batch, "context": context, "method": name or None, "draft_length": k if k >= 0 else None}
            for batch, row in zip(BATCHES, advice.best, strict=True)
            for context, (name, k) in zip(advice.contexts, row, strict=True)
        ],
        "engine": {
            "name": asked.engine,
            "settings": said.settings,
            "lines": list(said.lines),
            "notes": list(said.notes),
        },
        "worth_measuring": [question._asdict() for question in advice.questions],
        "slow": slow and slow._asdict(),
        "warnings": list(warnings),
    }
