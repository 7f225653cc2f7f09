"""The command `report`: results as one page for a browser."""

from pathlib import Path

import click

from simulator.ground.artefacts import UserError, check_outputs, writing
from simulator.ground.command import FILE, command

SUFFIXES = (".html", ".htm")


@command("report")
@click.argument("results", type=FILE, nargs=-1, required=True, metavar="RESULT...")
@click.option("--out", type=FILE, required=True, help="Write the page, .html.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def report(results: tuple[Path, ...], out: Path, *, force: bool) -> None:
    """Make one page for a browser of results: the answer first, pictures, tables, and where they come from.

    RESULT is what advise, sweep, simulate, simulate-serving, bench-server, bench-decode or validate wrote: JSON,
    records (.jsonl) or a table (.csv). The page needs no network, prints, and is the same for the same files.
    """
    from calibration.pages.document import document
    from calibration.pages.kinds import page_of

    if out.suffix not in SUFFIXES:
        raise UserError(f"--out {out}: suffix {out.suffix!r}, expected .html")
    check_outputs({"--out": out}, force, {f"RESULT {path}": path for path in results})
    text = document([page_of(path) for path in results])
    with writing(out) as file:
        file.write(text)
    click.echo(f"wrote {out}")


if __name__ == "__main__":
    report(prog_name="report")
