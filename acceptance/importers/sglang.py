"""Responses of an SGLang server: the speculation fields of meta_info, or of sglext where that carries them."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field
from simulator.ground.plain_text import read_text_bytes
from simulator.ground.records import BadRecord, Records, Skipped

from . import sglang_totals
from .imported import Imported, about_short_rounds, assumed, histogram_from, needs_k, reconstruct, settle_k
from .values import (
    accepted_of,
    add_counts,
    check_equal,
    count_of,
    histogram_counts,
    inner,
    largest_of,
    number_of,
    optional_count,
    read_values,
)

# Today's name first, then what earlier releases wrote; all of them leave the bonus token out.
HISTOGRAM = ("spec_correct_drafts_histogram", "spec_accept_histogram")
ACCEPTED = ("spec_num_correct_drafts", "spec_accepted_drafts", "spec_accept_token_num")
DRAFTED = ("spec_num_proposed_drafts", "spec_proposed_drafts", "spec_draft_token_num")
# What the means of a whole server look like: keys of JSON, words that are no JSON.
TOTALS = rf'"(?:{sglang_totals.RESULT}|{sglang_totals.INFO})"\s*:|{sglang_totals.WORDS}'
ROUNDS, LENGTH, TOKENS = "spec_verify_ct", "spec_accept_length", "completion_tokens"
EXPECTED = 'responses with {"meta_info": {"spec_verify_ct": ..., "spec_correct_drafts_histogram": [...]}}'
FROM_HISTOGRAM = (
    "spec_correct_drafts_histogram counts the verification rounds of a request by accepted drafts, "
    "the target's own token out"
)
FROM_COUNTS = "accepted drafts and verification rounds of all requests give the mean, the target's own token apart"
FROM_TOKENS = (
    "completion_tokens hold one token of the prefill and one of the target's own a round, so tokens a round are "
    "(completion_tokens - 1) / spec_verify_ct and not spec_accept_length"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request: its line, its verification rounds, what all of them accepted and drafted; None: not known.

    counts: rounds by accepted drafts. from_tokens: whether `accepted` was taken from the completion's tokens.
    """

    line: int
    rounds: int
    accepted: float
    drafted: int | None
    counts: tuple[int, ...] | None
    from_tokens: bool
    tokens: int | None


def read(path: Path, k: int | None) -> Imported:
    """Import saved responses, JSON or JSONL, or a mean of bench_serving or server info; see `import_histogram`."""
    content = read_text_bytes(path)
    if ROUNDS.encode() not in content and re.search(TOTALS.encode(), content):
        return sglang_totals.read(path, k)
    records = read_values(path, read_response, EXPECTED)
    requests = [request for response in records.rows for request in response]
    with_histogram = [request for request in requests if request.counts is not None]
    if with_histogram:
        reason = f"no list under {HISTOGRAM[0]!r}, as other records have"
        left_out = tuple(Skipped(line=r.line, reason=reason) for r in requests if r.counts is None)
        return import_histograms(records, with_histogram, k, left_out)
    return import_means(records, requests, k)


def import_histograms(
    records: Records[tuple[Request, ...]], requests: list[Request], requested: int | None, left_out: tuple[Skipped, ...]
) -> Imported:
    """Pool the histograms of all requests."""
    counts = add_counts([r.counts or () for r in requests])
    at_least = largest_of(counts)
    evidence = "the most drafts that a round accepted"
    if requested is None and (each := max(map(drafted_each, requests))) > at_least:
        at_least, evidence = each, "the drafted tokens a round"
    k, source = settle_k(records.path, requested=requested, stated=None, at_least=at_least, evidence=evidence)
    return Imported(
        histogram=histogram_from(records.path, counts, k),
        definition=f"{FROM_HISTOGRAM}; {source}.",
        notes=notes_on(requests, k, requested is None),
        skipped=tuple(sorted((*records.skipped, *left_out), key=lambda s: s.line)),
    )


def import_means(records: Records[tuple[Request, ...]], requests: list[Request], requested: int | None) -> Imported:
    """Reconstruct a histogram from the mean over all rounds."""
    path, rounds = records.path, sum(r.rounds for r in requests)
    if not rounds:
        raise UserError(f"{path}: {ROUNDS} is 0 in all records, expected requests that speculated")
    tokens_per_round = 1 + sum(r.accepted for r in requests) / rounds
    if requested is None:
        each = max(map(drafted_each, requests))
        raise needs_k(path, tokens_per_round, f", {each} drafted" if each else "")
    from_tokens = any(r.from_tokens for r in requests)
    notes = notes_on(requests, requested, False)
    if from_tokens:
        notes = (*notes, "a last round that was cut at the end of the text counts for less than it accepted")
    return Imported(
        histogram=reconstruct(path, rounds=rounds, tokens_per_round=tokens_per_round, k=requested),
        definition=f"{FROM_TOKENS if from_tokens else FROM_COUNTS}; {assumed(requested)}.",
        reconstructed=True,
        notes=notes,
        skipped=records.skipped,
    )


def drafted_each(request: Request) -> int:
    """Return the drafted tokens a round, rounded up; 0 where they are not known."""
    return -(-request.drafted // request.rounds) if request.drafted and request.rounds else 0


def notes_on(requests: list[Request], k: int, inferred: bool) -> tuple[str, ...]:
    """Return what the drafted tokens say about trees and shorter drafts."""
    notes = []
    known = [r for r in requests if r.drafted is not None]
    if any(drafted_each(r) > k for r in known):
        notes.append(f"more than {k} tokens were drafted a round: a tree, of which K is taken to be the depth")
    short = [r for r in known if (r.drafted or 0) < k * r.rounds]
    if short:
        missing = sum(k * r.rounds - (r.drafted or 0) for r in short)
        notes.append(about_short_rounds(sum(r.rounds for r in short), missing, k))
    # One token is the prefill's, one of each round the target's own; a cut at the end makes fewer, never more.
    extra = sum(max(0.0, r.tokens - 1 - r.rounds - r.accepted) for r in requests if r.tokens is not None)
    if extra:
        notes.append(
            f"{extra:.10g} tokens are in no round: made without a draft, or accepted ones that a release did not count "
            "(n-gram drafts before SGLang's pull request 24965)"
        )
    if inferred:
        notes.append("SGLang counts the nodes of a draft tree as drafted: for one, give its depth as --k")
    return tuple(notes)


def read_response(response: Field, line: int) -> tuple[Request, ...]:
    """Read one response: a request, or as many as it has choices."""
    objects = list(details_of(response))
    if not objects:
        raise BadRecord(f"no count under '{ROUNDS}'")
    return tuple(read_request(details, line) for details in objects)


def details_of(response: Field) -> Iterator[Field]:
    """Yield the objects of a response that hold the speculation fields."""
    choices = response["choices"].elements() if isinstance(response["choices"].value, list) else []
    of_choices = [c for choice in choices if has_rounds(c := inner(choice, "meta_info"))]
    details = inner(inner(response, "sglext"), "spec_tokens_details")
    # The same numbers may stand in more than one of these places.
    for place in (response, inner(response, "meta_info")):
        if has_rounds(place):
            yield place
            return
    if of_choices:
        yield from of_choices
    elif has_rounds(details):
        yield replace(details, value={TOKENS: inner(inner(response, "usage"), TOKENS).value, **details.value})


def has_rounds(field: Field) -> bool:
    """Say whether this is an object with the speculation fields."""
    return isinstance(field.value, dict) and ROUNDS in field.value


def first_of(details: Field, names: Sequence[str]) -> Field:
    """Return the first of these fields that is there, else the first of all."""
    return next((details[name] for name in names if details[name].is_given), details[names[0]])


def read_request(details: Field, line: int) -> Request:
    """Read the speculation fields of one request."""
    rounds, histogram, stated = count_of(details[ROUNDS]), first_of(details, HISTOGRAM), first_of(details, DRAFTED)
    drafted, counts = optional_count(stated), histogram_counts(histogram) if histogram.is_given else None
    if counts is not None:
        check_equal(details[ROUNDS], sum(counts), histogram.place)
        check_equal(first_of(details, ACCEPTED), accepted_of(counts), histogram.place)
        accepted, from_tokens = float(accepted_of(counts)), False
    else:
        accepted, from_tokens = accepted_drafts(details, rounds)
    if drafted is not None and accepted > drafted:
        raise BadRecord(f"{accepted:g} drafts were accepted, but {stated.place} is {drafted}")
    return Request(
        line=line,
        rounds=rounds,
        accepted=accepted,
        drafted=drafted,
        counts=counts,
        from_tokens=from_tokens,
        tokens=optional_count(details[TOKENS]),
    )


def accepted_drafts(details: Field, rounds: int) -> tuple[float, bool]:
    """Return the accepted drafts of a request without a histogram, and whether they follow from its length."""
    stated = first_of(details, ACCEPTED)
    if stated.is_given:
        accepted = count_of(stated)
        if accepted and not rounds:
            raise BadRecord(f"{stated.place} is {accepted}, but {ROUNDS} is 0")
        return float(accepted), False
    if details[TOKENS].is_given:
        tokens = float(count_of(details[TOKENS]))
    elif details[LENGTH].is_given:
        tokens = number_of(details[LENGTH]) * rounds
    else:
        raise BadRecord(f"no {HISTOGRAM[0]}, {ACCEPTED[0]}, {TOKENS} or {LENGTH}")
    if not rounds:
        return 0.0, True
    if tokens - 1 < rounds * (1 - 1e-9):
        raise BadRecord(f"{tokens:g} tokens with {ROUNDS} {rounds}, expected one of the prefill and one a round")
    return max(0.0, tokens - 1 - rounds), True
