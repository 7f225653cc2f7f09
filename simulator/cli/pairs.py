"""The command `pairs`: what published drafts accept, and who says so."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from simulator.ground.artefacts import to_json
from simulator.ground.command import OneLineErrorsGroup, command, say, table, wrapped

if TYPE_CHECKING:
    from simulator.rounds.pairs import Curve

# Draft lengths of which a table has tokens a round: of more there is another below it.
MOST_SHOWN = 8


@command("pairs", cls=OneLineErrorsGroup, no_args_is_help=False)
def pairs() -> None:
    """Pairs: what published drafts accept, for --acceptance PAIR[:TASK]."""


@command("list")
@click.option("--method", help="Only pairs that draft so, as `drafters list` shows.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
def list_pairs(method: str | None, as_json: bool) -> None:
    """List the pairs, with their tasks and the longest draft that was measured."""
    from simulator.costs.drafters.methods import method_named
    from simulator.rounds.pairs import UNSTATED, curves, temperatures

    name = None if method is None else method_named(method).name
    chosen = [c for c in curves() if name in (None, c.method)]
    if as_json:
        click.echo(to_json({"curves": [as_payload(curve) for curve in chosen]}), nl=False)
        return
    by_pair: dict[str, list[Curve]] = {}
    for curve in chosen:
        by_pair.setdefault(curve.pair, []).append(curve)
    say(f"{len(chosen)} curves of {len(by_pair)} pairs, for --acceptance PAIR[:TASK] or METHOD[:TASK].")
    say("T: temperature, - where nobody states it.\n")
    rows = [("pair", "method", "K to", "tokens/round", "T", "tasks", "source")]
    for pair, of in by_pair.items():
        taus = [f"{c.tokens_at(c.longest):.2f}" for c in sorted(of, key=lambda c: c.tokens_at(c.longest))]
        span = taus[0] if len(taus) == 1 else f"{taus[0]}..{taus[-1]}"
        longest, warmth = str(max(c.longest for c in of)), temperatures(of).replace(UNSTATED, "-")
        rows.append((pair, of[0].method, longest, span, warmth, f"{len(of)}", of[0].source.partition(",")[0]))
    click.echo(table(rows, left=(0, 1, 6)))


@command("show")
@click.argument("pair", metavar="PAIR[:TASK]")
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
def show_pair(pair: str, as_json: bool) -> None:
    """Show tokens a round by draft length, and whose figures they are; PAIR may be a method."""
    from simulator.rounds.pairs import found

    chosen = found(pair, "PAIR")
    if as_json:
        click.echo(to_json({"curves": [as_payload(curve) for curve in chosen]}), nl=False)
        return
    for number, name in enumerate(dict.fromkeys(c.pair for c in chosen)):
        say(("\n" if number else "") + text_of([c for c in chosen if c.pair == name]))


def text_of(chosen: "list[Curve]") -> str:
    """Return what is known of one pair, a row for each task."""
    one = chosen[0]
    lines = [f"{one.pair}: {one.method}, {one.draft} drafting for {one.target}"]
    lines += [f"{one.source}; {one.at}; licence: {one.licence}"] + ([one.note] if one.note else [])
    lengths = sorted({k for curve in chosen for k in curve.known})
    parts = [lengths[at : at + MOST_SHOWN] for at in range(0, len(lengths), MOST_SHOWN)]
    tables = [lengths_table(chosen, part, first=part is parts[0]) for part in parts]
    return "\n\n".join([wrapped(lines), "tokens a round\n" + tables[0], *tables[1:]])


def lengths_table(chosen: "list[Curve]", lengths: "Sequence[int]", *, first: bool) -> str:
    """Return tokens a round at some draft lengths; the first says temperature and rounds too."""
    rows = [("task", *(("temperature", "rounds") if first else ()), *(f"K = {k}" for k in lengths))]
    for curve in chosen:
        known = set(curve.known)
        rounds = "" if curve.rounds is None else f"{curve.rounds:,.0f}"
        told = (curve.warmth, rounds) if first else ()
        rows.append((curve.task, *told, *(f"{curve.tokens_at(k):.2f}" if k in known else "" for k in lengths)))
    return table(rows, left=(0, 1) if first else (0,))


def as_payload(curve: "Curve") -> dict[str, Any]:
    """Return a curve under plain keys."""
    return {**curve._asdict(), "label": curve.label}


for inner in (list_pairs, show_pair):
    pairs.add_command(inner)


if __name__ == "__main__":
    pairs(prog_name="pairs")
