"""The acceptance histogram: how many drafts a round accepted, its file `accept_hist_k{K}.json`, and metrics (§3)."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .artefacts import UserError, check_kind, envelope, write_json
from .fields import Field, shortened
from .limits import MAX_DRAFT_LENGTH
from .read_as import AS, HISTOGRAMS, counts_as, doubts, group_in, looks_like, read_histogram

KIND = "acceptance_histogram"
# 1: {"k", "hist", "samples"} as other tools write it, plus our provenance keys.
SCHEMA_VERSIONS = (1,)
MAX_COUNT = 1e30
# Half the width of a 95 % interval in standard errors.
NORMAL_95 = 1.959964
# Added each way to what was counted (Jeffreys): few rounds are no certainty.
HALF_A_ROUND = 0.5
# Of rounds whose prompts are not known: rounded up from 5.7 to 7.6, by draft length, of the bundled pair's 48 prompts.
DEFAULT_DESIGN_EFFECT = 8.0


def tokens_per_round_iid(alpha: ArrayLike, draft_length: ArrayLike) -> NDArray[np.float64]:
    """Return tau = (1 - alpha^(K+1)) / (1 - alpha), tokens a round (Leviathan et al. 2023, eq. 1).

    Args:
        alpha: Acceptance probability of one drafted token, 0..1.
        draft_length: K; broadcasts against `alpha`.
    """
    alpha, k = np.asarray(alpha, np.float64), np.asarray(draft_length, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        tau = -np.expm1((k + 1) * np.log(alpha)) / (1 - alpha)
    return np.where(alpha >= 1, k + 1, tau)


def alpha_iid(tokens_per_round: ArrayLike, draft_length: ArrayLike) -> NDArray[np.float64]:
    """Return the alpha whose i.i.d. law has this many tokens a round; 0 below 1 token, 1 above K + 1.

    Args:
        tokens_per_round: tau; broadcasts against `draft_length`.
        draft_length: K, >= 1.
    """
    tau, k = np.broadcast_arrays(np.asarray(tokens_per_round, np.float64), np.asarray(draft_length, np.float64))
    low, high = np.zeros(tau.shape), np.ones(tau.shape)
    for _ in range(0 if ((tau <= 1) | (tau >= k + 1)).all() else 60):
        middle = (low + high) / 2
        below = tokens_per_round_iid(middle, k) < tau
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return np.where(tau <= 1, 0.0, np.where(tau >= k + 1, 1.0, (low + high) / 2))


def mean_accepted(counts: ArrayLike) -> NDArray[np.float64]:
    """Return the accepted drafts a round, [...], from counts of rounds, [..., k + 1]; NaN where there are none."""
    counts = np.asarray(counts, np.float64)
    with np.errstate(invalid="ignore"):
        return np.asarray(counts @ np.arange(counts.shape[-1]) / counts.sum(-1), np.float64)


def survival_rates(counts: ArrayLike) -> NDArray[np.float64]:
    """Return P(A >= j) for j in 1..k, [..., k], from counts of rounds, [..., k + 1]; NaN where there are none."""
    with np.errstate(invalid="ignore"):
        rates = tail_sums(counts)[..., 1:] / np.asarray(counts, np.float64).sum(-1, keepdims=True)
    return np.asarray(np.minimum(rates, 1.0), np.float64)  # above by rounding


def conditional_rates(counts: ArrayLike) -> NDArray[np.float64]:
    """Return P(A >= j given A >= j - 1) for j in 1..k, [..., k], from counts [..., k + 1]; 0 where none came so far."""
    tails = tail_sums(counts)
    before = tails[..., :-1]
    return np.divide(tails[..., 1:], before, out=np.zeros(before.shape), where=before > 0)


def tail_sums(counts: ArrayLike) -> NDArray[np.float64]:
    """Return how many rounds accepted at least a drafts, for a in 0..k; counts of rounds and result [..., k + 1]."""
    return np.cumsum(np.asarray(counts, np.float64)[..., ::-1], axis=-1)[..., ::-1]


@dataclass(frozen=True, slots=True)
class AcceptanceHistogram:
    """Counts of rounds by accepted drafts: `counts[a]` rounds accepted `a` of k = len(counts) - 1 drafts.

    Counts may be fractional, when they are expectations from a trace. `caveat`: what kind of approximation they are;
    empty for a plain measurement. `design_effect`: how many times the variance of the mean exceeds that of as many
    independent rounds, as those of one prompt are alike. `prompts` and `pair` (target, draft): what was measured, where
    that is known. `is_law`: the counts are probabilities, of rounds that nobody counted. `undrafted`: decode steps
    beside them that had no draft, at least. `assumed`: as what it is taken, where nothing was measured. `ranks`: of the
    text, as the file has them, for trees. `by_length`: rounds by drafted and accepted tokens, as the file has them;
    `drafted`: P(D = d), where rounds of every drafted length are in the counts. `measured_to`: the last place that was
    measured, where more is extrapolated, `levels`: the last that a tree has a node at; 0 where those are all.

    Raises:
        UserError: No bucket above 0, a count that is negative, NaN or above MAX_COUNT, or nothing counted at all.
    """

    counts: tuple[float, ...]
    caveat: str = field(default="", compare=False)
    design_effect: float = field(default=1.0, compare=False)
    prompts: int | None = field(default=None, compare=False)
    pair: tuple[str, str] | None = field(default=None, compare=False)
    is_law: bool = field(default=False, compare=False)
    undrafted: float = field(default=0.0, compare=False)
    assumed: str = field(default="", compare=False)
    ranks: Field | None = field(default=None, compare=False, repr=False)
    by_length: Field | None = field(default=None, compare=False, repr=False)
    drafted: tuple[float, ...] | None = field(default=None, compare=False)
    measured_to: int = field(default=0, compare=False)
    levels: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if len(self.counts) < 2:
            raise UserError(f"histogram has {len(self.counts)} buckets, expected k + 1 with k >= 1")
        for bucket, count in enumerate(self.counts):
            if not 0 <= count <= MAX_COUNT:
                raise UserError(f"hist[{str(bucket)!r}] is {count!r}, expected a count from 0 to {MAX_COUNT:g}")
        if sum(self.counts) <= 0:
            raise UserError("hist has no counts: every bucket is 0")

    @property
    def draft_length(self) -> int:
        """K that the rounds were drafted with."""
        return len(self.counts) - 1

    @property
    def samples(self) -> float:
        """Rounds counted."""
        return math.fsum(self.counts)

    @property
    def law(self) -> NDArray[np.float64]:
        """P(A = a) for a in 0..k, shape [k + 1]."""
        counts = np.asarray(self.counts, np.float64)
        return np.asarray(counts / counts.sum(), np.float64)

    @property
    def tokens_per_round(self) -> float:
        """1 + sum A / S: the bonus or correction token is in, as in vLLM's mean acceptance length."""
        return 1 + float(mean_accepted(self.counts))

    @property
    def draft_acceptance_rate(self) -> float:
        """Sum A / sum D: accepted drafts over drafted ones."""
        return (self.tokens_per_round - 1) / self.draft_length

    @property
    def alpha_iid(self) -> float:
        """The acceptance probability of one token that gives these tokens a round, were it i.i.d."""
        return float(alpha_iid(self.tokens_per_round, self.draft_length))

    @property
    def survival(self) -> NDArray[np.float64]:
        """P(A >= j) for j in 1..k, shape [k]: the unconditional rate of each position."""
        return survival_rates(self.counts)

    @property
    def conditional(self) -> NDArray[np.float64]:
        """P(A >= j given A >= j - 1) for j in 1..k, shape [k]; 0 where no round came that far."""
        return conditional_rates(self.counts)

    def check_covers(self, draft_length: int) -> None:
        """Refuse a draft length beyond its own."""
        longest = self.draft_length
        if not 1 <= draft_length <= longest:
            raise UserError(f"draft length {draft_length} with a histogram of k = {longest}, expected 1..{longest}")

    def cut(self, draft_length: int) -> "AcceptanceHistogram":
        """Return the histogram of min(A, K), what these rounds accept of K drafts; refuses a K beyond its own."""
        self.check_covers(k := draft_length)
        to = self.measured_to if k > self.measured_to else 0
        return replace(self, counts=(*self.counts[:k], math.fsum(self.counts[k:])), measured_to=to)


def variance(law: NDArray[np.float64]) -> float:
    """Return the variance of A under P(A = a), shape [k + 1]."""
    accepted = np.arange(len(law))
    return float(law @ accepted**2 - (law @ accepted) ** 2)


def design_effect_of(payload: Mapping[str, Any], histogram: AcceptanceHistogram) -> float:
    """Return the design effect that the file's own interval of tokens_per_round tells; the default where it has none.

    At least 1: an interval narrower than that of independent rounds comes of too few prompts. Where these were too few
    for any interval, each counts as one round, which is the most that its rounds can be alike.
    """
    metrics = payload.get("metrics")
    intervals = metrics.get("ci95") if isinstance(metrics, dict) else None
    if not isinstance(intervals, dict) or "tokens_per_round" not in intervals:
        return DEFAULT_DESIGN_EFFECT
    ends, independent = intervals["tokens_per_round"], variance(histogram.law) / histogram.samples
    if ends is None:
        return max(1.0, histogram.samples / (histogram.prompts or 1))
    if not isinstance(ends, list) or len(ends) != 2 or not all(isinstance(end, int | float) for end in ends):
        return DEFAULT_DESIGN_EFFECT
    if max(map(abs, ends)) > MAX_COUNT:
        return DEFAULT_DESIGN_EFFECT
    if independent <= 0:
        return 1.0
    return max(1.0, float(((ends[1] - ends[0]) / (2 * NORMAL_95)) ** 2 / independent))


def measured_on(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return prompts and pair of a histogram file, where it says; a server names its target alone."""
    stated = payload.get("parameters")
    parameters = stated if isinstance(stated, dict) else {}
    count, names = parameters.get("prompt_count"), (parameters.get(role) for role in ("target", "draft"))
    target, draft = (name if isinstance(name, str) else "" for name in names)
    return {
        "prompts": count if isinstance(count, int) and count > 0 else None,
        "pair": (target, draft) if target else None,
    }


def parse_histogram(payload: Field, read_as: str | None = None) -> AcceptanceHistogram:
    """Check the payload of a histogram file; a UserError names the file, the key and the value that is wrong.

    Args:
        payload: The file's content.
        read_as: What its numbers are, one of `AS`; None: what the file says, or what they look like.
    """
    check_kind(payload.path, payload.object(), KIND, SCHEMA_VERSIONS)
    k = payload["k"].whole(1, MAX_DRAFT_LENGTH)
    given: dict[int, float] = {}
    for bucket, count in payload["hist"].items():
        if bucket not in map(str, range(k + 1)):
            count.error_about_key([f"'0' to '{k}' (k is {k})"])
        given[int(bucket)] = count.number(0, MAX_COUNT)
    if payload["as"].is_given:
        read_as = read_as or payload["as"].choice(AS)
    is_stated = read_as is not None or payload["kind"].is_given or payload["samples"].is_given
    if read_as is None:
        # What we wrote ourselves are counts, expectations among them.
        read_as = "counts" if payload["kind"].is_given else looks_like(payload["hist"], given, k)
    caveats = caveats_of(payload) + ([] if is_stated else doubts(given, k))
    counts = counts_as(read_as, payload["hist"], given, k)
    try:
        histogram = AcceptanceHistogram(counts)
    except UserError as error:
        raise UserError(f"{payload.path}: {error}") from None
    if payload["kind"].is_given:
        check_described(payload)
    histogram = replace(
        histogram,
        caveat="; ".join(caveats),
        is_law=read_as != "counts",
        undrafted=undrafted_of(payload),
        ranks=payload["ranks"] if payload["ranks"].is_given else None,
        by_length=payload["by_draft_length"] if payload["by_draft_length"].is_given else None,
        **measured_on(payload.object()),
    )
    samples = payload["samples"]
    if samples.is_given and histogram.is_law and samples.number() > 1:
        # Shares of so many rounds are counts.
        counts = tuple(share * samples.number(most=MAX_COUNT) for share in histogram.law)
        histogram = replace(histogram, counts=counts, is_law=False)
    elif (
        samples.is_given
        and not histogram.is_law
        and not math.isclose(samples.number(), histogram.samples, rel_tol=1e-6)
    ):
        samples.refuse(f"{histogram.samples:g}, the sum of hist")
    return replace(histogram, design_effect=design_effect_of(payload.object(), histogram))


def check_described(payload: Field) -> None:
    """Refuse a file of ours whose description of itself is not what we write; see `parse_histogram`."""
    payload["reconstructed"].flag(default=False)
    parameters, metrics = payload["parameters"], payload["metrics"]
    if parameters.is_given:
        parameters["prompt_count"].whole(1, default=1)
        for name in ("target", "draft", "approximation"):
            if parameters[name].is_given:
                parameters[name].text(empty=True)
    if not metrics.is_given:
        return
    metrics["steps_without_draft"].number(0, MAX_COUNT, default=0.0)
    ends = metrics["ci95"]["tokens_per_round"] if metrics["ci95"].is_given else metrics["ci95"]
    if ends.is_given:
        if len(ends.elements()) != 2:
            ends.refuse("two numbers")
        for end in ends.elements():
            end.number(-MAX_COUNT, MAX_COUNT)


def undrafted_of(payload: Field) -> float:
    """Return the decode steps without a draft that a histogram file tells of; 0 where it tells of none."""
    metrics = payload["metrics"].value
    steps = metrics.get("steps_without_draft") if isinstance(metrics, dict) else None
    return float(steps) if isinstance(steps, int | float) and 0 < steps <= MAX_COUNT else 0.0


def caveats_of(payload: Field) -> list[str]:
    """Return what a histogram file says of how far it is a measurement; none when it is a plain one."""
    parameters = payload["parameters"].value
    approximation = parameters.get("approximation") if isinstance(parameters, dict) else None
    caveats = [str(approximation)] if approximation else []
    if payload["reconstructed"].value is True:
        caveats.append("reconstructed from a mean: i.i.d. by assumption")
    if undrafted := undrafted_of(payload):
        caveats.append(f"at least {undrafted:,.0f} decode steps without a draft are not in it")
    return caveats


def load_histograms(path: str | Path, read_as: str | None = None) -> tuple[AcceptanceHistogram, ...]:
    """Read one histogram file, or every `accept_hist_k*.json` of a folder: one for each draft length.

    read_as: see `parse_histogram`.

    Raises:
        UserError: A file is wrong, the folder holds none, or its files are not of one measurement.
    """
    path = group_in(path)
    if not path.is_dir():
        return (load_histogram(path, read_as),)
    files = sorted(path.glob(HISTOGRAMS))
    if not files:
        raise UserError(f"{path}: no accept_hist_k*.json in this folder")
    contents = [read_histogram(file, read_as) for file in files]
    histograms = tuple(parse_histogram(content, read_as) for content in contents)
    by_k: dict[int, Path] = {}
    siblings = [content["draft_lengths"] for content in contents]
    named = {k.whole(1, MAX_DRAFT_LENGTH) for lengths in siblings if lengths.is_given for k in lengths.elements()}
    if missing := sorted(named - {h.draft_length for h in histograms}):
        lacking = f"{path}: accept_hist_k{missing[0]}.json of this measurement is missing"
        raise UserError(f"{lacking}, expected all that it was to write (the same command goes on), or name one file")
    for file, content, histogram in zip(files, contents, histograms, strict=True):
        other = by_k.setdefault(histogram.draft_length, file)
        if other != file:
            raise UserError(f"{file}: k is {histogram.draft_length}, as in {other}, expected one file for each k")
        check_same_measurement(contents[0], content)
    return histograms


def check_same_measurement(first: Field, second: Field) -> None:
    """Refuse to take two files as one measurement when their parameters differ in more than k."""
    one, other = (file["parameters"].value for file in (first, second))
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return
    for key in sorted(one.keys() & other.keys() - {"k"}):
        if one[key] != other[key]:
            raise UserError(
                f"{second.path}: {key} is {shortened(other[key])}, but {shortened(one[key])} in {first.path}; "
                "expected one measurement in the folder, or name one file"
            )


def load_histogram(path: str | Path, read_as: str | None = None) -> AcceptanceHistogram:
    """Read `accept_hist_k{K}.json` (model §3); a UserError names the key and the value that is wrong."""
    return parse_histogram(read_histogram(path, read_as), read_as)


def as_written(count: float) -> int | float:
    """Write whole counts as integers, as other tools do."""
    return int(count) if float(count).is_integer() else float(count)


def save_histogram(path: Path, histogram: AcceptanceHistogram, parameters: Mapping[str, Any], **extra: Any) -> None:
    """Write a histogram file with its provenance, atomically; extra: further top-level keys, such as "metrics"."""
    payload = envelope(KIND, SCHEMA_VERSIONS[-1], parameters) | {
        "k": histogram.draft_length,
        "hist": {str(a): as_written(count) for a, count in enumerate(histogram.counts)},
        "samples": as_written(histogram.samples),
    }
    if histogram.is_law:
        payload["as"] = "probabilities"
    write_json(path, payload | extra)


def synthetic_acceptance(survival: list[float], tokens_per_round: float) -> dict[str, object]:
    """Return the settings under which serving engines accept at these rates without running a draft's choices.

    So a forecast can be tried on a real server. vLLM: `rejection_sample_method` "synthetic" with unconditional
    per-position rates, or their mean length; SGLang: `SGLANG_SIMULATE_ACC_LEN`, the bonus in; TensorRT-LLM:
    `TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS`, the bonus not in, whole, and none where it would be 0, which there
    means that nothing is forced.

    Args:
        survival: P(A >= j) for j in 1..k.
        tokens_per_round: 1 + mean of A.
    """
    rates, length = survival, tokens_per_round
    return {
        "per_position_rates": rates,
        "mean_length": length,
        "vllm": {
            "num_speculative_tokens": len(rates),
            "rejection_sample_method": "synthetic",
            "synthetic_acceptance_rates": rates,
        },
        "sglang": {
            "SGLANG_SIMULATE_ACC_LEN": length,
            "SGLANG_SIMULATE_ACC_METHOD": "match-expected",
            "SGLANG_SIMULATE_ACC_TOKEN_MODE": "real-draft-token",
        },
        "tensorrt_llm": {"TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS": round(length - 1) or None},
    }
