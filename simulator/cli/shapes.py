"""The command `shapes`: the models that come along, by name and size."""

from typing import TYPE_CHECKING

import click

from simulator.ground.artefacts import to_json
from simulator.ground.command import OneLineErrorsGroup, command, table

if TYPE_CHECKING:
    from simulator.costs.work import ModelShape


@command("shapes", cls=OneLineErrorsGroup, no_args_is_help=False)
def shapes() -> None:
    """Model shapes: the models whose sizes come along, for --target-model and --draft-model."""


@command("list")
@click.option("--json", "as_json", is_flag=True, help="Print the list as JSON.")
def list_shapes(as_json: bool) -> None:
    """List the models that come along: weights, those that a token multiplies, KV cache, layers, context."""
    from simulator.costs.shapes import catalogue, read_shape

    read = [read_shape(name) for name in catalogue()]
    if as_json:
        click.echo(to_json({"shapes": [facts(shape) for shape in read]}), nl=False)
        return
    head = ("name", "family", "weights", "active", "KV a token", "layers", "context", "vocabulary")
    click.echo(table([head, *map(listed, read)], left=(0, 1)))


shapes.add_command(list_shapes)


def facts(shape: "ModelShape") -> dict[str, str | float | None]:
    """Return what the list says of a shape."""
    return {
        "name": shape.name,
        "family": shape.family,
        "parameters": shape.parameters,
        "active_parameters": shape.active_parameters,
        "kv_bytes_per_token": shape.kv_bytes_per_token("bfloat16"),
        "layers": shape.layers,
        "longest_context": shape.longest_context,
        "vocabulary": shape.vocabulary,
    }


def listed(shape: "ModelShape") -> tuple[str, ...]:
    """Return the row of a shape."""
    context = f"{shape.longest_context:,}" if shape.longest_context else ""
    return (
        shape.name,
        shape.family,
        f"{shape.parameters / 1e9:.3g} B",
        f"{shape.active_parameters / 1e9:.3g} B",
        f"{shape.kv_bytes_per_token('bfloat16') / 2**10:.4g} KiB",
        str(shape.layers),
        context,
        f"{shape.vocabulary:,}",
    )


if __name__ == "__main__":
    shapes(prog_name="shapes")
