"""Rows of servers as files hold them: delimiters, units, spellings, results of benches, folders of these."""

import json
from collections.abc import Iterator
from contextlib import chdir, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from calibration.fit.loads import Options, loads_of
from calibration.sources.serving import ServingRow
from calibration.sources.serving_files import read_all, read_serving
from simulator.costs.parameters import Load
from simulator.costs.profile_file import load_profile
from simulator.ground.artefacts import UserError

PUBLISHED = Path(__file__).parents[2] / "calibration" / "published" / "serving"
ROWS = (PUBLISHED / "llama-3.1-70b-h200-vllm.csv").read_text().splitlines()


def rows_of(folder: Path, text: str, name: str = "rows.csv") -> tuple[ServingRow, ...]:
    (folder / name).write_text(text)
    return read_serving(folder / name).rows


TABLES = [
    "concurrency,isl,osl,tpot_ms,ttft_ms,tp\n64,1000,256,21.5,120,2\n",
    "Concurrency;ISL;OSL;TPOT (ms);TTFT [s];tp_size\n64;1k;256;21,5;0,12;TP2\n",
    "users\tprompt_len\toutput-len\tmean_itl_s\tttft_s\ttp\n64\t1000\t256\t0.0215\t0.12\ttp=2\n",
    "clients|isl|osl|tpot_us|ttft|tensor_parallel_size\n64|1e3|256|21500|120 ms|2x\n",
    "concurrency,isl,osl,itl_ms,tpot_ms,e2e_ms,ttft_sec,tp\n64,1000,256,99,21.5ms,5000,0.12,2\n",
    "concurrency,isl,osl,inter_token_latency_ms,avg_ttft_ms,tp,dp\n64,1000,256,21.5,120,2,n/a\n",
]


@pytest.mark.parametrize("table", TABLES)
def test_tables_are_understood_however_they_are_written(tmp_path: Path, table: str) -> None:
    (row,) = rows_of(tmp_path, table)
    assert (row.concurrency, row.isl, row.osl, row.tp, row.dp) == (64, 1000, 256, 2, 1)
    assert (row.tpot_s, row.ttft_s) == pytest.approx((0.0215, 0.12))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("concurrency,isl,osl,e2e_ms\n4,1024,256,900\n", "no column tells tpot_ms, expected columns concurrency, isl"),
        ("concurrency,isl,osl,tpot_ms\n4,1024,256,21,5\n", "line 2: 1 more cells than columns"),
        ("concurrency;isl;osl;tpot_ms\n4;1,024;256;21,5\n", "line 2: isl is '1,024', expected 1024 or 1.024"),
        ("concurrency,isl,osl,tpot_ms,tp\n4,1024,256,21.5,two\n", "line 2: tp is 'two', expected a number"),
        ("concurrency,isl,osl,tpot_ms,tp\n4,1024,256,21.5,2.5\n", "line 2: tp is 2.5, expected a whole number"),
        ("concurrency,isl,osl,tpot_ms\n4,1024,256,21h\n", "line 2: tpot_ms is '21h', expected a number"),
        ("concurrency,isl,osl,tpot_ms,gemm_quant_mode\n4,1,256,21,fp3\n", "line 2: gemm_quant_mode is 'fp3'"),
    ],
)
def test_what_is_not_understood_names_its_column_row_and_value(tmp_path: Path, table: str, said: str) -> None:
    with pytest.raises(UserError) as refused:
        rows_of(tmp_path, table)
    assert said in str(refused.value)


BENCH = {"completed": 80, "total_input_tokens": 81920, "total_output_tokens": 20480, "mean_tpot_ms": 9.0}
SERVER = {"model_path": "/data/models/Qwen3-32B", "tp_size": 4, "dtype": "auto", "quantization": "w8a8_fp8"}
SGLANG = BENCH | {"backend": "sglang-oai", "max_concurrency": 8, "server_info": SERVER}
GUIDE: dict[str, Any] = {
    "args": {"model": "Qwen/Qwen3-32B"},
    "benchmarks": [
        {
            "config": {"strategy": {"type_": kind} | more},
            "metrics": {
                "request_totals": {"successful": 80},
                "request_concurrency": {"successful": {"mean": 7.5}},
                "prompt_token_count": {"successful": {"mean": 1024.0}},
                "output_token_count": {"successful": {"mean": 256.0}},
                "inter_token_latency_ms": {"successful": {"mean": 9.0}},
                "time_to_first_token_ms": {"successful": {"mean": 60.0}},
            },
        }
        for kind, more in (("synchronous", {}), ("concurrent", {"streams": 8}), ("constant", {"rate": 2.0}))
    ],
}
METRICS = {
    "time_to_first_token": {"unit": "ms", "avg": 60.0},
    "inter_token_latency": {"unit": "sec", "avg": 0.009},
    "input_sequence_length": {"avg": 1024.0},
    "output_sequence_length": {"avg": 256.0},
    "request_count": {"avg": 80},
}
ONE = METRICS | {"input_config": {"endpoint": {"model_names": ["Qwen/Qwen3-32B"]}, "loadgen": {"concurrency": 8}}}
PHASES = [{"name": "warmup", "concurrency": 2, "exclude_from_results": True}, {"name": "profiling", "concurrency": 8}]
TWO = METRICS | {"input_config": {"models": {"items": [{"name": "Qwen/Qwen3-32B"}]}, "phases": PHASES}}
VLLM = BENCH | {"model_id": "Qwen/Qwen3-32B", "backend": "openai-chat", "request_rate": "inf", "tp": "4"}


@pytest.mark.parametrize(
    ("written", "clients", "told"),
    [
        (SGLANG, [8], ("sglang", 4, "fp8", "/data/models/Qwen3-32B")),
        (
            SGLANG | {"server_info": {"decode": [SERVER]}, "backend": None},
            [8],
            ("sglang", 4, "fp8", SERVER["model_path"]),
        ),
        (
            SGLANG | {"server_info": SERVER | {"dp_size": 2, "enable_dp_attention": True}},
            [8],
            ("sglang", 2, "fp8", None),
        ),
        (GUIDE, [1, 8, 7.5], ("", None, "", "Qwen/Qwen3-32B")),
        (ONE, [8], ("", None, "", "Qwen/Qwen3-32B")),
        (TWO, [8], ("", None, "", "Qwen/Qwen3-32B")),
        (VLLM | {"max_concurrency": 8}, [8], ("", 4, "", "Qwen/Qwen3-32B")),
        (VLLM | {"max_concurrency": None}, [80], ("", 4, "", "Qwen/Qwen3-32B")),
    ],
)
def test_benches_tell_model_engine_devices_and_formats(
    tmp_path: Path, written: dict, clients: list, told: tuple
) -> None:
    rows = rows_of(tmp_path, json.dumps(written), "result.json")
    assert [row.concurrency for row in rows] == clients
    for row in rows:
        assert (row.isl, row.osl, row.requests, row.tpot_s) == pytest.approx((1024, 256, 80, 0.009))
        assert (row.engine, row.tp, row.dtype) == told[:3]
        assert told[3] in (None, row.model)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (VLLM | {"max_concurrency": 8, "request_rate": 4.0}, "request_rate is 4, expected inf"),
        (SGLANG | {"server_info": SERVER | {"dp_size": 2}}, "dp_size is 2 of whole replicas, expected rows of one"),
    ],
)
def test_loads_that_no_clients_make_are_refused(tmp_path: Path, written: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        rows_of(tmp_path, json.dumps(written), "result.json")


def test_what_is_no_bench_s_is_read_or_refused_and_nothing_else(tmp_path: Path) -> None:
    """Whatever stands in place of a part, at any depth."""

    def spoilt(value: Any) -> Iterator[Any]:
        yield from (None, True, 1.5, "x", [], [1], {})
        for key, inner in value.items() if isinstance(value, dict) else ():
            yield from (value | {key: odd} for odd in spoilt(inner))

    for bench in (SGLANG, GUIDE, ONE, TWO):
        for odd in spoilt(bench):
            with suppress(UserError):
                rows_of(tmp_path, json.dumps(odd), "a.json")
    for table in ("concurrency,isl\r,osl,tpot_ms\n1,2,3,4\n", 'concurrency;isl;osl;tpot_ms\n"1;2;3;4\n'):
        with pytest.raises(UserError):
            rows_of(tmp_path, table)


def test_sglang_says_how_long_its_drafts_are_where_they_are_chains(tmp_path: Path) -> None:
    drafting = {"speculative_algorithm": "EAGLE3", "speculative_num_steps": 3, "speculative_num_draft_tokens": 4}
    for topk, told in ((1, (3, 2.5)), (4, (1, None))):
        info = SERVER | drafting | {"speculative_eagle_topk": topk}
        (row,) = rows_of(tmp_path, json.dumps(SGLANG | {"accept_length": 2.5, "server_info": info}), "a.json")
        assert (row.method, row.draft_length, row.tokens_per_round) == ("EAGLE3", *told)


def test_a_rate_whose_requests_on_the_way_were_counted_is_a_load(tmp_path: Path) -> None:
    """SGLang's bench counts them; of those that may be there, vLLM's says how many alone."""
    (row,) = rows_of(
        tmp_path, json.dumps(SGLANG | {"max_concurrency": None, "concurrency": 5.5, "request_rate": 4}), "a.json"
    )
    assert row.concurrency == 5.5


def bench_files(folder: Path, count: int = 10) -> list[str]:
    """One result of vLLM's bench a file, as it writes them."""
    names = dict(zip(ROWS[0].split(","), range(99), strict=False))
    for place in range(count):
        cells = ROWS[1 + 6 * place].split(",")
        at = {name: float(cells[names[name]]) for name in ("concurrency", "isl", "osl", "tpot_ms", "ttft_ms", "tp")}
        done = 10 * at["concurrency"]
        totals = {"total_input_tokens": done * at["isl"], "total_output_tokens": done * at["osl"], "completed": done}
        times = {"mean_tpot_ms": at["tpot_ms"], "mean_ttft_ms": at["ttft_ms"]}
        more = {"model_id": "served", "max_concurrency": at["concurrency"], "tensor_parallel_size": at["tp"]}
        (folder / f"run{place}").mkdir(parents=True)
        (folder / f"run{place}" / "bench.json").write_text(json.dumps(totals | times | more))
    return [f"{folder.name}/run{place}/bench.json" for place in range(count)]


def test_ten_files_of_a_bench_are_ten_rows_however_they_are_named(run, tmp_path: Path) -> None:
    files = bench_files(tmp_path / "runs")
    (tmp_path / "runs" / "notes.json").write_text("{}")
    given = ("--profile", "h200", "--target-model", "llama-3.1-70b", "--engine", "vllm", "--dtype", "fp8", "--json")
    done = run("calibrate", "--from-serving", files[0], "--from-serving", *files[1:], *given, "--out", "engine.json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == "the rows are of 'served', taken to be llama-3.1-70b (--target-model)\n"
    assert len(json.loads(done.stdout)["rows"]) == 10
    # The fit knows model, engine and format.
    held = run("validate", "--serving", "runs", "--profile", "engine.json")
    assert "time a token of 10 rows" in held.stdout
    assert "TTFT median  mean" in held.stdout
    assert "runs: no rows in 1 of 11 files (notes.json)" in held.stderr
    with chdir(tmp_path):
        one, *others = (read_all([*map(Path, way)]) for way in (files, ["runs"], ["runs/run*/bench.json"]))
    assert [other.rows for other in others] == [one.rows] * 2
    assert one.files == tuple(map(Path, files)) == others[1].files


def test_how_a_server_takes_loads_is_told_of_all_rows(run, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("\n".join([ROWS[0], *ROWS[3::20]]) + "\n")
    words = ("validate", "--serving", "rows.csv", "--profile", "h200", "--json")
    usual = json.loads(run(*words).stdout)["rows"]
    assert json.loads(run(*words, "--chunk", 8192, "--prefix-hit", 0).stdout)["rows"] == usual
    for option in (
        ("--chunk", 512),
        ("--prefix-hit", "50%"),
        ("--prompts-first",),
        ("--same-length",),
        ("--max-num-seqs", 4),
    ):
        rows = json.loads(run(*words, *option).stdout)["rows"]
        assert [r["ttft_forecast_ms"] for r in rows] != [r["ttft_forecast_ms"] for r in usual], option
    found = loads_of(read_all([tmp_path / "rows.csv"]).rows, load_profile("h200"), Options(served=Load(chunk=512)))
    assert found.served.chunk == 512


def test_one_load_in_two_files_is_one(tmp_path: Path) -> None:
    bench_files(tmp_path / "one", 3)
    bench_files(tmp_path / "other", 3)
    rows = read_all([tmp_path]).rows
    named = [replace(row, model="llama-3.1-70b") for row in rows]
    assert (len(rows), loads_of(named, load_profile("h200"), Options()).distinct) == (6, 3)


def test_too_few_rows_say_how_to_name_more(run, user_error, tmp_path: Path) -> None:
    (file,) = bench_files(tmp_path / "runs", 1)
    given = ("--profile", "h200", "--target-model", "llama-3.1-70b")
    done = run("calibrate", "--from-serving", file, *given)
    assert done.returncode == 2
    assert "1 row to use, expected at least 3, better ten; name more files (again --from-serving)" in done.stderr
    user_error(run("calibrate", "--from-serving", file, file, *given), f"{file}: comes twice, expected each file once")
    user_error(run("calibrate", "--from-serving", "r*.json", *given), "r*.json: names no file")
    user_error(run("calibrate", "a.json", "b.json"), "b.json: beside a.json, expected one file")
    user_error(
        run("calibrate", "--from-serving", file, *given, "--kv-dtype", "fp3"), "--kv-dtype: 'fp3', expected a number"
    )
    bench_files(tmp_path / "three", 3)
    small = ("--profile", "rtx-4090", "--target-model", "llama-3.1-70b")
    done = run("calibrate", "--from-serving", "three", *small)
    assert done.stderr.endswith("0 loads of these rows fit into memory, expected at least 3 (--tp, --dtype?)\n")
    (tmp_path / "empty").mkdir()
    user_error(run("calibrate", "--from-serving", "empty", *given), "empty: holds no file of rows")


def test_rows_of_a_folder_say_their_file(tmp_path: Path) -> None:
    bench_files(tmp_path / "runs", 2)
    found = read_all([tmp_path / "runs"])
    assert [Path(row.path).parent.name for row in found.rows] == ["run0", "run1"]
