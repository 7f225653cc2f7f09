"""Published measurements as cases: the rows to fit, and the rows to forecast. Reads and checks files of them.

The format is `cases.schema.json`; what a schema cannot say is checked here.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from simulator.ground.artefacts import UserError, check_kind
from simulator.ground.fields import Field, read_json_object
from simulator.ground.histogram import AcceptanceHistogram, as_written, parse_histogram, tokens_per_round_iid
from simulator.ground.schema import breaches, checker, load_schema

from .loads import Load

KIND = "published_cases"
# 1: first version.
SCHEMA_VERSIONS = (1,)
FOLDER = Path(__file__).parent / "tables"
SCHEMA = Path(__file__).parent / "cases.schema.json"
PARAMETERS = ("draft_ms", "verify_ms", "verify_ms_per_token", "overhead_ms", "sequence_ms", "baseline_ms")
# What each token costs besides, however it is decoded: prompts, waiting. Never fitted.
TOKEN = "token_ms"
# Parameters whose part of a round grows with K.
BY_DRAFT_LENGTH = ("draft_ms", "verify_ms_per_token")
# Ways to say what a round yields.
YIELDS = ("tokens_per_round", "histogram", "alpha", "survival", "target_calls_per_token")
UNITS = {"ms_per_token": "ms/token", "ms_per_round": "ms/round", "tokens_per_s": "tokens/s", "speedup": "x"}
UNITS |= {"tokens_per_s_each": "tokens/s each"}
# What stands for a curve, or an acceptance, that the fitted rows decide.
FITTED = "fitted"


# Where a row was measured.
PLACES = ("batch", "concurrency", "context", "tp")


class Pair(NamedTuple):
    """Whose rounds a profile prices: config files or names of a target and a drafter, and how they run.

    A drafter may be named by its method: the one that such a target usually gets, or has.
    """

    target_model: str
    draft_model: str
    draft_dtype: str | None = None
    devices: int = 1
    batch: int = 1
    context: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measurement and the acceptance it was made with.

    use: "fit" or "forecast". measured_as: a key of UNITS, the unit of `measured`. draft_length: K; 0 is plain decoding.
    Exactly one of YIELDS says what a round yields; calls, of both models, say K as well. fixed: this row's own values
    of parameters. group: rows of one group share one fit. tree: children of a node and nodes verified, of drafts that
    branch. batch: sequences of a round, and of tokens_per_s; concurrency: the same of a closed loop; 1 without either.
    context, tp: tokens a sequence has cached, and devices, which a profile prices.
    """

    name: str
    use: str
    measured_as: str
    measured: float
    draft_length: int | None = None
    tokens_per_round: float | None = None
    histogram: AcceptanceHistogram | None = None
    alpha: float | None = None
    survival: tuple[float, ...] | None = None
    target_calls_per_token: float | None = None
    draft_calls_per_token: float | None = None
    fixed: Mapping[str, float | str] = field(default_factory=dict)
    group: str = ""
    tree: tuple[int, int] | None = None
    batch: int | None = None
    concurrency: int | None = None
    context: int | None = None
    tp: int | None = None

    def __post_init__(self) -> None:
        given = [name for name in YIELDS if getattr(self, name) is not None]
        if (self.target_calls_per_token is None) != (self.draft_calls_per_token is None):
            raise UserError("target_calls_per_token and draft_calls_per_token go together, expected both or neither")
        if self.is_plain:
            if given or self.measured_as == "speedup":
                raise UserError(f"{given[0] if given else 'speedup'}: not used with draft_length 0, plain decoding")
            return
        if self.batch is not None and self.concurrency is not None:
            raise UserError("batch and concurrency given, expected one of them")
        if len(given) > 1:
            raise UserError(f"{' and '.join(given)} given, expected one of {', '.join(YIELDS)}")
        if given:
            self.check_length(given[0])

    def check_length(self, given: str) -> None:
        """Refuse a draft length that the acceptance does not go with."""
        k, longest = self.draft_length, self.longest
        if given == "target_calls_per_token" and k is not None:
            raise UserError("draft_length: not used with calls, which say it already")
        if given == "alpha" and k is None:
            raise UserError("alpha: says nothing without draft_length")
        if k is not None and longest is not None and k > longest:
            raise UserError(f"draft_length is {k}, above the {longest} drafts of {given}")
        if k is not None and self.tokens_per_round is not None and self.tokens_per_round > k + 1:
            most = f"expected at most {k + 1} (draft_length + 1)"
            raise UserError(f"tokens_per_round is {self.tokens_per_round:g}, {most}")
        if self.survival is not None and any(np.diff(self.survival) > 0):
            raise UserError(f"survival is {list(self.survival)}, expected values that never rise")

    @property
    def is_plain(self) -> bool:
        """Whether this is plain decoding."""
        return self.draft_length == 0

    @property
    def says_yield(self) -> bool:
        """Whether the row says what a round yields."""
        return self.is_plain or any(getattr(self, name) is not None for name in YIELDS)

    @property
    def sequences(self) -> int:
        """Sequences of a round."""
        return self.batch or self.concurrency or 1

    @property
    def longest(self) -> int | None:
        """The longest draft that the acceptance tells of; None where it does not say."""
        if self.histogram is not None:
            return self.histogram.draft_length
        return None if self.survival is None else len(self.survival)

    @property
    def drafted(self) -> float | None:
        """Drafted tokens a round; None where the source does not say."""
        if self.target_calls_per_token is not None and self.draft_calls_per_token is not None:
            return self.draft_calls_per_token / self.target_calls_per_token
        return self.longest if self.draft_length is None else self.draft_length

    @property
    def tau(self) -> float:
        """Tokens a round."""
        k = self.longest if self.draft_length is None else self.draft_length
        if self.is_plain:
            return 1.0
        if self.target_calls_per_token is not None:
            return 1 / self.target_calls_per_token
        if self.histogram is not None and k is not None:
            return self.histogram.cut(k).tokens_per_round
        if self.survival is not None:
            return 1 + sum(self.survival[:k])
        if self.alpha is not None and k is not None:
            return float(tokens_per_round_iid(self.alpha, k))
        assert self.tokens_per_round is not None
        return self.tokens_per_round


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The rows of one source that one set of parameters has to explain.

    fitted: parameters that the rows marked "fit" decide, for each group of rows by itself. fixed: known ones, in
    milliseconds or as the name of the parameter they equal; what is neither is 0. max_error, max_median, max_p90:
    bounds on |forecast / measured - 1| of the forecast rows, on the largest, the median and the 90th percentile; None
    for none. min_right: of speedups, in how large a share the forecast has to say rightly whether it pays. profile:
    prices all rows, with no cost fitted; pairs: by group, what it prices. curve: milliseconds over verified tokens,
    those of all sequences, as points or FITTED. acceptance: FITTED where rows do not say what a round yields: then one
    alpha of each group. load: how rows were sent, where they are throughputs of a server: rows marked "fit" tell
    constants of the profile; max_steps: how many steps of a grid of clients the forecast may be off where speculation
    stops paying.
    """

    name: str
    citation: str
    hardware: str
    models: str
    rows: tuple[Row, ...]
    notes: str = ""
    max_error: float | None = None
    max_median: float | None = None
    max_p90: float | None = None
    min_right: float | None = None
    profile: str | None = None
    pairs: Mapping[str, Pair] = field(default_factory=dict)
    curve: tuple[tuple[float, float], ...] | str | None = None
    acceptance: str | None = None
    load: Load | None = None
    max_steps: int | None = None
    fitted: tuple[str, ...] = ()
    fixed: Mapping[str, float | str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_parameters(self)
        check_curve(self)
        check_groups(self)
        check_pairs(self)
        check_load(self)
        for row in self.rows:
            try:
                check_row(self, row)
            except UserError as error:
                raise UserError(f"row {row.name!r}: {error}") from None

    @property
    def groups(self) -> tuple[str, ...]:
        """The groups in the order of their first rows."""
        return tuple(dict.fromkeys(row.group for row in self.rows))

    def known(self, row: Row) -> dict[str, float | str]:
        """Return the parameters that are fixed for a row, its own before the case's."""
        return {**self.fixed, **row.fixed}


def check_parameters(case: Case) -> None:
    """Refuse parameters named twice, or equal to one that has no number."""
    if len(set(case.fitted)) < len(case.fitted):
        raise UserError(f"fitted names a parameter twice: {', '.join(case.fitted)}")
    for known in map(case.known, case.rows):
        for name, value in known.items():
            if name in case.fitted:
                raise UserError(f"{name} is both fitted and fixed, expected one of them")
            if isinstance(value, str) and not (value in case.fitted or isinstance(known.get(value), int | float)):
                raise UserError(f"{name} is to equal {value}, which is neither fitted nor fixed to a number")


def check_curve(case: Case) -> None:
    """Refuse a curve that is no function of tokens, or is fitted beside what it would have to be told from."""
    if case.curve is None:
        return
    if case.profile is not None or (case.curve == FITTED and (case.fitted or case.acceptance)):
        raise UserError(f"curve: beside {'a profile' if case.profile else 'what is fitted'}, expected either")
    if any(row.drafted is None for row in case.rows):
        raise UserError("curve: a row has no draft_length, which verified tokens need")
    if not isinstance(case.curve, str):
        tokens, times = zip(*case.curve, strict=True)
        if any(np.diff(tokens) <= 0) or any(np.diff(times) < 0):
            raise UserError(f"curve is {[list(point) for point in case.curve]}, expected more tokens to take longer")


def check_groups(case: Case) -> None:
    """Refuse a group of rows that decides nothing, forecasts nothing, or fits more than it measures."""
    if not any(row.use == "forecast" for row in case.rows):
        raise UserError("no row has use 'forecast', expected at least one")
    for group in case.groups:
        rows = [row for row in case.rows if row.group == group]
        names, at = [row.name for row in rows], f" in group {group!r}" if group else ""
        if len(set(names)) < len(names):
            raise UserError(f"two rows are named {max(names, key=names.count)!r}{at}, expected a name for each")
        fits = sum(row.use == "fit" for row in rows)
        found = [*case.fitted, *["acceptance"] * bool(case.acceptance), *["curve"] * (case.curve == FITTED)]
        if fits and not found and case.load is None:
            raise UserError(f"a row has use 'fit'{at}, but no parameter is fitted")
        if len(found) > fits:
            counts = f"{len(found)} parameters ({', '.join(found)}) and {fits} rows with use 'fit'{at}"
            raise UserError(f"{counts}, expected at least as many rows as parameters")


def check_pairs(case: Case) -> None:
    """Refuse a profile without pairs of models, or beside parameters."""
    if case.profile is None:
        if case.pairs or any(row.tree for row in case.rows):
            raise UserError(f"{'pairs' if case.pairs else 'tree'}: without a profile, which prices them")
        return
    if case.fitted or case.fixed or any(row.fixed for row in case.rows):
        raise UserError("profile: beside parameters, expected either")
    lacking = next((group for group in case.groups if group not in case.pairs), None)
    if lacking is not None:
        raise UserError(f"pairs: none for the group {lacking!r}, expected one for each")
    if any(row.draft_length is None for row in case.rows):
        raise UserError("profile: a row has no draft_length, which passes need")


def check_load(case: Case) -> None:
    """Refuse a load that nothing prices, or rows that are no throughputs of clients."""
    if case.load is None:
        if case.max_steps is not None:
            raise UserError("max_steps: without a load, whose grid of clients it counts in")
        return
    if case.profile is None:
        raise UserError("load: without a profile, which prices its passes")
    wrong = next((r for r in case.rows if r.concurrency is None or r.measured_as != "tokens_per_s"), None)
    if wrong is not None:
        raise UserError(f"row {wrong.name!r}: expected concurrency and tokens_per_s, as a load measures them")


def check_row(case: Case, row: Row) -> None:
    """Refuse a row that the case's parameters cannot forecast."""
    if not row.says_yield and (case.acceptance is None or row.draft_length is None):
        wanted = "draft_length" if case.acceptance else f"one of {', '.join(YIELDS)}"
        raise UserError(f"no acceptance given, expected {wanted}")
    if case.profile is not None:
        return
    stated = {*case.fitted, *(name for name, value in case.known(row).items() if value != 0)}
    has_plain = "baseline_ms" in stated or case.curve is not None
    if (row.is_plain or row.measured_as == "speedup") and not has_plain:
        what = "plain decoding" if row.is_plain else "a speedup"
        raise UserError(f"{what} needs baseline_ms, which is neither fitted nor fixed")
    if row.is_plain:
        return
    if row.use == "fit" and row.measured_as == "speedup" and "baseline_ms" in case.fitted:
        raise UserError("a speedup to fit on needs a baseline_ms that is fixed, not fitted")
    if stated <= {"baseline_ms", TOKEN} and case.curve is None:
        raise UserError("a round costs nothing: no parameter of it is fitted or fixed")
    needs = [name for name in BY_DRAFT_LENGTH if name in stated]
    if needs and row.drafted is None:
        raise UserError(f"no draft_length, which {needs[0]} needs")


def load_cases(path: Path) -> tuple[Case, ...]:
    """Read a file of cases.

    Raises:
        UserError: Names the file, the key, the value and what is allowed.
    """
    document = read_json_object(path)
    check_kind(path, document, KIND, SCHEMA_VERSIONS)
    for wrong in breaches(checker(load_schema(SCHEMA)), document):
        raise UserError(f"{path}: {wrong}")
    cases = tuple(case_of(f"{path}: case {case['name']!r}", case, path.parent) for case in document["cases"])
    check_names(str(path), cases)
    return cases


def check_names(where: str, cases: Iterable[Case]) -> None:
    """Refuse two cases of one name."""
    seen: set[str] = set()
    for case in cases:
        if case.name in seen:
            raise UserError(f"{where}: two cases are named {case.name!r}, expected a name for each")
        seen.add(case.name)


def published_cases() -> tuple[Case, ...]:
    """Return the cases that come with the package."""
    return tuple(case for path in sorted(FOLDER.glob("*.json")) for case in load_cases(path))


def collect_cases(files: Iterable[Path], published: bool) -> tuple[Case, ...]:
    """Return the cases of some files, before them those of the package if asked for; refuses two of one name."""
    cases = published_cases() if published else ()
    for file in files:
        cases += load_cases(file)
        check_names(str(file), cases)
    return cases


def case_of(at: str, entry: Mapping[str, Any], folder: Path) -> Case:
    """Build a case from its object, which the schema has passed; files are told from a folder."""
    rows = tuple(row_of(f"{at}, row {row['name']!r}", row) for row in entry["rows"])
    stated = dict(entry.get("pairs", {}))
    pairs = {group: Pair(**{k: beside(folder, v) for k, v in of.items()}) for group, of in stated.items()}
    curve = entry.get("curve")
    own: dict[str, Any] = {"rows": rows, "fitted": tuple(entry.get("fitted", ())), "pairs": pairs}
    own["load"] = Load(**entry["load"]) if "load" in entry else None
    own["curve"] = tuple(map(tuple, curve)) if isinstance(curve, list) else curve
    try:
        return Case(**{**entry, **own})
    except UserError as error:
        raise UserError(f"{at}: {error}") from None


def beside(folder: Path, value: Any) -> Any:
    """Return a file of that folder where a text names one, else the value."""
    return str(folder / value) if isinstance(value, str) and (folder / value).is_file() else value


def row_of(at: str, entry: Mapping[str, Any]) -> Row:
    """Build a row from its object, which the schema has passed."""
    values = {key: value for key, value in entry.items() if key != "measured"}
    if len(entry["measured"]) != 1:
        raise UserError(f"{at}: measured is {dict(entry['measured'])}, expected one of {', '.join(UNITS)}")
    ((measured_as, measured),) = entry["measured"].items()
    if "histogram" in values:
        values["histogram"] = parse_histogram(Field(values["histogram"], f"{at}, histogram"))
    values |= {key: tuple(values[key]) for key in ("survival", "tree") if key in values}
    try:
        return Row(**values, measured_as=measured_as, measured=measured)
    except UserError as error:
        raise UserError(f"{at}: {error}") from None


def row_json(row: Row) -> dict[str, Any]:
    """Return a row under the names of its file."""
    plain = ("name", "use", "group", "draft_length", *YIELDS, "draft_calls_per_token", *PLACES)
    entry = {name: getattr(row, name) for name in plain if name not in ("histogram", "survival")}
    if row.histogram is not None:
        counts = {str(a): as_written(count) for a, count in enumerate(row.histogram.counts)}
        entry["histogram"] = {"k": row.histogram.draft_length, "hist": counts}
    entry |= {key: list(made) for key in ("survival", "tree") if (made := getattr(row, key)) is not None}
    entry |= {"measured": {row.measured_as: row.measured}, "fixed": dict(row.fixed)}
    return {key: value for key, value in entry.items() if value is not None}
