"""What servers say of themselves before anything is asked of them: models, how long a request may be, tokens."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from acceptance.models.bundled import TINY_PAIR
from acceptance.servers.answer import Failed
from acceptance.servers.client import Client, Patience, run
from acceptance.servers.server import Server
from acceptance.servers.told import MOST_LENGTH, model_of, tokens_told
from simulator.ground.fields import Field

from .prompts import LEAST_IDS, Manner
from .records import SETUP

PATIENCE = Patience(connect_s=10, stall_s=30, whole_s=30)


class Setup(NamedTuple):
    """What is asked of servers.

    models, longest: by arm, names and tokens of a request at most where that is told. tokens: of natural text, by a
    server's own tokenizer; None: prompts are text. counted: how many tokens that text is.
    """

    models: Mapping[str, str]
    longest: Mapping[str, int]
    tokens: list[int] | None
    counted: int | None
    is_text: bool

    @property
    def in_words(self) -> str:
        """Models, and what prompts are."""
        return f"{', '.join(dict.fromkeys(self.models.values()))} with prompts as {'text' if self.is_text else 'ids'}"


def of_setup(setup: Setup) -> dict[str, Any]:
    """Return the record of a setup, without its tokens."""
    return {"type": SETUP} | {name: value for name, value in setup._asdict().items() if name != "tokens"}


def setup_in(path: Path, value: Mapping[str, Any]) -> Setup:
    """Read such a record.

    Raises:
        UserError: It is none.
    """
    record = Field(value, path, "line 2")
    record["type"].choice((SETUP,))
    models = {arm: name.text() for arm, name in record["models"].items()}
    longest = {arm: length.whole(1, MOST_LENGTH) for arm, length in record["longest"].items()}
    counted = record["counted"].whole(1) if record["counted"].is_given else None
    return Setup(models, longest, None, counted, record["is_text"].flag())


def set_up(servers: Sequence[Server], model: str | None, manner: Manner, *, asks_ids: bool) -> Setup:
    """Ask servers.

    asks_ids: whether prompts are tokens, where a server has a tokenizer to ask.

    Raises:
        UserError: One does not answer, or has no such model.
    """

    async def work(client: Client) -> Setup:
        models: dict[str, str] = {}
        longest: dict[str, int] = {}
        for server in servers:
            models[server.name], length = await model_of(client, server, model)
            longest |= {} if length is None else {server.name: length}
        tokens = await tokens_of(client, servers[0], models[servers[0].name])
        counted = None if tokens is None else len(tokens)
        ids = tokens if asks_ids else None
        return Setup(models, longest, ids, counted, ids is None)

    found: Setup = run(work, PATIENCE)
    return found


async def tokens_of(client: Client, server: Server, model: str) -> list[int] | None:
    """Return the bundled text as a server's tokens, None of one that tells none."""
    try:
        found = await tokens_told(client, server.url, {"model": model, "add_special_tokens": False}, bundled_text())
    except Failed:
        return None
    return None if len(found) < LEAST_IDS else found


def bundled_text() -> str:
    """Return the text of the bundled prompts, one behind the other."""
    lines = (TINY_PAIR / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return "\n".join(json.loads(line)["prompt"] for line in lines)
