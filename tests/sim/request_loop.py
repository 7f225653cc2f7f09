"""A server pass by pass, the oracle of closed forms: clients in a closed loop, prompts in pieces beside decoding."""

import math
from collections import deque
from typing import Any, NamedTuple

import numpy as np

from simulator.costs.step import Floats
from simulator.serving.passes import Passes, Prompts


class Played(NamedTuple):
    """passes: decoding sequences, tokens of their caches, pieces of prompts, tokens of those, these times the tokens
    before them, prompts ended. requests: pass in which one is sent, has its first token, its last; tokens."""

    passes: Floats
    requests: "np.ndarray[Any, np.dtype[np.int64]]"


class Server:
    """Requests that wait (number, tokens to read, of how many) and that decode (number, tokens left, in the cache).

    room: tokens of all caches. limit: requests in all. A prompt is begun where all of it fits; where a pass would not,
    who came last gives up its place, and reads all of its tokens again later, ahead of the others.
    """

    def __init__(
        self, isl: int, osl: int, spread: float, most_running: int, room: float, limit: int, seed: int
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.isl, self.osl, self.spread, self.most, self.room = isl, osl, spread, most_running, room
        self.limit = limit
        self.waiting: deque[list[int]] = deque()
        self.decoding: list[list[int]] = []
        self.requests: list[list[int]] = []

    def send(self, at: int) -> None:
        if len(self.requests) == self.limit:
            return
        tokens = max(2, round(self.osl * (1 + self.spread * (2 * self.rng.random() - 1))))
        self.requests.append([at, -1, -1, tokens])
        self.waiting.append([len(self.requests) - 1, self.isl, self.isl])

    @property
    def kept(self) -> int:
        """Tokens of all caches behind a pass, those of a prompt that is begun among them."""
        return sum(one[2] + 1 for one in self.decoding) + (self.waiting[0][2] if self.is_reading else 0)

    @property
    def is_reading(self) -> bool:
        """Whether a prompt is begun."""
        return bool(self.waiting) and self.waiting[0][1] < self.waiting[0][2]

    def give_up(self) -> bool:
        """Take places where room lacks, of who came last, and return whether any was."""
        before = len(self.decoding)
        while self.kept > self.room and len(self.decoding) > 1:
            number, _, cache = self.decoding.pop()
            self.waiting.insert(int(self.is_reading), [number, cache + 1, cache + 1])
        return len(self.decoding) < before

    def read(self, left: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Read prompts in order, as far as a pass has tokens left: pieces with what is before them, and what ended."""
        pieces = list[tuple[int, int]]()
        ended, kept = list[tuple[int, int]](), self.kept
        while left > 0 and self.waiting and len(self.decoding) + len(ended) < self.most:
            number, rest, total = self.waiting[0]
            if rest == total and kept + total > self.room and (self.decoding or ended):
                break
            piece = min(rest, left)
            pieces.append((piece, total - rest))
            left, kept = left - piece, kept + total * (rest == total)
            self.waiting[0][1] -= piece
            if piece == rest:
                self.waiting.popleft()
                ended.append((number, total))
        return pieces, ended

    def begin(self, ended: list[tuple[int, int]], at: int) -> int:
        """Let decode whose tokens are read, the next of each among them, and return how many ended with that."""
        for number, total in ended:
            request = self.requests[number]
            request[1] = at if request[1] < 0 else request[1]
            self.decoding.append([number, request[3] - (total - self.isl) - 1, total])
            request[2] = request[2] if self.decoding[-1][1] else at
        before = len(self.decoding)
        self.decoding = [one for one in self.decoding if one[1]]
        return before - len(self.decoding)

    def decode(self, at: int, draft_length: int, alpha: float) -> int:
        """Give each of those that decode the tokens of a pass, and return how many ended."""
        before = len(self.decoding)
        for one in self.decoding:
            got = 1
            while got <= draft_length and self.rng.random() < alpha:
                got += 1
            got = min(got, one[1])
            one[1], one[2] = one[1] - got, one[2] + got
            if not one[1]:
                self.requests[one[0]][2] = at
        self.decoding = [one for one in self.decoding if one[1]]
        return before - len(self.decoding)


def play(
    clients: int,
    isl: int,
    osl: int,
    *,
    passes: int,
    chunk: int = 8192,
    draft_length: int = 0,
    alpha: float = 0.0,
    spread: float = 0.2,
    mixed: bool = True,
    most_running: int = 1 << 30,
    room: float = math.inf,
    requests: int = 1 << 30,
    seed: int = 0,
) -> Played:
    """Run so many passes. A client sends when its request has ended; the pass that follows that has begun already."""
    server, rows, late = Server(isl, osl, spread, most_running, room, requests, seed), [], 0
    for _ in range(clients):
        server.send(0)
    for at in range(passes):
        gave_up = server.give_up()
        waits = not mixed and bool(server.waiting) and len(server.decoding) < server.most
        decoding = [] if waits else server.decoding
        cached = sum(one[2] for one in decoding)
        pieces, ended = server.read(0 if gave_up else chunk - len(decoding) * (draft_length + 1))
        tokens, before = sum(n for n, _ in pieces), sum(n * s for n, s in pieces)
        rows.append((len(decoding), cached, len(pieces), tokens, before, len(ended)))
        for _ in range(late):
            server.send(at)
        late = 0 if waits else server.decode(at, draft_length, alpha)
        late += server.begin(ended, at)
        if late and not server.decoding and not server.waiting:
            for _ in range(late):
                server.send(at + 1)
            late = 0
    return Played(np.array(rows, np.float64), np.array(server.requests))


def measured(played: Played, passes: Passes, first: int, last: int = 1 << 40) -> tuple[float, float]:
    """Return mean seconds a token, and to the first, of requests sent in passes from `first` to `last`."""
    decoding, cached, pieces, tokens, before, ended = played.passes.T
    some = np.maximum(pieces, 1), np.maximum(tokens, 1)
    prompts, cached = Prompts(pieces, tokens / some[0], before / some[1], ended), cached / np.maximum(decoding, 1)
    each_s = np.where(pieces > 0, passes.seconds(decoding, cached, prompts), passes.seconds(decoding, cached))
    ends_s = np.concatenate([[0.0], each_s.cumsum()])
    sent, begun, done, length = played.requests.T
    told = (done >= 0) & (sent >= first) & (sent <= last)
    tpot_s = (ends_s[done + 1] - ends_s[begun + 1]) / (length - 1)
    ttft_s = ends_s[begun + 1] - ends_s[sent]
    return float(tpot_s[told].mean()), float(ttft_s[told].mean())
