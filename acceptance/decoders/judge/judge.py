"""A judge of mismatches (AutoJudge, arXiv 2504.20039): logistic regression on the last hidden states of both models.

It says how likely it is that the answer changes if the draft's token stays. It belongs to one pair of models, and is
refused for another. Trained on what `acceptance.mining` finds.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import acceptance
from acceptance.models.check import identity, strangeness
from acceptance.models.model import Model, hidden_size_of
from simulator.ground.artefacts import UserError, check_kind, envelope, read_bytes, write_json, writing
from simulator.ground.fields import read_json_object

from .mining import Mined

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
KIND, SCHEMA_VERSIONS = "judge", (1,)
CONFIG, WEIGHTS = "judge.json", "weights.npz"
BUNDLED = Path(acceptance.__file__).parent / "tiny_pair" / "judge"
# Inverse strengths of the penalty that are tried, and the recall of important mismatches asked for (§4.1 there).
STRENGTHS = tuple(10.0**e for e in range(-7, 1))
RECALL = 0.9
VALIDATION_SHARE = 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Log odds that a mismatch is important: weights of the draft's and the target's hidden states, and a bias.

    threshold: probability from which on a mismatch counts as important.
    """

    draft_weights: Floats
    target_weights: Floats
    bias: float
    threshold: float

    def probabilities(self, features: NDArray[Any]) -> Floats:
        """Return P(important), [n]; features: hidden states of both, the draft's first, [n, d_draft + d_target]."""
        weights = np.concatenate((self.draft_weights, self.target_weights))
        return logistic(np.asarray(features, np.float64) @ weights + self.bias)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """How a judge was trained, and what it does on the prompts that were kept for validation.

    mismatches, important: mined, and how many of them. prompts: with a mismatch. validation_prompts: of those.
    strength: inverse strength of the penalty, the one of the largest AUC. auc: area under the ROC curve; of all
    strengths, aucs. recall: share of the important that are told. unimportant: share of all that are judged so, and
    wrongly: how many of these are important.
    """

    mismatches: int
    important: int
    prompts: int
    validation_prompts: int
    validation_mismatches: int
    strength: float
    aucs: dict[str, float]
    auc: float
    threshold: float
    recall: float
    unimportant: float
    wrongly: float


def logistic(log_odds: Floats) -> Floats:
    """Return 1 / (1 + exp(-x))."""
    from scipy.special import expit

    return np.asarray(expit(log_odds), np.float64)


def objective(parameters: Floats, features: Floats, signs: Floats, strength: float) -> tuple[float, Floats]:
    """Return |w|^2 / (2 C n) + mean log(1 + exp(-y (w x + b))) and its gradient; y is 1 or -1, b the last parameter."""
    margins = signs * (features @ parameters[:-1] + parameters[-1])
    pull = -signs * logistic(-margins) / len(signs)
    shrink = parameters[:-1] / (strength * len(signs))
    value = parameters[:-1] @ shrink / 2 + np.logaddexp(0, -margins).mean()
    return float(value), np.append(shrink + features.T @ pull, pull.sum())


def fit(features: Floats, important: Flags, strength: float) -> tuple[Floats, float]:
    """Fit L2-penalised logistic regression; the bias is not penalised.

    Args:
        features: Standardised, [n, d].
        important: The label, [n].
        strength: Inverse strength of the penalty, C.

    Returns:
        Weights [d] and bias.

    Raises:
        UserError: It does not converge.
    """
    from scipy.optimize import minimize

    start = np.zeros(features.shape[1] + 1)
    signs = np.where(important, 1.0, -1.0)
    options = {"maxiter": 2000, "maxfun": 4000, "gtol": 1e-6, "ftol": 0.0}
    found = minimize(objective, start, (features, signs, strength), jac=True, method="L-BFGS-B", options=options)
    if not found.success:
        raise UserError(f"judge: logistic regression does not converge at C = {strength:g} ({found.message})")
    return found.x[:-1], float(found.x[-1])


def auc(scores: Floats, important: Flags) -> float:
    """Return P(score of an important one > score of another), ties counted half."""
    from scipy.stats import rankdata

    positive, negative = int(important.sum()), int((~important).sum())
    ranks = float(rankdata(scores)[important].sum())
    return (ranks - positive * (positive + 1) / 2) / (positive * negative)


def threshold_for(probabilities: Floats, important: Flags, recall: float = RECALL) -> float:
    """Return the largest threshold from which on at least this share of the important lie."""
    ordered = np.sort(probabilities[important])[::-1]
    return float(ordered[math.ceil(recall * len(ordered)) - 1])


def train(mined: Mined, draft_size: int, rng: np.random.Generator) -> tuple[Judge, Report]:
    """Fit for every strength, take the one of the largest AUC on prompts kept apart, and its threshold there.

    Args:
        mined: Labelled mismatches.
        draft_size: Length of the draft's hidden states, which come first.
        rng: Draws the prompts for validation.

    Raises:
        UserError: Too few mismatches of one kind to learn from and to validate.
    """
    kept = validation(mined, rng)
    sizes = [int((mined.important[part] == kind).sum()) for part in (kept, ~kept) for kind in (True, False)]
    if min(sizes) < 2:
        raise UserError(
            f"judge: {mined.important.sum()} important of {len(mined.important)} mismatches are too few to train and "
            "validate, expected more prompts"
        )
    features = mined.features.astype(np.float64)
    mean, spread = features[~kept].mean(0), features[~kept].std(0)
    spread[spread == 0] = 1
    standard = (features - mean) / spread
    tried = {c: fit(standard[~kept], mined.important[~kept], c) for c in STRENGTHS}
    aucs = {c: auc(standard[kept] @ w + b, mined.important[kept]) for c, (w, b) in tried.items()}
    strength = max(aucs, key=lambda c: (aucs[c], -c))
    weights, bias = tried[strength]
    # Standardisation goes into the weights: what decodes has one product to make.
    weights, bias = weights / spread, bias - float(weights @ (mean / spread))
    judge = Judge(
        draft_weights=weights[:draft_size], target_weights=weights[draft_size:], bias=bias, threshold=float("nan")
    )
    probabilities = judge.probabilities(features[kept])
    threshold = threshold_for(probabilities, mined.important[kept])
    low = probabilities < threshold
    report = Report(
        mismatches=len(mined.important),
        important=int(mined.important.sum()),
        prompts=len(np.unique(mined.prompt)),
        validation_prompts=len(np.unique(mined.prompt[kept])),
        validation_mismatches=int(kept.sum()),
        strength=strength,
        aucs={f"{c:g}": value for c, value in aucs.items()},
        auc=aucs[strength],
        threshold=threshold,
        recall=float((~low)[mined.important[kept]].mean()),
        unimportant=float(low.mean()),
        wrongly=float(mined.important[kept][low].mean()) if low.any() else 0.0,
    )
    return replace(judge, threshold=threshold), report


def validation(mined: Mined, rng: np.random.Generator) -> Flags:
    """Choose a tenth of the prompts; return which mismatches are theirs. No prompt is on both sides."""
    prompts = np.unique(mined.prompt)
    chosen = rng.permutation(prompts)[: max(1, round(VALIDATION_SHARE * len(prompts)))]
    return np.isin(mined.prompt, chosen)


def save(
    folder: Path, judge: Judge, target: Model, draft: Model, report: Report, parameters: Mapping[str, Any]
) -> None:
    """Write a judge, whose it is and how it was trained.

    Args:
        folder: Made if it is not there; its judge is replaced.
        judge: The judge.
        target: Of its pair.
        draft: Of its pair.
        report: Of its training.
        parameters: Whatever else tells how it was trained, the hashes of both models' weights among it.
    """
    with writing(folder / WEIGHTS, "wb") as file:
        np.savez(
            file,
            draft=judge.draft_weights.astype(np.float32),
            target=judge.target_weights.astype(np.float32),
        )
    payload = {"bias": judge.bias, "threshold": judge.threshold, "training": asdict(report)}
    models = {"draft": identity(draft), "target": identity(target)}
    write_json(folder / CONFIG, envelope(KIND, SCHEMA_VERSIONS[-1], parameters) | payload | {"models": models})


def load(folder: Path, target: Model, draft: Model) -> Judge:
    """Load the judge of this pair.

    Raises:
        UserError: It cannot be read, is damaged, or belongs to another pair.
    """
    option = f"--judge {folder}"
    config = read_json_object(folder / CONFIG)
    check_kind(folder / CONFIG, {"kind": None, "schema_version": None} | config, KIND, SCHEMA_VERSIONS)
    try:
        for name, model in (("draft", draft), ("target", target)):
            check_identity(f"{option}: its {name}", config["models"][name], model)
        with np.load(BytesIO(read_bytes(folder / WEIGHTS)), allow_pickle=False) as arrays:
            judge = Judge(
                draft_weights=arrays["draft"].astype(np.float64),
                target_weights=arrays["target"].astype(np.float64),
                bias=float(config["bias"]),
                threshold=float(config["threshold"]),
            )
    except UserError:
        raise
    except Exception as error:  # NumPy and zipfile raise what they like
        reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
        raise UserError(f"{option}: cannot be loaded ({reason})") from None
    check(option, judge, target, draft)
    return judge


def check_identity(what: str, expected: Mapping[str, Any], model: Model) -> None:
    """Refuse a model that a judge does not know.

    Raises:
        UserError: Names what differs.
    """
    for name, there in (("hidden_size", hidden_size_of(model)), ("vocabulary", model.vocabulary)):
        if expected[name] != there:
            raise UserError(f"{what} has {name} {expected[name]}, but this one has {there}")
    if apart := strangeness(model, expected["probe"]):
        raise UserError(
            f"{what} is another model (hidden states differ by {apart:.0%}), expected the pair it learned from"
        )


def check(option: str, judge: Judge, target: Model, draft: Model) -> None:
    """Refuse weights that are not of the models' sizes, or not finite.

    Raises:
        UserError: Names the option.
    """
    found = judge.draft_weights.shape, judge.target_weights.shape
    expected = (hidden_size_of(draft),), (hidden_size_of(target),)
    if found != expected:
        raise UserError(f"{option}: weights are of shapes {found}, expected {expected}")
    numbers = [*judge.draft_weights, *judge.target_weights, judge.bias]
    if not np.isfinite(numbers).all() or not 0 <= judge.threshold <= 1:
        raise UserError(f"{option}: its numbers are not finite, or its threshold is not from 0 to 1")
