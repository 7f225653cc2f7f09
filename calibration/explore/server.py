"""The page is served: by Streamlit, to this machine alone, with nothing asked of any other."""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlencode

from simulator.ground.artefacts import UserError
from simulator.ground.dependency import Dependency, require

ADDRESS = "127.0.0.1"
STREAMLIT = Dependency("streamlit", "the page", "explore")
PLOTLY = Dependency("plotly", "the page", "explore")
SETTINGS: Mapping[str, object] = {
    "server.address": ADDRESS,
    # No browser of its own, no files that are watched.
    "server.headless": True,
    "server.fileWatcherType": "none",
    "browser.gatherUsageStats": False,
    "browser.serverAddress": ADDRESS,
    "client.toolbarMode": "minimal",
    "client.showErrorDetails": "none",
    "logger.level": "error",
    "logger.hideWelcomeMessage": True,
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


def serve(port: int) -> None:
    """Serve until somebody interrupts."""
    require(PLOTLY)
    require(STREAMLIT)
    from streamlit.web import bootstrap

    settings = {**SETTINGS, "server.port": port}
    flags = {name.replace(".", "_"): value for name, value in settings.items()}
    script = Path(__file__).with_name("app.py")
    before = list(sys.path)
    bootstrap.load_config_options(flags)
    bootstrap.run(str(script), False, [], flags)
    sys.path[:] = before


def has_display() -> bool:
    """Whether a browser can be opened beside the terminal."""
    return not sys.platform.startswith("linux") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
