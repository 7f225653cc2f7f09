"""Checks of a model: that it reads with a cache as it does without, and whether it is the one that was known."""

from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import torch
import transformers

from simulator.ground.artefacts import UserError
from simulator.ground.tested import changed_interface

from . import compat
from .context import Context, padded
from .model import Model, hidden_size_of
from .source import encode, read_whole, some_prompts

# Disagreement between cached and plain reading, over the logits' own spread, that no rounding explains.
MAX_DISAGREEMENT = 0.25
# Tokens that a model reads, and hidden values that are kept of it, to know it again in any precision.
PROBE_TOKENS, PROBE_VALUES = 16, 32


@torch.inference_mode()
def disagreement(model: Model, *, rolling_back: bool) -> float:
    """Return how far reading with padding and cache is from reading plainly: mean difference over the logits' spread.

    rolling_back: read wrong tokens between the right ones and roll back behind them.
    """
    model, rng = model.unbarred, np.random.default_rng(0)
    rows = [rng.integers(model.vocabulary, size=n).tolist() for n in (9, 6)]
    encoded = encode(model, some_prompts(model, rows, rng))
    context = Context(model, 2, encoded=encoded)
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
    alone = [None if encoded is None else encoded.select(np.array([i])) for i in range(2)]
    plain = [read_whole(model, *each)[-1] for each in zip(rows, alone, strict=True)]
    expected = torch.stack(plain)[:, : model.vocabulary].float()
    return float((logits - expected).abs().mean() / expected.std().clamp(min=1e-9))


def check_cache(option: str, name: str, module: Any) -> None:
    """Refuse a model that remembers what it read in a recurrent state, or takes no cache: it cannot be rolled back."""
    kind = module.config.model_type
    try:
        recurs, takes_cache = compat.has_recurrent_state(module), compat.cache_input(module) is not None
    except Exception as error:  # a model's own code raises what it likes
        refuse(option, name, f"cannot be read with a cache ({first_line(error)})")
    if recurs:
        refuse(option, name, f"{kind} keeps a recurrent state, expected a model of attention layers alone")
    if not takes_cache:
        refuse(option, name, f"{kind} takes no KV cache, expected a model that does")


def check_reading(option: str, name: str, model: Model) -> None:
    """Refuse a model that reads otherwise with padding and a cache than without."""
    try:
        distance = disagreement(model, rolling_back=False)
    except Exception as error:  # a model's own code raises what it likes
        refuse(option, name, f"cannot be read with a cache ({first_line(error)})")
    if not distance < MAX_DISAGREEMENT:
        refuse(option, name, f"reads otherwise with padding and a cache than without (by {distance:.0%})")


def first_line(error: Exception) -> str:
    """Return what an error says, in a line."""
    return (str(error).strip() or type(error).__name__).partition("\n")[0]


def refuse(option: str, name: str, reason: str) -> NoReturn:
    """Refuse a model for what it does: or transformers, if a model that every release has read does it no more.

    Raises:
        UserError: Names the option and the model; or the release of transformers, and those that were tested.
    """
    try:
        plain = plain_model()
        recurs = compat.has_recurrent_state(plain.module)
        as_ever = not recurs and disagreement(plain, rolling_back=True) < MAX_DISAGREEMENT
    except Exception as error:  # whatever has changed
        as_ever, reason = False, f"{reason}; {first_line(error)}"
    if as_ever:
        raise UserError(f"{option} {name}: {reason}")
    raise UserError(changed_interface("transformers", f"{option} {name}: {reason}"))


def plain_model() -> Model:
    """Return a tiny model of the plainest kind, with random weights."""
    shape = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2}
    shape |= {"num_attention_heads": 2, "num_key_value_heads": 1}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = transformers.LlamaForCausalLM(transformers.LlamaConfig(**shape, initializer_range=0.5)).eval()
    return Model(module=module, vocabulary=shape["vocab_size"])


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
