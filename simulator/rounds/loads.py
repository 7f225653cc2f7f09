"""A load with and without speculation: what each comes to, and by how much speculation speeds it up."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from simulator.costs.beyond import error_beyond
from simulator.costs.model_costs import ModelPair
from simulator.costs.parameters import Load
from simulator.costs.step import Floats, Real
from simulator.serving.steady import Steady, steady

from .acceptance_law import Ints
from .grid import Columns, Sweep


class Served(NamedTuple):
    """A load as it is served by a target alone, and with rounds of drafts."""

    plain: Steady
    drafted: Steady

    @property
    def speedup(self) -> Floats:
        """Tokens a second with drafts over those without: waiting and prompts count."""
        return self.drafted.output_tokens_per_s / self.plain.output_tokens_per_s

    @property
    def fits(self) -> NDArray[np.bool_]:
        """Whether both fit into memory, with a request at least."""
        return np.isfinite(self.plain.running) & np.isfinite(self.drafted.running)


def served(pair: ModelPair, load: Load, isl: Real, osl: Real, draft_length: Real, tokens_per_round: Real) -> Served:
    """Return a load as it is served; the pair's batch are the clients, and all broadcast."""
    given, how = (pair, pair.batch, isl, osl), load._asdict()
    return Served(
        steady(*given, **how),
        steady(*given, **how, draft_length=draft_length, tokens_per_round=tokens_per_round),
    )


def drawn_loads(
    pair: ModelPair,
    load: Load,
    isl: Real,
    osl: Real,
    draft_lengths: Ints,
    tokens_per_round: Floats,
    drawn_tokens: Floats,
    rng: np.random.Generator,
) -> Served:
    """Draw a load as it is served at some draft lengths, as well as costs and acceptance are known, [samples, K].

    Costs are drawn at the tokens a round that are expected; what other tokens change is taken at the expected costs.

    tokens_per_round: expected, [K]; drawn_tokens: of it, [samples, K].
    """
    isl = isl + np.zeros(len(draft_lengths))
    sampled = served(pair.sample(rng, len(drawn_tokens)), load, isl, osl, draft_lengths, tokens_per_round)
    fit, besides = pair.profile.fitted, pair.profile.served_errors
    if besides is not None:
        beyond = error_beyond(pair.beyond(isl=isl, osl=osl))
        errors = np.stack([np.hypot(error or besides[0], beyond) for error in besides])
        normals = rng.standard_normal((2, len(drawn_tokens)))
        normals = normals * (fit.tails(rng, len(drawn_tokens)) if fit else 1.0)
        factors = np.exp(normals[..., None] * errors.reshape(2, 1, -1))
        sampled = Served(*(off_by(one, np.minimum(pair.batch, load.requests), osl, *factors) for one in sampled))
    middle = served(pair, load, isl, osl, draft_lengths, tokens_per_round).drafted
    moved = served(pair, load, isl, osl, draft_lengths, drawn_tokens).drafted
    ratios = (np.asarray(a) / np.where(b == 0, 1, b) for a, b in zip(moved, middle, strict=True))
    return Served(sampled.plain, Steady(*(a * b for a, b in zip(sampled.drafted, ratios, strict=True))))


def off_by(one: Steady, clients: Real, osl: Real, tpot: Floats, ttft: Floats) -> Steady:
    """Return a load whose times a token and to the first token are multiplied by factors.

    Where some of the clients wait for a place, tokens a second are those of the places, however long they wait.
    """
    passes = np.asarray(osl) - 1
    tpot_s, ttft_s = tpot * one.tpot_s, ttft * one.ttft_s
    before, after = (
        first + np.where(passes > 0, passes * each, 0.0) for first, each in ((one.ttft_s, one.tpot_s), (ttft_s, tpot_s))
    )
    place_s = one.running * osl / one.output_tokens_per_s
    longer = 1 + np.minimum(np.where(passes > 0, passes * one.tpot_s, 0.0) / place_s, 1.0) * (tpot - 1)
    rate = one.output_tokens_per_s / np.where(one.running < clients, longer, after / before)
    return one._replace(tpot_s=tpot_s, ttft_s=ttft_s, output_tokens_per_s=rate)


def load_columns(sweep: Sweep, load: Load, pair: ModelPair, columns: Columns) -> Columns:
    """Return what a sweep says of its points under a load."""
    tokens = sweep.acceptance.tokens_per_round(columns)
    both = served(pair, load, columns["isl"], columns["osl"], columns["draft_length"], tokens)
    found: Columns = {} if pair.profile.memory_bytes is None else {"fits": both.fits.astype(np.int64)}
    for name, one in (("baseline", both.plain), ("speculative", both.drafted)):
        found |= {
            f"{name}_ms_per_token": one.tpot_s * 1e3,
            f"{name}_first_token_ms": one.ttft_s * 1e3,
            f"{name}_tokens_per_s": one.output_tokens_per_s,
            f"{name}_running": one.running,
            f"{name}_mixed_share": one.mixed_share,
        }
    return found | {"closed_form_tokens_per_round": tokens, "closed_form_speedup": both.speedup}
