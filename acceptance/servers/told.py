"""What a server says of itself: its models, how long a request may be, and which tokens its tokenizer makes of text."""

import json
from collections.abc import Mapping
from typing import Any

from simulator.ground.artefacts import UserError
from simulator.ground.fields import Malformed, parse_json

from .answer import MALFORMED, Failed
from .client import Client
from .server import Server

MOST_LENGTH = 1 << 40
# Where engines have their tokenizers, and under which key they take a text.
TOKENIZE = (("/tokenize", "prompt"), ("/tokenize", "content"), ("/v1/tokenize", "prompt"))


async def model_of(
    client: Client, server: Server, wanted: str | None, option: str | None = "--model"
) -> tuple[str, int | None]:
    """Return the name of a server's model, and how long its requests may be; option: by which users do."""
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
        # Of one that answers nothing a name is no help.
        named = f", or {option}" if option and (not why or client.said.startswith("http")) else ""
        raise UserError(f"{server.option}: lists no models at /v1/models{why}, expected a server that is up{named}")
    if wanted is not None and names and wanted not in names:
        raise UserError(f"{option}: {wanted!r} is not served by {server.url}, expected {' or '.join(names[:5])}")
    name = wanted or names[0]
    length = next((entry.get("max_model_len") for entry in entries if entry.get("id") == name), None)
    return name, length if isinstance(length, int) and 1 < length < MOST_LENGTH else None


async def tokens_told(client: Client, url: str, asked: Mapping[str, Any], text: str | None) -> list[int]:
    """Return the tokens that a server's tokenizer makes of a text.

    asked: what is said besides; of a conversation, which stands in it, the text is None.

    Raises:
        Failed: It does not answer, or tells none.
    """
    why = Failed(MALFORMED, "its /tokenize tells no tokens")
    for path, name in TOKENIZE:
        body = json.dumps(dict(asked) if text is None else {**asked, name: text}).encode()
        try:
            if (found := tokens_in(await client.fetch(f"{url}{path}", body))) is not None:
                return found
        except Failed as error:
            if not error.kind.startswith("http 4"):
                raise
            why = error if path == TOKENIZE[0][0] and name == TOKENIZE[0][1] else why
    raise why


def tokens_in(answer: bytes) -> list[int] | None:
    """Return the tokens of an answer, None where it has none."""
    try:
        told = parse_json(answer.decode())
    except (Malformed, UnicodeDecodeError):
        return None
    found = told.get("tokens") if isinstance(told, dict) else None
    if not isinstance(found, list) or any(type(token) is not int or token < 0 for token in found):
        return None
    return found
