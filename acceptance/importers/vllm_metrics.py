"""Counters of a vLLM server: the Prometheus text of /metrics, or the difference of two of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.ground.artefacts import UserError
from simulator.ground.fields import lines_of, shortened
from simulator.ground.limits import MAX_DRAFT_LENGTH
from simulator.ground.records import BadRecord, Skipped

from .counters import Counters, check_counters, import_counters, sum_counters
from .imported import Imported
from .values import MAX_COUNT

if TYPE_CHECKING:
    from prometheus_client.samples import Sample

PREFIX = "vllm:spec_decode_num_"
NAMES = ("drafts", "draft_tokens", "accepted_tokens", "accepted_tokens_per_pos")
EXPECTED = f"the text of /metrics of a vLLM server that speculates, with {PREFIX}drafts_total"
MEANING = (
    "counters of vLLM since {since}: drafts are rounds that drafted, accepted tokens leave out the target's own token"
)
NO_DRAFT = "vLLM does not count rounds without a draft: tokens made in them are in no number here"

Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Series:
    """One counter: its name without prefix and suffix, and its labels in order."""

    name: str
    labels: Labels


def read(path: Path, k: int | None, before: Path | None = None) -> Imported:
    """Import a scrape of /metrics, less an earlier one where it is given; see `import_histogram`."""
    values, skipped = read_scrape(path)
    if before is not None:
        earlier, skipped_before = read_scrape(before)
        values = subtract(path, values, before, earlier)
        skipped = (*skipped, *(Skipped(line=s.line, reason=f"{before}: {s.reason}") for s in skipped_before))
    engines = by_engine(path, values)
    notes = [NO_DRAFT]
    if before is None:
        notes.append("the counters run since the server started, warm-up included; --before subtracts an earlier file")
    if len(engines) > 1:
        notes.append(f"the counters of {len(engines)} engines or models are summed")
    meaning = MEANING.format(since=before or "the server started")
    return import_counters(path, sum_counters(engines), k, meaning=meaning, notes=tuple(notes), skipped=skipped)


def read_scrape(path: Path) -> tuple[Mapping[Series, float], tuple[Skipped, ...]]:
    """Return the speculation counters of a file, and the lines that could not be read.

    Raises:
        UserError: It has none, or one cannot be read: a sum without it would be wrong.
    """
    values: dict[Series, float] = {}
    skipped: list[Skipped] = []
    others = 0
    for line, text in lines_of(path):
        try:
            for sample in samples_of(text):
                if (name := name_of(sample.name)) is None:
                    others += 1
                else:
                    add_sample(values, Series(name, tuple(sorted(sample.labels.items()))), sample)
        except BadRecord as error:
            if text.lstrip().startswith(PREFIX):
                raise UserError(f"{path}: line {line}: {error}, expected a counter of /metrics") from None
            skipped.append(Skipped(line=line, reason=str(error)))
    if not values:
        raise UserError(f"{path}: holds no {PREFIX}* counter ({others} other samples), expected {EXPECTED}")
    return values, tuple(skipped)


def samples_of(text: str) -> list["Sample"]:
    """Read one line: a sample, or none where it is a comment."""
    from prometheus_client.parser import text_string_to_metric_families

    if text.lstrip().startswith("#"):
        return []
    try:
        return [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    except (ValueError, IndexError) as error:
        raise BadRecord(f"not a sample ({shortened(str(error))})") from None


def name_of(metric: str) -> str | None:
    """Return the short name of a speculation counter, None for any other metric."""
    name = metric.removeprefix(PREFIX).removesuffix("_total")
    return name if metric.startswith(PREFIX) and name in NAMES else None


def add_sample(values: dict[Series, float], series: Series, sample: "Sample") -> None:
    """Keep one speculation counter."""
    if not 0 <= sample.value <= MAX_COUNT or not float(sample.value).is_integer():
        raise BadRecord(f"value {shortened(sample.value)} is no whole number from 0 to {MAX_COUNT:g}")
    if series in values:
        raise BadRecord(f"{sample.name} appears twice with the same labels")
    values[series] = float(sample.value)


def subtract(
    path: Path, values: Mapping[Series, float], before: Path, earlier: Mapping[Series, float]
) -> dict[Series, float]:
    """Return what was counted between two scrapes.

    Raises:
        UserError: A counter fell or is gone: another server, one that was started anew, or the files swapped.
    """
    for series, value in earlier.items():
        if values.get(series, 0.0) < value:
            now = f"is {values[series]:.17g}" if series in values else "is not"
            raise UserError(
                f"--before {before}: {PREFIX}{series.name} is {value:.17g} there and {now} in {path}, "
                "expected an earlier file of the same server run"
            )
    return {series: value - earlier.get(series, 0.0) for series, value in values.items()}


def by_engine(path: Path, values: Mapping[Series, float]) -> list[Counters]:
    """Return the checked counters of each engine or model that drafted.

    Raises:
        UserError: None drafted, one contradicts itself, or they draft different lengths.
    """
    engines: dict[Labels, dict[Labels, dict[str, float]]] = {}
    for series, value in values.items():
        position = tuple(label for label in series.labels if label[0] == "position")
        engine = tuple(label for label in series.labels if label[0] != "position")
        engines.setdefault(engine, {}).setdefault(position, {})[series.name] = value
    try:
        drafting = [counters_of(e) for e in engines.values() if any(any(v.values()) for v in e.values())]
        for counters in drafting:
            check_counters(counters)
    except BadRecord as error:
        raise UserError(f"{path}: {error}") from None
    if not drafting:
        raise UserError(f"{path}: {PREFIX}drafts is 0, expected counters of a server that drafted")
    lengths = {len(counters.per_position) for counters in drafting}
    if len(lengths) > 1:
        raise UserError(f"{path}: engines draft {' and '.join(map(str, sorted(lengths)))} tokens, expected one length")
    return drafting


def counters_of(engine: Mapping[Labels, Mapping[str, float]]) -> Counters:
    """Gather the counters of one engine."""
    totals = engine.get((), {})
    for name in ("drafts", "accepted_tokens"):
        if name not in totals:
            raise BadRecord(f"no {PREFIX}{name} beside the other counters of the same labels")
    per_position = positions_of({p[0][1]: v[NAMES[3]] for p, v in engine.items() if p and NAMES[3] in v})
    return Counters(
        rounds=totals["drafts"],
        drafted=totals.get("draft_tokens"),
        accepted=totals["accepted_tokens"],
        per_position=per_position,
    )


def positions_of(accepted: Mapping[str, float]) -> tuple[float, ...]:
    """Return accepted tokens in order of position."""
    wanted = [str(position) for position in range(min(len(accepted), MAX_DRAFT_LENGTH))]
    if set(accepted) != set(wanted):
        odd = sorted(set(accepted) ^ set(wanted))[0]
        raise BadRecord(f"positions of {PREFIX}{NAMES[3]} do not run from 0 on: {shortened(odd)} is missing or extra")
    return tuple(accepted[position] for position in wanted)
