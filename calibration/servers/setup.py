"""What servers say of themselves before anything is asked of them: models, how long a request may be, tokens."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from acceptance.models.bundled import TINY_PAIR
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field, Malformed, parse_json

from .client import Client, Patience, run
from .prompts import TOKENIZE, Manner, tokens_in
from .records import SETUP
from .server import Server

MOST_LENGTH = 1 << 40
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


async def model_of(client: Client, server: Server, wanted: str | None) -> tuple[str, int | None]:
    """Return the name of a server's model, and how long its requests may be."""
    answer = await client.get(f"{server.url}/v1/models")
    try:
        told = parse_json((answer or b"").decode())
    except (Malformed, UnicodeDecodeError):
        told = None
    listed = told.get("data") if isinstance(told, dict) else None
    entries = [entry for entry in listed if isinstance(entry, dict)] if isinstance(listed, list) else []
    names = [entry["id"] for entry in entries if isinstance(entry.get("id"), str)]
    if not names and wanted is None:
        why = f" ({client.said})" if client.said else ""
        raise UserError(
            f"{server.option}: lists no models at /v1/models{why}, expected a server that is up, or --model"
        )
    if wanted is not None and names and wanted not in names:
        raise UserError(f"--model: {wanted!r} is not served by {server.url}, expected {' or '.join(names[:5])}")
    name = wanted or names[0]
    length = next((entry.get("max_model_len") for entry in entries if entry.get("id") == name), None)
    return name, length if isinstance(length, int) and 1 < length < MOST_LENGTH else None


async def tokens_of(client: Client, server: Server, model: str) -> list[int] | None:
    """Return the bundled text as a server's tokens, None of one that tells none."""
    text = bundled_text()
    for path, name in TOKENIZE:
        asked = {"model": model, name: text, "add_special_tokens": False}
        answer = await client.get(f"{server.url}{path}", post=json.dumps(asked).encode())
        if (found := tokens_in(answer)) is not None:
            return found
    return None


def bundled_text() -> str:
    """Return the text of the bundled prompts, one behind the other."""
    lines = (TINY_PAIR / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    return "\n".join(json.loads(line)["prompt"] for line in lines)
