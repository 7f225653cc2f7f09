"""The page is served: by Streamlit, to this machine alone, with nothing asked of any other."""

import io
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout, suppress
from pathlib import Path
from urllib.parse import urlencode

from simulator.ground.artefacts import UserError
from simulator.ground.dependency import Dependency, require

ADDRESS = "127.0.0.1"
# How often, and for how long, a page that starts is asked for.
EVERY_S, TRIES = 0.05, 2400
STREAMLIT = Dependency("streamlit", "the page", "explore")
PLOTLY = Dependency("plotly", "the page", "explore")
SETTINGS: Mapping[str, object] = {
    "server.address": ADDRESS,
    # Pages of others are refused, whatever a user's own files of Streamlit say: this one reads files.
    "server.enableCORS": True,
    "server.corsAllowedOrigins": [],
    "server.enableXsrfProtection": True,
    "server.enableStaticServing": False,
    "server.baseUrlPath": "",
    # No browser of its own, no files that are watched.
    "server.headless": True,
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": False,
    "browser.serverAddress": ADDRESS,
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "logger.level": "error",
}


def free_port(port: int) -> int:
    """Return the port, or any that is free in place of 0.

    Raises:
        UserError: It is taken.
    """
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((ADDRESS, port))
        except OSError as error:
            why = error.strerror or str(error)
            raise UserError(f"--port: {port} cannot be had ({why}), expected a free one, such as 0 for any") from None
        return int(tried.getsockname()[1])


def url_of(port: int, query: Mapping[str, str]) -> str:
    """Return the address of a page."""
    return f"http://{ADDRESS}:{port}/" + (f"?{urlencode(query)}" if query else "")


def serve(port: int, ready: Callable[[], None]) -> None:
    """Serve until somebody interrupts; ready: called when it can be asked."""
    require(PLOTLY)
    require(STREAMLIT)
    from streamlit.web import bootstrap

    flags, script = configured(port), Path(__file__).with_name("app.py")
    threading.Thread(target=when_there, args=(port, ready), daemon=True).start()
    if hasattr(signal, "SIGHUP"):  # of a terminal that is closed
        signal.signal(signal.SIGHUP, lambda *_: signal.raise_signal(signal.SIGTERM))
    with redirect_stdout(io.StringIO()):  # what it says of itself
        bootstrap.run(str(script), False, [], flags)


def configured(port: int) -> dict[str, object]:
    """Have Streamlit take what this page needs, above its user's files and environment; return it as its flags."""
    from streamlit import net_util
    from streamlit.web import bootstrap

    flags = {name.replace(".", "_"): value for name, value in {**SETTINGS, "server.port": port}.items()}
    bootstrap.load_config_options(flags)
    # Else it asks another machine for them as soon as a stranger's page knocks.
    net_util._internal_ip = net_util._external_ip = ADDRESS
    return flags


def when_there(port: int, ready: Callable[[], None]) -> None:
    """Wait until the page answers."""
    for _ in range(TRIES):
        with suppress(OSError), socket.create_connection((ADDRESS, port), timeout=1.0):
            warm_up()
            ready()
            return
        time.sleep(EVERY_S)


def warm_up() -> None:
    """Load what the first page would wait for, and answer what it asks."""
    import plotly.graph_objs
    import plotly.io  # noqa: F401

    from . import views
    from .asking import answered
    from .state import asked, words

    with suppress(UserError):
        state = asked({}).state
        answered(words(state))
        views.across_acceptance(state, views.LONGEST)


def has_display() -> bool:
    """Whether a browser can be opened beside the terminal."""
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
