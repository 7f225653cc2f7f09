"""The command `explore`: a page over the forecasts, on this machine."""

import sys
from pathlib import Path

import click

from simulator.ground.command import FILE, command


@command("explore")
@click.argument("result", type=FILE, required=False, metavar="[FILE]")
@click.option("--port", type=click.IntRange(0, 65_535), default=8501, help="Of the page; 0 takes any that is free.")
@click.option("--open/--no-browser", "opens", default=True, help="Open it in a browser, where there is a display.")
def explore(result: Path | None, port: int, *, opens: bool) -> None:
    """Explore forecasts on a page in the browser: models, device, method, acceptance and load as controls.

    The page is served to this machine alone, until Ctrl-C. Its address keeps what its controls say, and it prints the
    command line that says the same. FILE is what simulate, sweep, bench-decode and the others wrote, or a histogram.
    """
    from calibration.explore import files, server
    from simulator.ground.dependency import require

    for library in (server.PLOTLY, server.STREAMLIT):
        require(library)
    query = {} if result is None else files.settings_of(result) or {"file": str(result)}
    port = server.free_port(port)
    url = server.url_of(port, query)
    out = sys.stdout

    def ready() -> None:
        click.echo(f"{url}\nCtrl-C ends it", file=out)
        if opens and server.has_display():
            import webbrowser

            webbrowser.open(url)

    server.serve(port, ready)


if __name__ == "__main__":
    explore(prog_name="explore")
