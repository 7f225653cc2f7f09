"""Which result a file is, by what it says of itself, and the page of it."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field, Malformed, parse_json
from simulator.ground.plain_text import as_text, read_unpacked

from . import advice, loads, served, sweep, validation
from .page import Page, Part, Table
from .rows import Rows, rows_in
from .told import Told, as_words, asked_of, lines, words

Reader = Callable[[Field], Told]


class Kind(NamedTuple):
    """A kind of result: in words, which command writes it, and what reads it."""

    words: str
    command: str
    read: Reader


def decode_told(document: Field) -> Told:
    """Read real decoding; what reads that is imported for it alone."""
    from .decode import decode_told as read

    return read(document)


def plain_told(document: Field) -> Told:
    """Read any other result that says its answer: that, and its figures by name."""
    figures = [
        (f"{name}, {inner}".replace("_", " ").removeprefix("verdict, "), as_words(told))
        for name, found in document.items()
        if name not in ENVELOPE
        for inner, told in (found.value.items() if isinstance(found.value, dict) else [("", found.value)])
        if isinstance(told, int | float | str) and told != ""
    ]
    rows = [[name.removesuffix(", "), told] for name, told in figures]
    parts = [Part("Figures", [], [Table("By name", ("figure", "value"), rows, left=(0, 1))])] if rows else []
    return Told(answer=document["headline"].text(), parts=parts)


KINDS: Mapping[str, Kind] = {
    "advice": Kind("Advice", "advise", advice.advice_told),
    "sweep": Kind("Sweep", "sweep", sweep.sweep_told),
    "server_load_result": Kind("Load on a server", "bench-server", loads.server_told),
    "load_curve": Kind("Simulated load", "simulate-serving", loads.curve_told),
    "decode_benchmark": Kind("Real decoding", "bench-decode", decode_told),
    "decode_validation": Kind("Forecasts checked by decoding", "validate", validation.rows_told),
    "pass_validation": Kind("Forecasts checked by timed passes", "validate", validation.rows_told),
    "method_validation": Kind("Forecasts of methods checked", "validate", validation.rows_told),
    "decode_measured": Kind("Decoding without forecasts", "validate", validation.measured_told),
    "serving_validation": Kind("Forecasts checked by load tests", "validate", validation.serving_told),
    "served_validation": Kind("Simulated loads checked by servers", "validate", served.served_told),
    "published_validation": Kind("Forecasts checked by published results", "validate", validation.published_told),
    "simulation": Kind("Forecast", "simulate", plain_told),
    "load": Kind("Forecast of a load", "simulate", plain_told),
}
# Of a result, what is told elsewhere on its page.
ENVELOPE = (
    "kind",
    "schema_version",
    "tool",
    "tool_version",
    "created_utc",
    "environment",
    "parameters",
    "basis",
    "headline",
)
JOURNALS = {"decode_run": "decode_benchmark", "server_load": "server_load_result"}
WHAT = "expected a result of advise, sweep, simulate, simulate-serving, bench-server, bench-decode or validate"


def page_of(path: Path) -> Page:
    """Return the page of a file.

    Raises:
        UserError: It is no result that has one, or not as we write it.
    """
    content = read_unpacked(path)
    text = as_text(path, content).data.decode("utf-8", "surrogateescape")
    source = [
        ("file", path.name),
        ("SHA-256", hashlib.sha256(content.data).hexdigest()),
        ("bytes", f"{len(content.data):,}"),
    ]
    if not text.lstrip().startswith(("{", "[")):
        return table_page(rows_in(path, text), source)
    return record_page(path, document_in(path, text), source)


def document_in(path: Path, text: str) -> Field:
    """Return what a file of JSON, or of records a line each, holds as one document.

    Raises:
        UserError: It is neither.
    """
    first, _, _ = text.partition("\n")
    try:
        header = parse_json(first)
        journal = JOURNALS.get(str(header.get("kind"))) if isinstance(header, dict) else None
    except Malformed:
        journal = None
    if journal is not None:
        return Field(of_journal(path, journal), path)
    try:
        return Field(parse_json(text), path)
    except Malformed as error:
        raise UserError(f"{path}: {error}") from None


def of_journal(path: Path, kind: str) -> dict[str, Any]:
    """Return the records of a run as the JSON that its command prints of them."""
    if kind == "decode_benchmark":
        from .decode import records_as_json

        return records_as_json(path) | {"kind": kind}
    from .server_records import load_as_json

    return load_as_json(path) | {"kind": kind}


def record_page(path: Path, document: Field, source: list[tuple[str, str]]) -> Page:
    """Return the page of a result."""
    if not isinstance(document.value, dict) or document.value.get("tool") != "specsim":
        raise UserError(f"{path}: no result of specsim, {WHAT}")
    name = document["kind"].text()
    known = KINDS.get(name)
    if known is None and not document["headline"].is_given:
        raise UserError(f"{path}: kind is {name[:60]!r}, {WHAT}")
    kind = known or Kind(name.replace("_", " "), "specsim", plain_told)
    told, basis = kind.read(document), document["basis"]
    rests = [(what, words(basis[f"{what}_text"])) for what in ("acceptance", "costs")] if basis.is_given else []
    rests += [("caveat", words(basis["caveat"])), ("condition", words(basis["condition"]))] if basis.is_given else []
    warned = lines(document["warnings"])
    noted = lines(document["notes"]) if name in ("sweep", "simulation", "load") else []
    return of_told(
        path,
        kind,
        told._replace(warnings=[*warned, *told.warnings]),
        rests=[*((what, said) for what, said in rests if said), *(("note", note) for note in noted)],
        asked=asked_of(document["parameters"]),
        made=[*made_of(document, kind), *source],
        record=document.value,
    )


def of_told(path: Path, kind: Kind, told: Told, **more: Any) -> Page:
    """Return the page of what was read of a file."""
    return Page(name=path.name, kind=kind.words, **told._asdict(), **more)


def made_of(document: Field, kind: Kind) -> list[tuple[str, str]]:
    """Return when, by what and where a result was made."""
    version = words(document["tool_version"])
    found = [("command", kind.command), ("specsim", version), ("made", words(document["created_utc"]))]
    seed = document["parameters"].object().get("seed") if document["parameters"].is_given else None
    found += [("seed", as_words(seed))] if seed is not None else []
    there = document["environment"]
    if there.is_given:
        found += [
            (name.replace("_", " "), as_words(told)) for name, told in there.object().items() if name != "specsim"
        ]
    found.append(("file's version", as_words(document["schema_version"].value)))
    return [(name, told) for name, told in found if told]


def table_page(rows: Rows, source: list[tuple[str, str]]) -> Page:
    """Return the page of a table."""
    heads = set(rows.heads)
    if sweep.GAIN in heads:
        kind, told = Kind("Sweep, its table", "sweep", plain_told), sweep.sweep_rows_told(rows)
    elif {"load", "arm"} <= heads:
        kind, told = Kind("Load on a server, its table", "bench-server", plain_told), loads.rows_told(rows, "arm")
    elif {"load", "serving"} <= heads:
        kind, told = Kind("Simulated load, its table", "simulate-serving", plain_told), loads.rows_told(rows, "serving")
    else:
        raise UserError(f"{rows.path}: no table of ours, {WHAT}")
    return of_told(
        rows.path,
        kind,
        told,
        rests=(),
        asked=rows.constants(),
        made=[("command", kind.command), ("rows", f"{len(rows.rows):,}"), *source],
        record="\n".join(map(",".join, [rows.heads, *rows.rows])),
    )
