"""Rounds of single requests, as vLLM reports them and AIPerf passes them on."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.records import BadRecord, Records

from .counters import MOST_SHORT
from .imported import (
    Imported,
    SeveralLengths,
    about_short_rounds,
    about_undrafted,
    histogram_from,
    one_stated_k,
    settle_k,
)
from .values import (
    accepted_of,
    add_counts,
    bucket_of,
    check_equal,
    count_of,
    histogram_counts,
    largest_of,
    optional_count,
)

HISTOGRAM = "acceptance_histogram"
BY_LENGTH = "acceptance_histogram_by_draft_length"
# Of all rounds: draft lengths of fewer are those of rounds that were cut short.
FEW = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestRounds:
    """The rounds of one request, on a line, by accepted drafts; None: not known.

    k: draft length that it states. by_length: the rounds of each number of drafted tokens. drafted: in all rounds.
    """

    line: int
    k: int | None
    counts: tuple[int, ...]
    by_length: Mapping[int, tuple[int, ...]] | None
    drafted: int | None

    @property
    def rounds(self) -> int:
        """All rounds."""
        return sum(self.counts)

    @property
    def at_least(self) -> int:
        """The smallest draft length that these rounds allow."""
        if self.by_length is not None:
            return max(self.by_length, default=0)
        each = -(-self.drafted // self.rounds) if self.drafted and self.rounds else 0
        return max(largest_of(self.counts), each)

    def missing(self, k: int) -> int:
        """Drafts short of K a round, where it is not known in which rounds; 0 where it is."""
        return 0 if self.by_length is not None or self.drafted is None else k * self.rounds - self.drafted

    def full(self, k: int) -> tuple[int, ...]:
        """Return the rounds that drafted K tokens, or all where that is not known."""
        return self.counts if self.by_length is None else self.by_length.get(k, ())


def read_request(statistics: Field, line: int) -> RequestRounds:
    """Read the speculation statistics of one request."""
    by_length = by_length_of(statistics)
    if by_length is not None and not statistics[HISTOGRAM].is_given:
        counts = add_counts(list(by_length.values()))
    else:
        counts = histogram_counts(statistics[HISTOGRAM])
    request = RequestRounds(
        line=line,
        k=stated_k(statistics),
        counts=counts,
        by_length=by_length,
        drafted=optional_count(statistics["num_draft_tokens"]),
    )
    check_request(statistics, request)
    return request


def stated_k(statistics: Field) -> int | None:
    """Return the draft length that a request states: as such, or by the length of a dense histogram."""
    stated, dense = statistics["num_spec_tokens"], statistics[HISTOGRAM].value
    k = stated.whole(1, MAX_DRAFT_LENGTH) if stated.is_given else None
    if not isinstance(dense, list):
        return k
    if k is not None and len(dense) != k + 1:
        raise BadRecord(f"{HISTOGRAM} has {len(dense)} buckets, but num_spec_tokens is {k}")
    if len(dense) < 2:
        raise BadRecord(f"{HISTOGRAM} has {len(dense)} buckets, expected at least 2")
    return len(dense) - 1


def by_length_of(statistics: Field) -> dict[int, tuple[int, ...]] | None:
    """Return the rounds of each number of drafted tokens: from the steps, else from their histograms, else None."""
    if statistics["per_step_accepted"].is_given and statistics["per_step_drafted"].is_given:
        return steps_by_length(statistics)
    if not statistics[BY_LENGTH].is_given:
        return None
    rows = {}
    for key, row in statistics[BY_LENGTH].items():
        drafted = bucket_of(key, statistics[BY_LENGTH])
        rows[drafted] = tuple(map(count_of, row.elements()))
        if len(rows[drafted]) != drafted + 1:
            raise BadRecord(f"{BY_LENGTH} has {len(rows[drafted])} buckets for {drafted} drafted tokens")
    return {drafted: row for drafted, row in rows.items() if any(row)}


def steps_by_length(statistics: Field) -> dict[int, tuple[int, ...]]:
    """Return the rounds of each number of drafted tokens, from the ordered steps."""
    drafted, accepted = (
        [count_of(n) for n in statistics[name].elements()] for name in ("per_step_drafted", "per_step_accepted")
    )
    if len(drafted) != len(accepted):
        raise BadRecord(f"per_step_drafted has {len(drafted)} steps, per_step_accepted has {len(accepted)}")
    rows: dict[int, list[int]] = {}
    for d, a in zip(drafted, accepted, strict=True):
        if not a <= d <= MAX_DRAFT_LENGTH:
            raise BadRecord(f"a step accepted {a} of {d} drafts, expected at most {min(d, MAX_DRAFT_LENGTH)}")
        rows.setdefault(d, [0] * (d + 1))[a] += 1
    return {d: tuple(row) for d, row in rows.items()}


def check_request(statistics: Field, request: RequestRounds) -> None:
    """Refuse a request whose numbers contradict one another."""
    accepted = accepted_of(request.counts)
    check_equal(statistics["num_spec_steps"], request.rounds, HISTOGRAM)
    check_equal(statistics["num_accepted_draft_tokens"], accepted, HISTOGRAM)
    if request.drafted is not None and accepted > request.drafted:
        raise BadRecord(f"num_draft_tokens is {request.drafted}, but {accepted} were accepted")
    if request.k is not None and request.at_least > request.k:
        raise BadRecord(f"a round drafted or accepted {request.at_least} tokens, but the draft length is {request.k}")
    if request.by_length is None:
        return
    drafted = sum(d * sum(row) for d, row in request.by_length.items())
    check_equal(statistics["num_draft_tokens"], drafted, "the rounds by draft length")
    pooled = add_counts(list(request.by_length.values()))
    longest = max(len(pooled), len(request.counts))
    padded = [(*counts, *[0] * (longest - len(counts))) for counts in (pooled, request.counts)]
    if padded[0] != padded[1]:
        raise BadRecord(f"{HISTOGRAM} is not the sum of the rounds by draft length")


def import_requests(
    records: Records[RequestRounds], requested: int | None, *, meaning: str, notes: tuple[str, ...]
) -> Imported:
    """Pool the rounds of all requests that drafted K tokens.

    Raises:
        UserError: The requests contradict the user's K, or drafted so many lengths that one has to be picked.
    """
    path, rows = records.path, records.rows
    lengths: Counter[int] = Counter()
    for row in rows:
        lengths.update({drafted: sum(counts) for drafted, counts in (row.by_length or {}).items()})
    undrafted = lengths.pop(0, 0)
    if requested in lengths and len(lengths) > 1:
        k, source = int(requested or 0), f"K = {requested} is as given, of draft lengths {listed(lengths)} rounds"
        rows = tuple(row for row in rows if row.by_length is not None)
    else:
        k, source = settle_length(records, requested)
        if requested is None:
            check_one_length(records, k, lengths)
    counts = add_counts([row.full(k) for row in rows])
    unclear = [row for row in rows if row.missing(k) > 0]
    if unclear:
        missing = sum(row.missing(k) for row in unclear)
        notes = (*notes, about_short_rounds(sum(row.rounds for row in unclear), missing, k))
    others = sum(lengths.values()) - lengths[k]
    if others:
        notes = (*notes, f"{others:,} rounds that drafted other lengths are left out: {listed(lengths)} rounds")
    histogram = histogram_from(path, counts, k)
    return Imported(
        histogram=histogram,
        definition=f"{meaning}; {source}.",
        rounds_apart=float(sum(row.rounds for row in records.rows) - sum(counts)),
        steps_without_draft=float(undrafted) or None,
        notes=(*notes, *about_undrafted(undrafted, histogram)),
        skipped=records.skipped,
        by_length=pooled(records.rows),
    )


def pooled(rows: Iterable[RequestRounds]) -> dict[int, tuple[int, ...]] | None:
    """Return the rounds of all requests by drafted tokens; None where one does not tell, or all drafted as many."""
    found: dict[int, list[tuple[int, ...]]] = {}
    for row in rows:
        if row.by_length is None:
            return None
        for drafted, counts in row.by_length.items():
            found.setdefault(drafted, []).append(counts)
    return {d: add_counts(found[d]) for d in sorted(found)} if len(found) > 1 else None


def settle_length(records: Records[RequestRounds], requested: int | None) -> tuple[int, str]:
    """Return K, by the user or by the requests, and where it comes from."""
    stated = one_stated_k(records.path, ((row.line, row.k) for row in records.rows))
    evidence, at_least = "the most tokens that a round drafted or accepted", max(r.at_least for r in records.rows)
    return settle_k(records.path, requested=requested, stated=stated, at_least=at_least, evidence=evidence)


def check_one_length(records: Records[RequestRounds], k: int, lengths: Counter[int]) -> None:
    """Refuse to take K for the draft length where many rounds drafted another."""
    rounds = sum(row.rounds for row in records.rows)
    others = sum(lengths.values()) - lengths[k]
    if others > MOST_SHORT * rounds:
        often = [length for length in lengths if lengths[length] > FEW * rounds]
        raise SeveralLengths(f"{records.path}: the draft length changed: {listed(lengths)} rounds", often or lengths)
    short = sum(math.ceil(max(0, row.missing(k)) / k) for row in records.rows)
    if short > MOST_SHORT * rounds:
        raise UserError(
            f"{records.path}: at least {short:,} of {rounds:,} rounds drafted fewer than {k} tokens, "
            f"expected counts by draft length, or --k {k} to take all for rounds of {k}"
        )


def listed(lengths: Counter[int]) -> str:
    """Return draft lengths and in how many rounds they were, in words."""
    tokens = sorted(lengths.items())
    shown = ", ".join(f"{drafted} in {rounds:,}" for drafted, rounds in tokens[:8])
    return shown + (f" and {len(tokens) - 8} more" if len(tokens) > 8 else "")
