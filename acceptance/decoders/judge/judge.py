"""A judge of mismatches (AutoJudge, arXiv 2504.20039): logistic regression on the last hidden states of both models.

It says how likely it is that the answer changes if the draft's token stays. It belongs to one pair of models, and is
refused for another. `training` makes it of what `mining` finds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import acceptance
from acceptance.models.check import identity, probe_distance
from acceptance.models.model import Model, hidden_size_of
from simulator.ground.arrays import Numbers, read_arrays
from simulator.ground.artefacts import UserError, check_kind, envelope, file_sha256, read_hashed, write_json, writing
from simulator.ground.fields import read_json_object

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
KIND, SCHEMA_VERSIONS = "judge", (1,)
CONFIG, WEIGHTS = "judge.json", "weights.npz"
# In CONFIG, of WEIGHTS.
HASH = "sha256"
WEIGHTS_OF = dict.fromkeys(("draft", "target"), Numbers(dtype=np.float32))
BUNDLED = Path(acceptance.__file__).parent / "tiny_pair" / "judge"


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


def logistic(log_odds: Floats) -> Floats:
    """Return 1 / (1 + exp(-x))."""
    from scipy.special import expit

    return np.asarray(expit(log_odds), np.float64)


def save(
    folder: Path, judge: Judge, target: Model, draft: Model, training: Mapping[str, Any], parameters: Mapping[str, Any]
) -> None:
    """Write a judge, whose it is and how it was trained."""
    with writing(folder / WEIGHTS, "wb") as file:
        np.savez(
            file,
            draft=judge.draft_weights.astype(np.float32),
            target=judge.target_weights.astype(np.float32),
        )
    payload = {"bias": judge.bias, "threshold": judge.threshold, "training": dict(training)}
    models = {"draft": identity(draft), "target": identity(target)}
    payload[HASH] = file_sha256(folder / WEIGHTS)
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
        data, _ = read_hashed(folder / WEIGHTS, config.get(HASH), CONFIG)
        arrays = read_arrays(f"{option}: {WEIGHTS}", data, WEIGHTS_OF)
        judge = Judge(
            draft_weights=arrays["draft"].astype(np.float64),
            target_weights=arrays["target"].astype(np.float64),
            bias=float(config["bias"]),
            threshold=float(config["threshold"]),
        )
    except UserError:
        raise
    except Exception as error:  # what is told of the models may be anything
        reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
        raise UserError(f"{option}: cannot be loaded ({reason})") from None
    check(option, judge, target, draft)
    return judge


def check_identity(what: str, expected: Mapping[str, Any], model: Model) -> None:
    """Refuse a model that a judge does not know."""
    for name, there in (("hidden_size", hidden_size_of(model)), ("vocabulary", model.vocabulary)):
        if expected[name] != there:
            raise UserError(f"{what} has {name} {expected[name]}, but this one has {there}")
    if apart := probe_distance(model, expected["probe"]):
        raise UserError(
            f"{what} is another model (hidden states differ by {apart:.0%}), expected the pair it learned from"
        )


def check(option: str, judge: Judge, target: Model, draft: Model) -> None:
    """Refuse weights that are not of the models' sizes, or not finite."""
    sizes = judge.draft_weights.shape, judge.target_weights.shape
    expected = (hidden_size_of(draft),), (hidden_size_of(target),)
    if sizes != expected:
        raise UserError(f"{option}: weights are of shapes {sizes}, expected {expected}")
    numbers = [*judge.draft_weights, *judge.target_weights, judge.bias]
    if not np.isfinite(numbers).all() or not 0 <= judge.threshold <= 1:
        raise UserError(f"{option}: its numbers are not finite, or its threshold is not from 0 to 1")
