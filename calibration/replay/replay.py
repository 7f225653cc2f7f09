"""Policies side by side: what each would draft, have accepted and take, on the same outputs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from acceptance.estimate.engines.adaptive_verification import AdaptiveVerification
from acceptance.estimate.engines.named import EnginePolicy
from acceptance.estimate.engines.price import StepPrice
from acceptance.estimate.play import Coins, Counts, Player, tosses
from acceptance.estimate.replay import Replayed, joined, replay
from acceptance.trace.trace import Trace
from simulator.ground.artefacts import UserError
from simulator.ground.streams import stream
from simulator.rounds.acceptance_law import AcceptanceModel

from .laws import LawSource

Range = tuple[float, float]
PLAIN = "plain decoding"


class Work(Protocol):
    """Outputs to write, and what is accepted of drafts of them."""

    @property
    def starts(self) -> Counts:
        """Where each output begins, and the end of the last, [outputs + 1]."""

    def check(self, policy: EnginePolicy, name: str) -> None:
        """Refuse a policy that looks at what is not known here."""

    def play(self, policy: EnginePolicy, slots: int) -> Replayed:
        """Replay a policy with so many outputs at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """The outputs of a trace; q_kind: whose acceptance. Every policy meets the same coins."""

    trace: Trace
    q_kind: str
    seed: int
    replications: int

    @property
    def starts(self) -> Counts:
        """Where each output begins, and the end of the last, [outputs + 1]."""
        return self.trace.starts

    def check(self, policy: EnginePolicy, name: str) -> None:
        """Refuse a policy that looks at what the trace does not hold."""
        for needed in policy.needs:
            if np.isnan(getattr(self.trace, needed)).any():
                raise UserError(
                    f"--policy {name}: looks at {needed}, which the trace has not (an earlier version's, or of a draft "
                    "with another tokenizer), expected one measured anew, or another policy"
                )

    def play(self, policy: EnginePolicy, slots: int) -> Replayed:
        """Replay a policy on it."""
        coins = tosses(self.trace.accept(self.q_kind), np.random.default_rng(self.seed), self.replications)
        return joined([replay(self.starts, Coins(c), policy.begin(self.trace), slots) for c in coins])


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Outputs of which only the length is known, whose rounds a law draws."""

    acceptance: AcceptanceModel
    outputs: int
    tokens: int
    seed: int

    @property
    def starts(self) -> Counts:
        """Where each output begins, and the end of the last, [outputs + 1]."""
        return self.tokens * np.arange(self.outputs + 1)

    def check(self, policy: EnginePolicy, name: str) -> None:
        """Refuse a policy that looks at the draft itself."""
        if policy.needs:
            raise UserError(
                f"--policy {name}: looks at how sure the draft is, which a law does not tell, expected --trace"
            )

    def play(self, policy: EnginePolicy, slots: int) -> Replayed:
        """Replay a policy on them."""
        source = LawSource(self.acceptance, policy.longest, stream(self.seed, 0, "acceptance"))
        return replay(self.starts, source, policy.begin(self), slots)  # type: ignore[arg-type]  # knows its starts


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What a policy did; ranges are at least and at most, which differ where confidences off the text decide.

    replays: of the same outputs; steps, rounds, tokens: of all of them. drafted, verified, accepted: tokens a round of
    one sequence. wasted: of drafted tokens, what was not accepted. tokens_per_step: of all. ms_per_token: time
    between tokens of a sequence; speedup: plain decoding of the same outputs over it. None where costs are not known.
    """

    name: str
    replays: int
    steps: int
    rounds: int
    tokens: int
    drafted: Range
    verified: Range
    accepted: float
    wasted: Range
    tokens_per_round: float
    tokens_per_step: float
    ms_per_token: Range | None = None
    speedup: Range | None = None

    def as_json(self) -> dict[str, Any]:
        """Return it under plain keys."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "name"}


class Plain:
    """No drafts."""

    longest, needs, keeps_up, asks_costs, warm_up = 0, (), False, False, 0

    def begin(self, outputs: Any) -> Player:
        """Return the policy at the first token of every output."""
        return Player(np.zeros(len(outputs.starts) - 1, np.int64))


def priced(policy: EnginePolicy, price: StepPrice | None) -> EnginePolicy:
    """Return a policy that knows what steps cost, if it asks for that."""
    return replace(policy, price=price) if isinstance(policy, AdaptiveVerification) else policy


def rows_of(
    work: Work,
    policies: Mapping[str, EnginePolicy],
    price: StepPrice | None,
    slots: int,
    progress: Callable[[int], object] = lambda done: None,
) -> list[Row]:
    """Return what plain decoding and each policy do."""
    rows: list[Row] = []
    plain_s = 0.0
    for name, policy in {PLAIN: Plain(), **policies}.items():
        played = work.play(priced(policy, price), slots)
        seconds = None if price is None else played.seconds(price, policy.keeps_up)
        if seconds is not None and not rows:
            # Of one token: replications and the law's draws make other numbers of them.
            plain_s = float(seconds[0].sum()) / played.tokens
        rows.append(row_of(name, played, played.tokens // int(work.starts[-1]), seconds, plain_s))
        progress(1)
    return rows


def row_of(name: str, played: Replayed, replays: int, seconds: Any, plain_s: float) -> Row:
    """Return the rates of a policy; seconds: of each step, [2, steps]; plain_s: of a token without drafts."""
    rounds, accepted, tokens = int(played.running.sum()), int(played.accepted.sum()), played.tokens
    low, high = (int(total) for total in played.drafted.sum(1))
    row = Row(
        name=name,
        replays=replays,
        steps=len(played.running),
        rounds=rounds,
        tokens=tokens,
        drafted=(low / rounds, high / rounds),
        verified=(int(played.verified[0].sum()) / rounds, int(played.verified[1].sum()) / rounds),
        accepted=accepted / rounds,
        wasted=(1 - accepted / low if low else 0.0, 1 - accepted / high if high else 0.0),
        tokens_per_round=tokens / rounds,
        tokens_per_step=tokens / len(played.running),
    )
    if seconds is None:
        return row
    each = (seconds * played.running).sum(1) / tokens * 1e3
    gains = plain_s * tokens / seconds.sum(1)
    return replace(row, ms_per_token=(float(each[0]), float(each[1])), speedup=(float(gains[1]), float(gains[0])))
