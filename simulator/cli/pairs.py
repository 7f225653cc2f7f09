"""The command `pairs`: what published drafts accept, and who says so."""

from typing import TYPE_CHECKING, Any

import click

from simulator.ground.artefacts import to_json
from simulator.ground.command import OneLineErrorsGroup, command, say, table, wrapped

if TYPE_CHECKING:
    from simulator.rounds.pairs import Curve

# Draft lengths of which a table has tokens a round.
SHOWN = (1, 2, 3, 4, 5, 6, 7, 8)


@command("pairs", cls=OneLineErrorsGroup, no_args_is_help=False)
def pairs() -> None:
    """Pairs: what published drafts accept, for --acceptance PAIR[:TASK]."""


@command("list")
@click.option("--method", help="Only pairs that draft so, as `drafters list` shows.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
def list_pairs(method: str | None, as_json: bool) -> None:
    """List the pairs, with their tasks and the longest draft that was measured."""
    from simulator.costs.drafters.methods import method_named
    from simulator.rounds.pairs import curves

    name = None if method is None else method_named(method).name
    chosen = [c for c in curves() if name in (None, c.method)]
    if as_json:
        click.echo(to_json({"curves": [as_payload(curve) for curve in chosen]}), nl=False)
        return
    by_pair: dict[str, list[Curve]] = {}
    for curve in chosen:
        by_pair.setdefault(curve.pair, []).append(curve)
    say(f"{len(chosen)} curves of {len(by_pair)} pairs, for --acceptance PAIR[:TASK] or METHOD[:TASK].\n")
    rows = [("pair", "method", "K to", "tokens/round", "tasks", "source")]
    for pair, of in by_pair.items():
        taus = [f"{c.tokens_at(c.longest):.2f}" for c in sorted(of, key=lambda c: c.tokens_at(c.longest))]
        span = taus[0] if len(taus) == 1 else f"{taus[0]}..{taus[-1]}"
        tasks = of[0].task if len(of) == 1 else f"{len(of)}"
        rows.append((pair, of[0].method, str(max(c.longest for c in of)), span, tasks, of[0].source.partition(",")[0]))
    click.echo(table(rows, left=(0, 1, 4, 5)))


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
    rows: list[tuple[str, ...]] = [("task", "temperature", "rounds", *(f"K = {k}" for k in SHOWN))]
    for curve in chosen:
        known = {k: f"{curve.tokens_at(k):.2f}" for k in SHOWN if k in curve.known}
        warmth = "not stated" if curve.temperature is None else f"{curve.temperature:g}"
        rounds = "" if curve.rounds is None else f"{curve.rounds:,.0f}"
        rows.append((curve.task, warmth, rounds, *(known.get(k, "") for k in SHOWN)))
    return f"{wrapped(lines)}\n\ntokens a round\n{table(rows, left=(0, 1))}"


def as_payload(curve: "Curve") -> dict[str, Any]:
    """Return a curve under plain keys."""
    return {**curve._asdict(), "label": curve.label}


for inner in (list_pairs, show_pair):
    pairs.add_command(inner)


if __name__ == "__main__":
    pairs(prog_name="pairs")
