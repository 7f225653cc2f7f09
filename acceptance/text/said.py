"""What a record says: the user's turns, whichever key and spelling they stand under, and the record's own names."""

from typing import Any

from simulator.ground.fields import Field, shortened
from simulator.ground.records import BadRecord

IDS = ("question_id", "id", "task_id", "custom_id", "source")
HUMAN = ("human", "user", "prompter")
SYSTEM = ("system", "developer")
# Lists of messages; text under them would be a transcript.
TALKS = ("conversations", "conversation", "messages")
# A request to a server, such as one of a batch, and where it has what the user says.
REQUESTS = ("body", "params")
BODY = ("messages", "prompt", "input")
# What goes on with an instruction, on the next line: Alpaca's "input", Dolly's "context".
GOES_ON = ("input", "context")


def key_of(record: Field, keys: tuple[str, ...], what: str = "prompt") -> str:
    """Return the first of some keys that a record gives; what: stands under it."""
    key = next((k for k in keys if record[k].is_given), None)
    if key is None:
        if len(keys) < 4:
            raise BadRecord(f"no {' or '.join(keys)}")
        raise BadRecord(f"no {what} under its keys {shortened(list(record.value), 60)}")
    return key


def in_known_case(record: Field, keys: tuple[str, ...]) -> Field:
    """Return a record that has none of some keys, but one in another case, with that key."""
    members = record.value if isinstance(record.value, dict) else {}
    if any(record[k].is_given for k in keys if members):
        return record
    known = {key.lower(): key for key in reversed(keys)}
    other = next((m for m in members if m.lower() in known and members[m] is not None), None)
    return record if other is None else record.but(**{known[other.lower()]: members[other]})


def turns_of(record: Field, key: str) -> tuple[str, ...]:
    """Return the user's turns that stand under a key: text, turns, messages, or a request that holds them."""
    said = record[key]
    if key in REQUESTS:
        return turns_of(said, key_of(said, BODY))
    if key == "turns" or key in TALKS or isinstance(said.value, list):
        if not said.elements():
            raise BadRecord(f"{key} is empty")
        return tuple(t.text() for t in said.elements()) if key == "turns" else human_turns(said.elements())
    if key == "instruction":
        more = [record[k].text() for k in GOES_ON if record[k].value not in (None, "")]
        return ("\n".join([said.text(), *more]),)
    return (said.text(),)


def human_turns(messages: list[Field]) -> tuple[str, ...]:
    """Return what the human says in a list of messages; a leading system message is left out."""
    roles = [role_of(m) for m in messages]
    first = int(roles[0] in SYSTEM)
    # A conversation split in parts: this one answers, or goes on from, what is not here.
    if first == len(roles) or roles[first] not in HUMAN:
        raise BadRecord("does not begin with a human turn")
    spoken = [m for m, role in zip(messages, roles, strict=True) if role in HUMAN]
    return tuple(content_of(m["value"] if m["value"].is_stated else m["content"]) for m in spoken)


def content_of(content: Field) -> str:
    """Return the text of a message, in parts or not; a picture is none."""
    if not isinstance(content.value, list):
        return content.text()
    for part in content.elements():
        part["type"].choice(("text", "input_text"))
    return "\n".join(part["text"].text() for part in content.elements())


def role_of(message: Field) -> str:
    return (message["from"] if message["from"].is_stated else message["role"]).text(empty=True).lower()


def name_of(value: Any) -> str | None:
    """Return a whole number or a printable text as a name; None: it is neither."""
    name = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    # Names stand in one-line messages; line ends and half surrogate pairs are not printable.
    return name if isinstance(name, str) and name and name.isprintable() else None


def source_of(record: Field, where: str) -> str:
    """Return a record's own id, or where it stands if it has none that can be a name."""
    return next((name for key in IDS if (name := name_of(record[key].value))), where)


def category_of(record: Field) -> str:
    """Return a record's category, or ""."""
    value = record["category"].value
    if value is None or value == "":
        return ""
    name = name_of(value)
    if name is None:
        raise BadRecord("category is no printable text")
    return name
