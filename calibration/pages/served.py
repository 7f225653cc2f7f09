"""Checks of simulated loads against servers as a page: errors by figure, and each arm at each load."""

import math
from collections.abc import Sequence

from calibration.validate.served.rows import FIGURES, GAIN
from simulator.answers.scene import UNITS, in_full, loaded
from simulator.ground.fields import Field

from .page import BAD, GOOD, Figure, Part, Plot, Row, Table
from .told import Told, ends, headline, lines, number, percent, span, value, words
from .validation import Points, diagonal

# What is drawn: of figures in seconds in ms.
DRAWN = {"tpot_p50": ("ms a token, p50", 1e3), "ttft_p50": ("ms to the first token, p50", 1e3), GAIN: ("gain", 1.0)}
MEANING = "Noise alone: by how much two measurements of one server differ, medians, where it was loaded twice."


def served_told(document: Field) -> Told:
    """Read what `validate --serving-log` or `--server` wrote."""
    rows, errors = document["rows"].elements(), document["errors"]
    holds = document["holds"].flag()
    known = [(name, errors[name]) for name in FIGURES if errors[name].is_given and errors[name]["median"].is_given]
    figures = [
        Figure(f"{FIGURES[name].title}, median error", percent(value(of["median"])), bound_in_words(of))
        for name, of in known
        if of["bound"].is_given
    ]
    cells = [error_row(FIGURES[name].title, of) for name, of in known]
    heads = ("error of", "rows", "median", "bound", "p90", "signed median", "noise alone", "")
    marks = [BAD if row[-1] == "broken" else "" for row in cells]
    table = Table("Errors by figure", heads, cells, marks=marks)
    parts = [
        Part("Errors", [*signs_in_words(document["signs"]), MEANING], [*plots(rows), table]),
        Part("Each arm at each load", [], [arm_table(name, rows) for name, _ in known]),
        Part("What is assumed", [*lines(document["notes"]), words(document["intervals"])]),
    ]
    answer = headline(document, f"The forecasts {'hold' if holds else 'do not hold'}.")
    return Told(answer, GOOD if holds else BAD, "holds" if holds else "does not hold", figures, parts)


def bound_in_words(errors: Field) -> str:
    """Say what an error may be, and what noise alone is."""
    noise = f", noise alone {percent(value(errors['noise']))}" if errors["noise"].is_given else ""
    return f"bound {value(errors['bound']):.0%}{noise}"


def error_row(title: str, errors: Field) -> Row:
    """Return the errors of a figure as a row."""
    median, bound = value(errors["median"]), value(errors["bound"])
    far = [percent(value(errors["p90"])), f"{value(errors['signed_median']):+.1%}", percent(value(errors["noise"]))]
    verdict = "" if math.isnan(bound) else "broken" if median > bound else "held"
    return [title, f"{errors['rows'].whole():,}", percent(median), percent(bound, 0), *far, verdict]


def signs_in_words(signs: Field) -> list[str]:
    """Say of how many rows the sign of the gain is right."""
    if not signs.is_given or not signs["rows"].whole():
        return []
    count, wrong = signs["rows"].whole(), signs["wrong"].elements()
    which = ", ".join(f"{words(one['arm'])} at {in_full(value(one['load']), 6)}" for one in wrong)
    least = percent(value(signs["least_gain"]), 0)
    said = f"The sign of the gain is right in {count - len(wrong)} of {count} rows beyond {least}"
    return [f"{said}; not of {which}." if which else f"{said}."]


def plots(rows: Sequence[Field]) -> list[Plot]:
    """Return forecasts against measurements, by arm."""
    found = []
    for name, (what, scale) in DRAWN.items():
        # An arm looks alike in all pictures, and so has its place in those that it is not in.
        points: dict[str, list[tuple[float, float, tuple[float, float] | None]]]
        points = {words(row["arm"]): [] for row in rows}
        for row in rows:
            if row[name].is_given:
                both = ends(row[name]["forecast_ci95"])
                known = both and (scale * both[0], scale * both[1])
                pair = scale * value(row[name]["measured"]), scale * value(row[name]["forecast"])
                points[words(row["arm"])].append((*pair, known))
        if any(points.values()):
            found.append(diagonal(f"Forecast against measured, {what}", as_points(points), what, log=name != GAIN))
    return found


def as_points(points: Points) -> Points:
    """Return points of which both are known, and above 0."""
    return {arm: [p for p in of if p[0] > 0 and p[1] > 0] for arm, of in points.items()}


def arm_table(name: str, rows: Sequence[Field]) -> Table:
    """Return a figure of each arm at each load."""
    scale = 1e3 if name.partition("_")[0] in ("ttft", "tpot", "e2e") else 1.0
    cells = []
    for row in rows:
        of = row[name]
        if not of.is_given:
            continue
        both = ends(of["measured_ci95"])
        known = "" if both is None else span((scale * both[0], scale * both[1]), ".4g", "")
        told = [number(scale * value(of["measured"]), ",.4g"), known, number(scale * value(of["forecast"]), ",.4g")]
        error = value(of["error"])
        load = loaded(value(row["load"]), UNITS.get(kind := words(row["load_kind"]), kind), 6)
        cells.append([load, words(row["arm"]), *told, "" if math.isnan(error) else f"{error:+.1%}"])
    unit = ", ms" if scale > 1 else ""
    heads = ("load", "arm", "measured", "95 %", "forecast", "error")
    return Table(f"{FIGURES[name].title}{unit}", heads, cells, keys=2, left=(0, 1))
