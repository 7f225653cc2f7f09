"""A served load as people and programs read it: the answer first, then a table, and in words where the time goes."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from simulator.costs.cautions import cautions
from simulator.costs.room import room, would_fit
from simulator.costs.work import Work
from simulator.ground.artefacts import envelope
from simulator.ground.command import table, wrapped
from simulator.serving.steady import Steady

from .basis import Basis
from .latency import time_beside, time_text
from .loads import Ends, LoadForecast
from .report import sensitivities_text
from .verdict import CANNOT_TELL, DOES_NOT_FIT, DOES_NOT_PAY, PAYS

KIND = "load"
# Of all passes: fewer with a prompt count as none.
FEW = 0.005


def load_json(
    forecast: LoadForecast, parameters: Mapping[str, Any], basis: Basis, said: Sequence[str] = ()
) -> dict[str, Any]:
    """Return a load with its provenance, under plain keys; times in ms. said: what of it nobody stated."""
    verdict = None
    if forecast.drafted is not None:
        told = f"{forecast.verdict} if" if is_conditional(forecast, basis) else forecast.verdict
        verdict = {
            "answer": told,
            "condition": basis.condition or None,
            "speedup": forecast.speedup,
            "speedup_ci95": forecast.speedup_ci95,
            "best_draft_length": forecast.best_draft_length,
            "best_speedup": forecast.best_speedup,
            "searched_to": forecast.searched_to,
        }
    sides = {
        "plain": steady_json(forecast.plain, forecast.plain_ci95),
        "speculative": forecast.drafted and steady_json(forecast.drafted, forecast.drafted_ci95),
    }
    return envelope(KIND, 1, parameters) | {
        "headline": headline(forecast, basis),
        "basis": basis._asdict(),
        "verdict": verdict,
        **sides,
        "tokens_per_round": forecast.tokens_per_round,
        "sensitivity": dict(forecast.sensitivities) or None,
        "notes": [*said, *notes_of(forecast)],
        "warnings": list(cautions_of(forecast)),
    }


def cautions_of(forecast: LoadForecast) -> tuple[str, ...]:
    """Return what to know before the numbers."""
    most = forecast.load.most_running
    return cautions(forecast.pair, forecast.draft_length, most_running=most, isl=forecast.isl, osl=forecast.osl)


def steady_json(found: Steady, ends: Mapping[str, Ends]) -> dict[str, Any] | None:
    """Return what a load comes to; None where it does not fit."""
    if np.isnan(found.running):
        return None
    ms = ("tpot", "ttft", "decode", "mixed", "first", "queueing")
    body: dict[str, Any] = {f"{name}_ms": 1e3 * float(getattr(found, f"{name}_s")) for name in ms}
    body["tpot_ms"] = None if np.isnan(found.tpot_s) else body["tpot_ms"]
    body |= {f"{name}_ms_ci95": scaled(ends.get(f"{name}_s"), 1e3) for name in ms[:2]}
    counts = ("output_tokens_per_s", "running", "rounds", "mixed_share", "prompts_a_pass")
    body |= {name: float(getattr(found, name)) for name in counts}
    return body | {"output_tokens_per_s_ci95": ends.get("output_tokens_per_s")}


def scaled(ends: Ends, factor: float) -> Ends:
    """Return both ends in another unit."""
    return ends and (ends[0] * factor, ends[1] * factor)


def is_conditional(forecast: LoadForecast, basis: Basis) -> bool:
    """Whether an answer hangs on what nobody measured."""
    return bool(basis.condition) and forecast.verdict in (PAYS, DOES_NOT_PAY)


def notes_of(forecast: LoadForecast) -> list[str]:
    """Say what a reader would not think of: which clients send nothing, who waits; where nothing runs, what would."""
    if forecast.is_unfit:
        return [would_fit(forecast.pair, lambda p: bool(room(p, forecast.isl + forecast.osl / 2) >= 1))]
    return [*silent_in_words(forecast), *waiting_in_words(forecast)]


def load_text(
    forecast: LoadForecast, heading: str, basis: Basis, said: Sequence[str] = (), *, why: bool = False
) -> str:
    """Return the report of a load for a terminal; said: what of it nobody stated; why: in words where the time goes."""
    warnings = [f"warning: {caution}" for caution in cautions_of(forecast)]
    sources = basis.lines if forecast.drafted is not None else basis.lines[-1:]
    lines = [*warnings, headline(forecast, basis), *sources, *said]
    if np.isnan(forecast.plain.running):
        lines += notes_of(forecast)
        return "\n\n".join([wrapped(lines), wrapped(heading.splitlines())])
    lines += filter(None, [best_in_words(forecast), *notes_of(forecast)])
    parts = [wrapped(lines), wrapped(heading.splitlines()), load_table(forecast)]
    if why:
        parts.append(wrapped(["why", *why_lines(forecast)]))
    return "\n\n".join(parts)


def headline(forecast: LoadForecast, basis: Basis) -> str:
    """Return the answer as one line, with its interval and what it is conditional on."""
    plain, drafted, at = forecast.plain, forecast.drafted, clients_in_words(forecast)
    if np.isnan(plain.running):
        return "Does not fit into memory: no request can run."
    if drafted is None:
        rate, span = (
            f"{float(plain.output_tokens_per_s):,.0f}",
            spanned(forecast.plain_ci95["output_tokens_per_s"], ",.0f"),
        )
        return f"{rate} tokens a second{span} for {at}: {tokens_in_words(plain)}."
    if forecast.verdict == DOES_NOT_FIT:
        return "The draft does not fit into memory beside its target: no speedup to tell of."
    gain = f"{forecast.speedup:.2f}x the tokens a second{spanned(forecast.speedup_ci95, '.2f', 'x')}"
    tpot = f"{time_text(float(drafted.tpot_s))} a token for {time_beside(float(plain.tpot_s), float(drafted.tpot_s))}"
    if forecast.osl == 1:
        plain_s, drafted_s = float(plain.ttft_s), float(drafted.ttft_s)
        tpot = f"the only token after {time_text(drafted_s)} for {time_beside(plain_s, drafted_s)}"
    figures = f"{gain} for {at} at K = {forecast.draft_length}, {tpot}"
    if forecast.verdict == CANNOT_TELL:
        return f"Cannot tell{basis.condition and f', {basis.condition}'}: {figures}."
    if basis.condition:
        return f"{basis.condition[0].upper()}{basis.condition[1:]}: {figures}."
    return f"It {forecast.verdict}: {figures}."


def clients_in_words(forecast: LoadForecast) -> str:
    """Say how many send requests."""
    return f"{forecast.at_work:,} client{'s' * (forecast.at_work > 1)}"


def tokens_in_words(one: Steady) -> str:
    """Say when tokens come; of answers of one token there is no time a token."""
    if np.isnan(one.tpot_s):
        return f"the only token after {time_text(float(one.ttft_s))}"
    return f"{time_text(float(one.tpot_s))} a token, the first after {time_text(float(one.ttft_s))}"


def spanned(ends: Ends, form: str, unit: str = "") -> str:
    """Return an interval in brackets; nothing where there is none."""
    return "" if ends is None else f" ({ends[0]:{form}}{unit} to {ends[1]:{form}}{unit})"


def best_in_words(forecast: LoadForecast) -> str:
    """Say which draft length is best at this load."""
    k, gain, top = forecast.best_draft_length, forecast.best_speedup, forecast.searched_to
    if k is None or gain is None:
        return ""
    if gain <= 1:
        return f"At this load no draft length pays: the best of 1..{top}, K = {k}, gives {gain:.2f}x."
    if k == forecast.draft_length:
        return f"At this load K = {k} is the best of 1..{top}."
    return f"At this load the best K of 1..{top} is {k}, with {gain:.2f}x."


def silent_in_words(forecast: LoadForecast) -> list[str]:
    """Say how many clients send nothing, where there are fewer requests."""
    silent = forecast.clients - forecast.at_work
    some = "1 client sends" if silent == 1 else f"{silent:,} clients send"
    return [f"Requests are fewer than clients (--requests {forecast.at_work:,}): {some} none."] if silent else []


def waiting_in_words(forecast: LoadForecast) -> list[str]:
    """Say how many requests wait for others to end, and for what, of each side that has some."""
    sides = (("", forecast.plain), ("with drafts ", forecast.drafted))
    running = [(side, int(one.running)) for side, one in sides if one is not None and not np.isnan(one.running)]
    if min(n for _, n in running) == forecast.at_work:
        return []
    said = ", ".join(f"{side}{n:,}" for side, n in running)
    most = min(forecast.at_work, forecast.load.most_running)
    reasons = ["for memory"] * any(n < most for _, n in running)
    reasons += ["as --max-running says"] * any(n == most < forecast.at_work for _, n in running)
    return [f"Of {forecast.at_work:,} at once {said} run: the others wait {', or '.join(reasons)}."]


def load_table(forecast: LoadForecast) -> str:
    """Return both sides of a load as a table."""
    sides = [(forecast.plain, forecast.plain_ci95)]
    if forecast.drafted is not None and not np.isnan(forecast.drafted.running):
        sides.append((forecast.drafted, forecast.drafted_ci95))
    heads = ["plain", f"{forecast.pair.method.name}, K = {forecast.draft_length}"][: len(sides)]
    each = [column(one, ends) for one, ends in sides]
    units = ["time a token, ms", "first token, ms", "of it waiting, ms", "tokens a second", "running at once"]
    units += ["passes to decode", "of these with a prompt" if forecast.load.mixed else "beside them, with prompts"]
    units += ["a pass without, ms", "a pass with one, ms"]
    body = [
        [unit, *(cell for cells in row for cell in cells)]
        for unit, row in zip(units, zip(*each, strict=True), strict=True)
    ]
    return table([["", *(cell for head in heads for cell in (head, "95 %"))], *body])


def column(one: Steady, ends: Mapping[str, Ends]) -> list[tuple[str, str]]:
    """Return what stands in the columns of one side."""
    ms = {
        name: "-" if np.isnan(getattr(one, name)) else f"{1e3 * float(getattr(one, name)):,.2f}"
        for name in ("tpot_s", "ttft_s", "queueing_s", "decode_s", "mixed_s")
    }
    spans = {name: spanned(scaled(ends.get(name), 1e3), ",.2f").strip(" ()") for name in ("tpot_s", "ttft_s")}
    rate = spanned(ends.get("output_tokens_per_s"), ",.0f").strip(" ()")
    share = float(one.mixed_share)
    return [
        (ms["tpot_s"], spans["tpot_s"]),
        (ms["ttft_s"], spans["ttft_s"]),
        (ms["queueing_s"], ""),
        (f"{float(one.output_tokens_per_s):,.0f}", rate),
        (f"{float(one.running):,.0f}", ""),
        (f"{float(one.rounds):,.1f}", ""),
        (f"{share:.1%}", ""),
        (ms["decode_s"], ""),
        (ms["mixed_s"] if share >= FEW else "-", ""),
    ]


def why_lines(forecast: LoadForecast) -> list[str]:
    """Say where the time of a load goes: to passes without and with prompts, to the host, to waiting; what changes it.

    Of what does not fit, nothing.
    """
    lines = list[str]()
    if np.isnan(forecast.plain.running):
        return lines
    for name, one in (("plain", forecast.plain), ("with drafts", forecast.drafted)):
        if one is None or np.isnan(one.running):
            continue
        waits_s, first_s = float(one.queueing_s), float(one.ttft_s)
        waits = f"{time_beside(waits_s, first_s)} of {time_text(first_s)}"
        if forecast.osl == 1:
            lines.append(f"{name}: the only token waits {waits}.")
            continue
        share, mixed_s, decode_s = (float(v) for v in (one.mixed_share, one.mixed_s, one.decode_s))
        passes = f"{float(one.rounds):,.0f} {'passes' if name == 'plain' else 'rounds'}"
        of_all = mixed_s * share / (mixed_s * share + decode_s * (1 - share if forecast.load.mixed else 1))
        said, place = f"{name}: of {passes} {share:.1%} carry prompts of others", "in place of"
        if not forecast.load.mixed:
            said, place = f"{name}: beside {passes} {share:.1%} as many are of prompts of others", "beside"
        if share >= FEW:
            said += f", {time_text(mixed_s)} {place} {time_beside(decode_s, mixed_s)}: {of_all:.0%} of the time a token"
        lines.append(f"{said}; the first token waits {waits}.")
    front_s = float(forecast.pair.placed_target.engine.in_front_s(forecast.plain.running))
    if front_s > 0:
        lines.append(f"in front: {time_text(front_s)} of the first token lie outside of passes.")
    host_s = host_of_mixed_s(forecast)
    if host_s > 0:
        mixed_s = float(forecast.plain.mixed_s)
        rest = "the longer of the two" if host_s > 0.8 * mixed_s else "beside the device"
        lines.append(
            f"host: {time_text(host_s)} of a pass with a prompt, which takes {time_beside(mixed_s, host_s)}; {rest}."
        )
    return [*lines, f"1 % more of these changes tokens a second by: {sensitivities_text(forecast.sensitivities)}."]


def host_of_mixed_s(forecast: LoadForecast) -> float:
    """Return the seconds of the host in a plain pass with a prompt."""
    placed, running = forecast.pair.placed_target, np.asarray(forecast.plain.running)
    work = Work(running, (), (), running, running, prompts=np.ones(()))
    return float(placed.engine.on_host_s(work, placed.launches, placed.shape.layers))
