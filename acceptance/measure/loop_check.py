"""The trace against the speculative loop itself, on the user's own pair: same text, same tokens a round?"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from acceptance.decoders import speculative
from acceptance.decoders.batch import Decoded
from acceptance.estimate.estimators import Estimate, expected_rounds, tokens_per_round
from acceptance.models.check import MAX_DISAGREEMENT, disagreement
from acceptance.models.context import context_of, padded
from acceptance.models.laws import streams
from acceptance.models.load import DTYPES
from acceptance.models.model import Model, Pair
from acceptance.models.rule import SamplingRule
from acceptance.models.source import longer
from acceptance.models.static_context import ATTRIBUTE
from acceptance.text.prompts import Prompt
from acceptance.trace.trace import Trace
from simulator.ground.artefacts import UserError

from .plan import Plan, Settings, before_answer

# Without a recheck, a choice that differs is put down to rounding where the two best logits are so many apart or less.
ROUNDINGS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Where greedy outputs of loop and target first differ, and what the target thought there.

    position: in the output. margin: the target's best logit less its second. rounding: by how much rounding moves
    logits against each other. recheck: of both choices, where it was possible.
    """

    source: str
    position: int
    margin: float
    rounding: float
    recheck: "Recheck | None" = None

    @property
    def is_tie(self) -> bool:
        """Whether rounding explains it."""
        return self.margin <= self.rounding if self.recheck is None else self.recheck.is_tie


@dataclass(frozen=True, slots=True, kw_only=True)
class Recheck:
    """Both choices, read again with the same weights in a finer type.

    deficit: the best logit less that of the worse choice, in the finer type. spread: the largest less the smallest
    error of a logit in the model's own type, over the vocabulary, at the same place.

    A token b is chosen over the best token a only if error(b) - error(a) makes up for its deficit, and no two errors of
    a pass differ by more than the spread. So a larger deficit is no rounding, and a smaller one cannot be told from it.
    The spread is measured where the outputs part, in a pass over all of the text; passes that read it in other pieces
    err otherwise, but by as much. A number of roundings of the largest logit would not do: how far errors grow from
    layer to layer depends on the model and on the text.
    """

    deficit: float
    spread: float

    @property
    def is_tie(self) -> bool:
        """Whether rounding explains the choice of either token."""
        return self.deficit <= self.spread


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopCheck:
    """What the loop did, beside what the trace says of the same prompts.

    identical: outputs equal token by token; None where text is sampled. Rounds count in both where the K drafted tokens
    and the one after them lie within the output.
    """

    k: int
    prompts: int
    identical: int | None
    divergences: tuple[Divergence, ...]
    loop_tokens_per_round: Estimate
    trace_tokens_per_round: Estimate


def run(
    pair: Pair, planned: Plan, trace: Trace, settings: Settings, k: int, count: int, q_kind: str = "sampled"
) -> LoopCheck:
    """Decode the first turns of so many prompts with the loop, and compare.

    q_kind: "sampled" as the settings say, or "greedy": the draft proposes its first choice.
    """
    for option, model in (("--target", pair.target), ("--draft", pair.draft)):
        check_roll_back(option, model)
    draft_rule = SamplingRule(temperature=0.0) if q_kind == "greedy" else settings.draft_rule
    items = [item for item in planned.items[:count] if isinstance(item, Prompt)]
    decoded: list[Decoded] = []
    contexts: list[Sequence[int]] = []
    for first in range(0, len(items), settings.batch_size):
        batch = items[first : first + settings.batch_size]
        contexts += [before_answer(pair, settings.framing, item)[0] for item in batch]
        decoded += speculative.decode(
            pair.target,
            pair.draft,
            contexts[first:],
            k=k,
            rule=settings.rule,
            draft_rule=draft_rule,
            max_new_tokens=settings.max_new_tokens,
            rngs=streams(settings.seed + 1, range(first, first + len(batch))),
        )
    same = trace.select((trace.prompt < len(items)) & (trace.turn == 0))
    divergences = find_divergences(pair, planned, same, contexts, decoded) if settings.rule.is_greedy else ()
    rng = np.random.default_rng(settings.seed)
    kind = "greedy" if draft_rule.is_greedy else "sampled"
    long_enough = int(np.diff(same.starts).max()) > k
    counts = expected_rounds(same, k, kind, beyond=1).counts if long_enough else np.zeros((1, k + 1))
    return LoopCheck(
        k=k,
        prompts=len(items),
        identical=len(items) - len(divergences) if settings.rule.is_greedy else None,
        divergences=tuple(divergences),
        loop_tokens_per_round=tokens_per_round(loop_counts(decoded, k), rng),
        trace_tokens_per_round=tokens_per_round(counts, rng),
    )


def check_roll_back(option: str, model: Model) -> None:
    """Refuse a model that does not read on rightly behind tokens that were rolled back."""
    try:
        distance = disagreement(model, rolling_back=True)
    except Exception as error:  # a cache of another kind raises what it likes
        reason = (str(error).strip() or type(error).__name__).partition("\n")[0]
        raise UserError(f"--check-loop: the cache of {option} cannot be rolled back ({reason})") from None
    if not distance < MAX_DISAGREEMENT:
        raise UserError(f"--check-loop: {option} reads otherwise behind a rollback than without (by {distance:.0%})")


def loop_counts(decoded: Sequence[Decoded], k: int) -> NDArray[np.float64]:
    """Return rounds by accepted drafts, all K and the token after them in the output, for each; [outputs, k + 1]."""
    counts = np.zeros((len(decoded), k + 1))
    for row, output in zip(counts, decoded, strict=True):
        for r in output.rounds:
            if r.drafted == k and r.start + k < len(output.tokens):
                row[r.accepted] += 1
    return counts


def find_divergences(
    pair: Pair, planned: Plan, trace: Trace, contexts: Sequence[Sequence[int]], decoded: Sequence[Decoded]
) -> tuple[Divergence, ...]:
    """Return where the loop's greedy outputs differ from those that were measured."""
    divergences = []
    finer = cache(lambda: finer_copy(pair.target, pair.dtype))
    for i, (context, output) in enumerate(zip(contexts, decoded, strict=True)):
        plain = trace.token[trace.prompt == i].tolist()
        if plain != output.tokens:
            position, choices = first_difference(plain, output.tokens)
            before = longer(context, plain[:position])
            margin, rounding = top_two(pair.target, before, pair.dtype)
            again = recheck_where_possible(pair.target, finer, before, choices)
            divergences.append(
                Divergence(
                    source=planned.infos[i].source,
                    position=position,
                    margin=margin,
                    rounding=again.spread if again else rounding,
                    recheck=again,
                )
            )
    return tuple(divergences)


def recheck_where_possible(*arguments: Any) -> Recheck | None:
    """Return what a finer type says; None where there is no room for a copy, or a model cannot be copied."""
    try:
        return recheck(*arguments)
    except (RuntimeError, ValueError, TypeError, MemoryError):
        return None


def first_difference(plain: Sequence[int], output: Sequence[int]) -> tuple[int, tuple[int, ...]]:
    """Return where two outputs that are not the same part, and the tokens there: one where the other has ended."""
    pairs = zip(plain, output, strict=False)
    position = next((t for t, (a, b) in enumerate(pairs) if a != b), min(len(plain), len(output)))
    return position, (*plain[position : position + 1], *output[position : position + 1])


def next_logits(model: Model, tokens: Sequence[int]) -> torch.Tensor:
    """Return the logits behind a text, [vocabulary]."""
    return context_of(model, [tokens]).read(*padded([list(tokens)], model.device), 1)[0, 0]


def top_two(model: Model, tokens: Sequence[int], dtype: str) -> tuple[float, float]:
    """Return the margin between the two best next logits, and some roundings of the larger."""
    best = next_logits(model, tokens).float().topk(2).values
    rounding = ROUNDINGS * torch.finfo(DTYPES[dtype]).eps * float(best.abs().max())
    return float(best[0] - best[1]), rounding


def finer_copy(model: Model, dtype: str) -> Model:
    """Return a model of the same weights that works in float32, or in float64 where the model works in float32."""
    finer = torch.float64 if dtype == "float32" else torch.float32
    # Caches and captured graphs that hang on the module stay behind.
    held = model.module.__dict__.get(ATTRIBUTE)
    memo: dict[int, Any] = {} if held is None else {id(held): {}}
    return replace(model, module=copy.deepcopy(model.module, memo).to(finer), graphs=False)


def recheck(model: Model, finer: Callable[[], Model], tokens: Sequence[int], choices: Sequence[int]) -> Recheck:
    """Read again, in a finer type, behind the tokens that two outputs have in common.

    choices: the two tokens there. One alone says that the other output ended, which no rounding explains.
    """
    logits, finer_logits = (next_logits(m, tokens).cpu().double() for m in (model, finer()))
    errors = (logits - finer_logits)[logits.isfinite()]  # all but tokens that may not be written
    deficit = finer_logits.max() - finer_logits[list(choices)].min()
    return Recheck(
        deficit=float(deficit) if len(choices) == 2 else float("inf"), spread=float(errors.max() - errors.min())
    )
