"""A server of known costs under load, as bench-server would have recorded it: what a fit to steps has to find again."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from acceptance.servers.answer import Answer
from calibration.servers.records import LOADED
from simulator.ground.artefacts import envelope
from simulator.serving.step_costs import StepCosts, add, no_totals, seconds


@dataclass
class Engine:
    """Serves clients that wait for their answers; accepts: P(A >= j) of a draft at each place, found: of any draft.

    counts: rounds that drafted by accepted drafts.
    """

    costs: StepCosts
    front_s: float
    accepts: tuple[float, ...] = ()
    found: float = 1.0
    noise: float = 0.01
    counts: list[int] = field(default_factory=list)

    @property
    def k(self) -> int:
        """Its draft length."""
        return len(self.accepts)

    def round(self, rng: np.random.Generator) -> tuple[int, int]:
        """Return the drafts of a round and those that are accepted."""
        if rng.random() >= self.found:
            return 0, 0
        accepted = int(np.sum(rng.random() < np.array(self.accepts)))
        if self.k:
            self.counts[accepted] += 1
        return self.k, accepted

    def serve(self, clients: int, until_s: float, lengths: Sequence[tuple[int, int]], seed: int) -> list[Answer]:
        """Return the answers of a load."""
        rng, left, now, answers = np.random.default_rng(seed), iter(lengths), 0.0, list[Answer]()
        self.counts = self.counts or [0] * (self.k + 1)
        coming: list[tuple[float, Answer]] = []
        written: dict[int, int] = {}

        def send(at_s: float) -> None:
            if at_s < until_s and (pair := next(left, None)):
                answers.append(Answer(sent_s=at_s, prompt_tokens=pair[0], output_tokens=pair[1]))
                coming.append((at_s + self.front_s, answers[-1]))

        for _ in range(clients):
            send(0.0)
        while coming or written:
            if not written:
                now = max(now, min(at_s for at_s, _ in coming))
            read = [answer for at_s, answer in coming if at_s <= now]
            coming = [each for each in coming if each[0] > now]
            decoding = [answer for answer in answers if id(answer) in written]
            now += self.step(rng, now, decoding, read, written)
            for answer in [a for a in decoding if written[id(a)] >= (a.output_tokens or 0)]:
                del written[id(answer)]
                send(now)
        return answers

    def step(
        self, rng: np.random.Generator, now: float, decoding: list[Answer], read: list[Answer], written: dict[int, int]
    ) -> float:
        """Do a step, and return what it takes; written: tokens of each answer that runs."""
        rounds, totals = [self.round(rng) for _ in decoding], no_totals(self.costs)
        for answer, (drafts, _) in zip(decoding, rounds, strict=True):
            add(self.costs, totals, drafts + 1, (answer.prompt_tokens or 0) + written[id(answer)], drafts, False, True)
        for answer in read:
            add(self.costs, totals, answer.prompt_tokens or 0, 0, 0, True, True)
        taken = seconds(self.costs, totals, self.k or -1) * float(np.exp(self.noise * rng.standard_normal()))
        for answer, (_, accepted) in zip(decoding, rounds, strict=True):
            answer.gaps_s.append(now + taken - (answer.last_s or 0.0))
            answer.last_s = now + taken
            written[id(answer)] += accepted + 1
        for answer in read:
            answer.first_s = answer.last_s = now + taken
            written[id(answer)] = 1
        return taken

    def metrics(self) -> list[str]:
        """Return the lines of /metrics that tell of rounds."""
        head = "vllm:spec_decode_num_"
        if not self.k:
            return ['vllm:generation_tokens_total{engine="0"} 1']
        drafts, accepted = sum(self.counts), sum(a * n for a, n in enumerate(self.counts))
        by_place = [sum(self.counts[j + 1 :]) for j in range(self.k)]
        places = [f'{head}accepted_tokens_per_pos_total{{position="{j}"}} {n}' for j, n in enumerate(by_place)]
        totals = {"drafts": drafts, "draft_tokens": drafts * self.k, "accepted_tokens": accepted}
        return [*(f"{head}{name}_total {value}" for name, value in totals.items()), *places]


def write_load(
    path: Path, engines: dict[str, Engine], loads: Sequence[int], isl: tuple[int, int], seconds_each: float, seed: int
) -> None:
    """Write what bench-server would of loads on such servers."""
    rng = np.random.default_rng(seed)
    lengths = list(zip(rng.integers(*isl, 400).tolist(), rng.integers(24, 64, 400).tolist(), strict=True))
    parameters: dict[str, Any] = {"arms": dict.fromkeys(engines, "http://s"), "load_kind": "clients"}
    lines = [envelope(LOADED.name, 1, parameters | {"loads": list(loads)})]
    lines.append({"type": "setup", "models": dict.fromkeys(engines, "m"), "longest": {}, "counted": None})
    lines[-1]["is_text"] = False
    for clients in loads:
        for arm, engine in engines.items():
            before = engine.metrics() if engine.counts else zeros(engine)
            answers = engine.serve(clients, seconds_each, lengths, seed)
            lines += records(arm, clients, answers, before, engine.metrics())
    text = (json.dumps(line, sort_keys=True, separators=(",", ":")) for line in lines)
    path.write_text("\n".join(text) + "\n")


def zeros(engine: Engine) -> list[str]:
    """Return counters before anything was counted."""
    return [f"{line.rpartition(' ')[0]} 0" for line in Engine(engine.costs, 0, engine.accepts, counts=[0]).metrics()]


def records(
    arm: str, clients: int, answers: Sequence[Answer], before: list[str], after: list[str]
) -> Iterator[dict[str, Any]]:
    """Yield the records of a block."""
    told = {"arm": arm, "load": float(clients), "part": 0, "try": 1}
    for row, a in enumerate(answers):
        ttft_s, e2e_s = ((s or 0.0) - a.sent_s for s in (a.first_s, a.last_s))
        times = {"sent_s": a.sent_s, "ttft_s": ttft_s, "e2e_s": e2e_s, "gaps_s": a.gaps_s, "late_s": 0.0}
        counts = {"prompt_tokens": a.prompt_tokens, "output_tokens": a.output_tokens}
        yield {"type": "request", "row": row, **told, **times, **counts}
    ran = {"duration_s": max(a.last_s or 0.0 for a in answers), "lags_s": [], "cpu": 0.0}
    yield {"type": "block", **told, **ran, "before": before, "after": after}
