"""The command `drafters`: what drafts, by how its file is told."""

import click

from simulator.ground.artefacts import to_json
from simulator.ground.command import OneLineErrorsGroup, command, say, table


@command("drafters", cls=OneLineErrorsGroup, no_args_is_help=False)
def drafters() -> None:
    """Drafters: what --draft-model takes besides language models of their own."""


@command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def list_drafters(as_json: bool) -> None:
    """List the drafters that are priced: what their config.json names, how they draft, what they read."""
    from simulator.costs.drafters.methods import OTHERS, VARIANTS, methods

    keys = ("name", "title", "example", "rounds", "reads", "branches")
    rows = [{key: getattr(method, key) for key in keys} for method in methods().values()]
    unpriced = [part for part in (*VARIANTS, *OTHERS) if part != "draft"]
    if as_json:
        for row, method in zip(rows, methods().values(), strict=True):
            row["engines"] = {name: called or None for name, called in method.engines._asdict().items()}
            del row["engines"]["needs_model"]
        click.echo(to_json({"drafters": rows, "not_priced": unpriced}), nl=False)
        return
    say(f"{len(rows)} methods are priced, by --method or by what a file names; not {', '.join(unpriced)}.\n")
    head = ("--method", "its file names", "a round", "reads")
    shown = [tuple(row[key] for key in ("name", "example", "rounds", "reads")) for row in rows]
    click.echo(table([head, *shown], left=(0, 1, 2, 3)))


drafters.add_command(list_drafters)


if __name__ == "__main__":
    drafters(prog_name="drafters")
