"""What a round accepts: samplers of the number of accepted drafts, one protocol for all (model §3).

Both samplers here draw rounds independently, so a law over 0..K says everything about them.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from simulator.ground.histogram import AcceptanceHistogram, alpha_iid, tokens_per_round_iid

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class AcceptanceModel(Protocol):
    """A source of accepted counts whose rounds are independent of each other."""

    def law(self, k: int) -> Floats:
        """P(A = a) for a in 0..k, shape [k + 1]."""
        ...

    def bonus_guess_rate(self, k: int) -> float:
        """P(the draft's own next token is the bonus token, given that all k were accepted)."""
        ...

    def sample_tokens_per_round(self, lengths: Ints, rng: np.random.Generator, samples: int) -> Floats:
        """Draw the mean tokens a round anew, as well as it is known, at all draft lengths; [samples, lengths]."""
        ...


def iid_laws(alpha: ArrayLike, k: ArrayLike, width: int) -> Floats:
    """Return P(A = a) = alpha^a (1 - alpha) for a < K, alpha^K at K, 0 above; shape [..., width].

    Args:
        alpha: Acceptance probability of one drafted token, 0..1.
        k: Draft length, < width; broadcasts against `alpha`.
        width: Buckets of the result, the largest K plus one.
    """
    alpha, k = np.asarray(alpha, np.float64)[..., None], np.asarray(k)[..., None]
    a = np.arange(width)
    return np.where(a < k, (1 - alpha) * alpha**a, np.where(a == k, alpha**a, 0.0))


@dataclass(frozen=True, slots=True)
class IidAcceptance:
    """Every drafted token is accepted with probability alpha, whatever came before."""

    alpha: float

    def law(self, k: int) -> Floats:
        """P(A = a) for a in 0..k, shape [k + 1]."""
        return iid_laws(self.alpha, k, k + 1)

    def bonus_guess_rate(self, k: int) -> float:
        """Alpha: the guess is one more drafted token."""
        return self.alpha

    def sample_tokens_per_round(self, lengths: Ints, rng: np.random.Generator, samples: int) -> Floats:
        """The same in every draw."""
        return np.broadcast_to(tokens_per_round_iid(self.alpha, lengths), (samples, len(lengths)))


@dataclass(frozen=True, slots=True)
class HistogramAcceptance:
    """Rounds drawn independently from measured histograms, each draft length from the nearest one that covers it.

    A draft length without a histogram of its own is cut from the next longer one: exactly what those rounds would
    have accepted, though shorter drafts start their rounds at other, on the whole easier, places of the text.

    Raises:
        UserError: From `law`, for a k above the longest histogram's.
    """

    histograms: tuple[AcceptanceHistogram, ...]

    @property
    def longest(self) -> int:
        """The longest draft length there is data for."""
        return max(h.k for h in self.histograms)

    @property
    def caveat(self) -> str:
        """What kind of approximation the histograms are; empty for plain measurements."""
        return "; ".join(sorted({h.caveat for h in self.histograms if h.caveat}))

    def nearest(self, k: int) -> AcceptanceHistogram:
        """Return the histogram of the smallest k that covers this one, or the longest."""
        return min(self.histograms, key=lambda h: (h.k < k, abs(h.k - k)))

    def law(self, k: int) -> Floats:
        """P(min(A, k) = a) for a in 0..k, shape [k + 1]."""
        return self.nearest(k).cut(k).law

    def bonus_guess_rate(self, k: int) -> float:
        """The conditional rate one position further, or the last measured one where no histogram reaches so far."""
        source = self.nearest(k + 1)
        return float(source.conditional[min(k, source.k - 1)])

    def sample_tokens_per_round(self, lengths: Ints, rng: np.random.Generator, samples: int) -> Floats:
        """Draw by the Bayesian bootstrap: histograms whose buckets have a Dirichlet law about the counts.

        Draft lengths cut from one histogram share its draws. Histograms of their own come from one text: what is drawn
        at a position is the same quantile in all of them.
        """
        uniforms = rng.random((samples, self.longest))
        sources = [self.nearest(int(k)) for k in lengths]
        means = {id(h): 1 + np.cumsum(drawn_survival(h, uniforms[:, : h.k]), 1) for h in sources}
        return np.stack([means[id(h)][:, int(k) - 1] for h, k in zip(sources, lengths, strict=True)], 1)


def drawn_survival(histogram: AcceptanceHistogram, uniforms: Floats) -> Floats:
    """Return P(A >= j) for j in 1..k of a histogram drawn anew; uniforms and result are [samples, k].

    Of a Dirichlet law the conditional rates of the positions are independent, with beta laws (Connor and Mosimann
    1969). Rounds that are alike count as fewer.
    """
    from scipy.special import betaincinv

    counts = np.asarray(histogram.counts, np.float64) / histogram.design_effect
    stay, stop = np.cumsum(counts[::-1])[::-1][1:], counts[:-1]
    known = (stay > 0) & (stop > 0)
    rates = betaincinv(np.where(known, stay, 1.0), np.where(known, stop, 1.0), uniforms)
    return np.asarray(np.cumprod(np.where(known, rates, stay > 0), 1))


@dataclass(frozen=True, slots=True)
class EquivalentAcceptance:
    """What measured histograms would be with one alpha for all their tokens: for each k the one of the same mean."""

    measured: HistogramAcceptance

    @property
    def caveat(self) -> str:
        """The same of the histograms it comes from."""
        return self.measured.caveat

    def alpha(self, k: int) -> float:
        """The i.i.d. acceptance that gives as many tokens a round as was measured at k, or at the longest k."""
        return self.measured.nearest(k).cut(min(k, self.measured.longest)).alpha_iid

    def law(self, k: int) -> Floats:
        """P(A = a) for a in 0..k, shape [k + 1]."""
        return IidAcceptance(self.alpha(k)).law(k)

    def bonus_guess_rate(self, k: int) -> float:
        """The same alpha."""
        return self.alpha(k)

    def sample_tokens_per_round(self, lengths: Ints, rng: np.random.Generator, samples: int) -> Floats:
        """Those of the histogram; beyond its longest draft with the alpha that each draw there is the equivalent of."""
        there = np.minimum(lengths, self.measured.longest)
        drawn = self.measured.sample_tokens_per_round(there, rng, samples)
        return np.where(lengths > there, tokens_per_round_iid(alpha_iid(drawn, there), lengths), drawn)
