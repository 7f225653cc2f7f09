"""Throughputs of servers: two rows tell constants that price the others; where speculation stops paying is found."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.published.cases import Case, Pair, Row, load_cases
from calibration.published.loads import Load
from calibration.validate.published.fit import RowResult, validate_case
from calibration.validate.published.load import Server, Told
from calibration.validate.published.report import result_json, summary_text
from calibration.validate.published.simulated import requests_of_load, yielding
from calibration.validate.published.turning import turns_of
from simulator.costs.moved import moved
from simulator.ground.artefacts import UserError

GRID = (1, 4, 16, 64)
PAIR = Pair("llama-3.1-8b", "eagle3")


def rows_of(measured: dict[int, tuple[float, ...]], uses: str = "forecast", **more: Any) -> tuple[Row, ...]:
    """Rows of a grid of clients, by draft length; the first plain one and the last with drafts are fitted."""
    found = []
    for k, values in measured.items():
        for i, (n, value) in enumerate(zip(GRID, values, strict=False)):
            use = "fit" if (k == 0 and i == 0) or (k > 0 and i == len(values) - 1) else uses
            said = {"tokens_per_round": 2.5} if k else {}
            found.append(
                Row(
                    name=f"K = {k}, c = {n}",
                    use=use,
                    measured_as="tokens_per_s",
                    measured=value,
                    draft_length=k,
                    concurrency=n,
                    **said | more,
                )
            )
    return tuple(found)


def case_of(rows: tuple[Row, ...], **more: Any) -> Case:
    words = {"name": "made", "citation": "arithmetic", "hardware": "none", "models": "none", "profile": "h100-sxm"}
    load = Load(isl=200, osl=200, spread=0.5)
    return Case(**words | {"rows": rows, "pairs": {"": PAIR}, "load": load, "max_median": 0.01} | more)


@pytest.fixture(scope="module")
def truth() -> Case:
    """Rows that a device gives whose memory is slower, and whose host is slower still, than its sheet says."""
    factors = {"mem_scale": 1.12, "load_layer_sequence_s": 1.6}
    silent = case_of(rows_of({0: (1.0,) * 4, 3: (1.0,) * 4}))
    server = Server.of(silent, silent.rows)
    told = Told(moved(server.profile, factors))
    values = server.throughputs(silent.rows, told)
    rows = tuple(replace(row, measured=float(value)) for row, value in zip(silent.rows, values, strict=True))
    return replace(silent, rows=rows)


def test_two_rows_tell_constants_that_forecast_the_others(truth: Case) -> None:
    result = validate_case(truth)
    assert result.holds
    assert result.median_error < 0.01
    assert set(result.parameters[""]) >= {"mem_scale", "flop_scale", "round_overhead_s"}
    # Negative control: what the sheet says, as rows that are right leave it, is far off.
    silent = Server.of(truth, truth.rows)
    sheet = silent.throughputs(truth.rows, Told(silent.profile))
    assert np.median(np.abs(sheet / [row.measured for row in truth.rows] - 1)) > 0.05


def test_an_acceptance_that_no_row_says_is_told_by_them(truth: Case) -> None:
    rows = tuple(replace(row, tokens_per_round=None) for row in truth.rows)
    result = validate_case(replace(truth, rows=rows, acceptance="fitted", max_median=0.06))
    (alpha,) = {r.row.alpha for r in result.rows if not r.row.is_plain}
    assert alpha == result.parameters[""]["alpha"]
    assert 2.4 < result.rows[-1].row.tau < 2.87
    assert result.holds


def test_more_clients_never_get_less_and_cut_answers_are_not_counted(truth: Case) -> None:
    server = Server.of(truth, truth.rows)
    told = Told(server.profile)
    whole = server.throughputs(truth.rows, told)
    assert (np.diff(whole[:4]) > 0).all()
    assert (np.diff(whole[4:]) > 0).all()
    assert truth.load is not None
    cut = Server.of(replace(truth, load=replace(truth.load, window_s=60.0)), truth.rows).throughputs(truth.rows, told)
    # The last answers of all clients but one are lost, half of one on average if all are alike.
    lost = whole - cut
    assert lost == pytest.approx([(row.sequences - 1) * 100 * np.exp(0.25) / 60 for row in truth.rows], rel=0.2)


@pytest.mark.whole  # compiled: ten times as fast
def test_requests_one_by_one_come_to_what_the_closed_form_has_of_a_load_that_lasts(truth: Case) -> None:
    """Within 6 %, with drafts and without; a load of few requests ends while some clients have nothing left to ask."""
    assert truth.load is not None
    load = replace(truth.load, simulated=True, osl=100)
    server = Server.of(replace(truth, load=load), truth.rows)
    rows, told = [row for row in truth.rows if row.concurrency in (1, 16)], Told(server.profile)
    lasting = server.throughputs(rows, told)
    assert server.forecast(rows, told) == pytest.approx(lasting, rel=0.06)
    brief = Server.of(replace(truth, load=replace(load, requests_per_client=1.5)), truth.rows)
    assert brief.forecast(rows[1:2], told) < 0.8 * lasting[1]
    # Of a window, the same as the closed form: what is cut is not counted, which of one client nothing is.
    timed = Server.of(replace(truth, load=replace(load, window_s=4.0)), truth.rows)
    cut = timed.forecast(rows, told)
    assert (cut[1::2] < 0.92 * lasting[1::2]).all()
    assert cut[::2] == pytest.approx(lasting[::2], rel=0.03)
    assert cut == pytest.approx(timed.throughputs(rows, told), rel=0.08)


def test_lengths_of_a_load_are_its_law_and_keep_its_mean() -> None:
    alike, mixed = (requests_of_load(Load(isl=10, osl=200, spread=s, most=512), 400, 0).output for s in (0.0, 0.8))
    assert set(alike) == {200}
    assert mixed.mean() == pytest.approx(200, abs=1)
    assert mixed.max() == 512
    assert np.std(np.log(mixed)) == pytest.approx(0.8, abs=0.08)
    survival = yielding(3, 2.5).floats[1:13].reshape(4, 3)
    assert survival.sum(1)[3] == pytest.approx(1.5, abs=1e-3)


@pytest.mark.parametrize(
    ("drafted", "measured", "forecast", "steps"),
    [
        ((200.0, 300.0, 900.0, 900.0), 64, 64, 0),
        ((200.0, 300.0, 500.0, 900.0), 16, 64, 1),
        ((50.0, 300.0, 900.0, 900.0), 1, 64, 3),
        ((200.0, 300.0, 900.0, 2000.0), None, 64, 1),
    ],
)
def test_the_load_at_which_drafts_stop_paying_is_counted_in_steps_of_the_grid(
    drafted: tuple[float, ...], measured: int | None, forecast: int, steps: int
) -> None:
    rows = rows_of({0: (100.0, 200.0, 700.0, 1000.0), 3: drafted})
    said = (100.0, 200.0, 700.0, 1000.0, 150.0, 250.0, 800.0, 999.0)
    (turn,) = turns_of([RowResult(row=row, forecast=value) for row, value in zip(rows, said, strict=True)])
    assert turn == ("", GRID, measured, forecast)
    assert turn.steps == steps
    assert turns_of([RowResult(row=row, forecast=1.0) for row in rows[:4]]) == ()


def test_a_turn_that_is_too_far_off_breaks_a_case_and_is_told(truth: Case) -> None:
    slow = tuple(replace(r, measured=r.measured / 3) if r.draft_length and r.use != "fit" else r for r in truth.rows)
    result = validate_case(replace(truth, rows=slow, max_median=None, max_steps=1))
    assert not result.holds
    assert result.turns[0].measured == 1
    text = summary_text([result])
    assert "speculation pays with 64 clients, the most; measured, it stops paying at 1 clients" in " ".join(
        text.split()
    )
    assert "BROKEN" in text
    (told,) = result_json([result], {})["cases"][0]["turns"]
    assert told["steps"] == len(GRID)


def test_a_load_is_refused_where_nothing_prices_it_or_rows_measure_something_else(tmp_path: Path, truth: Case) -> None:
    row = {"name": "plain", "use": "forecast", "draft_length": 0, "concurrency": 1, "measured": {"tokens_per_s": 1.0}}
    words = {"name": "made", "citation": "arithmetic", "hardware": "none", "models": "none"}
    pairs = {"": {"target_model": "llama-3.1-8b", "draft_model": "eagle3"}}
    whole = words | {"profile": "l4", "pairs": pairs, "load": {"isl": 10, "osl": 10}, "rows": [row]}
    for found, expected in (
        ({k: v for k, v in whole.items() if k not in ("profile", "pairs")}, "load: without a profile"),
        (
            whole | {"rows": [{k: v for k, v in row.items() if k != "concurrency"}]},
            "expected concurrency and tokens_per_s",
        ),
        (whole | {"rows": [row | {"measured": {"ms_per_token": 1.0}}]}, "expected concurrency and tokens_per_s"),
        ({k: v for k, v in whole.items() if k != "load"} | {"max_steps": 1}, "max_steps: without a load"),
        (whole | {"load": {"isl": 0, "osl": 10}}, "load.isl is 0"),
        (whole | {"load": {"isl": 1, "osl": 10, "scheduler": "mine"}}, "'vllm', 'sglang'"),
    ):
        path = tmp_path / "cases.json"
        path.write_text(json.dumps({"cases": [found]}))
        with pytest.raises(UserError, match=expected):
            load_cases(path)
