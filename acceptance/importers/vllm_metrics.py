"""Counters of a server, as vLLM and llama.cpp name them: the Prometheus text of /metrics, or a difference of two."""

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.ground.artefacts import UserError
from simulator.ground.fields import lines_of, shortened
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.records import BadRecord, Skipped

from .counters import (
    PAST_THE_END,
    Counters,
    check_counters,
    counters_without_drafts,
    import_counters,
    meaning_without_drafts,
    needs_k_for_rounds,
    sum_counters,
)
from .imported import Imported
from .values import MAX_COUNT

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

PREFIX = "vllm:spec_decode_num_"
# Ray's exporter puts its own word in front and knows no colons.
METRIC = re.compile(r"(?:ray_)?(?P<server>vllm|llamacpp)[:_](?P<name>\w+?)(?P<suffix>_total|_created)?")
DRAFTS, DRAFTED, ACCEPTED, EMITTED, PER_POSITION = (
    f"spec_decode_num_{name}"
    for name in ("drafts", "draft_tokens", "accepted_tokens", "emitted_tokens", "accepted_tokens_per_pos")
)
SPECULATION = (DRAFTS, DRAFTED, ACCEPTED, EMITTED, PER_POSITION)
# What tells of steps without a draft (the last is no counter); the label in the way of one sum an engine.
GENERATED, FINISHED, RUNNING = "generation_tokens", "request_success", "num_requests_running"
REASON, MODEL = "finished_reason", "model_name"
STARTED = "process_start_time_seconds"
EXPECTED = f"the text of /metrics of a server that speculates, with {PREFIX}drafts_total"
MEANING = (
    "counters of {server} since {since}: drafts are rounds that drafted, "
    "accepted tokens leave out the target's own token"
)
NO_DRAFT = "{server} does not count rounds without a draft: tokens made in them are in no number here"
SERVERS = {"vllm": "vLLM", "llamacpp": "llama.cpp"}
A_MOMENT_S = 1.0
# The parser's time grows with the square of a line.
LONGEST_LINE = 1 << 14

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Series:
    """One counter: its name without prefix and suffix, and its labels in order."""

    name: str
    labels: Labels

    @property
    def engine(self) -> Labels:
        """The labels of the engine or model."""
        return tuple(label for label in self.labels if label[0] not in ("position", REASON))


@dataclass(slots=True)
class Scrape:
    """What a file of /metrics holds.

    values: counters. born: when an engine's counters began, in seconds; started: the same of the server, 0 where it
    does not say. servers: whose they are.
    """

    path: Path
    values: dict[Series, float] = field(default_factory=dict)
    born: dict[Labels, float] = field(default_factory=dict)
    started: float = 0.0
    servers: set[str] = field(default_factory=set)
    skipped: list[Skipped] = field(default_factory=list)


def read(path: Path, k: int | None, before: Path | None = None) -> Imported:
    """Import a scrape of /metrics, less an earlier one where it is given; see `import_histogram`."""
    scrape = read_scrape(path)
    values, skipped, restarted = scrape.values, scrape.skipped, False
    if before is not None:
        earlier = read_scrape(before)
        values, restarted = subtract(scrape, earlier)
        skipped = [*skipped, *(Skipped(line=s.line, reason=f"{before}: {s.reason}") for s in earlier.skipped)]
    since = f"{before}" if before is not None and not restarted else "the server started"
    notes = []
    if before is None:
        notes.append("the counters run since the server started, warm-up included; --before subtracts an earlier file")
    if restarted:
        notes.append(f"the server was started anew after {before}: counted from its start, and not what was before")
    return of_values(path, values, k, servers=scrape.servers, since=since, notes=notes, skipped=tuple(skipped))


def of_values(
    path: Path,
    values: Mapping[Series, float],
    k: int | None,
    *,
    servers: Collection[str],
    since: str,
    notes: Iterable[str] = (),
    skipped: tuple[Skipped, ...] = (),
) -> Imported:
    """Import counts of some time; path: for messages. servers: whose they are. since: when the time began."""
    server = " and ".join(SERVERS[name] for name in sorted(servers))
    engines, emitted = by_engine(path, values, k)
    counters, model = sum_counters(engines), one_model(path, values)
    said = [PAST_THE_END] if "vllm" in servers else []
    if counters.undrafted is None:
        said.append(NO_DRAFT.format(server=server))
    elif counters.undrafted < 0:
        said.append(f"at least {-counters.undrafted:,.0f} of the accepted tokens were never emitted")
    said += notes
    if len(engines) > 1:
        said.append(f"the counters of {len(engines)} engines are summed")
    meaning = MEANING.format(server=server, since=since)
    if not any(series.name == DRAFTS for series in values):
        meaning = meaning_without_drafts(emitted)
    found = import_counters(path, counters, k, meaning=meaning, notes=tuple(said), skipped=skipped)
    return replace(found, model=model)


def one_model(path: Path, values: Mapping[Series, float]) -> str:
    """Return the name of the model that drafted, "" where the server does not say; refuses counters of several."""
    drafted = [series.labels for series, value in values.items() if value and series.name in SPECULATION]
    names = sorted({text for labels in drafted for label, text in labels if label == MODEL})
    if len(names) > 1:
        those = " and ".join(map(repr, names))
        raise UserError(f"{path}: {MODEL} is {those}, expected the counters of one model (leave out the others' lines)")
    return names[0] if names else ""


def read_scrape(path: Path) -> Scrape:
    """Return the counters of a file, and the lines that could not be read.

    Raises:
        UserError: It has none, or one cannot be read: a sum without it would be wrong.
    """
    return scrape_of(path, lines_of(path))


def scrape_of(path: Path, lines: Iterable[tuple[int, str]]) -> Scrape:
    """Return the same of numbered lines; path: for messages."""
    scrape = Scrape(path)
    others = 0
    for line, text in lines:
        try:
            for sample in samples_of(text):
                others += not add_sample(scrape, sample)
        except BadRecord as error:
            if re.match(r"\s*(ray_)?(vllm|llamacpp)[:_]spec_decode_num_", text):
                raise UserError(f"{path}: line {line}: {error}, expected a counter of /metrics") from None
            scrape.skipped.append(Skipped(line=line, reason=str(error)))
    if not any(series.name in SPECULATION for series in scrape.values):
        raise UserError(f"{path}: holds no {PREFIX}* counter ({others} other samples), expected {EXPECTED}")
    return scrape


def samples_of(text: str) -> list["Sample"]:
    """Read one line: a sample, or none where it is a comment."""
    from prometheus_client.parser import text_string_to_metric_families

    if text.lstrip().startswith("#"):
        return []
    if len(text) > LONGEST_LINE:
        raise BadRecord(f"{len(text):,} characters, expected at most {LONGEST_LINE:,}")
    try:
        families = text_string_to_metric_families(text)
        # Whole numbers of hundreds of digits are no floats.
        return [sample._replace(value=float(sample.value)) for family in families for sample in family.samples]
    except (ValueError, IndexError, OverflowError) as error:
        raise BadRecord(f"not a sample ({shortened(str(error))})") from None


def add_sample(scrape: Scrape, sample: "Sample") -> bool:
    """Keep one sample where it is of use; say whether it was."""
    if sample.name == STARTED and 0 < sample.value <= MAX_COUNT:
        scrape.started = max(scrape.started, sample.value)
    named = METRIC.fullmatch(sample.name)
    if named is None or named["name"] not in (*SPECULATION, GENERATED, FINISHED, RUNNING):
        return False
    series, value = Series(named["name"], tuple(sorted(sample.labels.items()))), sample.value
    if named["suffix"] == "_created":
        # Some counters begin when they first count: the oldest is as old as its engine.
        if series.name in SPECULATION and 0 < value <= MAX_COUNT:
            scrape.born[series.engine] = min(value, scrape.born.get(series.engine, value))
        return True
    if not 0 <= value <= MAX_COUNT or not value.is_integer():
        raise BadRecord(f"value {shortened(sample.value)} is no whole number from 0 to {MAX_COUNT:g}")
    if series in scrape.values:
        raise BadRecord(f"{sample.name} appears twice with the same labels")
    scrape.values[series] = value
    if series.name in SPECULATION:
        scrape.servers.add(named["server"])
    return True


def subtract(now: Scrape, earlier: Scrape) -> tuple[dict[Series, float], bool]:
    """Return what was counted between two scrapes, and whether the server was started anew between them.

    What was started anew counts from its start. Raises:
        UserError: A counter fell or is gone: another server, or the files swapped.
    """
    swapped = f"--before {earlier.path}: is of a later start than {now.path}, expected an earlier file"
    if now.started and earlier.started > now.started + A_MOMENT_S:
        raise UserError(swapped)
    anew = bool(earlier.started) and now.started > earlier.started + A_MOMENT_S
    left, any_anew = dict(now.values), anew
    for series, value in earlier.values.items():
        born, before = now.born.get(series.engine, 0.0), earlier.born.get(series.engine, 0.0)
        if born and before > born + A_MOMENT_S:
            raise UserError(swapped)
        if anew or (before and born > before + A_MOMENT_S):
            any_anew = True
            continue
        if now.values.get(series, 0.0) < value and series.name != RUNNING:
            state = f"is {now.values[series]:.17g}" if series in now.values else "is not"
            raise UserError(
                f"--before {earlier.path}: {series.name} is {value:.17g} there and {state} in {now.path}, "
                "expected an earlier file of the same server run"
            )
        left[series] = left.get(series, 0.0) - value
    return left, any_anew


def by_engine(path: Path, values: Mapping[Series, float], k: int | None) -> tuple[list[Counters], float | None]:
    """Return the checked counters of each engine or model that drafted, and the tokens that all emitted, if counted.

    Raises:
        UserError: None drafted, one contradicts itself, or they draft different lengths.
    """
    totals: dict[Labels, dict[str, float]] = {}
    positions: dict[Labels, dict[str, float]] = {}
    for series, value in values.items():
        place = next((text for label, text in series.labels if label == "position"), None)
        if place is None:
            engine = totals.setdefault(series.engine, {})
            engine[series.name] = engine.get(series.name, 0.0) + value
        elif series.name == PER_POSITION:
            positions.setdefault(series.engine, {})[place] = value
    try:
        drafting = [
            counters_of(path, totals.get(engine, {}), positions.get(engine, {}), k)
            for engine in totals | positions
            if any(totals.get(engine, {}).get(name) for name in SPECULATION) or any(positions.get(engine, {}).values())
        ]
        for counters in drafting:
            check_counters(counters)
    except BadRecord as error:
        raise UserError(f"{path}: {error}") from None
    if not drafting:
        raise UserError(f"{path}: {DRAFTS} is 0: nothing was drafted, expected counters of a server that speculates")
    lengths = {len(counters.per_position) for counters in drafting}
    if len(lengths) > 1:
        raise UserError(f"{path}: engines draft {' and '.join(map(str, sorted(lengths)))} tokens, expected one length")
    emitted = [engine[EMITTED] for engine in totals.values() if EMITTED in engine]
    return drafting, sum(emitted) if emitted else None


def counters_of(path: Path, totals: Mapping[str, float], positions: Mapping[str, float], k: int | None) -> Counters:
    """Gather the counters of one engine."""
    if not positions and DRAFTS not in totals and {DRAFTED, ACCEPTED} <= totals.keys() and totals[DRAFTED]:
        if k is None:
            raise needs_k_for_rounds(path)
        return counters_without_drafts(path, totals[DRAFTED], totals[ACCEPTED], totals.get(EMITTED), k)
    for name in (DRAFTS, ACCEPTED):
        if name not in totals:
            raise BadRecord(f"no {name} beside the other counters of the same labels")
    undrafted = None
    if {GENERATED, FINISHED} <= totals.keys():
        # A request that began has one token of its prefill; each round has one of the target's own.
        began = totals[FINISHED] + totals.get(RUNNING, 0.0)
        undrafted = totals[GENERATED] - began - totals[DRAFTS] - totals[ACCEPTED]
    return Counters(
        rounds=totals[DRAFTS],
        drafted=totals.get(DRAFTED),
        accepted=totals[ACCEPTED],
        per_position=positions_of(positions),
        undrafted=undrafted,
    )


def positions_of(accepted: Mapping[str, float]) -> tuple[float, ...]:
    """Return accepted tokens in order of position."""
    wanted = [str(position) for position in range(min(len(accepted), MAX_DRAFT_LENGTH))]
    if set(accepted) != set(wanted):
        odd = sorted(set(accepted) ^ set(wanted))[0]
        raise BadRecord(f"positions of {PER_POSITION} do not run from 0 on: {shortened(odd)} is missing or extra")
    return tuple(accepted[position] for position in wanted)
