"""Sends what a log has again, to a server that is simulated: the same requests in the same order, at the same load."""

from collections.abc import Sequence

import numpy as np

from acceptance.servers.answer import Answer
from calibration.servers.metrics import Part
from simulator.answers.load_curve import Task, outcome_of
from simulator.answers.scene import CLIENTS, Arm, Scene, Traffic
from simulator.workloads.laws import FIXED, Law
from simulator.workloads.requests import Requests, requests_of
from simulator.workloads.sessions import prefixed

from .measured import Measured


def replayed(arm: Arm, load: Measured, parts: Sequence[Part], seed: int) -> list[Part]:
    """Return what a simulated server makes of blocks, each by itself as it was measured.

    Of clients the same requests come in the same order, each as soon as a client is free; others when they were sent.
    Requests that failed are left out.
    """
    scene = Scene(traffic=traffic_of([load]), arms=(arm,))
    return [once(scene, load, part, seed * len(parts) + at) for at, part in enumerate(parts) if asked_in(part)]


def asked_in(part: Part) -> list[tuple[int, Answer]]:
    """Return the requests of a block that were answered, in the order in which they were sent."""
    return [(row, a) for row, a in zip(part.rows, part.answers, strict=True) if not a.error and a.tokens > 0]


def requests_in(answers: Sequence[Answer], prefix: int) -> Requests:
    """Return requests as they were sent; prefix: tokens that all prompts begin with."""
    prompt = np.array([max((a.prompt_tokens or 1) - prefix, 1) for a in answers])
    made = requests_of(prompt, [a.tokens for a in answers], arrival_s=[a.sent_s for a in answers])
    return prefixed(made, prefix) if prefix else made


def traffic_of(loads: Sequence[Measured]) -> Traffic:
    """Return what clients sent on the whole, by whose lengths memory is divided."""
    parts = [part for load in loads for arm in load.arms for part in load.parts(arm)]
    answers = [a for part in parts for _, a in asked_in(part)]
    means = [float(np.mean(v)) for v in ([a.prompt_tokens or 1 for a in answers], [a.tokens for a in answers])]
    isl, osl = (Law(FIXED, max(mean, 1.0)) for mean in means)
    return Traffic(kind=loads[0].kind, count=len(answers), isl=isl, osl=osl, longest=1 << 24)


def once(scene: Scene, load: Measured, part: Part, seed: int) -> Part:
    """Return what came of one block."""
    pairs = asked_in(part)
    requests = requests_in([answer for _, answer in pairs], load.prefix)
    outcome = outcome_of(scene, Task(0, load.load, seed), requests)
    # A scheduler's clock begins when the first comes to it.
    begun_s = 0.0 if load.kind == CLIENTS else float(requests.arrival_s[0] - outcome.sent_s[0])
    answers, rows = list[Answer](), list[int]()
    for at, (row, asked) in enumerate(pairs):
        if np.isnan(outcome.end_s[at]):
            continue
        rows.append(row)
        answers.append(
            Answer(
                sent_s=float(outcome.sent_s[at]) + begun_s,
                first_s=float(outcome.first_s[at]) + begun_s,
                last_s=float(outcome.end_s[at]) + begun_s,
                prompt_tokens=asked.prompt_tokens,
                output_tokens=asked.tokens,
            )
        )
    duration_s = max((a.last_s for a in answers if a.last_s is not None), default=0.0)
    first = set(part.rows[: part.warm])
    warm = sum(row in first for row in rows)
    return part._replace(rows=tuple(rows), answers=tuple(answers), duration_s=duration_s, warm=warm)
