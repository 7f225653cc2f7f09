"""Checks of a model: that it reads with a cache as it does without, and whether it is the one that was known."""

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers

from simulator.ground.artefacts import UserError

from .context import Context, padded
from .model import Model, hidden_size_of

# Disagreement between cached and plain reading, over the logits' own spread, that no rounding explains.
MAX_DISAGREEMENT = 0.25
# Tokens that a model reads, and hidden values that are kept of it, to know it again in any precision.
PROBE_TOKENS, PROBE_VALUES = 16, 32


@torch.inference_mode()
def disagreement(model: Model, *, rolling_back: bool) -> float:
    """Return how far reading with padding and cache is from reading plainly: mean difference over the logits' spread.

    rolling_back: read wrong tokens between the right ones and roll back behind them.
    """
    rng = np.random.default_rng(0)
    rows = [rng.integers(model.vocabulary, size=n).tolist() for n in (9, 6)]
    context = Context(model, 2)
    context.read(*padded([row[:-3] for row in rows], model.device), 1)
    if rolling_back:
        kept = context.lengths
        wrong = torch.from_numpy(rng.integers(model.vocabulary, size=(2, 3))).to(model.device)
        context.read(wrong, np.ones((2, 3), bool), 1)
        context.roll_back(kept + np.array([0, 1]))
        rows[1][-3] = int(wrong[1, 0])
        last = [row[-3:] if i == 0 else row[-2:] for i, row in enumerate(rows)]
    else:
        last = [row[-3:] for row in rows]
    tokens, valid = padded(last, model.device)
    logits = context.read(tokens, valid, 1)[:, 0].float()
    plain = [model.module(torch.tensor([row], device=model.device)).logits[0, -1] for row in rows]
    expected = torch.stack(plain)[:, : model.vocabulary].float()
    return float((logits - expected).abs().mean() / expected.std().clamp(min=1e-9))


def check_cache(option: str, name: str, module: Any) -> None:
    """Refuse a model that remembers what it read in a recurrent state: it can be neither padded nor rolled back."""
    layers = transformers.cache_utils.DynamicCache(config=module.config).layers
    attends = all(isinstance(layer, transformers.cache_utils.DynamicLayer) for layer in layers)
    takes_cache = "past_key_values" in inspect.signature(module.forward).parameters
    if getattr(module, "_is_stateful", False) or not attends or not takes_cache:
        kind = module.config.model_type
        raise UserError(f"{option} {name}: {kind} keeps a recurrent state, expected a model of attention layers alone")


def check_reading(option: str, name: str, model: Model) -> None:
    """Refuse a model that reads otherwise with padding and a cache than without."""
    try:
        distance = disagreement(model, rolling_back=False)
    except Exception as error:  # a model's own code raises what it likes
        reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
        raise UserError(f"{option} {name}: cannot be read with a cache ({reason})") from None
    if not distance < MAX_DISAGREEMENT:
        raise UserError(f"{option} {name}: reads otherwise with padding and a cache than without (by {distance:.0%})")


def probe(model: Model) -> list[float]:
    """Return what a model is known by: the first values of its hidden state behind a few fixed tokens."""
    tokens = torch.from_numpy(np.random.default_rng(0).integers(model.vocabulary, size=(1, PROBE_TOKENS)))
    with torch.inference_mode():
        hidden = model.module(tokens.to(model.device), output_hidden_states=True).hidden_states[-1]
    return [round(value, 4) for value in hidden[0, -1, :PROBE_VALUES].float().tolist()]


def identity(model: Model) -> dict[str, Any]:
    """Return what a model is known by in any precision, inflated or not: sizes, and what it makes of a fixed text."""
    return {"hidden_size": hidden_size_of(model), "vocabulary": model.vocabulary, "probe": probe(model)}


def probe_distance(model: Model, known: Sequence[float]) -> float:
    """Return how far a model is from the one that had this probe, over its size; 0 where rounding explains it."""
    expected, probed = np.array(known), np.array(probe(model))
    apart = float(np.linalg.norm(probed - expected) / np.linalg.norm(expected))
    # Written so that NaN is no match.
    return 0.0 if apart < MAX_DISAGREEMENT else apart
