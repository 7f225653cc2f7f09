"""The format of published cases: what is read is what was written, and what is wrong is named in one line."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.published.cases import (
    PARAMETERS,
    SCHEMA,
    TOKEN,
    UNITS,
    Case,
    Pair,
    Row,
    load_cases,
    published_cases,
    row_json,
)
from simulator.ground.artefacts import UserError
from simulator.ground.histogram import AcceptanceHistogram

from .published_files import made_case, tau_iid, write

names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
rates = st.floats(0, 1)
times = st.floats(1e-3, 1e6)


@st.composite
def acceptances(draw: st.DrawFn) -> dict[str, Any]:
    """One way to state what a round yields."""
    k = draw(st.integers(1, 9))
    counts = st.lists(st.floats(0, 1e6), min_size=k, max_size=k)
    falling = st.lists(rates, min_size=k, max_size=k).map(lambda values: tuple(sorted(values, reverse=True)))
    ways: list[dict[str, Any]] = [
        {"draft_length": k, "tokens_per_round": draw(st.floats(1, k + 1))},
        {"draft_length": k, "alpha": draw(rates)},
        {"survival": draw(falling)},
        {"draft_length": draw(st.integers(1, k)), "histogram": AcceptanceHistogram((9.0, *draw(counts)))},
        {"target_calls_per_token": draw(st.floats(0.1, 2)), "draft_calls_per_token": draw(st.floats(0.1, 5))},
        {"draft_length": 0},
    ]
    return draw(st.sampled_from(ways))


@st.composite
def rows(draw: st.DrawFn, name: str, fitted: tuple[str, ...]) -> Row:
    given_ = draw(acceptances())
    units = [unit for unit in UNITS if unit != "speedup" or given_.get("draft_length") != 0]
    free = [p for p in (*PARAMETERS, TOKEN) if p not in (*fitted, "draft_ms")]
    fixed = draw(st.dictionaries(st.sampled_from(free), times)) | {"draft_ms": draw(times), "baseline_ms": draw(times)}
    use = draw(st.sampled_from(["fit", "forecast"] if fitted else ["forecast"]))
    measured_as = draw(st.sampled_from(units))
    places = {draw(st.sampled_from(["batch", "concurrency"])): draw(st.integers(1, 99)), "tp": 2, "context": 0}
    given_ |= draw(st.sampled_from([{}, places]))
    return Row(name=name, use=use, measured_as=measured_as, measured=draw(times), fixed=fixed, **given_)


@st.composite
def cases(draw: st.DrawFn) -> Case:
    fitted = draw(st.sampled_from([(), ("verify_ms",), ("overhead_ms",)]))
    made = [draw(rows(f"row {i}", fitted)) for i in range(draw(st.integers(0, 3)))]
    sure = {"measured_as": "ms_per_round", "measured": 3.0, "draft_length": 1, "alpha": 0.5, "fixed": {"draft_ms": 1.0}}
    made += [Row(name="fitted", use="fit", **sure)] if fitted else []
    made.append(Row(name="forecast", use="forecast", **sure))
    words = {key: draw(names) for key in ("name", "citation", "hardware", "models", "notes")}
    fixed = draw(st.sampled_from([{}, {"verify_ms_per_token": 2.0}]))
    bounds = {name: draw(st.none() | rates) for name in ("max_error", "max_median", "max_p90")}
    curve = (
        None if any(row.drafted is None for row in made) else draw(st.sampled_from([None, ((1.0, 2.0), (8.0, 2.5))]))
    )
    return Case(**words, **bounds, rows=tuple(made), fitted=fitted, fixed=fixed, curve=curve)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_a_case_comes_back_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, case: Case) -> None:
    path = tmp_path_factory.mktemp("cases") / "cases.json"
    words = {n: getattr(case, n) for n in ("name", "citation", "hardware", "models", "notes")}
    rest = {"fitted": case.fitted, "fixed": case.fixed, "rows": [row_json(r) for r in case.rows]}
    rest |= {} if case.curve is None else {"curve": case.curve}
    bounds = {n: getattr(case, n) for n in ("max_error", "max_median", "max_p90")}
    write(
        path,
        words | rest | {n: b for n, b in bounds.items() if b is not None},
        kind="published_cases",
        schema_version=1,
    )
    assert load_cases(path) == (case,)


@pytest.mark.parametrize(
    ("said", "tau", "drafted"),
    [
        ({"draft_length": 4, "tokens_per_round": 2.5}, 2.5, 4),
        ({"tokens_per_round": 2.5}, 2.5, None),
        ({"draft_length": 3, "alpha": 0.7}, tau_iid(0.7, 3), 3),
        ({"survival": (0.8, 0.5, 0.25)}, 2.55, 3),
        ({"survival": (0.8, 0.5, 0.25), "draft_length": 2}, 2.3, 2),
        ({"histogram": AcceptanceHistogram((20.0, 10.0, 10.0, 10.0, 50.0))}, 3.6, 4),
        ({"histogram": AcceptanceHistogram((20.0, 10.0, 10.0, 10.0, 50.0)), "draft_length": 2}, 2.5, 2),
        ({"target_calls_per_token": 0.4, "draft_calls_per_token": 1.6}, 2.5, 4),
        ({"draft_length": 0}, 1, 0),
    ],
)
def test_every_way_to_state_the_acceptance_gives_tokens_a_round(said, tau: float, drafted: float | None) -> None:
    row = Row(name="r", use="forecast", measured_as="ms_per_token", measured=1.0, **said)
    assert row.tau == pytest.approx(tau)
    assert row.drafted == (None if drafted is None else pytest.approx(drafted))


def test_what_comes_with_the_package_passes_the_schema_and_names_its_sources() -> None:
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    for case in published_cases():
        assert case.max_error is not None
        assert case.notes
        assert any(word in case.citation for word in ("arXiv", "github.com"))


def test_rows_that_stand_in_several_cases_say_the_same() -> None:
    seen: dict[Any, Any] = {}
    for case in published_cases():
        if case.name.startswith(("specexec-budgets", "spec-bench")):
            for row in case.rows:
                key = (case.hardware[:3], row.name, "" if "budget" in row.name else row.group)
                assert seen.setdefault(key, (row.tau, row.measured)) == (row.tau, row.measured)


def changed(**of_row: Any) -> dict[str, Any]:
    """The made case with its last row changed; None takes a key away."""
    found = made_case()
    last = found["rows"][-1] | of_row
    found["rows"][-1] = {key: value for key, value in last.items() if value is not None}
    return found


WRONG_ROWS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"alpha": 1.2}, ("cases[0].rows[4].alpha is 1.2", "0 to 1")),
    ({"alpha": "0.9"}, ("rows[4].alpha is", "number")),
    ({"use": "both"}, ("rows[4].use is", "'fit', 'forecast'")),
    ({"use": None}, ("rows[4].use is missing",)),
    ({"draft_lenght": 4}, ("draft_lenght is not known",)),
    ({"draft_length": 2.5}, ("draft_length is 2.5", "integer")),
    ({"draft_length": None}, ("row 'K = 5'", "alpha", "draft_length")),
    ({"alpha": None}, ("row 'K = 5'", "no acceptance", "tokens_per_round")),
    ({"tokens_per_round": 2.0}, ("tokens_per_round and alpha given", "one of")),
    ({"alpha": None, "tokens_per_round": 6.5}, ("tokens_per_round is 6.5", "at most 6")),
    ({"alpha": None, "tokens_per_round": 0.5}, ("tokens_per_round is 0.5", "1 to")),
    ({"alpha": None, "survival": [0.5, 0.6, 0.1, 0.1, 0.1]}, ("survival", "never rise")),
    ({"alpha": None, "survival": [0.5]}, ("draft_length is 5", "above the 1 drafts of survival")),
    ({"alpha": None, "histogram": {"k": 2, "hist": {"3": 1}}}, ("row 'K = 5', histogram", "hist.3 is not a key")),
    ({"alpha": None, "draft_length": None, "tokens_per_round": 2.0}, ("row 'K = 5'", "no draft_length", "draft_ms")),
    ({"alpha": None, "target_calls_per_token": 0.5}, ("go together",)),
    (
        {"alpha": None, "target_calls_per_token": 0.5, "draft_calls_per_token": 2},
        ("draft_length: not used with calls",),
    ),
    ({"draft_length": 0}, ("alpha: not used with draft_length 0",)),
    ({"draft_length": 0, "alpha": None, "measured": {"speedup": 1}}, ("speedup: not used with draft_length 0",)),
    ({"measured": {}}, ("row 'K = 5'", "measured is {}", "one of ms_per_token")),
    ({"measured": {"speedup": 2, "ms_per_token": 3}}, ("expected one of ms_per_token",)),
    ({"measured": {"ms_per_token": 0}}, ("measured.ms_per_token is 0", "1e-09")),
    ({"measured": {"ms": 3}}, ("measured.ms is not known",)),
    ({"fixed": {"draft_ms": 1}}, ("draft_ms is both fitted and fixed",)),
    ({"fixed": {"overhead_ms": "speed"}}, ("rows[4].fixed.overhead_ms", "draft_ms")),
    ({"name": "K = 4"}, ("two rows are named 'K = 4'",)),
    ({"batch": 2, "concurrency": 2}, ("batch and concurrency given", "one of them")),
    ({"tp": 0}, ("rows[4].tp is 0", "1 to")),
    ({"group": "other"}, ("2 parameters (draft_ms, verify_ms) and 0 rows", "group 'other'", "at least as many")),
]


WRONG_CASES: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"citation": ""}, ("cases[0].citation", "longer text")),
    ({"max_error": -1}, ("max_error is -1", "0 to 10")),
    ({"fitted": ["speed"]}, ("cases[0].fitted[0]", "'draft_ms'")),
    ({"fitted": ["draft_ms", "draft_ms"]}, ("names a parameter twice",)),
    ({"fitted": ["draft_ms", "overhead_ms"]}, ("overhead_ms is both fitted and fixed",)),
    ({"fitted": []}, ("'fit'", "no parameter is fitted")),
    ({"fitted": [*PARAMETERS], "fixed": {}}, ("6 parameters", "3 rows", "at least as many rows")),
    ({"fixed": {"overhead_ms": "baseline_ms"}}, ("overhead_ms is to equal baseline_ms", "neither fitted nor fixed")),
    ({"curve": [[4, 3], [2, 5]]}, ("curve is [[4, 3], [2, 5]]", "more tokens")),
    ({"curve": [[2, 3], [4, 1]]}, ("curve is [[2, 3], [4, 1]]", "longer")),
    ({"curve": []}, ("curve",)),
    ({"curve": "fitted"}, ("curve: beside what is fitted",)),
    ({"acceptance": "alpha"}, ('acceptance is "alpha"', "fitted")),
    (
        {"acceptance": "fitted", "fitted": ["draft_ms", "verify_ms", "baseline_ms"], "fixed": {}},
        ("4 param", "acceptance"),
    ),
    ({"fixed": {"overhead_ms": -2}}, ("fixed.overhead_ms is -2", "0 to 1e+09")),
]


def test_a_wrong_row_or_case_is_named_with_what_is_allowed(tmp_path: Path) -> None:
    for change, expected in WRONG_ROWS:
        assert_refused(write(tmp_path / "mine.json", changed(**change)), *expected)
    for change, expected in WRONG_CASES:
        assert_refused(write(tmp_path / "mine.json", made_case() | change), *expected)


def test_rows_that_the_parameters_cannot_forecast_are_refused(tmp_path: Path) -> None:
    def refused(use: str, words: str, *, speedup: bool = False, **more: Any) -> None:
        found = made_case("speedup" if speedup else "ms_per_token") | more
        found["rows"] = [r | {"use": use or r["use"]} for r in found["rows"]]
        assert_refused(write(tmp_path / "mine.json", found), words)

    refused("forecast", "row 'K = 1': a round costs nothing", fitted=[], fixed={"baseline_ms": 3})
    refused("forecast", "a speedup needs baseline_ms", fitted=[], fixed={"draft_ms": 3}, speedup=True)
    unscaled = {"fitted": ["baseline_ms"], "fixed": {"draft_ms": 1}}
    refused(
        "", "row 'K = 1': a speedup to fit on needs a baseline_ms that is fixed, not fitted", speedup=True, **unscaled
    )
    refused("fit", "no row has use 'forecast'")


NO_CASES = {
    "{": "not JSON",
    "[]": "expected an object",
    "{}": "cases is missing",
    '{"cases": []}': "1 to 1000 items",
    '{"cases": NaN}': "finite numbers",
    '{"cases": {}}': "expected array",
    '{"kind": "probe", "cases": []}': "kind is 'probe'",
    '{"schema_version": 9, "cases": []}': "schema_version is 9, supported: 1",
    '{"cases": [], "more": 1}': "items",
}


def test_what_a_profile_prices_is_refused_where_it_lacks_something(tmp_path: Path) -> None:
    pair = {"target_model": "llama-2-7b", "draft_model": "llama-68m"}
    row = {"name": "K = 3", "use": "forecast", "draft_length": 3, "alpha": 0.7, "measured": {"speedup": 1.2}}
    words = {"name": "made", "citation": "arithmetic", "hardware": "none", "models": "none", "profile": "l4"}
    whole = words | {"pairs": {"": pair}, "rows": [row]}
    (case,) = load_cases(write(tmp_path / "cases.json", whole))
    assert case.pairs[""] == Pair("llama-2-7b", "llama-68m")
    # A file beside the cases goes before a name.
    (tmp_path / "llama-68m").write_text("{}")
    (case,) = load_cases(tmp_path / "cases.json")
    assert case.pairs[""].draft_model == str(tmp_path / "llama-68m")
    silent = {key: value for key, value in whole.items() if key != "profile"}
    for found, expected in (
        (silent, "pairs: without a profile"),
        (silent | {"pairs": {}, "rows": [row | {"tree": [2, 4]}]}, "tree: without a profile"),
        (whole | {"fixed": {"draft_ms": 1}}, "profile: beside parameters, expected either"),
        (whole | {"pairs": {"other": pair}}, "pairs: none for the group ''"),
        (whole | {"pairs": {"": pair | {"devices": 0}}}, "devices"),
    ):
        assert_refused(write(tmp_path / "cases.json", found), expected)


def test_a_file_that_holds_no_cases_or_two_of_one_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    for text, expected in NO_CASES.items():
        path.write_text(text)
        assert_refused(path, expected)
    assert_refused(write(path, made_case(), made_case()), "two cases are named 'made'")


def assert_refused(path: Path, *expected: str) -> None:
    with pytest.raises(UserError) as caught:
        load_cases(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for text in expected:
        assert text in message
