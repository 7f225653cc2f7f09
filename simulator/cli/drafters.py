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
    from simulator.costs.drafters import KINDS, KNOWN

    unpriced = [part for part, kind in KINDS.items() if kind is None and part != "draft"]
    if as_json:
        click.echo(to_json({"drafters": [known._asdict() for known in KNOWN], "not_priced": unpriced}), nl=False)
        return
    say(f"{len(KNOWN)} kinds are priced by their config.json; not {', '.join(unpriced)}.\n")
    head = ("name", "its file names", "a round", "reads")
    rounds = {"chain": "K passes", "block": "one pass"}
    rows = [(known.name, known.architecture, rounds[known.passes], known.reads) for known in KNOWN]
    click.echo(table([head, *rows], left=(0, 1, 2, 3)))


drafters.add_command(list_drafters)


if __name__ == "__main__":
    drafters(prog_name="drafters")
