"""A server as a user names it: where it is, what it is called beside others, and the key that opens it."""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from simulator.ground.artefacts import UserError
from simulator.ground.fields import shortened

# Where the key of a server stands; it is never written, neither to files nor to a terminal.
KEY = "OPENAI_API_KEY"
HIDDEN = "***"
ALONE, BEFORE = "server", "before"
NAME = re.compile(r"[A-Za-z0-9][\w.+-]{0,39}")


class Server(NamedTuple):
    """A server; name: what reports call it. url: of its root, below which `/v1/completions` is."""

    name: str
    url: str

    @property
    def option(self) -> str:
        """How a user named it."""
        return self.url if self.name in (ALONE, BEFORE) else f"--arm {self.name}={self.url}"


def url_of(option: str, text: str) -> str:
    """Return the root of a server's addresses, whether a user named that or its `/v1`.

    Raises:
        UserError: It is no address, or one that holds a secret.
    """
    expected = "expected an address such as http://localhost:8000"
    try:
        parts = urlsplit(text.strip())
        _ = parts.port
    except ValueError:
        raise UserError(f"{option}: {shortened(text, 80)} is no address, {expected}") from None
    if parts.username is not None or parts.query or parts.fragment:
        raise UserError(f"{option}: an address with more than host and path may hold a secret, {expected} and {KEY}")
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s\\]", text.strip()):
        raise UserError(f"{option}: {shortened(text, 80)} is no address, {expected}")
    path = re.sub(r"(?:/v1)?(?:/(?:chat/)?completions)?/*$", "", parts.path)
    return f"{parts.scheme}://{parts.netloc}{path}"


def servers_of(url: str | None, arms: Sequence[str]) -> tuple[Server, ...]:
    """Return the servers that a user named: one alone, or several by name.

    Raises:
        UserError: None, or one twice, or what is no server.
    """
    if url is not None and arms:
        raise UserError(f"--arm: {shortened(arms[0], 80)} beside URL, expected one or the other")
    if url is not None:
        return (Server(ALONE, url_of("URL", url)),)
    if not arms:
        raise UserError("URL: is missing, expected an address such as http://localhost:8000, or --arm NAME=URL")
    found: dict[str, Server] = {}
    for arm in arms:
        name, equals, address = arm.partition("=")
        if not equals or not NAME.fullmatch(name):
            raise UserError(f"--arm: {shortened(arm, 80)} is not allowed, expected NAME=URL")
        if name in found:
            raise UserError(f"--arm: {name} twice, expected a name for each server")
        found[name] = Server(name, url_of(f"--arm {name}", address))
    return tuple(found.values())


def key() -> str:
    """Return the key that the environment holds, "" for none."""
    return os.environ.get(KEY, "").strip()


def without_key(text: str) -> str:
    """Return what a server said, which may hold our key."""
    secret = key()
    return text.replace(secret, HIDDEN) if secret else text
