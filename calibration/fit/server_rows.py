"""Loads that bench-server put on servers, as rows that a fit takes: steps of one kind together, and first tokens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from acceptance.servers.answer import Answer
from acceptance.servers.server import Server
from calibration.servers.engine import Counted, counted
from calibration.servers.records import Load, Ran, check_once, read_load
from calibration.servers.steps import Steps, steps_of
from simulator.answers.scene import CLIENTS
from simulator.costs.ranges import TimedRange
from simulator.costs.step import Floats
from simulator.ground.artefacts import UserError

# Steps of a row at least; rows of prompts of a block, and of first tokens, at most.
LEAST_STEPS, MOST_MIXED, MOST_FIRST = 5, 8, 6
# Of what a step is expected to take by the others of its block: beyond it something else had the machine.
LEAST_OF, MOST_OF = 0.5, 2.0
ROUNDS = 30
# Of steps of a block about their line, relative: one with such a spread counts half.
HALF_SPREAD = 0.15


class Row(NamedTuple):
    """Steps that are alike, or first tokens of prompts that are.

    block: number of the load on its arm. seconds: of a step, ttft_s: of a first token, of which NaN is one. share: of
    the block's time.
    """

    arm: str
    clients: int
    block: int
    seconds: float
    ttft_s: float
    decoding: float
    context: float
    prompts: float
    prompt_tokens: float
    share: float


class Arm(NamedTuple):
    """A way of serving. counted: what its engine counted, of all loads."""

    name: str
    counted: Counted
    ran: tuple[Ran, ...]

    @property
    def k(self) -> int:
        """Its draft length, 0 of plain decoding."""
        return int(self.counted.k or 0) if self.counted.drafts else 0

    @property
    def answers(self) -> list[Answer]:
        """Those that came."""
        return [a for r in self.ran for a in r.part.answers if a.first_s is not None and not a.error]

    @property
    def rounds(self) -> float:
        """Rounds of sequences, those without drafts among them: each writes its accepted tokens and one more."""
        written = sum(a.tokens - 1 for a in self.answers)
        return max(written - self.counted.accepted, self.counted.drafts)

    @property
    def drafted(self) -> tuple[float, ...]:
        """P(D = d), of rounds that drafted K or nothing."""
        some = self.counted.drafts / self.rounds
        return (1 - some, *(0.0,) * (self.k - 1), some)


class Seen(NamedTuple):
    """What was seen of servers. models: by arm. engine: as counters name it, "" where they do not.

    broken: what files lack.
    """

    arms: tuple[Arm, ...]
    rows: tuple[Row, ...]
    models: Mapping[str, str]
    engine: str
    broken: tuple[str, ...] = ()

    @property
    def ranges(self) -> dict[str, TimedRange]:
        """Return what was asked, from least to most."""
        answers = [a for arm in self.arms for a in arm.answers]
        asked = {
            "concurrency": [row.clients for row in self.rows],
            "isl": [a.prompt_tokens or 0 for a in answers],
            "osl": [a.tokens for a in answers],
            "devices": [1],
        }
        return {name: TimedRange(least=float(min(v)), most=float(max(v))) for name, v in asked.items()}

    def column(self, name: str) -> Floats:
        """Return a number of each row."""
        return np.array([getattr(row, name) for row in self.rows], np.float64)


def read_seen(paths: Sequence[Path]) -> Seen:
    """Read files of `bench-server --out`.

    Raises:
        UserError: One is none, has what another has, or is of requests that come by the clock alone.
    """
    loads = [read_load(path) for path in paths]
    check_once((path, ran) for path, load in zip(paths, loads, strict=True) for ran in load.ran)
    broken = [f"{path}: {lack}" for path, load in zip(paths, loads, strict=True) for lack in load.broken]
    seen, whole = seen_of(loads, str(paths[0])), sum(len(ran.part.answers) for load in loads for ran in load.ran)
    if failed := whole - sum(len(arm.answers) for arm in seen.arms):
        broken.append(f"{failed:,} of {whole:,} requests failed, or tell no first token, and are left out.")
    return seen._replace(broken=tuple(broken))


def seen_of(loads: Sequence[Load], place: str) -> Seen:
    """Return what loads tell of servers; place: of them, in messages."""
    by_arm: dict[str, list[Ran]] = {}
    models: dict[str, str] = {}
    rows: list[Row] = []
    blocks: dict[tuple[int, str, float], list[Ran]] = {}
    for number, load in enumerate(loads):
        models |= load.models
        is_closed = load.parameters["load_kind"].text() == CLIENTS
        for ran in load.ran:
            by_arm.setdefault(ran.part.arm, []).append(ran)
            if is_closed:
                blocks.setdefault((number, ran.part.arm, ran.part.load), []).append(ran)
    for block, ((_, arm, clients), parts) in enumerate(blocks.items()):
        rows += rows_of(arm, int(clients), block, parts)
    if not rows:
        raise UserError(f"{place}: holds no load of clients that tells of steps, expected bench-server --concurrency")
    arms = tuple(Arm(name, counted(Server(name, ""), ran), tuple(ran)) for name, ran in by_arm.items())
    return Seen(arms, tuple(rows), models, engine_of(arms))


def engine_of(arms: Sequence[Arm]) -> str:
    """Return the engine that counted."""
    lines = " ".join(line.removeprefix("ray_") for arm in arms for r in arm.ran[:1] for line in r.after)
    return next((engine for engine in ("vllm", "sglang", "llamacpp") if f"{engine}:" in lines), "")


def rows_of(arm: str, clients: int, block: int, parts: Sequence[Ran]) -> list[Row]:
    """Return the rows of a load on an arm."""
    found = [steps_of(r.part.answers, r.part.warm) for r in parts]
    steps = Steps(*(np.concatenate(columns) for columns in zip(*found, strict=True)))
    expected, kept = expected_s(steps)
    spread = float(np.median(np.abs(steps.seconds / expected - 1))) / 0.6745 if len(expected) else 0.0
    steps = steps.select(kept)
    counts = 1 / (1 + (spread / HALF_SPREAD) ** 2)
    total_s = max(float(steps.seconds.sum()), 1e-9)
    rows = []
    for group in groups_of(steps):
        part = Steps(*(column[group] for column in steps))
        share = counts * float(part.seconds.sum()) / total_s
        seconds, *means = (float(column.mean()) for column in part)
        rows.append(Row(arm, clients, block, seconds, np.nan, *means, share))  # type: ignore[call-arg]  # as many
    if clients == 1:
        rows += first_rows(arm, block, parts, counts)
    return rows


def expected_s(steps: Steps) -> tuple[Floats, NDArray[np.bool_]]:
    """Return what steps take by a line through those of their block, and which are near it."""
    if len(steps.seconds) < LEAST_STEPS:
        return np.ones(len(steps.seconds)), np.zeros(len(steps.seconds), np.bool_)
    about = np.column_stack((np.ones(len(steps.seconds)), steps.decoding, steps.prompts, steps.prompt_tokens))
    weights = np.ones(len(about))
    for _ in range(ROUNDS):
        line = np.linalg.lstsq(about * weights[:, None], steps.seconds * weights, rcond=None)[0]
        expected = np.maximum(about @ line, 1e-6)
        off = steps.seconds / expected - 1
        size = max(float(np.median(np.abs(off))), 1e-6)
        weights = 1 / np.sqrt(1 + (off / (2 * size)) ** 2) / expected
    ratio = steps.seconds / expected
    return expected, (ratio > LEAST_OF) & (ratio < MOST_OF)


def groups_of(steps: Steps) -> list[NDArray[np.int64]]:
    """Return steps that are alike, together: of as many sequences without a prompt, and by tokens of prompts."""
    plain, found = steps.prompts == 0, []
    for count in np.unique(steps.decoding[plain]):
        at = np.flatnonzero(plain & (steps.decoding == count))
        if len(at) >= LEAST_STEPS:
            found.append(at)
    mixed = np.flatnonzero(~plain)
    mixed = mixed[np.argsort(steps.prompt_tokens[mixed], kind="stable")]
    parts = min(MOST_MIXED, len(mixed) // LEAST_STEPS)
    return found + ([part for part in np.array_split(mixed, parts)] if parts else [])


def first_rows(arm: str, block: int, parts: Sequence[Ran], counts: float) -> list[Row]:
    """Return the first tokens of one client, who waits for nobody, by the length of prompts."""
    told = [a for r in parts for _, a in r.part.counted if a.first_s is not None and a.prompt_tokens]
    told.sort(key=lambda a: a.prompt_tokens or 0)
    number = min(MOST_FIRST, len(told) // LEAST_STEPS)
    rows = []
    for part in np.array_split(np.arange(len(told)), number) if number else ():
        prompts = np.array([told[i].prompt_tokens for i in part], np.float64)
        first_s = np.array([(told[i].first_s or 0.0) - told[i].sent_s for i in part])
        ratio = first_s / prompts / np.median(first_s / prompts)
        near = (ratio > LEAST_OF) & (ratio < MOST_OF)
        means = 0.0, 0.0, 1.0, float(prompts[near].mean())
        rows.append(Row(arm, 1, block, np.nan, float(first_s[near].mean()), *means, counts / number))
    return rows
