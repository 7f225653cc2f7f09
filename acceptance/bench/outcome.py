"""From a turn that was timed to its records: quality and comparisons with the baseline, worked out behind the clock."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any, TypeVar

from acceptance.decoders.methods import METHODS
from acceptance.measure.loop_check import Recheck, finer_copy, first_difference, recheck, top_two
from acceptance.models.model import Model
from acceptance.models.source import longer, read_tokens
from acceptance.results.settings import BASELINE, LOOP

from .clock import SAMPLE
from .quality import Quality, of_output
from .record import Divergence, Measured, Origin, SamplerUsed, Skipped, as_record
from .timed import Taken, reason_of
from .turns import Bench, Runnable, Turn

T = TypeVar("T")


def origin_of(bench: Bench, runnable: Runnable, turn: Turn, began_utc: str, *, index: int, order: int) -> Origin:
    """Return what was decoded, by what, and when."""
    return Origin(
        method=runnable.arm.name,
        algorithm=runnable.arm.method,
        is_exact=runnable.is_exact,
        prompt_index=index,
        prompt_source=bench.infos[index].source,
        prompt_category=bench.infos[index].category,
        prompt_tokens=len(read_tokens(bench.prompts[index])),
        run=turn.run,
        order=order,
        batch_index=turn.number,
        batch_size=len(turn.batch),
        batch_row=index - turn.batch.start,
        timestamp_utc=began_utc,
    )


def records_of(bench: Bench, turn: Turn, taken: dict[str, Taken | str], began_utc: str) -> list[dict[str, Any]]:
    """Return the records of a turn, arm after arm in their order, row after row.

    Arms that were missing come last: until the last record is kept, the turn is not done.
    """
    plain = plain_outputs(bench, taken)
    worked_out = WorkedOut(finer=cache(lambda: finer_copy(bench.target, bench.dtype)))
    records = []
    for place, runnable in sorted(enumerate(turn.order), key=lambda each: each[1].arm.name in turn.missing):
        result = taken[runnable.arm.name]
        for row, index in enumerate(turn.batch):
            origin = origin_of(bench, runnable, turn, began_utc, index=index, order=place)
            if isinstance(result, str):
                records.append(as_record(origin, Skipped(status="error", reason=result)))
            else:
                plain_output = plain[row] if plain else None
                outcome = measured(bench, origin, result, plain_output, worked_out)
                used = sampler_used(runnable.arm.sampler, result, len(outcome.rounds))
                records.append(as_record(origin, replace(outcome, sampler=used)))
    return records


@dataclass(slots=True, kw_only=True)
class WorkedOut:
    """What the records of a turn share.

    finer: makes the target's copy in a finer type, when it is first asked for; it is gone with the turn, before the
    next one's memory is measured. judged: how the target sees outputs to a prompt that it was shown; or why it is not
    known.
    """

    finer: Callable[[], Model]
    judged: dict[tuple[int, ...], tuple[Quality | None, str]] = field(default_factory=dict)


def plain_outputs(bench: Bench, taken: dict[str, Taken | str]) -> list[list[int]] | None:
    """Return the baseline's greedy outputs; None where they are sampled or it failed."""
    if not bench.settings.rule.is_greedy:
        return None
    baseline = taken.get(bench.baseline.arm.name)
    return [d.tokens for d in baseline.decoded] if isinstance(baseline, Taken) else None


def measured(bench: Bench, origin: Origin, taken: Taken, plain: list[int] | None, worked_out: WorkedOut) -> Measured:
    """Return what one row of a timed batch says. What is known of this turn already, `worked_out`, grows."""
    output = taken.decoded[origin.batch_row]
    is_baseline = origin.algorithm == BASELINE
    reasons = {"memory_peak_bytes": taken.no_memory_peak}
    divergence = None
    if plain is not None and plain != output.tokens:
        divergence, *why = first_divergence(bench, origin, plain, output.tokens, worked_out.finer)
        reasons["first_divergence"], reasons["recheck"] = why
    seen = None
    if bench.judges_quality and (is_baseline or not origin.is_exact):
        key = (origin.prompt_index, *output.tokens)
        if key not in worked_out.judged:
            prompt = bench.prompts[origin.prompt_index]
            worked_out.judged[key] = guarded(of_output, bench.target, prompt, output.tokens)
        seen, reasons["quality"] = worked_out.judged[key]
    scores = None
    if bench.score:
        scores, reasons["text_scores"] = guarded(bench.score, origin.prompt_index, output.tokens)
    return Measured(
        tokens=output.tokens,
        rounds=output.rounds,
        phases=taken.phases,
        is_tree=taken.is_tree,
        has_judge="judge" in METHODS[origin.algorithm].needs,
        identical=None if plain is None else plain == output.tokens,
        divergence=divergence,
        memory_peak_bytes=taken.memory_peak_bytes,
        energy=taken.energy,
        quality=seen,
        reference=bench.references[origin.prompt_index][: bench.settings.max_new_tokens] if bench.references else None,
        scores=scores,
        sound_s=bench.sound_s[origin.prompt_index] if bench.sound_s else None,
        note="; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason) or None,
    )


def sampler_used(name: str, taken: Taken, rounds: int) -> SamplerUsed | None:
    """Return who decided on a row's drafts, and how long in each of its rounds: the first steps of its batch."""
    if name == LOOP:
        return None
    spans = [1e3 * (end_s - begin_s) for phase, begin_s, end_s in taken.timeline if phase == SAMPLE]
    return SamplerUsed(name=name, ms=spans[:rounds])


def guarded(work: Callable[..., T], *arguments: Any) -> tuple[T | None, str]:
    """Work something out; return it, or nothing and why not: times that were measured are not lost over it."""
    try:
        return work(*arguments), ""
    except Exception as error:  # no memory for one pass over it all, or whatever a model's code raises
        return None, reason_of(error)


def first_divergence(
    bench: Bench, origin: Origin, plain: list[int], output: list[int], finer: Callable[[], Model]
) -> tuple[Divergence | None, str, str]:
    """Return where an output first differs from the baseline's, and what the target thinks there.

    Also why it could not be asked, and why it could not be asked in a finer type.
    """
    position, choices = first_difference(plain, output)
    before = longer(bench.prompts[origin.prompt_index], plain[:position])
    top, no_top = guarded(top_two, bench.target, before, bench.dtype)
    if top is None:
        return None, no_top, ""
    checked: Recheck | None = None
    no_check = ""
    if origin.is_exact:
        checked, no_check = guarded(recheck, bench.target, finer, before, choices)
    return Divergence(position=position, margin=top[0], is_exact=origin.is_exact, recheck=checked), "", no_check
