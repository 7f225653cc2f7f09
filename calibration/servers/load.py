"""Load on a server: clients that each wait for their answers, or requests by the clock."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from acceptance.servers.answer import CONNECT, Answer
from acceptance.servers.client import clock

from .plan import Session, Turn

# So many requests in a row that find no server, and it is gone.
GONE = 20
# Before the first request of a block by the clock: what is started has run once by then.
LEAD_S = 0.005

# Asks what a row says, due at a time of the clock, where it is due.
Ask = Callable[[int, float | None], Awaitable[Answer]]
Told = Callable[[int, Answer], None]


@dataclass(slots=True)
class Running:
    """A block that is run. began_s: of the clock. refused: requests in a row that found no server. group: all
    that are on their way.
    """

    ask: Ask
    told: Told
    until_s: float = float("inf")
    began_s: float = 0.0
    refused: int = 0
    group: asyncio.TaskGroup = field(default_factory=asyncio.TaskGroup)

    @property
    def is_over(self) -> bool:
        """Whether nothing more is sent."""
        return self.refused >= GONE or clock() >= self.until_s

    async def session(self, turn: Turn, due_s: float | None = None) -> None:
        """Send a request, and those that wait for its answer when that is there: the first here, others beside it."""
        while True:
            answer = await self.ask(turn.row, due_s)
            self.refused = self.refused + 1 if answer.error == CONNECT else 0
            self.told(turn.row, answer)
            if not turn.further:
                return
            for other in turn.further[1:]:
                self.group.create_task(self.branch(other))
            turn, due_s = turn.further[0], None
            if not await self.thought(turn):
                return

    async def branch(self, turn: Turn) -> None:
        """Send a request after its pause, and those behind it."""
        if await self.thought(turn):
            await self.session(turn)

    async def thought(self, turn: Turn) -> bool:
        """Wait as long as a turn does, while there is time; return whether it is sent."""
        await asyncio.sleep(max(min(turn.think_s, self.until_s - clock()), 0.0))
        return not self.is_over

    async def client(self, left: Iterator[Session]) -> None:
        """Send one session after the other."""
        for session in left:
            if self.is_over:
                return
            await self.session(session.turn)

    async def closed(self, sessions: Sequence[Session], clients: int) -> None:
        """Have clients send sessions, each when its last has its answer."""
        left = iter(sessions)
        async with self.group:
            for _ in range(min(clients, len(sessions))):
                self.group.create_task(self.client(left))

    async def open(self, sessions: Sequence[Session]) -> None:
        """Send sessions when they are due, however many are on their way."""
        async with self.group:
            for session in sessions:
                due_s = self.began_s + session.due_s
                await asyncio.sleep(max(due_s - clock(), 0))
                if self.refused >= GONE:
                    return
                self.group.create_task(self.session(session.turn, due_s))


async def put(
    ask: Ask, told: Told, sessions: Sequence[Session], *, clients: int, most_s: float = float("inf")
) -> tuple[float, bool]:
    """Put the load of sessions on a server; return when it began, and whether the server was there to the end.

    Args:
        ask: Sends a request.
        told: Takes its answer.
        sessions: What is sent.
        clients: How many wait for their answers; 0: by the clock.
        most_s: No client, and no turn of a session, sends behind it, or behind the last session that the clock sends;
            what is on its way then is waited for.
    """
    with quiet():
        began_s = clock() + (0.0 if clients else LEAD_S)
        # What the clock sends has been cut to its time; a part of it may take more than its share.
        lasts_s = most_s if clients else max(most_s, sessions[-1].due_s)
        running = Running(ask, told, began_s + lasts_s, began_s)
        await (running.closed(sessions, clients) if clients else running.open(sessions))
    return began_s, running.refused < GONE


@contextmanager
def quiet() -> Iterator[None]:
    """Have no garbage collected meanwhile: a pause of that is one of all answers."""
    gc.collect()
    gc.freeze()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.unfreeze()
        if was_on:
            gc.enable()
