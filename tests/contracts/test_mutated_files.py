"""Files of every format, mangled: each is read to a sane result, or refused in one line.

`MUTANTS=2000 pytest tests/contracts/test_mutated_files.py` tries so many of each format; a few by default.
Long because every format that is read stands in one list, with what it is made of and which command reads it.
"""

import contextlib
import copy
import io
import json
import math
import os
import random
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acceptance.estimate.estimators import expected_rounds
from acceptance.importers.formats import FORMATS, import_histogram
from acceptance.results.journal import to_line
from acceptance.results.validate import problems
from acceptance.servers.answer import Answer
from acceptance.text.prompts import load_prompts
from acceptance.text.texts import load_texts
from acceptance.trace.trace import load_trace, save_trace
from calibration.fit.loads import Options, loads_of
from calibration.pages.document import document
from calibration.pages.kinds import page_of
from calibration.published.cases import load_cases
from calibration.servers.metrics import figures
from calibration.servers.plan import Block
from calibration.servers.records import LOADED, Ran, of_block, of_request, part_of, read_load
from calibration.sources.decode import load_decode
from calibration.sources.passes import load_passes
from calibration.sources.probe import from_probe
from calibration.sources.serving_files import read_serving
from calibration.validate.served.measured import read_all
from calibration.validate.served.replay import asked_in, requests_in
from cuda_probe.probe.report import load_probe
from simulator.answers.latency import Limit
from simulator.costs.engines import sglang, vllm
from simulator.costs.profile_file import load_profile, save_profile
from simulator.costs.shapes import read_shape
from simulator.ground.artefacts import UserError
from simulator.ground.histogram import AcceptanceHistogram, load_histogram
from simulator.workloads.readers.all import FORMATS as TRAFFIC_FORMATS
from simulator.workloads.readers.rows import open_source
from simulator.workloads.reading import read_workload
from simulator.workloads.requests import validated
from simulator.workloads.statistics import statistics_of
from tests.accept.tool_files import OTHERS, RUNS, write, written
from tests.accept.traces import make_trace
from tests.calib.made_decode import write_decode
from tests.calib.made_passes import write_passes
from tests.calib.made_probe import BURN_COST, made_points, results, write_probe
from tests.sim.traffic_files import TRAFFIC

ROOT = Path(__file__).parents[2]
EACH = int(os.environ.get("MUTANTS", "20"))
MOST_S = 5.0
ODD: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2.7, 1e308, -1e-300, 2**62, 10**40, "", "7", "NaN", "x" * 300, "\u0000", "é\u202e"),
    *([], [[]], [1, "a", None], {}, {"a": {}}, {"0": 1}),
)
WORDS = (b"NaN", b"Infinity", b"-1", b"1e999", b"{", b"]", b'"', b"\n", b"\x00", b"\xff\xfe", b",,", b"null", b"9" * 40)
Read = Callable[[Path], bool]
BENCH = {"backend": "sglang", "max_concurrency": 8, "completed": 80, "mean_tpot_ms": 9.0, "mean_ttft_ms": 80.0}
BENCH |= {"total_input_tokens": 80_000, "total_output_tokens": 16_000, "model_id": "deepseek-v3"}


def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every way into nested lists and objects."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield (*way, key)
        yield from places(part, (*way, key))


def change(value: Any, rng: random.Random) -> Any:
    """One thing gone, doubled, renamed or other than it was, somewhere inside."""
    ways = list(places(value))
    if not ways:
        return rng.choice(ODD)
    *way, last = rng.choice(ways)
    holder = value
    for key in way:
        holder = holder[key]
    action = rng.randrange(5)
    if action == 0:
        del holder[last]
    elif action == 1 and isinstance(holder, list):
        holder.insert(last, copy.deepcopy(holder[last]))
    elif action == 2 and isinstance(holder, dict):
        holder[rng.choice(("k", "hist", "", "é", str(last) + "_"))] = holder.pop(last)
    elif action == 3 and isinstance(holder[last], int | float):
        holder[last] = rng.choice((-1, 0.5, 2, 1e9, 1e-9)) * holder[last]
    else:
        holder[last] = rng.choice(ODD)
    return value


def mutated(content: bytes, rng: random.Random) -> bytes:
    """A file with one to three changes, in its values where it is JSON (lines), else in its bytes."""
    for _ in range(rng.randint(1, 3)):
        lines = content.decode(errors="ignore").splitlines() if rng.random() < 0.7 else []
        whole = parsed(content.decode(errors="ignore")) if lines else None
        if whole is not None:
            content = json.dumps(change(whole, rng)).encode()
            continue
        at = rng.randrange(len(lines)) if lines else 0
        line = parsed(lines[at]) if lines else None
        if line is not None:
            lines[at] = json.dumps(change(line, rng))
            content = "\n".join(lines).encode() + b"\n"
            continue
        start = rng.randrange(len(content) + 1)
        end = min(len(content), start + rng.choice((0, 1, 4, 40, len(content))))
        content = content[:start] + rng.choice((b"", *WORDS)) + content[end:]
    return content


def mutated_arrays(content: bytes, rng: random.Random) -> bytes:
    """An .npz with a change in its bytes, or with an array that is gone, twice there, or other than it was."""
    if rng.random() < 0.3:
        return mutated(content, rng)
    with np.load(io.BytesIO(content)) as archive:
        arrays: dict[str, Any] = dict(archive)
    name = rng.choice(list(arrays))
    array, action = arrays.pop(name), rng.randrange(6)
    if action == 1:
        arrays[rng.choice(("../../" + name, "", "a\u0000b", name * 2))] = array
    elif action == 2:
        arrays[name] = rng.choice((array[None], array[:-1], array[0], np.repeat(array, 2), array[:0]))
    elif action == 3:
        with np.errstate(invalid="ignore"):
            arrays[name] = array.astype(
                rng.choice(("f2", "f8", ">f4", "i8", "u1", "c8", "S3", "U2", "O", "M8[s]", "?"))
            )
    elif action > 3:
        odd = (math.nan, math.inf, -math.inf, -1, 2, 0.5, 1e30, 2**31 - 1, -(2**31), 0)
        arrays[name] = array.copy()
        with np.errstate(all="ignore"):
            value = np.asarray(rng.choice(odd)).astype(array.dtype)
        arrays[name][rng.randrange(len(array)) if len(array) else slice(0)] = value
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for key, values in arrays.items():
            buffer = io.BytesIO()
            np.lib.format.write_array(buffer, np.asanyarray(values), allow_pickle=True)
            archive.writestr(key + ".npy", buffer.getvalue())
    return file.getvalue()


def parsed(text: str) -> Any:
    """The object or list that a text is, None where it is none."""
    try:
        value = json.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict | list) and value else None


def is_sane(histogram: AcceptanceHistogram) -> bool:
    return bool(math.isclose(histogram.law.sum(), 1) and 1 <= histogram.tokens_per_round <= 1 + histogram.draft_length)


def reads_profile(path: Path) -> bool:
    profile = load_profile(path)
    costs = [*profile.passes.values(), *([profile.units.cost] if profile.units else [])]
    with np.errstate(over="ignore"):
        return all(float(cost.pass_s(1e9, 1e9, 4, 30)) > 0 for cost in costs)


def reads_shape(path: Path) -> bool:
    shape = read_shape(str(path))
    return shape.parameters > 0 and float(shape.flops(2, 3, 100)) > 0 and math.isfinite(float(shape.flops(2, 3, 100)))


def reads_settings(path: Path) -> bool:
    """Whether what an engine's settings say could be forecast."""
    found = vllm.read(f"@{path}") if path.suffix == ".json" else sglang.read(path.read_text(errors="surrogateescape"))
    values = {name: stated.value for name, stated in found.options.items()}
    rates = (1.0, *found.survival, 0.0)
    falls = all(1 >= high >= low >= 0 for high, low in pairwise(rates))
    return falls and values.get("draft_length", 1) >= 1 and values.get("nodes", 2) >= 2


def reads_arrays(path: Path) -> bool:
    """Whether what a trace says of acceptance can be worked out."""
    trace, _ = load_trace(path.with_suffix(".json"))
    with contextlib.suppress(UserError):  # outputs that are too short
        counts = expected_rounds(trace, 2, "sampled").counts
        return bool((counts >= 0).all() and counts.sum() <= trace.size * (1 + 1e-9))
    return True


def reads_samples(path: Path) -> bool:
    """Whether raw samples are those of the report beside them."""
    point, *_ = load_probe(path.with_suffix(".json")).points
    return bool(np.isfinite(point.measurement.samples_s).all())


def checks_results(path: Path) -> bool:
    """Whether a file of records is checked, whatever is wrong with it."""
    return all(line and "\n" not in line for line in problems(path, strict=True))


def imports(tool: str) -> Read:
    """Read a file with and without a draft length: refused where it is with all of them."""

    def read(path: Path) -> bool:
        refused: list[UserError] = []
        for k in (None, 4, 7):
            try:
                found = import_histogram(tool, path, k=k)
            except UserError as error:
                refused.append(error)
                continue
            whole = k in (None, found.histogram.draft_length) and found.rounds_apart >= 0
            flagged = found.reconstructed == ("RECONSTRUCTED" in found.definition)
            if not (is_sane(found.histogram) and whole and flagged and 0 < found.histogram.samples < 1e30):
                return False
        if len(refused) == 3:
            raise refused[0]
        return True

    return read


def reads_rows(path: Path) -> bool:
    """Whether rows of a server can be priced."""
    profile = load_profile("h200")
    loads = loads_of(read_serving(path).rows, profile, Options(target_model="deepseek-v3", engine="sglang", tp=8))
    with np.errstate(over="ignore", invalid="ignore"):
        found = loads.priced(profile).tpot_s
    return not np.any(found <= 0)


def reads_traffic(path: Path) -> bool:
    """Whether what traffic is like can be said."""
    workload = read_workload(path)
    found = statistics_of(workload)
    return validated(workload.requests) is workload.requests and 0 <= found.shareable <= 1 and found.prompt.least >= 1


def reads_load(path: Path) -> bool:
    """Whether what requests saw of a server can be said."""
    parts = [ran.part for ran in read_load(path).ran]
    limits = (Limit("ttft", 1.0),)
    with np.errstate(over="ignore", invalid="ignore"):
        found = figures(parts, limits, np.random.default_rng(0)) if parts else {}
    return all(not told.value < 0 for told in found.values())


def reads_served(path: Path) -> bool:
    """Whether what was sent is something that can be sent again."""
    loads = read_all([path], 0.1)
    parts = [(load, part) for load in loads for arm in load.arms for part in load.parts(arm)]
    made = [requests_in([a for _, a in asked_in(part)], load.prefix) for load, part in parts]
    return all(validated(requests) is requests for requests in made)


def has_page(path: Path) -> bool:
    """Whether a page can be made of a result."""
    return "</html>" in document([page_of(path)])


def a_load(path: Path) -> Path:
    """A file of requests that a server answered."""
    block, answers = Block(2.0, "server", 0, ()), list[tuple[int, Answer]]()
    for row in range(4):
        sent = row / 2
        answers.append((row, Answer(sent, 0.0, sent + 0.1, sent + 0.3, [0.1, 0.1], 5, 3, "stop", "ab")))
    answers[1][1].error = "cut"
    ran = Ran(part_of(block.name, answers, 2, 0.1), True, (0.1, 0.2, 0.3), 0.1, ("a 1",), ("a 2",))
    parameters = {"load_kind": "clients", "arms": {"server": "http://s"}}
    header = {"kind": LOADED.name, "schema_version": 1, "parameters": parameters}
    records = [
        header,
        {"type": "setup", "models": {"server": "m"}},
        *(of_request(block, 1, row, answer) for row, answer in answers),
    ]
    path.write_bytes(b"".join(map(to_line, [*records, of_block(block, 1, ran)])))
    return path


def a_vllm_load(path: Path) -> Path:
    """What vLLM's client writes of three requests."""
    lists = {"input_lens": [5, 6, 7], "output_lens": [3, 2, 0], "start_times": [10.0, 10.5, 11.0]}
    lists |= {"ttfts": [0.1, 0.2, 0.0], "itls": [[0.1, 0.1], [0.2], []]}
    path.write_text(json.dumps({"label": "server", "max_concurrency": 2, "request_rate": "inf", **lists}))
    return path


def unhashed_probe(path: Path) -> Path:
    """A probe whose raw samples are not told from others by their hash."""
    write_probe(path, results(made_points({"empty": {}}, BURN_COST, 0.0, np.random.default_rng(0))))
    report = json.loads(path.read_bytes())
    del report["raw"]["sha256"]
    path.write_text(json.dumps(report))
    return path


def sources(folder: Path) -> dict[str, tuple[Path, Read]]:
    """A good file of each format, and what reads it; whether the result is sane."""
    save_profile(folder / "profile.json", load_profile("h100-sxm"), {})
    measured, catalogue = ROOT / "calibration/measured/epyc-2-core", ROOT / "simulator/costs/catalogue"
    found: dict[str, tuple[Path, Read]] = {
        "histogram": (ROOT / "examples/accept_hist_k4.json", lambda path: is_sane(load_histogram(path))),
        "profile": (folder / "profile.json", reads_profile),
        "fitted profile": (measured / "device_passes.json", reads_profile),
        "pair profile": (measured / "pair_x4.json", reads_profile),
        "probe": (measured / "probe.json", lambda path: bool(from_probe(load_probe(path, raw=False)))),
        "published": (ROOT / "calibration/published/tables/leviathan.json", lambda path: bool(load_cases(path))),
        "rows of a server": (ROOT / "calibration/published/serving/deepseek-v3-h200-sglang.csv", reads_rows),
        "result of a bench": (write(folder / "bench.json", BENCH), reads_rows),
        "load on a server": (a_load(folder / "load.jsonl"), reads_load),
        "served load": (a_load(folder / "served.jsonl"), reads_served),
        "load of vLLM's client": (a_vllm_load(folder / "vllm.json"), reads_served),
        "page of advice": (ROOT / "tests/calib/pages/advice.json", has_page),
        "page of a table": (ROOT / "tests/calib/pages/serving.csv", has_page),
        "passes": (write_passes(folder / "passes.json"), lambda path: bool(load_passes(path).times)),
        "decode": (
            write_decode(folder / "decode.jsonl", prompts=2, lengths=(1, 2)),
            lambda p: bool(load_decode(p).arms),
        ),
    }
    law = {"rejection_sample_method": "synthetic", "synthetic_acceptance_rates": [0.8, 0.5]}
    spec = {"method": "eagle3", "model": "head", "num_speculative_tokens": 2, "draft_tensor_parallel_size": 1} | law
    spec |= {"num_speculative_tokens_per_batch_size": [[1, 8, 2], [9, 64, 0]], "prompt_lookup_max": 3}
    found["settings of vLLM"] = (write(folder / "spec.json", spec), reads_settings)
    flags = "python -m sglang.launch_server --model-path m --speculative-algorithm EAGLE3 --speculative-num-steps 3 "
    flags += "--speculative-eagle-topk 2 --speculative-num-draft-tokens 6 --tp 2 --dtype 'bfloat16' --quantization=fp8"
    found["flags of SGLang"] = (write(folder / "flags.txt", flags), reads_settings)
    for name in ("llama-3.1-8b", "deepseek-v3", "gemma-2-9b"):
        config = next(iter(catalogue.rglob(f"{name}.json")))
        found[f"config of {name}"] = (config, reads_shape)
    for tool in FORMATS:
        found[tool] = (write(folder / f"{tool}.txt", *written(tool, RUNS)), imports(tool))
    for name, (tool, content) in OTHERS.items():
        found[f"{tool}, {name}"] = (write(folder / f"{name}.txt", content), imports(tool))
    save_trace(folder, make_trace([[0.5] * 9, [0.9] * 7]), {"temperature": 1.0, "draft_temperature": 1.0})
    found["trace"] = (folder / "trace.json", lambda path: load_trace(path)[0].size > 0)
    # Without the hash, which tells of every change before anything is read.
    about = json.loads((folder / "trace.json").read_bytes())
    (folder / "arrays").mkdir()
    shutil.copy(folder / "trace.npz", folder / "arrays/trace.npz")
    (folder / "arrays/trace.json").write_text(json.dumps({k: v for k, v in about.items() if k != "arrays_sha256"}))
    found["arrays of a trace"] = (folder / "arrays/trace.npz", reads_arrays)
    found["raw samples"] = (unhashed_probe(folder / "probe.json").with_suffix(".npz"), reads_samples)
    found["results"] = (found["decode"][0], checks_results)
    lines = [{"prompt": "Say it.", "category": "a"}, {"question_id": 3, "turns": ["One.", "Two."], "category": "b"}]
    for name, line in zip(("prompts", "turns"), lines, strict=True):
        found[name] = (write(folder / f"{name}.jsonl", line, line), lambda path: bool(load_prompts(path).rows))
    for name, content in TRAFFIC.items():
        path = folder / f"{name}.traffic"
        path.write_text(content)
        found[f"traffic of {name}"] = (path, reads_traffic)
    text = {"prompt": "Say it.", "output": "It."}
    found["texts"] = (write(folder / "texts.jsonl", text, text), lambda path: bool(load_texts(path).rows))
    return found


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Read]]:
    return sources(tmp_path_factory.mktemp("good"))


def test_mangled_files_are_read_or_refused_in_one_line(good: dict[str, tuple[Path, Read]], tmp_path: Path) -> None:
    refused, wrong = 0, []
    for name, (original, read) in good.items():
        folder = tmp_path / name
        folder.mkdir()
        for beside in (original.with_suffix(".npz"), original.with_suffix(".json")):
            if beside.exists():
                shutil.copy(beside, folder)
        mutate = mutated_arrays if original.suffix == ".npz" else mutated
        path, content = folder / original.name, original.read_bytes()
        path.write_bytes(content)
        assert read(path), name
        for seed in range(EACH):
            path.write_bytes(mutate(content, random.Random(f"{name} {seed}")))
            began_s = time.process_time()
            try:
                if not read(path):
                    wrong.append(f"{name}, seed {seed}: read to nonsense")
            except UserError as error:
                refused += 1
                if not str(error) or "\n" in str(error):
                    wrong.append(f"{name}, seed {seed}: {error!r}")
            except Exception as error:  # whatever it is, a user would see a traceback
                wrong.append(f"{name}, seed {seed}: {type(error).__name__}: {error}")
            if time.process_time() - began_s > MOST_S:
                wrong.append(f"{name}, seed {seed}: took {time.process_time() - began_s:.1f} s")
    assert not wrong, f"{len(wrong)} of {EACH * len(good)}\n" + "\n".join(wrong)
    # Most changes hurt; where all were read the mutants would be none.
    assert 0.2 * EACH * len(good) < refused < EACH * len(good)


def test_every_reader_of_traffic_has_a_file_that_is_mangled(good: dict[str, tuple[Path, Read]]) -> None:
    names = [open_source(path).names for name, (path, _) in good.items() if name.startswith("traffic of ")]
    first = [next(known for known in TRAFFIC_FORMATS if set(known.needs) <= set(found)) for found in names]
    assert set(first) == set(TRAFFIC_FORMATS)


def test_long_lines_cost_no_more_than_their_length(tmp_path: Path) -> None:
    for tool, line in (
        ("sglang", "#running-req: 1 " * 20_000 + "accept len: x"),
        ("vllm-metrics", 'vllm:spec_decode_num_drafts_total{a="' + '\\"' * 400_000 + '"} 5'),
    ):
        began_s = time.process_time()
        with pytest.raises(UserError) as refused:
            import_histogram(tool, write(tmp_path / "long.txt", line))
        assert len(str(refused.value)) < 400
        assert time.process_time() - began_s < MOST_S
