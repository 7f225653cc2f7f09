"""Checks of forecasts as pages: whether they hold, forecast against measurement, and the error of every row."""

import math
from collections.abc import Callable, Mapping, Sequence

from simulator.ground.fields import Field

from .page import BAD, GOOD, Axis, Figure, Line, Part, Plot, Row, Table
from .told import MOST_ROWS, Told, ends, gain, headline, lines, number, percent, span, value, words

Points = Mapping[str, Sequence[tuple[float, float, tuple[float, float] | None]]]
BOUNDS = (
    ("median", "Median error"),
    ("p90", "90th percentile"),
    ("largest", "Largest error"),
    ("best_k_loss", "Loss of the best"),
)
# Of a row of a load test: where it stands.
WHERE = ("path", "line")


def rows_told(document: Field) -> Told:
    """Read forecasts of real decoding or of timed passes, a row for each draft length."""
    rows = document["rows"].elements()
    keys = ("target", "method") if rows and "method" in rows[0].object() else ("target",)
    table = [
        [
            *(words(r[name]) for name in keys),
            drafts(r),
            "fit" if r["fitted"].flag(default=False) else "forecast",
            *gains(r),
        ]
        for r in rows
    ]
    points: dict[str, list[tuple[float, float, tuple[float, float] | None]]] = {}
    for r in rows:
        name = "fitted" if r["fitted"].flag(default=False) else "forecast"
        points.setdefault(name, []).append((value(r["measured"]), value(r["forecast"]), ends(r["forecast_ci95"])))
    heads = (*keys, "K", "use", "tokens a round", "measured", "95 %", "forecast", "95 %", "error")
    caption = "Speedup of every row"
    shown: list[Plot | Table] = [
        diagonal("Speedup, forecast against measured", points, "times as fast", unit="x"),
        Table(caption, heads, table, keys=len(keys) + 1, left=range(len(keys))),
    ]
    parts = [Part("Forecast against measurement", [], shown), *round_parts(rows), *ablation_parts(document["ablation"])]
    said = lines(document["remarks"])
    return checked(document, [*parts, *([Part("Remarks", said)] if said else [])], len(rows))


def drafts(row: Field) -> str:
    """Return the draft length of a row."""
    return words(row["drafts"]) if row["drafts"].is_given else f"{row['draft_length'].whole()}"


def gains(row: Field) -> Row:
    """Return what a row measured, what was forecast, and the error."""
    told = [
        number(value(row["tokens_per_round"]), ".3f"),
        f"{value(row['measured']):.3f}x",
        span(ends(row["measured_ci95"]), ".3f"),
    ]
    return [
        *told,
        f"{value(row['forecast']):.3f}x",
        span(ends(row["forecast_ci95"]), ".3f"),
        f"{value(row['error']):+.1%}",
    ]


def checked(document: Field, parts: Sequence[Part], rows: int) -> Told:
    """Return whether forecasts hold, by the bounds of the file."""
    verdict, bounds = document["verdict"], document["bounds"]
    asked = document["parameters"]["max_error"]
    most = {"largest": asked.number()} if asked.is_given else {n: b.number() for n, b in bounds.items() if b.is_given}
    known = {name: value(verdict[name]) for name, _ in BOUNDS}
    holds = not math.isnan(known["median"]) and all(known[n] <= b for n, b in most.items() if n in known)
    figures = [
        Figure(name, percent(known[key], 2), f"bound {most[key]:.0%}" if key in most else "")
        for key, name in BOUNDS
        if not math.isnan(known[key])
    ]
    fresh = verdict["rows"].whole()
    off = f"median error {percent(known['median'], 2)} of {fresh:,} of {rows:,} rows that were not fitted"
    otherwise = f"The forecasts {'hold' if holds else 'do not hold'}: {off}."
    return Told(
        answer=headline(document, otherwise if fresh else "Nothing was forecast: every row was fitted."),
        mark=GOOD if holds else BAD,
        verdict="holds" if holds else "does not hold",
        figures=figures,
        parts=parts,
    )


def diagonal(caption: str, points: Points, what: str, *, unit: str = "", log: bool = False) -> Plot:
    """Return forecast against measurement, beside the line on which both are the same."""
    found = []
    for name, of in points.items():
        known = [p for p in of if math.isfinite(p[0]) and math.isfinite(p[1])]
        both = [p[2] or (math.nan, math.nan) for p in known]
        found.append(
            Line(name, [p[0] for p in known], [p[1] for p in known], [b[0] for b in both], [b[1] for b in both])
        )
    count = sum(len(line.xs) for line in found)
    says = (
        f"{count} points, forecast over measured; on the dotted diagonal both are the same. The table below has each."
    )
    x, y = (Axis(f"{at}, {what}" if what else at, log=log, unit=unit) for at in ("measured", "forecast"))
    return Plot(caption, says, found, x, y, diagonal=True, joined=False)


def round_parts(rows: Sequence[Field]) -> list[Part]:
    """Return what rounds are made of, of checks of methods."""
    names = ("draft", "verify", "rest")
    known = [r for r in rows if r["parts_s"].is_given]
    cells = [
        [
            words(r["target"]),
            words(r["name"]),
            *(f"{1e3 * value(r[of][n]):.2f}" for n in names for of in ("round_s", "parts_s")),
        ]
        for r in known
    ]
    heads = ("target", "arm", *(head for n in names for head in (n, "of parts")))
    said = ["As it was decoded, and as its parts take that were timed apart."]
    return (
        [Part("What a round is made of", said, [Table("ms a round", heads, cells, keys=2, left=(0, 1))])]
        if cells
        else []
    )


def ablation_parts(found: Field) -> list[Part]:
    """Return how far forecasts are off that use less of a trace."""
    runs = found.elements() if found.is_given else []
    errors: dict[str, list[float]] = {}
    for run in runs:
        for name, of in run.items():
            errors.setdefault(name, []).extend(abs(value(e)) for _, e in of.items())
    rows = [[name, percent(median(of), 2), percent(max(of), 2)] for name, of in errors.items() if of]
    heads = ("acceptance as", "median error", "largest")
    said = ["The same costs, with less of what was measured of acceptance."]
    return [Part("With less of the trace", said, [Table("Errors", heads, rows)])] if rows else []


def median(values: Sequence[float]) -> float:
    """Return the middle of some numbers."""
    from statistics import median as middle

    return middle(values)


def measured_told(document: Field) -> Told:
    """Read what was measured where fits failed, and nothing was forecast."""
    rows = [
        [
            words(r["target"]),
            f"{r['draft_length'].whole()}",
            number(value(r["measured_tokens_per_round"])),
            gain(value(r["measured"])),
            span(ends(r["measured_ci95"])),
        ]
        for r in document["rows"].elements()
    ]
    table = Table("What was measured", ("target", "K", "tokens a round", "as fast", "95 %"), rows, keys=2)
    answer = headline(document, "Nothing is forecast: fits do not pass their checks.")
    return Told(answer, BAD, "no forecast", parts=[Part("What was measured", lines(document["reasons"]), [table])])


def serving_told(document: Field) -> Told:
    """Read forecasts of rows of load tests."""
    rows, tpot, ttft = document["rows"].elements(), document["tpot"], document["ttft"]
    figures = [
        Figure(name, percent(value(of["median_error"])), f"{of['rows'].whole():,} rows")
        for name, of in (("Time a token, median error", tpot), ("First token, median error", ttft))
        if of["median_error"].is_given
    ]
    shown = []
    for key, name in (("tpot", "ms a token"), ("ttft", "ms to the first token")):
        pairs = [(value(r[f"{key}_ms"]), value(r[f"{key}_forecast_ms"]), None) for r in rows]
        if any(math.isfinite(a) and math.isfinite(b) for a, b, _ in pairs):
            shown.append(diagonal(f"Forecast against measured, {name}", {name: pairs}, name, log=True))
    holds = document["holds"].flag(default=True)
    asked = document["parameters"]["max_error"].is_given
    mark, verdict = ((GOOD, "holds") if holds else (BAD, "does not hold")) if asked else ("", "")
    groups = [
        [
            words(g["by"]),
            words(g["range"]),
            *(percent(value(g[k][m])) for k in ("tpot", "ttft") for m in ("median_error", "mean_error")),
        ]
        for g in document["groups"].elements()
    ]
    heads = ("by", "range", "time a token, median", "mean", "first token, median", "mean")
    tables = [Table("Errors by groups of rows", heads, groups, keys=2, left=(0, 1))] if groups else []
    parts = [
        Part("Forecast against measurement", [], [*shown, *tables]),
        Part("Rows", lines(document["assumed"]), [row_table(rows)]),
    ]
    return Told(headline(document, "Forecasts of rows of a load test."), mark, verdict, figures, parts)


def row_table(rows: Sequence[Field]) -> Table:
    """Return rows of a load test, the first where there are many: what was asked, then times and their errors."""
    names = [n for n in (rows[0].object() if rows else ()) if n not in WHERE and any(is_told(r[n]) for r in rows)]
    names.sort(key=lambda name: name.startswith(("tpot", "ttft")))
    heads = [name.replace("_", " ") for name in names]
    cells = [[percent(value(r[n])) if n.endswith("_error") else told(r[n]) for n in names] for r in rows[:MOST_ROWS]]
    return Table(f"{len(cells):,} of {len(rows):,} rows", heads, cells)


def is_told(field: Field) -> bool:
    """Whether a cell says something."""
    return isinstance(field.value, int | float | str) and field.value != ""


def told(field: Field) -> str:
    """Write a cell."""
    if isinstance(field.value, bool | str):
        return str(field.value)
    return f"{field.value:,.5g}" if isinstance(field.value, int | float) else ""


def published_told(document: Field) -> Told:
    """Read checks of published results."""
    cases = document["cases"].elements()
    right = [c for c in cases if c["holds"].flag()]
    rows = [case_row(c) for c in cases]
    heads = ("case", "rows", "median error", "90th percentile", "largest", "bound", "")
    marks = [BAD if not c["holds"].flag() else "" for c in cases]
    points: dict[str, list[tuple[float, float, None]]] = {}
    for c in cases:
        for r in c["rows"].elements():
            unit, measured = measured_of(r)
            if words(r["use"]) == "forecast" and measured > 0 and value(r["forecast"]) > 0:
                points.setdefault(unit.replace("_", " "), []).append((measured, value(r["forecast"]), None))
    fresh = sum(map(len, points.values()))
    picture = diagonal("Every row that was not fitted, in its own unit", points, "", log=True)
    holds = len(right) == len(cases)
    otherwise = f"{len(right):,} of {len(cases):,} cases are within their bounds."
    figures = [
        Figure("Cases within their bounds", f"{len(right):,} of {len(cases):,}"),
        Figure("Rows not fitted", f"{fresh:,}"),
    ]
    summary = Table("Cases", heads, rows, marks=marks)
    parts = [Part("Cases", [], [picture, summary]), *each(cases, case_part)]
    return Told(
        headline(document, otherwise), GOOD if holds else BAD, "holds" if holds else "does not hold", figures, parts
    )


def measured_of(row: Field) -> tuple[str, float]:
    """Return in which unit a row of a published table is measured, and how much."""
    found = row["measured"].items()
    if len(found) != 1:
        row["measured"].refuse("an object of one number")
    return found[0][0], value(found[0][1])


def each(cases: Sequence[Field], make: Callable[[Field], Part]) -> list[Part]:
    """Return a part for each case, of few."""
    return [make(case) for case in cases] if len(cases) <= 6 else []


def case_row(case: Field) -> Row:
    """Return the errors of a case."""
    fresh = sum(words(r["use"]) == "forecast" for r in case["rows"].elements())
    far = [percent(value(case[name]), 2) for name in ("median_error", "p90_error", "largest_error")]
    bound = percent(value(case["max_error"]), 0) if case["max_error"].is_given else ""
    return [words(case["name"]), f"{fresh}", *far, bound, "holds" if case["holds"].flag() else "BROKEN"]


def case_part(case: Field) -> Part:
    """Return the rows of a case."""
    rows = [
        [
            words(r["name"]),
            words(r["use"]),
            number(value(r["tau"])),
            number(measured_of(r)[1], ".4g"),
            number(value(r["forecast"]), ".4g"),
            f"{value(r['error']):+.2%}",
        ]
        for r in case["rows"].elements()
    ]
    heads = ("row", "use", "tokens a round", "measured", "forecast", "error")
    said = [
        f"{words(case['models'])}; {words(case['hardware'])}. From {words(case['citation'])}.",
        words(case["notes"]),
    ]
    return Part(words(case["name"]), [s for s in said if s], [Table("Rows", heads, rows[:MOST_ROWS], left=(0, 1))])
