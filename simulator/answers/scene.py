"""What is compared under load: the requests that clients send, and the ways of serving them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from simulator.costs.engine import Engine
from simulator.ground.artefacts import UserError
from simulator.ground.fields import shortened
from simulator.ground.names import one_of
from simulator.ground.streams import stream
from simulator.serving.draws import Acceptance
from simulator.serving.fleet import ONE, Replicas
from simulator.serving.policies import Policy
from simulator.serving.policy_tables import step_s
from simulator.serving.settings import Settings
from simulator.serving.step_costs import StepCosts
from simulator.workloads.arrivals import arrival_times, replayed, sent_anew
from simulator.workloads.laws import FIXED, Law, drawn_lengths
from simulator.workloads.requests import Requests, first, requests_of
from simulator.workloads.sessions import AT_ONCE, prefixed, sessions

from .latency import Limit

# What a load is counted in.
RATE, CLIENTS, SPEED = "rate", "clients", "speed"
UNITS = {RATE: "requests/s", CLIENTS: "clients", SPEED: "x recorded speed"}
OF_SESSIONS = "sessions/s"
ONE_OF = {"requests/s": "request/s", "sessions/s": "session/s", "clients": "client"}


def unit_of(kind: str, *, sessions: bool) -> str:
    """Return what loads of a kind are counted in; sessions: of which the first turns are sent."""
    return OF_SESSIONS if sessions and kind == RATE else UNITS[kind]


def in_full(load: float, digits: int = 10) -> str:
    """Return a load of at most so many digits, in full."""
    return f"{float(f'{load:.{digits}g}'):,.10g}"


def loaded(load: float, unit: str, digits: int = 10) -> str:
    """Return a load with its unit."""
    told = in_full(load, digits)
    return f"{told} {ONE_OF.get(unit, unit) if told == '1' else unit}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What clients send.

    kind: What a load is: requests (of sessions: their first turns) a second, clients that each wait for their answer,
        or how many times as fast recorded requests are sent.
    count: Requests; of recorded ones at most.
    isl, osl: Laws of prompts and answers; of a session's turns, what each adds.
    burstiness: Of arrivals, see `arrival_times`.
    longest: Tokens of a prompt and its answer at most.
    prefix: Tokens that all prompts begin with.
    turns, think_s: Of sessions; None: there are none.
    recorded: Requests of a file, in place of laws.
    categories: Names of those that recorded requests are of.
    kinds: Of acceptance, of which each request draws one, as likely each; None: the one that its category is.
    """

    kind: str = RATE
    count: int
    isl: Law
    osl: Law
    burstiness: float = 1.0
    longest: int
    prefix: int = 0
    turns: Law | None = None
    think_s: Law = AT_ONCE
    recorded: Requests | None = None
    categories: tuple[str, ...] = ()
    kinds: int | None = 1

    @property
    def unit(self) -> str:
        """What loads are counted in."""
        recorded = self.recorded is not None and bool((self.recorded.after >= 0).any())
        return unit_of(self.kind, sessions=recorded or (self.recorded is None and self.turns is not None))

    def clients(self, load: float) -> int:
        """Return how many clients wait for their answers; 0: requests are sent by the clock."""
        return int(load) if self.kind == CLIENTS else 0

    @property
    def apart(self) -> int:
        """Requests of a run that follow from no other."""
        if self.recorded is not None:
            return int((first(self.recorded, self.count).after < 0).sum())
        return self.count if self.turns is None else max(round(self.count / self.turns.mean), 1)

    @property
    def most_told(self) -> float:
        """The load up to which a run tells of one that goes on, by its length: so many clients come back once."""
        return float(max(self.apart // 2, 1)) if self.kind == CLIENTS else np.inf

    @property
    def mean_prompt(self) -> float:
        """Tokens of a prompt on average; of a session's, of the turn in its middle."""
        if self.recorded is not None:
            return float(self.recorded.prompt.mean())
        before = ((self.turns.mean if self.turns else 1) - 1) / 2 * (self.isl.mean + self.osl.mean)
        return float(min(self.isl.mean + before + self.prefix, self.longest - 1))

    @property
    def mean_output(self) -> float:
        """Tokens of an answer on average."""
        mean = self.osl.mean if self.recorded is None else self.recorded.output.mean()
        return float(min(mean, self.longest))

    def whole(self, load: float, seed: int) -> Requests:
        """Return the requests of one run, however long; at another load, or served otherwise, they are the same."""
        made = self.made(load, seed) if self.recorded is None else self.repeated(self.recorded, load, seed)
        if self.kinds is not None:
            drawn = stream(seed, 0, "categories").integers(self.kinds, size=len(made.prompt), dtype=np.int32)
            made = made._replace(category=drawn)
        return prefixed(made, self.prefix) if self.prefix else made

    def sorted_into(self, names: Sequence[str]) -> "Traffic":
        """Return the same, each request of the kind of acceptance that its category names; of none, it draws one.

        Raises:
            UserError: A category is none of them.
        """
        if not self.categories or self.recorded is None:
            return replace(self, kinds=len(names))
        if strange := [name for name in self.categories if name not in names]:
            raise UserError(
                f"--workload: requests of {shortened(strange[0])}, of whose acceptance nothing is known, "
                f"expected {one_of(names, strange[0])}"
            )
        places = np.array([names.index(name) for name in self.categories], np.int32)
        return replace(self, kinds=None, recorded=self.recorded._replace(category=places[self.recorded.category]))

    def in_step(self, load: float) -> tuple[str, ...]:
        """Say that clients keep in step, where they do: all begin at once, and their answers have one length."""
        fixed = self.osl.kind == FIXED and (self.turns is None or self.think_s.kind == FIXED)
        lengths = {int(self.osl.mean)} if fixed and self.recorded is None else set[int]()
        if self.recorded is not None:
            lengths = {int(end) for end in (self.recorded.output.min(), self.recorded.output.max())}
        if self.clients(load) < 2 or len(lengths) != 1:
            return ()
        (tokens,) = lengths
        around = f"{max(int(0.8 * tokens), 1)}:{int(1.2 * tokens) + 1}"
        return (
            f"clients whose answers all have {tokens:,} tokens keep in step: they end, and are read, together, as on "
            f"an engine, and first tokens hang on how they began; lengths that differ (--osl {around}) tell more",
        )

    def too_long(self, load: float, seed: int) -> tuple[str, ...]:
        """Say how many of them a context cannot hold."""
        made = self.whole(load, seed)
        refused = made.prompt >= self.longest
        cut = ~refused & (made.prompt.astype(np.int64) + made.output > self.longest)
        of, most = f"of {len(made.prompt):,}", f"{self.longest:,} tokens (--max-model-len)"
        said = f"{refused.sum():,} {of} requests are refused: their prompts leave no place for an answer in {most}"
        lines = [said] if refused.any() else []
        return (*lines, f"{cut.sum():,} {of} answers are cut short, to end at {most}") if cut.any() else (*lines,)

    def requests(self, load: float, seed: int) -> Requests:
        """Return the same, as they are served: an answer ends where the context does; a prompt as long is refused."""
        made = self.whole(load, seed)
        room = np.maximum(self.longest - made.prompt, 1)
        return made._replace(output=np.minimum(made.output, room).astype(np.int32))

    def made(self, load: float, seed: int) -> Requests:
        """Draw requests."""
        lengths = stream(seed, 0, "lengths")
        if self.turns is None:
            prompt, output = drawn_lengths(lengths, self.count, self.isl, self.osl)
            return requests_of(prompt, output, arrival_s=self.sent_s(load, seed, self.count))
        laws = {"turns": self.turns, "opening": self.isl, "further": self.isl, "output": self.osl}
        sent_s = self.sent_s(load, seed, self.apart)
        return sessions(lengths, sent_s, **laws, think_s=self.think_s, most_tokens=self.longest)

    def repeated(self, recorded: Requests, load: float, seed: int) -> Requests:
        """Return recorded requests: as they were sent, faster, or in their order at another rate."""
        kept = first(recorded, self.count)
        if self.kind == SPEED:
            return replayed(kept, load)
        return sent_anew(kept, self.sent_s(load, seed, self.apart))

    def sent_s(self, load: float, seed: int, count: int) -> "np.ndarray[tuple[int, ...], np.dtype[np.float64]]":
        """Return times of sending; of clients, none."""
        if self.kind == CLIENTS:
            return np.zeros(count)
        return np.asarray(arrival_times(stream(seed, 0, "arrivals"), count, load, self.burstiness), np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way of serving; name: in words.

    replicas: servers, and what stands before them. engine: what it adds in front of requests. less_room: the part of
    its room for KV that it has on the smallest share of the memory that engines use; 1 where somebody says which.
    """

    name: str
    settings: Settings
    acceptance: Acceptance
    costs: StepCosts
    policy: Policy
    replicas: Replicas = ONE
    engine: Engine = field(default_factory=Engine)
    less_room: float = 1.0

    def in_front_s(self, running: float, prompt: float, output: float) -> float:
        """Return the seconds before a first token that lie outside of its steps, as the closed form has them."""
        front_s, passes = float(self.engine.in_front_s(running)), float(self.engine.first_passes)
        if not passes:
            return front_s
        read, beside = min(prompt, self.settings.max_num_batched_tokens), max(running - 1, 0.0)
        return front_s + passes * step_s(self.costs, beside, 1.0, prompt + output / 2, -1, read)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What is compared; the first way of serving is plain decoding.

    warmup: Share of the requests that counts in no figure, the first of each run. limits: promises to users.
    """

    traffic: Traffic
    arms: tuple[Arm, ...]
    limits: tuple[Limit, ...] = ()
    warmup: float = 0.1

    def warm(self, count: int, load: float) -> int:
        """Return how many requests are left out; of clients, who all come at once, at least the first of each."""
        share = int(self.warmup * count)
        return max(share, min(self.traffic.clients(load), count // 2)) if self.warmup else 0
