"""A client of OpenAI-compatible servers: sends one request, reads its stream; however that ends, it ends."""

import asyncio
import os
import selectors
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import ModuleType
from typing import Any, NamedTuple

from simulator.ground.dependency import Dependency, require

from .answer import CONNECT, CUT, MALFORMED, RESET, STALLED, TIMEOUT, WHOLE, Answer, Failed, Hearing, message_in
from .events import BadEvent, Events
from .server import key, without_key

AIOHTTP = Dependency(import_name="aiohttp", purpose="asking servers", extra="server")
# Of connections that lie idle: less than servers keep them, so that none is closed as it is used again.
IDLE_S = 2.0
# For the end of a stream, behind the end of its answer.
END_S = 0.25
# What a server says of a failure, and in an answer that is not streamed.
MOST_SAID, MOST_BYTES = 2000, 1 << 28
# For what a server says of itself.
GET_S = 30
clock = time.perf_counter


class Patience(NamedTuple):
    """How long is waited, in seconds: for a connection, for the next bytes of an answer, for all of it."""

    connect_s: float = 10.0
    stall_s: float = 60.0
    whole_s: float = 600.0


class Watched(selectors.DefaultSelector):
    """A selector that knows since when what it returned may have been there.

    An event that it waited for has only just come; one that it found may have come at any time since it returned last.
    """

    MOMENT_S = 2e-5

    def __init__(self) -> None:
        super().__init__()
        self.returned_s = self.since_s = clock()

    def select(self, timeout: float | None = None) -> Any:
        """Wait for events."""
        began_s = clock()
        found = super().select(timeout)
        now_s = clock()
        self.since_s = now_s if now_s - began_s > self.MOMENT_S else self.returned_s
        self.returned_s = now_s
        return found


class Client:
    """Sends requests.

    lags_s: of every chunk, how long it may have lain unread, at most. said: why the last `get` found nothing.
    """

    def __init__(self, aiohttp: ModuleType, session: Any, watched: Watched) -> None:
        self.aiohttp, self.session, self.watched = aiohttp, session, watched
        self.body = body_of(aiohttp)
        self.lags_s: list[float] = []
        self.said = ""
        self.kinds: tuple[tuple[Any, str], ...] = (
            (aiohttp.ConnectionTimeoutError, CONNECT),
            (aiohttp.SocketTimeoutError, STALLED),
            (TimeoutError, TIMEOUT),
            (aiohttp.ClientConnectorError, CONNECT),
            (aiohttp.ServerDisconnectedError, RESET),
            (aiohttp.ClientOSError, RESET),
            (ConnectionError, RESET),
            (aiohttp.ClientError, MALFORMED),
            (ValueError, MALFORMED),
        )

    async def ask(self, url: str, body: bytes, due_s: float | None = None) -> Answer:
        """Send a request and return what came of it."""
        began_s = clock()
        answer = Answer(sent_s=began_s)
        try:
            async with self.session.post(url, data=self.body(body, answer), allow_redirects=False) as response:
                await self.hear(response, answer)
        except Failed as error:
            answer.error, answer.detail = error.kind, error.detail
        except BadEvent as error:
            answer.error, answer.detail = MALFORMED, str(error)
        except Exception as error:  # what libraries and systems raise is listed nowhere
            answer.error = self.kind_of(error)
            answer.detail = detail_of(error, answer.error)
        answer.late_s = max(answer.sent_s - (began_s if due_s is None else due_s), 0.0)
        answer.detail = shown(answer.detail)
        return answer

    async def hear(self, response: Any, answer: Answer) -> None:
        """Read the stream of an answer."""
        if response.status != 200:
            raise await refused(response)
        if response.content_type == "application/json":
            raise Failed(WHOLE, "its type is application/json")
        hearing, events, content, watched = Hearing(answer), Events(), response.content, self.watched
        while data := await content.readany():
            now_s = clock()
            self.lags_s.append(now_s - watched.since_s)
            for event in events.feed(data):
                hearing.take(event, now_s)
            if hearing.is_done:
                break
        now_s = clock()
        for event in events.rest():
            hearing.take(event, now_s)
        hearing.end()
        if not content.is_eof():
            await self.skip(response)

    async def skip(self, response: Any) -> None:
        """Read to the end of a stream, so that its connection can be used again; one that has none is closed."""
        try:
            async with asyncio.timeout(END_S):
                await response.content.readany()
        except Exception:  # the answer is whole
            response.close()

    def kind_of(self, error: Exception) -> str:
        """Return the kind of a failure."""
        if isinstance(error, self.aiohttp.ClientPayloadError):
            said = str(error)
            return RESET if "ConnectionReset" in said else CUT if "not completed" in said else MALFORMED
        return next((kind for of, kind in self.kinds if isinstance(error, of)), MALFORMED)

    async def get(self, url: str, *, post: bytes | None = None) -> bytes | None:
        """Return what stands at an address, None where nothing does."""
        self.said = ""
        try:
            async with asyncio.timeout(GET_S):
                return await self.fetch(url, post, 1 << 24)
        except TimeoutError:
            self.said = TIMEOUT
        except Failed as error:
            self.said = error.kind if error.kind.startswith("http") else error.detail or error.kind
        return None

    async def fetch(self, url: str, post: bytes | None = None, most: int = MOST_BYTES) -> bytes:
        """Return what stands at an address, or what is answered there to what is posted.

        Raises:
            Failed: Nothing is, or more than so many bytes.
        """
        try:
            # What is posted goes where it was sent, and nowhere else.
            how: Any = {"method": "GET"} if post is None else {"method": "POST", "allow_redirects": False}
            async with self.session.request(url=url, data=post, **how) as response:
                if response.status != 200:
                    raise await refused(response)
                found = bytearray()
                async for data in response.content.iter_any():
                    found += data
                    if len(found) > most:
                        raise Failed(MALFORMED, f"it is of more than {most:,} bytes")
                return bytes(found)
        except Failed:
            raise
        except Exception as error:  # what libraries and systems raise is listed nowhere
            kind = self.kind_of(error)
            raise Failed(kind, shown(detail_of(error, kind))) from None


def detail_of(error: Exception, kind: str) -> str:
    """Return what a failure adds to its kind, without names of a library: of a connection, what the system says."""
    if kind != CONNECT:
        said = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
        return str(said) if kind == MALFORMED else ""
    cause = getattr(error, "os_error", None) or getattr(error, "certificate_error", None)
    if isinstance(cause, ssl.SSLError | ssl.CertificateError):
        return f"no TLS that is trusted there: {getattr(cause, 'verify_message', '') or cause.reason}"
    if isinstance(cause, socket.gaierror):
        return "no such host"
    number = getattr(cause, "errno", None)
    return f"nothing answers there: {os.strerror(number).lower()}" if number else "nothing answers there"


def body_of(aiohttp: ModuleType) -> Any:
    """Return what makes bodies of requests that note when they are sent: connected by then, and with nothing to do."""

    class Body(aiohttp.payload.Payload):  # type: ignore[misc, name-defined]
        def __init__(self, data: bytes, answer: Answer) -> None:
            super().__init__(data, content_type="application/json")
            self.data, self.answer, self._size = data, answer, len(data)

        def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
            return self.data.decode(encoding, errors)

        async def write(self, writer: Any) -> None:
            self.answer.sent_s = clock()
            await writer.write(self.data)

        async def write_with_length(self, writer: Any, content_length: int | None) -> None:
            await self.write(writer)

    return Body


def shown(said: str) -> str:
    """Return what a server or a library said, in a line, without our key; what is cut before may hold half of it."""
    return " ".join(without_key(said).split())[:200]


async def refused(response: Any) -> Failed:
    """Return the failure that a status tells."""
    said = (await response.content.read(MOST_SAID)).decode(errors="replace")
    return Failed(f"http {response.status}", shown(error_in(said) or str(response.reason)))


def error_in(said: str) -> str:
    """Return what an answer says of its failure: the message of JSON, else all of it."""
    import json

    try:
        return message_in(json.loads(said))
    except (ValueError, RecursionError):
        return said


@asynccontextmanager
async def connected(watched: Watched, patience: Patience) -> AsyncIterator[Client]:
    """Yield a client; its key is that of the environment, and a proxy of the environment is not used.

    Raises:
        UserError: The library is not installed.
    """
    aiohttp = require(AIOHTTP)
    secret = key()
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {secret}"} if secret else {})
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_S, ttl_dns_cache=3600)
    timeout = aiohttp.ClientTimeout(
        total=patience.whole_s, sock_connect=patience.connect_s, sock_read=patience.stall_s, ceil_threshold=3600
    )
    async with aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Accept-Encoding", "Accept"),
        connector=connector,
        headers=headers,
        timeout=timeout,
        auto_decompress=False,
        read_bufsize=1 << 20,
    ) as session:
        yield Client(aiohttp, session, watched)


def run(work: Callable[[Client], Any], patience: Patience) -> Any:
    """Run what asks servers, on a loop of its own."""
    watched, mine = Watched(), list[Any]()

    async def main() -> Any:
        mine.append(asyncio.current_task())
        async with connected(watched, patience) as client:
            return await work(client)

    try:
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(watched)) as runner:
            return runner.run(main())
    finally:
        for task in mine:  # a signal that came within a task is raised here, and nobody else asks for it
            _ = not task.done() or task.cancelled() or task.exception()
