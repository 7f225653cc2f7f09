"""Why rounds of speculation are slow: what each cause takes of a round, in milliseconds."""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from simulator.costs.parameters import Load
from simulator.rounds.loads import served

from .comparison import Contender
from .round_passes import PLAIN, VERIFY, Pass, passes

# A context so short that its KV cache takes no time; share of a round below which a cause is not told.
SHORT, LEAST_SHARE = 1, 0.01


class Slowness(NamedTuple):
    """What rounds of one way of speculation take at one batch size; milliseconds.

    plain_ms: a token without speculation. round_ms: of it a round. tokens: that a round writes. first_ms: by how much
    later the first token comes. causes: in words, and what each takes of a round, the most first.
    """

    draft_length: int
    batch: int
    plain_ms: float
    round_ms: float
    tokens: float
    first_ms: float
    causes: tuple[tuple[str, float], ...]

    @property
    def pays_from(self) -> float:
        """Tokens that a round has to write to be worth its time."""
        return self.round_ms / self.plain_ms


def slowness(of: Contender, draft_length: int, batch: int, load: Load, isl: int, osl: int) -> Slowness:
    """Return what a round takes, cause by cause.

    Args:
        of: The method.
        draft_length: K.
        batch: Sequences that run at once.
        load: How prompts are read.
        isl: Tokens of a prompt.
        osl: Tokens of an answer.
    """
    pair = replace(of.pair, batch=batch)
    cost = pair.round_cost(draft_length)
    here, alone = passes(pair, draft_length), passes(replace(pair, batch=1), draft_length)
    short = passes(replace(pair, context=SHORT), draft_length)
    tokens = float(of.acceptance.tokens_per_round(np.array([draft_length]))[0])
    both = served(pair, load, isl, osl, draft_length, tokens)
    plain_ms, overhead_ms = 1e3 * float(cost.baseline_s), 1e3 * float(cost.overhead_s)
    round_ms = 1e3 * float(np.asarray(cost.draft_s) + cost.verify_s) + overhead_ms
    drafts = {name: one for name, one in here.items() if name not in (PLAIN, VERIFY)}
    (wider_ms, experts_ms), (wider_alone_ms, experts_alone_ms) = (
        grown(found, has_experts=pair.target.experts > 0) for found in (here, alone)
    )
    always_ms = min(wider_alone_ms - experts_alone_ms, wider_ms - experts_ms)
    kv_ms = max(longer(here, short, VERIFY) - longer(here, short, PLAIN), 0.0)
    kv_ms += sum(longer(here, short, name) for name in drafts)
    launched_ms = sum(part_ms(one, "launch") + part_ms(one, "fixed") for one in drafts.values())
    linked_ms = sum(part_ms(one, "link") for one in drafts.values())
    host_ms = 1e3 * float(cost.draft_s) - sum(one.times * one.ms for one in drafts.values())
    read_ms = sum(one.times * one.ms for one in drafts.values()) - launched_ms - linked_ms
    told = {
        "reading and computing the draft's weights (a small target, or a large draft)": max(read_ms, 0.0),
        "launching the draft's passes and what any pass costs": launched_ms,
        "exchanging sums between the devices that share the draft": linked_ms,
        "drafting on the host": max(host_ms, 0.0),
        "experts that only drafts touch": experts_ms,
        f"verifying drafts of {batch:,} sequences at once rather than of one (load)": wider_ms - experts_ms - always_ms,
        "verifying more than one token, whatever the load": always_ms,
        "reading a long context again for drafts (within the above)": kv_ms,
        "what a round costs besides its passes": overhead_ms,
    }
    causes = sorted(((name, ms) for name, ms in told.items() if ms >= LEAST_SHARE * round_ms), key=lambda c: -c[1])
    first_ms = 1e3 * float(both.drafted.ttft_s - both.plain.ttft_s)
    return Slowness(draft_length, batch, plain_ms, round_ms, tokens, first_ms, tuple(causes))


def grown(found: dict[str, Pass], *, has_experts: bool) -> tuple[float, float]:
    """Return by how many milliseconds verification takes longer than a plain step, and what of that reads experts."""
    more_ms = max(found[VERIFY].ms - found[PLAIN].ms, 0.0)
    read_ms = part_ms(found[VERIFY], "memory") - part_ms(found[PLAIN], "memory")
    return more_ms, min(max(read_ms, 0.0), more_ms) if has_experts else 0.0


def longer(here: dict[str, Pass], short: dict[str, Pass], name: str) -> float:
    """Return what a context takes of passes."""
    return here[name].times * (here[name].ms - short[name].ms)


def part_ms(one: Pass, part: str) -> float:
    """Return the milliseconds of one part of all such passes of a round."""
    return 1e3 * one.times * float(getattr(one.parts, f"{part}_s"))
