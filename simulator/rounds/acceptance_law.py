"""What a round accepts: samplers of the number of accepted drafts, one protocol for all (model §3).

Both samplers here draw rounds independently, so a law over 0..K says everything about them.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.costs.step import Floats
from simulator.ground.histogram import HALF_A_ROUND, AcceptanceHistogram, alpha_iid, tokens_per_round_iid

from .tail import SPREAD, beyond

Ints = NDArray[np.int64]


class AcceptanceModel(Protocol):
    """A source of accepted counts whose rounds are independent of each other."""

    def law(self, draft_length: int) -> Floats:
        """P(A = a) for a in 0..K, shape [K + 1]."""

    def bonus_guess_rate(self, draft_length: int) -> float:
        """P(the draft's own next token is the bonus token, given that all K were accepted)."""

    def tokens_per_round(self, draft_lengths: Ints) -> Floats:
        """1 + E[A] at draft lengths of any shape, as closed forms take it."""

    def hit_rates(self, draft_lengths: Ints) -> Floats:
        """P(all K are accepted and the bonus token is guessed), of the same shape."""

    def sample_tokens_per_round(self, draft_lengths: Ints, rng: np.random.Generator, samples: int) -> Floats:
        """Draw the mean tokens a round anew, as well as it is known, at all draft lengths; [samples, K]."""


class LawTable(NamedTuple):
    """What rounds of several draft lengths accept, as the engine takes it; S is the shape of the draft lengths.

    laws: P(A = a), [*S, K_max + 1], 0 above a row's own K. bonus_guess_rates: [*S].
    """

    laws: Floats
    bonus_guess_rates: Floats


def law_table(model: AcceptanceModel, draft_lengths: ArrayLike, width: int) -> LawTable:
    """Return the laws of a model at draft lengths of any shape; `width`: buckets, at least the largest K plus one."""
    k = np.asarray(draft_lengths, np.int64)
    lengths, which = np.unique(k, return_inverse=True)
    laws = np.zeros((len(lengths), width))
    for row, length in zip(laws, lengths, strict=True):
        row[: length + 1] = model.law(int(length))
    rates = np.array([model.bonus_guess_rate(int(length)) for length in lengths])
    which = which.reshape(k.shape)
    return LawTable(laws[which], rates[which])


def iid_laws(alpha: ArrayLike, draft_length: ArrayLike, width: int) -> Floats:
    """Return P(A = a) = alpha^a (1 - alpha) for a < K, alpha^K at K, 0 above; shape [..., width].

    Alpha, of one drafted token, and K broadcast; width: buckets of the result, the largest K plus one.
    """
    alpha, k = np.asarray(alpha, np.float64)[..., None], np.asarray(draft_length)[..., None]
    a = np.arange(width)
    return np.where(a < k, (1 - alpha) * alpha**a, np.where(a == k, alpha**a, 0.0))


class IidAcceptance(NamedTuple):
    """Every drafted token is accepted with probability alpha, whatever came before."""

    alpha: float

    def law(self, draft_length: int) -> Floats:
        """P(A = a) for a in 0..K, shape [K + 1]."""
        return iid_laws(self.alpha, draft_length, draft_length + 1)

    def bonus_guess_rate(self, draft_length: int) -> float:
        """Alpha: the guess is one more drafted token."""
        return self.alpha

    def tokens_per_round(self, draft_lengths: Ints) -> Floats:
        """1 + E[A] = (1 - alpha^(K+1)) / (1 - alpha)."""
        return tokens_per_round_iid(self.alpha, draft_lengths)

    def hit_rates(self, draft_lengths: Ints) -> Floats:
        """Alpha^(K+1): the guess is one more accepted token."""
        return iid_hit_rates(self.alpha, draft_lengths)

    def sample_tokens_per_round(self, draft_lengths: Ints, rng: np.random.Generator, samples: int) -> Floats:
        """The same in every draw."""
        return np.broadcast_to(tokens_per_round_iid(self.alpha, draft_lengths), (samples, len(draft_lengths)))


def iid_hit_rates(alpha: ArrayLike, draft_lengths: ArrayLike) -> Floats:
    """Return P(all K and the guess of the bonus token are accepted), alpha of a token; both broadcast."""
    return np.asarray(np.asarray(alpha, np.float64) ** (np.asarray(draft_lengths) + 1), np.float64)


class HistogramAcceptance(NamedTuple):
    """Rounds drawn independently from measured histograms, each draft length from the nearest one that covers it.

    A draft length without a histogram of its own is cut from the next longer one: exactly what those rounds would
    have accepted, though shorter drafts start their rounds at other, on the whole easier, places of the text.

    Raises:
        UserError: For a draft length above the longest histogram's.
    """

    histograms: tuple[AcceptanceHistogram, ...]

    @property
    def longest(self) -> int:
        """The longest draft length there is data for."""
        return max(h.draft_length for h in self.histograms)

    @property
    def measured_to(self) -> int:
        """The longest draft length that was measured: what is known beyond it is extrapolated."""
        return max(h.measured_to or h.draft_length for h in self.histograms)

    @property
    def caveat(self) -> str:
        """What kind of approximation the histograms are; empty for plain measurements."""
        return "; ".join(sorted({h.caveat for h in self.histograms if h.caveat}))

    @property
    def assumed(self) -> str:
        """As what they are taken, where nothing was measured; empty for what was."""
        return self.histograms[0].assumed

    @property
    def drafted(self) -> tuple[float, ...] | None:
        """P(D = d), where rounds of every drafted length are among them."""
        return self.nearest(self.longest).drafted

    @property
    def assumed_as(self) -> str:
        """The same with what kind of figure it is: of one published pair, or a prior of a method."""
        return self.assumed and f"{'published' if self.pair else 'a prior'}, {self.assumed}"

    @property
    def pair(self) -> tuple[str, str] | None:
        """Target and draft that were measured; None where the files do not say."""
        return self.nearest(self.longest).pair

    def nearest(self, draft_length: int) -> AcceptanceHistogram:
        """Return the histogram of the shortest draft length that covers this one, or the longest."""
        return min(self.histograms, key=lambda h: (h.draft_length < draft_length, abs(h.draft_length - draft_length)))

    def law(self, draft_length: int) -> Floats:
        """P(min(A, K) = a) for a in 0..K, shape [K + 1]."""
        return self.nearest(draft_length).cut(draft_length).law

    def bonus_guess_rate(self, draft_length: int) -> float:
        """The conditional rate one position further, or the last measured one where no histogram reaches so far."""
        source = self.nearest(draft_length + 1)
        return float(source.conditional[min(draft_length, source.draft_length - 1)])

    def tokens_per_round(self, draft_lengths: Ints) -> Floats:
        """1 + E[min(A, K)], of draft lengths of any shape."""
        return self.at_lengths(draft_lengths, lambda histogram: 1 + np.cumsum(histogram.survival))

    def hit_rates(self, draft_lengths: Ints) -> Floats:
        """P(A >= K) times the rate of the bonus token's guess."""
        lengths, which = np.unique(draft_lengths, return_inverse=True)
        rates = np.array([self.bonus_guess_rate(int(k)) for k in lengths])
        full = self.at_lengths(lengths, lambda histogram: histogram.survival)
        return np.asarray((full * rates)[which.reshape(np.shape(draft_lengths))])

    def at_lengths(self, draft_lengths: Ints, values: Callable[[AcceptanceHistogram], Floats]) -> Floats:
        """Return at each draft length what the nearest histogram has there; `values`: of one, at 1..k."""
        lengths, which = np.unique(draft_lengths, return_inverse=True)
        sources = [self.nearest(int(k)) for k in lengths]
        for source, k in zip(sources, lengths, strict=True):
            source.check_covers(int(k))
        of = {id(h): values(h) for h in {id(h): h for h in sources}.values()}
        found = np.array([of[id(h)][int(k) - 1] for h, k in zip(sources, lengths, strict=True)])
        return np.asarray(found[which.reshape(np.shape(draft_lengths))], np.float64)

    def sample_tokens_per_round(self, draft_lengths: Ints, rng: np.random.Generator, samples: int) -> Floats:
        """Draw histograms whose conditional rates have beta laws about what was counted.

        Draft lengths cut from one histogram share its draws. Histograms of their own come from one text: what is drawn
        at a position is the same quantile in all of them.
        """
        uniforms = rng.random((samples, self.longest))
        sources = [self.nearest(int(k)) for k in draft_lengths]
        once = {id(h): h for h in sources}.values()
        means = {id(h): 1 + np.cumsum(drawn_survival(h, uniforms[:, : h.draft_length]), 1) for h in once}
        return np.stack([means[id(h)][:, int(k) - 1] for h, k in zip(sources, draft_lengths, strict=True)], 1)


def drawn_survival(histogram: AcceptanceHistogram, uniforms: Floats) -> Floats:
    """Return P(A >= j) for j in 1..k of a histogram drawn anew; uniforms and result are [samples, k].

    The conditional rates of the positions are independent, with beta laws (Connor and Mosimann 1969), each after half a
    round that went on and half a one that stopped (Jeffreys): few rounds are no certainty. Rounds that are alike count
    as fewer; probabilities, of which nobody knows how many rounds they are of, are the same in every draw. What lies
    beyond the measured places is extrapolated from each draw of those, and is off as published tails are. Where a tree
    has no node, no draw accepts one.
    """
    from scipy.special import betaincinv, ndtri

    if 0 < (k := histogram.levels) < histogram.draft_length:
        there = drawn_survival(histogram.cut(k), uniforms[:, :k])
        return np.pad(there, ((0, 0), (0, histogram.draft_length - k)))
    if k := histogram.measured_to:
        measured = drawn_survival(histogram.cut(k), uniforms[:, :k])
        off = np.exp(SPREAD * ndtri(uniforms[:, k]))
        return np.concatenate([measured, beyond(measured, histogram.draft_length, off)], 1)
    if histogram.is_law:
        return np.broadcast_to(histogram.survival, uniforms.shape)
    counts = np.asarray(histogram.counts, np.float64) / histogram.design_effect
    stay, stop = np.cumsum(counts[::-1])[::-1][1:], counts[:-1]
    return np.asarray(np.cumprod(betaincinv(stay + HALF_A_ROUND, stop + HALF_A_ROUND, uniforms), 1))


class EquivalentAcceptance(NamedTuple):
    """What measured histograms would be with one alpha for all their tokens: for each k the one of the same mean."""

    measured: HistogramAcceptance

    @property
    def caveat(self) -> str:
        """The same of the histograms it comes from."""
        return self.measured.caveat

    def alpha(self, draft_length: int) -> float:
        """The i.i.d. acceptance that gives as many tokens a round as was measured at K, or at the longest."""
        return float(self.alphas(np.asarray(draft_length)))

    def alphas(self, draft_lengths: Ints) -> Floats:
        """The same of draft lengths of any shape."""
        there = np.minimum(draft_lengths, self.measured.longest)
        return alpha_iid(self.measured.tokens_per_round(there), there)

    def law(self, draft_length: int) -> Floats:
        """P(A = a) for a in 0..K, shape [K + 1]."""
        return IidAcceptance(self.alpha(draft_length)).law(draft_length)

    def bonus_guess_rate(self, draft_length: int) -> float:
        """The same alpha."""
        return self.alpha(draft_length)

    def tokens_per_round(self, draft_lengths: Ints) -> Floats:
        """1 + E[A] of each draft length's own alpha."""
        return tokens_per_round_iid(self.alphas(draft_lengths), draft_lengths)

    def hit_rates(self, draft_lengths: Ints) -> Floats:
        """Alpha^(K+1)."""
        return iid_hit_rates(self.alphas(draft_lengths), draft_lengths)

    def sample_tokens_per_round(self, draft_lengths: Ints, rng: np.random.Generator, samples: int) -> Floats:
        """Those of the histogram; beyond its longest draft with the alpha that each draw there is the equivalent of."""
        there = np.minimum(draft_lengths, self.measured.longest)
        drawn = self.measured.sample_tokens_per_round(there, rng, samples)
        return np.where(draft_lengths > there, tokens_per_round_iid(alpha_iid(drawn, there), draft_lengths), drawn)
