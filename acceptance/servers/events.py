"""Server-sent events from bytes as they come, however they are cut."""

from collections.abc import Iterator

# Of a line that has not ended: what is longer is no event of an answer.
LONGEST = 1 << 20
DONE = b"[DONE]"


class BadEvent(ValueError):
    """Bytes that are no event."""


class Events:
    """What a server sends; an event is a line of data, as every engine writes them."""

    def __init__(self) -> None:
        self.left = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the data of the lines that have ended.

        Raises:
            BadEvent: A line is none of server-sent events, or has no end.
        """
        *lines, self.left = (self.left + data).split(b"\n")
        for line in lines:
            if found := data_of(line):
                yield found
        if len(self.left) > LONGEST:
            raise BadEvent(f"a line of more than {LONGEST:,} bytes")

    def rest(self) -> Iterator[bytes]:
        """Yield the last line, where the stream ended without one's end."""
        line, self.left = self.left, b""
        if found := data_of(line):
            yield found


def data_of(line: bytes) -> bytes:
    """Return the data of a line, nothing of a comment or of a field without meaning here."""
    line = line.strip()
    if line.startswith(b"data:"):
        return line[5:].strip()
    if not line or line.startswith((b":", b"event:", b"id:", b"retry:")):
        return b""
    # What llama.cpp wrote before it wrote errors as data.
    if line.startswith(b"error:"):
        return b'{"error":' + line[6:] + b"}"
    raise BadEvent(f"{line[:60].decode(errors='replace')!r} is no server-sent event")
