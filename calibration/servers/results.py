"""What a run came to: each arm at each load, and how arms compare."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from acceptance.servers.server import Server
from simulator.answers.latency import Limit, Told
from simulator.ground.streams import stream

from .engine import Counted, counted
from .metrics import Part, figures, gains, latencies
from .records import Ran


@dataclass(frozen=True)
class Result:
    """An arm at a load.

    clients: that wait for their answers; 0: by the clock. figures: see `metrics`. gains: over the first arm at this
    load, empty of that. lag_s: chunks may have lain unread as long, P50 and P99, the longest of blocks. late_s: P99 of
    how long after they were due requests were sent. cpu: share of a core that the client took. short: answers of fewer
    tokens than was asked.
    """

    server: Server
    model: str
    api: str
    load: float
    clients: int
    burstiness: float
    parts: tuple[Part, ...]
    figures: Mapping[str, Told]
    gains: Mapping[str, Told]
    same_text: float | None
    counted: Counted
    lag_s: tuple[float, float]
    late_s: float
    cpu: float
    short: int

    @property
    def failures(self) -> Counter[str]:
        """How many requests failed, by kind."""
        return Counter(a.error for part in self.parts for a in part.answers if a.error)

    @property
    def requests(self) -> int:
        """Requests that came to an end."""
        return sum(len(part.answers) for part in self.parts)

    @property
    def example(self) -> Mapping[str, str]:
        """What is known of the first failure of each kind."""
        found: dict[str, str] = {}
        for part in self.parts:
            for answer in part.answers:
                if answer.error and answer.detail:
                    found.setdefault(answer.error, answer.detail)
        return found

    @cached_property
    def all_requests(self) -> Mapping[str, Told]:
        """Latencies of all answered requests, warm-up among them, as other clients count."""
        answered = [a for part in self.parts for a in part.answers if not a.error]
        return latencies(answered, stream(0, 0, "bootstrap"))

    @property
    def is_counted_by_chunks(self) -> bool:
        """Whether the server counts no tokens, so that chunks stand for them."""
        return any(not a.error and a.output_tokens is None for part in self.parts for a in part.answers)


def results_of(
    ran: Sequence[Ran],
    servers: Mapping[str, Server],
    models: Mapping[str, str],
    *,
    api: str,
    clients: Mapping[float, int],
    burstiness: float,
    limits: tuple[Limit, ...],
    k: int | None,
    seed: int,
    asked: Mapping[float, Sequence[int]] | None = None,
) -> list[Result]:
    """Return what blocks came to, by load and arm; k: see `engine.counted`.

    asked: at each load, tokens of each answer, where these are to be as long.
    """
    found: list[Result] = []
    for load in dict.fromkeys(r.part.load for r in ran):
        plain: list[Part] | None = None
        for arm, server in servers.items():
            own = [r for r in ran if r.part.load == load and r.part.arm == arm and r.part.answers]
            if not own:
                continue
            parts = [r.part for r in own]
            rng = stream(seed, 0, "bootstrap")
            lags = [r.lags_s for r in own if r.lags_s]
            late = np.array([a.late_s for part in parts for a in part.answers])
            found.append(
                Result(
                    server=server,
                    model=models[arm],
                    api=api,
                    load=load,
                    clients=clients[load],
                    burstiness=burstiness,
                    parts=tuple(parts),
                    figures=figures(parts, limits, rng),
                    gains={} if plain is None else gains(plain, parts, rng),
                    same_text=None if plain is None else same_text(plain, parts),
                    counted=counted(server, own, k),
                    lag_s=(max((lag[0] for lag in lags), default=0.0), max((lag[1] for lag in lags), default=0.0)),
                    late_s=float(np.percentile(late, 99)),
                    cpu=max(r.cpu for r in own),
                    short=shorter(parts, (asked or {}).get(load, ())),
                )
            )
            plain = plain or parts
    return found


def shorter(parts: Sequence[Part], asked: Sequence[int]) -> int:
    """Return how many answers are shorter than was asked; of one whose tokens nobody counts that is not known."""
    told = [(row, a.output_tokens) for part in parts for row, a in zip(part.rows, part.answers, strict=True)]
    return sum(tokens is not None and row < len(asked) and tokens < asked[row] for row, tokens in told)


def same_text(plain: Sequence[Part], other: Sequence[Part]) -> float | None:
    """Return the share of requests to which two arms gave the same text, None where none was answered by both."""
    texts = {(p.part, row): a.digest for p in plain for row, a in zip(p.rows, p.answers, strict=True) if a.digest}
    pairs = [
        a.digest == texts[p.part, row]
        for p in other
        for row, a in zip(p.rows, p.answers, strict=True)
        if a.digest and (p.part, row) in texts
    ]
    return sum(pairs) / len(pairs) if pairs else None
