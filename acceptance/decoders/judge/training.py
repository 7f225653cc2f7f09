"""Trains a judge on what `mining` finds: logistic regression by scikit-learn, on prompts kept apart a threshold."""

import math
from dataclasses import dataclass, replace
from warnings import catch_warnings, simplefilter

import numpy as np

from simulator.ground.artefacts import UserError
from simulator.ground.dependency import Dependency, require

from .judge import Flags, Floats, Judge
from .mining import Mined

SKLEARN = Dependency(import_name="sklearn", purpose="training a judge", extra="judge")
# Inverse strengths of the penalty that are tried, and the recall of important mismatches asked for (§4.1 there).
STRENGTHS = tuple(10.0**e for e in range(-7, 1))
RECALL = 0.9
VALIDATION_SHARE = 0.1


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


def fit(features: Floats, important: Flags, strength: float) -> tuple[Floats, float]:
    """Fit L2-penalised logistic regression to standardised features; the bias is not penalised.

    Args:
        features: As they are, [n, d].
        important: The label, [n].
        strength: Inverse strength of the penalty, C.

    Returns:
        Weights [d] and bias, of the features as they are: what decodes has one product to make.

    Raises:
        UserError: It does not converge, or scikit-learn is not installed.
    """
    require(SKLEARN)
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(features)
    with catch_warnings():
        simplefilter("error", ConvergenceWarning)
        try:
            model = LogisticRegression(C=strength, tol=1e-6, max_iter=2000).fit(scaler.transform(features), important)
        except ConvergenceWarning as error:
            reason = str(error).partition("\n")[0]
            raise UserError(f"judge: logistic regression does not converge at C = {strength:g} ({reason})") from None
    weights: Floats = model.coef_[0] / scaler.scale_
    return weights, float(model.intercept_[0] - weights @ scaler.mean_)


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
        UserError: Too few mismatches of one kind to learn from and to validate; see also `fit`.
    """
    require(SKLEARN)
    from sklearn.metrics import roc_auc_score

    kept = validation(mined, rng)
    sizes = [int((mined.important[part] == kind).sum()) for part in (kept, ~kept) for kind in (True, False)]
    if min(sizes) < 2:
        raise UserError(
            f"judge: {mined.important.sum()} important of {len(mined.important)} mismatches are too few to train and "
            "validate, expected more prompts"
        )
    features = mined.features.astype(np.float64)
    tried = {c: fit(features[~kept], mined.important[~kept], c) for c in STRENGTHS}
    aucs = {c: float(roc_auc_score(mined.important[kept], features[kept] @ w + b)) for c, (w, b) in tried.items()}
    strength = max(aucs, key=lambda c: (aucs[c], -c))
    weights, bias = tried[strength]
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
