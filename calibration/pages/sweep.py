"""Sweeps as pages: the best draft length over what was swept, from a result or from a table of points."""

import math
from collections.abc import Mapping, Sequence

from simulator.ground.fields import Field

from .page import BAD, OPEN, Axis, Code, Figure, Line, Part, Plot, Row, Table
from .rows import Rows
from .told import MOST_ROWS, Told, ends, gain, headline, lines, mark_of, number, span, value, words

BATCH, K, GAIN, OFF = "batch", "draftN", "closed_form_speedup", "off_above_batch"
ENGINES = ("vllm", "sglang", "trtllm", "llama_cpp")
# Numbers that a sweep varies, in tables; lines and panels of a picture, at most.
AXES = (
    K,
    BATCH,
    "concurrency",
    "context",
    "isl",
    "osl",
    "alpha",
    "draft_cost",
    "tp",
    "chunk",
    "prefix_hit",
    "requests",
)
MOST_LINES = 6
# Of a picture: where it is across, the speedup, and both ends of that, if known.
Place = tuple[float, float, float, float]
UNKNOWN = (math.nan, math.nan)
# Values above which an axis is in equal ratios.
WIDE = 8.0


def sweep_told(document: Field) -> Told:
    """Read what `sweep --json` printed."""
    answers = document["answers"].elements()
    if answers and "draft_length" not in answers[0].object():
        return plain_told(document)
    known = [a for a in answers if a["speedup"].is_given]
    best = max(known, key=lambda a: value(a["speedup"]), default=None)
    basis = document["basis"]
    condition = words(basis["condition"]) if basis.is_given else ""
    verdict = "does not fit into memory" if best is None else words(best["verdict"])
    return Told(
        answer=headline(
            document, f"At most {gain(value(best['speedup']))} as fast" if best else "Nothing fits into memory"
        ),
        mark=mark_of(verdict, conditional=bool(condition)),
        verdict=verdict + (", conditionally" if condition and verdict == "pays" else ""),
        figures=figures_of(document, best, answers),
        parts=[answers_part(document, answers), *schedule_parts(document["schedules"])],
    )


def figures_of(document: Field, best: Field | None, answers: Sequence[Field]) -> list[Figure]:
    """Return what stands out."""
    found = [Figure("Points", f"{document['points'].whole():,}", f"{len(answers):,} answers")]
    if best is None:
        return found
    k = best["drafted"]
    at = ", ".join([*(f"{name} {value(v):,.6g}" for name, v in best["values"].items()), *batches_of(best)])
    over = " over these" if best["batches"].is_given else ""
    known = span(ends(best["speedup_ci95"]))
    gained = Figure("At the best point", f"{gain(value(best['speedup']))} as fast", known and known + over)
    return [gained, Figure("Best draft length there", f"K = {k.whole() if k.is_given else 0}", at), *found]


def batches_of(answer: Field) -> list[str]:
    """Say which batch sizes an answer is of."""
    both = ends(answer["batches"])
    return [] if both is None else [f"batch {'-'.join(f'{b:,.0f}' for b in dict.fromkeys(both))}"]


def answers_part(document: Field, answers: Sequence[Field]) -> Part:
    """Return the best draft length by all else."""
    names = [name for name in (answers[0]["values"].object() if answers else ())]
    of_ranges = any(a["batches"].is_given for a in answers)
    heads = [*names, *([BATCH] if of_ranges else []), "best K", "as fast", "95 %", "as good, to 2 %", "verdict"]
    rows = [answer_row(a, names, of_ranges=of_ranges) for a in answers]
    of = f"{document['points'].whole():,} points, by the closed form"
    said = f"Each row is the best draft length where the other values are these, of {of}."
    drawn = ranges_plot(answers) if of_ranges else points_plot(answers, names)
    marks = [
        BAD if row[-1] in ("does not pay", "does not fit") else OPEN if "cannot" in row[-1] else "" for row in rows
    ]
    table = Table(
        "The best draft length",
        heads,
        rows,
        keys=len(names) + of_ranges,
        left=(len(heads) - 2, len(heads) - 1),
        marks=marks,
    )
    return Part("Which draft length", [said], [*drawn, table])


def answer_row(answer: Field, names: Sequence[str], *, of_ranges: bool) -> Row:
    """Return an answer as a row."""
    keys = [f"{value(answer['values'][name]):,.6g}" for name in names]
    keys += [b.removeprefix("batch ") for b in batches_of(answer)] if of_ranges else []
    if not answer["speedup"].is_given:
        return [*keys, "-", "-", "", "", "does not fit"]
    k = answer["draft_length"].whole(default=0)
    gains = [gain(value(answer[name])) for name in ("speedup", "speedup_at_last") if answer[name].is_given]
    good = ", ".join(f"K = {n}" if (n := one.whole()) else "off" for one in answer["as_good"].elements())
    edge = ", the longest" if answer["at_edge"].flag(default=False) else ""
    said = dict.fromkeys(words(answer[name]) for name in ("verdict", "verdict_at_last") if answer[name].is_given)
    told = "turn it off" if not k else ", then ".join(said)
    return [
        *keys,
        f"{k}{edge}" if k else "off",
        " to ".join(dict.fromkeys(gains)),
        span(ends(answer["speedup_ci95"])),
        good,
        told,
    ]


def ranges_plot(answers: Sequence[Field]) -> list[Plot]:
    """Return speedups over batch sizes, a line for each combination of the other values."""
    found: dict[str, list[Place]] = {}
    for answer in answers:
        both = ends(answer["batches"])
        if both is None or not answer["speedup"].is_given:
            continue
        name = ", ".join(f"{n} {value(v):,.6g}" for n, v in answer["values"].items()) or "speedup"
        last = answer["speedup_at_last" if answer["speedup_at_last"].is_given else "speedup"]
        ended, known = {both[0]: value(answer["speedup"]), both[1]: value(last)}, ends(answer["speedup_ci95"])
        found.setdefault(name, []).extend((x, y, *(known or UNKNOWN)) for x, y in ended.items())
    return plots(found, BATCH, ", at both ends of each range") if found else []


def points_plot(answers: Sequence[Field], names: Sequence[str]) -> list[Plot]:
    """Return speedups over the values that most were looked at of, a line for each combination of the others."""
    counts = {name: len({value(a["values"][name]) for a in answers}) for name in names}
    across = max(counts, key=counts.__getitem__, default="")
    if counts.get(across, 0) < 2:
        return []
    found: dict[str, list[Place]] = {}
    for a in answers:
        other = ", ".join(f"{n} {value(a['values'][n]):,.6g}" for n in names if n != across)
        if a["speedup"].is_given:
            known = ends(a["speedup_ci95"]) or UNKNOWN
            found.setdefault(other or "speedup", []).append((value(a["values"][across]), value(a["speedup"]), *known))
    return plots(found, across) if found else []


def plots(points: Mapping[str, Sequence[Place]], across: str, more: str = "") -> list[Plot]:
    """Return a picture of speedups; of many lines the first ones and the last. more: of its caption."""
    names = list(points)
    shown = names if len(names) <= MOST_LINES else [*names[: MOST_LINES - 1], names[-1]]
    drawn = [Line(name, *map(list, zip(*sorted(points[name]), strict=True))) for name in shown]
    xs = sorted({x for line in drawn for x in line.xs})
    log = len(xs) > 2 and xs[0] > 0 and xs[-1] / xs[0] > WIDE
    at = xs if len(xs) <= MOST_LINES + 1 else [2.0**i for i in range(21) if xs[0] <= 2**i <= xs[-1]] if log else ()
    left = f"; {len(shown)} of {len(names)} combinations are drawn" if len(shown) < len(names) else ""
    caption = f"Speedup of the best draft length by {across}{more}{left}"
    said = "; ".join(
        f"{line.name}: {gain(line.ys[0])} at {line.xs[0]:,.6g}, {gain(line.ys[-1])} at {line.xs[-1]:,.6g}"
        for line in drawn
    )
    return [
        Plot(caption, f"Lines. {said}", drawn, Axis(across, log=log, at=at), Axis("times as fast", unit="x"), level=1.0)
    ]


def schedule_parts(found: Field) -> list[Part]:
    """Return what engines take, of sweeps with ranges, a part for each combination of the other values."""
    parts = []
    for one in found.elements() if found.is_given else ():
        plain = {n: v.value for n, v in one.items() if isinstance(v.value, int | float) and n != OFF}
        where = ", ".join(f"{name} {told:,.6g}" for name, told in plain.items())
        off = f"above batch {one[OFF].whole():,}" if one[OFF].is_given else "nowhere"
        known = [(engine, one[engine]) for engine in ENGINES if one[engine].is_given]
        notes = [note for engine, _ in known for note in lines(one["notes"][engine])] if one["notes"].is_given else []
        codes = [Code([told_to(settings)], engine.replace("_", ".")) for engine, settings in known]
        parts.append(
            Part(f"As engines take it{where and f', at {where}'}", [f"Off: {off}.", *dict.fromkeys(notes)], codes)
        )
    return parts


def told_to(settings: Field) -> str:
    """Write an engine's settings in a line."""
    import json

    flags = settings.object().get("flags")
    return flags if isinstance(flags, str) else json.dumps(settings.value)


def plain_told(document: Field) -> Told:
    """Read a sweep of loads without drafts."""
    answers = document["answers"].elements()
    names = list(answers[0].object())
    rows = [[cell(answer[name]) for name in names] for answer in answers]
    rate = max(
        (value(a["output_tokens_per_s"]) for a in answers if "output_tokens_per_s" in a.object()), default=math.nan
    )
    best = "" if math.isnan(rate) else f": {number(rate, ',.0f')} tokens a second at most"
    table = Table("Loads", [name.replace("_", " ") for name in names], rows)
    return Told(
        answer=headline(document, f"Plain decoding at {document['points'].whole():,} loads{best}."),
        parts=[Part("Loads", [], [table])],
    )


def cell(field: Field) -> str:
    """Write whatever stands in a cell."""
    if isinstance(field.value, int | float) and not isinstance(field.value, bool):
        return f"{field.value:,.5g}"
    return "" if field.value is None else str(field.value)


def sweep_rows_told(rows: Rows) -> Told:
    """Read a table of `sweep --out`."""
    names = [name for name in AXES if len(set(rows.texts.get(name, ()))) > 1]
    gains = rows.numbers(GAIN)
    known = [i for i, g in enumerate(gains) if not math.isnan(g)]
    best = max(known, key=gains.__getitem__, default=None)
    above = sum(gains[i] > 1 for i in known)
    told = f"{len(gains):,} points over {', '.join(names) or 'one point'}; above 1x at {above:,} of them"
    if best is None:
        return Told(answer="Does not fit into memory, at any of these points.", mark=BAD, verdict="does not fit")
    at = ", ".join(f"{name} {rows.numbers(name)[best]:,.6g}" for name in names)
    figures = [
        Figure("At the best point", f"{gain(gains[best])} as fast", at),
        Figure("Points", f"{len(gains):,}", f"above 1x at {above:,}"),
    ]
    table = rows.table("Points", MOST_ROWS)
    said = [f"{told}. No interval: the table has the closed form, and simulation noise."]
    return Told(
        answer=f"At most {gain(gains[best])} as fast, at {at}." if at else f"{gain(gains[best])} as fast.",
        mark=OPEN,
        verdict="of the closed form",
        figures=figures,
        parts=[Part("Speedup", said, by_best(rows, names, gains)), Part("Points", [], [table])],
    )


def by_best(rows: Rows, names: Sequence[str], gains: Sequence[float]) -> list[Plot]:
    """Return the speedup of the best draft length over the first axis behind it, a line for each of the others."""
    others = [name for name in names if name != K] or list(names)
    if not others:
        return []
    across = max(others, key=lambda name: len(set(rows.texts[name])))
    best: dict[str, dict[float, float]] = {}
    columns = {name: rows.numbers(name) for name in others}
    for i, value_at in enumerate(gains):
        x = columns[across][i]
        if math.isnan(value_at) or math.isnan(x):
            continue
        key = ", ".join(f"{name} {columns[name][i]:,.6g}" for name in others if name != across) or "speedup"
        of = best.setdefault(key, {})
        of[x] = max(of.get(x, 0.0), value_at)
    return plots({key: [(x, y, *UNKNOWN) for x, y in of.items()] for key, of in best.items()}, across)
