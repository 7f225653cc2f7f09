"""`bench-sampling`: what it counts, that all backends decide the same round in turn, its files, and bad input.

Long because all backends run through one measured session.
"""

import csv
import json
import re
import subprocess
import sys
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import chisquare

from cuda_probe.devices import cpu_facts
from cuda_probe.devices.cpu import CpuDevice
from cuda_probe.probe import runner
from cuda_probe.probe.timing import StopRule, measure
from cuda_probe.sampling import reference, registry, speculative_sample
from cuda_probe.sampling_bench import runner as bench_runner
from cuda_probe.sampling_bench import torch_peers
from cuda_probe.sampling_bench.interleave import measure_in_turn
from cuda_probe.sampling_bench.places import CudaPlace, Place
from cuda_probe.sampling_bench.plots import bench_figure
from cuda_probe.sampling_bench.report import csv_rows, disagreement_text, result_json
from cuda_probe.sampling_bench.rounds import accepted_by_law, make_round
from cuda_probe.sampling_bench.runner import BenchResults, run_bench
from cuda_probe.sampling_bench.shapes import BACKENDS, Shape, memory_bytes, needed_bytes
from simulator.ground.artefacts import file_sha256
from tests.conftest import instead

from .sampling_device import kernels_on_cpu

Run = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parents[2]
BRIEF = StopRule(min_samples=4, max_samples=4, time_limit_s=1.0, warm_ups=1, warm_up_s=0.0)
TINY = ("--device", "cpu", "--batch", "3", "--k", "2", "--vocab", "500")


@pytest.fixture(scope="module", autouse=True)
def small_device() -> Iterator[pytest.MonkeyPatch]:
    """A processor whose cache is small, so that rings and copies are, and whose points are sampled for 50 ms."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHINDUCTOR_COMPILE_THREADS", "1")  # more would each import torch
        patch.setattr(cpu_facts, "last_level_cache", lambda: (1 << 18, "given"))
        patch.setattr(runner, "QUICK", replace(runner.QUICK, time_limit_s=0.05))
        yield patch


@dataclass
class Ran:
    """A run of the command with all backends in two types."""

    folder: Path
    stdout: str
    file: dict[str, Any]
    results: BenchResults


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, small_device: pytest.MonkeyPatch, run_in: Run) -> Ran:
    folder, kept = tmp_path_factory.mktemp("bench"), []
    files = ("--csv", "b.csv", "--plot", "b.png", "--seed", 5, "--temperature", 0.8)
    with warnings.catch_warnings(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench_runner, "run_bench", lambda *a, **named: kept.append(run_bench(*a, **named)) or kept[-1])
        warnings.simplefilter("ignore")  # torch's compiler has many
        done = run_in(folder, "bench-sampling", *TINY, "--dtype", "float32,bfloat16", *files)
    assert done.returncode == 0, done.stderr
    return Ran(folder, done.stdout, json.loads((folder / "bench_sampling.json").read_text()), kept[0])


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    """The processor, with a ring small enough to be passed quickly."""
    device = CpuDevice(cache_bytes=1 << 16, slice_bytes=1 << 16)
    yield Place(device)
    device.close()


def shape(batch: int = 3, k: int = 2, vocabulary: int = 500, dtype: str = "float32") -> Shape:
    return Shape(batch=batch, draft_length=k, vocabulary=vocabulary, dtype=dtype)


def test_the_bytes_are_those_of_a_hand_count_and_of_the_rows_that_the_law_names() -> None:
    # Two sequences of three drafts: 6 rows of each model; one kept all three, so one bonus row. 10 float16 a row.
    assert needed_bytes(shape(2, 3, 10, "float16"), kept_all=1) == (6 + 6 + 1) * 10 * 2
    assert needed_bytes(shape(1, 1, 262_144, "float32"), kept_all=0) == 2 * 1024 * 1024
    rng = np.random.default_rng(0)
    for batch, k, (dtype, width) in product((1, 5), (1, 4), (("float32", 4), ("bfloat16", 2))):
        accepted = rng.integers(0, k + 1, batch)
        rows = {(model, b, j) for model in "pq" for b in range(batch) for j in range(k)}
        rows |= {("p", b, int(a)) for b, a in enumerate(accepted)}
        rows |= {("q", b, int(a)) for b, a in enumerate(accepted) if a < k}
        assert needed_bytes(shape(batch, k, 77, dtype), int((accepted == k).sum())) == len(rows) * 77 * width


def test_the_memory_said_beforehand_covers_what_the_numpy_backend_takes() -> None:
    point = shape(2, 3, 200_000, "float16")
    tracemalloc.start()
    try:
        one = make_round(point, 1.0, seed=0)
        accepted_by_law(one, 1.0, seed=0)
        target, draft = one.target.astype(np.float16), one.draft.astype(np.float16)
        speculative_sample(target, draft, one.ids, seed=0, backend="numpy")
        taken = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert taken <= memory_bytes(point, ["numpy"], on_cpu=True) <= 3 * taken


def test_logits_are_numbers_of_the_points_type() -> None:
    for dtype, kind in (("float16", torch.float16), ("bfloat16", torch.bfloat16)):
        made = make_round(shape(dtype=dtype), 1.0, seed=3)
        for logits in map(torch.from_numpy, (made.target, made.draft)):
            assert (logits == logits.to(kind).float()).all()
            assert len(logits.unique()) > 400


@pytest.mark.statistical
@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_drafts_are_drawn_from_the_draft_at_the_temperature(temperature: float) -> None:
    draws, law = np.zeros(4), np.zeros(4)
    for seed in range(40):
        made = make_round(shape(50, 1, 4), temperature, seed)
        draws += np.bincount(made.ids.ravel(), minlength=4)
        law += reference.softmax(made.draft, temperature).sum((0, 1))
    spread = np.sqrt(law * (1 - law / law.sum()))
    assert (np.abs(draws - law) < 4 * spread).all()
    # Negative control: rows that the drafts were not drawn from are told apart, sequence by sequence.
    hits = np.mean([reference.softmax(made.draft, temperature)[b, 0, t] for b, (t,) in enumerate(made.ids)])
    misses = np.mean([reference.softmax(made.target, temperature)[b, 1, t] for b, (t,) in enumerate(made.ids)])
    assert hits > misses + 0.2


def test_the_right_answer_is_that_of_the_numpy_backend() -> None:
    for dtype, heat in product(("float32", "float16"), (1.0, 0.3)):
        made = make_round(shape(40, 5, 300, dtype), heat, seed=2)
        wanted = speculative_sample(made.target, made.draft, made.ids, seed=9, temperature=heat, backend="numpy")
        assert (accepted_by_law(made, heat, 9) == wanted.accepted).all()
        assert len(set(wanted.accepted.tolist())) > 3
        assert (accepted_by_law(made, heat, 10) != wanted.accepted).any()


@pytest.mark.statistical
def test_the_plain_torch_version_follows_the_targets_law() -> None:
    """Rounds of one draft from the same two laws: the first token of each round, and the bonus where it was kept."""
    rng, rounds = np.random.default_rng(4), 40_000
    target, draft = rng.normal(size=(2, 6)).astype(np.float32), rng.normal(size=(1, 6)).astype(np.float32)
    p, q = reference.softmax(target, 0.7), reference.softmax(draft, 0.7)
    ids = rng.choice(6, size=(rounds, 1), p=q[0])
    wide = [torch.from_numpy(np.broadcast_to(x, (rounds, *x.shape)).copy()) for x in (target, draft)]
    torch.manual_seed(0)
    accepted, token = (part.numpy() for part in torch_peers.sample(*wide, torch.from_numpy(ids), 0.7))
    first, bonus = np.where(accepted == 1, ids[:, 0], token), token[accepted == 1]
    for tokens, right, wrong in ((first, p[0], q[0]), (bonus, p[1], p[0])):
        counts = np.bincount(tokens, minlength=6)
        assert chisquare(counts, right * len(tokens)).pvalue > 1e-3
        assert chisquare(counts, wrong * len(tokens)).pvalue < 1e-6


class SlowingClock:
    """A device whose every launch takes longer than the one before."""

    resolution_s = 1e-9

    def __init__(self) -> None:
        self.time_s, self.log = 0.0, ""

    def now_s(self) -> float:
        return self.time_s

    def elapsed_s(self, launch: Callable[[], object], count: int) -> float:
        self.log += str(launch())
        taken_s = 1e-3 * (1 + self.time_s)
        self.time_s += taken_s
        return taken_s


def test_two_equal_launches_in_turn_take_equal_times_on_a_device_that_slows_down() -> None:
    rule = StopRule(max_noise=0.0, max_samples=200, time_limit_s=100.0, warm_ups=1, warm_up_s=0.0)
    clock = SlowingClock()

    def lead() -> None:
        clock.log += "-"

    timed = measure_in_turn({n: lambda n=n: n for n in "ab"}, clock, rule, lead, np.random.default_rng(0))  # type: ignore[misc]
    assert timed["a"].median_s == pytest.approx(timed["b"].median_s, rel=0.01)
    assert re.fullmatch(r"ab((-a-b)|(-b-a)){200}", clock.log)
    assert {"-a-b", "-b-a"} <= set(re.findall(r"-a-b|-b-a", clock.log))
    # Negative control: one after the other they differ.
    clock = SlowingClock()
    apart = [measure(lambda: "", clock, rule).median_s for _ in range(2)]
    assert apart[1] > 1.1 * apart[0]


def test_all_get_as_many_samples_as_the_one_that_needs_most() -> None:
    rule = StopRule(max_median_error=0.0, min_samples=4, max_samples=50, time_limit_s=100.0, warm_ups=0, warm_up_s=0.0)

    class Jumping(SlowingClock):
        def elapsed_s(self, launch: Callable[[], object], count: int) -> float:
            name = launch()
            self.time_s += 1e-3
            self.log += str(name)
            return 1e-3 if name == "steady" else 1e-3 * (1 + 0.618 * len(self.log) % 1)

    launches = {name: (lambda name=name: name) for name in ("steady", "wild")}  # type: ignore[misc]
    timed = measure_in_turn(launches, Jumping(), rule, lambda: None, np.random.default_rng(0))
    assert (timed["steady"].reason, timed["wild"].reason) == ("quiet", "max samples")
    assert [len(each.samples_s) for each in timed.values()] == [50, 50]


class FlushCounter:
    """A device whose launches take 0.3 ms for each flush in them."""

    name, index, flushes = "cuda:0", 0, 0

    @property
    def clock(self) -> "FlushCounter":
        return self

    def elapsed_s(self, launch: Callable[[], object], count: int) -> float:
        before = self.flushes
        launch()
        return 0.3e-3 * (self.flushes - before)

    def flush(self) -> None:
        self.flushes += 1


def test_a_cuda_device_is_kept_busy_for_a_millisecond_before_a_sample() -> None:
    place = CudaPlace(FlushCounter())
    if not torch.cuda.is_available():
        assert place.torch_refusal == "torch is installed without CUDA"
    assert place.device.elapsed_s(place.lead(), 1) == pytest.approx(1.2e-3)


def decisions(place: Place) -> tuple[BenchResults, dict[str, tuple[bool | None, int]]]:
    """Run a small point on three backends: the results, and of each whether it agrees, and its calls."""
    results = run_bench(place, [shape(30, 4, 300)], ["torch", "numpy", "transformers"], BRIEF, temperature=1.0, seed=1)
    return results, {p.point.probe: (p.agrees, p.calls) for p in results.points}


def test_ours_agree_and_peers_are_not_asked(place: Place) -> None:
    results, decided = decisions(place)
    assert decided == {"torch": (True, 1), "numpy": (True, 1), "transformers": (None, 30)}
    assert disagreement_text(results) == ""
    assert 1 < results.points[0].accepted_mean < 4


def test_the_device_is_asked_before_a_point_and_after_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    count = iter(range(100))
    monkeypatch.setattr(place.device, "state", lambda busy=None: {"asked": next(count)})
    results = run_bench(place, [shape(1, 1, 50)], ["torch", "numpy"], BRIEF, temperature=1.0, seed=1)
    assert results.copy is not None
    assert results.copy.states == ({"asked": 0}, {"asked": 1})
    assert [p.point.states for p in results.points] == [({"asked": 3}, {"asked": 4})] * 2


def test_the_kernels_are_benchmarked_as_they_are_called(place: Place) -> None:
    shapes = [shape(2, 3, 300, dtype) for dtype in ("float32", "bfloat16")]
    with kernels_on_cpu():
        results = run_bench(place, shapes, ["cuda", "torch"], BRIEF, temperature=0.7, seed=4)
    assert [(p.point.probe, p.point.axes["dtype"], p.agrees) for p in results.points] == [
        (name, dtype, True) for dtype in ("float32", "bfloat16") for name in ("cuda", "torch")
    ]


def with_another_seed(*arguments: Any) -> Any:
    """The NumPy backend with numbers of another seed: the right law, other decisions."""
    *others, seed, step = arguments
    return registry._on_numpy("speculative_sample")(*others, seed + 1, step)


@pytest.fixture
def make_wrong(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Any], None]:
    """Return what makes the backend that runs on an array decide otherwise."""

    def replace_it(backend: str, array: Any) -> None:
        monkeypatch.setattr(registry, "_implementations", list(registry._implementations))
        true = registry.pick("speculative_sample", {"target_logits": array}, backend)
        registry.register(replace(true, function=with_another_seed))

    return replace_it


def test_a_backend_that_decides_otherwise_is_found_out(place: Place, make_wrong: Callable[[str, Any], None]) -> None:
    make_wrong("torch", torch.zeros(2))
    results, decided = decisions(place)
    assert [decided[name][0] for name in ("torch", "numpy", "transformers")] == [False, True, None]
    assert "NOT AS THE REFERENCE: torch" in disagreement_text(results)


def test_the_command_ends_with_1_when_a_backend_decides_otherwise(run: Run, tmp_path: Path, make_wrong: Any) -> None:
    make_wrong("numpy", np.zeros(2))
    one = ("--device", "cpu", "--dtype", "float32", "--batch", 30, "--k", 4, "--vocab", 100, "--backend", "numpy")
    done = run("bench-sampling", *one)
    assert (done.returncode, done.stderr) == (1, "bench-sampling: a result was wrong, see the table or the file\n")
    assert re.search(r" NO\b", done.stdout)
    assert [p["agrees"] for p in json.loads((tmp_path / "bench_sampling.json").read_text())["points"]] == [False]


def test_the_run_times_every_backend_that_runs_here_and_says_why_the_others_do_not(ran: Ran) -> None:
    results, dtypes = ran.results, ("float32", "bfloat16")
    timed = {(p.point.probe, p.point.axes["dtype"]) for p in results.points}
    assert timed == {*product(("torch", "compiled", "transformers"), dtypes), ("numpy", "float32")}
    no_gpu = "the tensors are on the CPU, expected them on a CUDA device"
    reasons = {(left.probe, left.axes["dtype"]): left.reason for left in results.left_out}
    assert reasons == {("numpy", "bfloat16"): "NumPy has no bfloat16"} | {("cuda", d): no_gpu for d in dtypes}
    for measured in results.points:
        point, timing = measured.point, measured.point.measurement
        assert measured.calls == (3 if point.probe == "transformers" else 1)
        assert measured.agrees is (True if point.probe in ("torch", "numpy") else None)
        assert (timing.median_s > 0, timing.flushed, timing.batch) == (True, True, 1)
        kept_all, rest = divmod(point.bytes, 500 * (4 if point.axes["dtype"] == "float32" else 2))
        assert (rest, kept_all - 12 in range(4)) == (0, True)
    for name in ("bench_sampling.json", "bench_sampling.npz", "b.csv", "b.png"):
        assert f"wrote {name}" in ran.stdout


def test_json_and_csv_tell_what_was_measured(ran: Ran) -> None:
    file, points = ran.file, ran.file["points"]
    assert (file["kind"], file["schema_version"], file["tool"]) == ("bench_sampling", 1, "specsim")
    assert {"created_utc", "tool_version", "environment", "parameters"} <= set(file)
    assert file["environment"]["device"]["torch"] == torch.__version__
    assert file["parameters"].items() >= {"seed": 5, "temperature": 0.8, "vocabulary": [500]}.items()
    again = result_json(ran.results, file["parameters"], ran.folder / "bench_sampling.npz")
    raw = {"raw": again["raw"] | {"sha256": file_sha256(ran.folder / "bench_sampling.npz")}}
    for key, value in ({key: again[key] for key in ("points", "copy", "left_out")} | raw).items():
        assert json.loads(json.dumps(value)) == file[key]
    with np.load(ran.folder / "bench_sampling.npz") as archive:
        for index, point in enumerate([*points, file["copy"]]):
            assert np.median(archive[f"samples_{index:04d}"]) == point["median_s"]
    with (ran.folder / "b.csv").open() as text:
        rows = list(csv.DictReader(text))
    for row, wanted in zip(rows, csv_rows(ran.results), strict=True):
        assert list(row) == list(wanted)
        for name, value in wanted.items():
            assert row[name] == ("" if value is None else str(value)) or float(row[name]) == pytest.approx(value)
    for point in points:
        alike = [p for p in points if p["axes"]["dtype"] == point["axes"]["dtype"]]
        ratios = {p["backend"]: p["median_s"] / point["median_s"] for p in alike if p is not point}
        assert point["time_ratios"] == pytest.approx(ratios)
        assert point["bytes_per_s"] == pytest.approx(point["bytes"] / point["median_s"])
        assert point["share_of_copy"] == pytest.approx(point["bytes_per_s"] / file["copy"]["bytes_per_s"])
        assert point["samples"] == alike[0]["samples"]


def test_the_picture_shows_every_backend_and_its_intervals(ran: Ran) -> None:
    with Image.open(ran.folder / "b.png") as picture:
        picture.load()
        assert picture.size[0] > 1000
    figure = bench_figure(ran.results)
    time, share = figure.axes
    assert "batch 3, K = 2, float32" in time.get_title()
    assert (len(time.containers), len(share.containers)) == (4, len(ran.results.points))
    bars = time.containers[0].lines[2][0].get_segments()[0][:, 1]
    samples_s = next(p for p in ran.results.points if p.point.probe == "torch").point.measurement.samples_s
    assert bars == pytest.approx(1e3 * np.quantile(samples_s, (0.25, 0.75)))
    assert share.get_xlim()[1] > 64
    (legend,) = figure.legends
    assert [t.get_text() for t in legend.get_texts()] == ["torch", "numpy", "compiled torch", "transformers"]


def test_a_peer_that_is_not_there_is_left_out_with_its_reason(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_compiler(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no C++ compiler\nwas found")

    monkeypatch.setattr(torch, "compile", no_compiler)
    monkeypatch.setitem(sys.modules, "transformers", None)
    done = run("bench-sampling", *TINY, "--dtype", "float32", "--backend", "compiled,transformers,torch", "--json")
    assert done.returncode == 0, done.stderr
    file = json.loads(done.stdout)
    assert [p["backend"] for p in file["points"]] == ["torch"]
    reasons = {left["backend"]: left["reason"] for left in file["left_out"]}
    assert 'pip install "specsim[measure]"' in reasons["transformers"]
    assert reasons["compiled"] == "torch.compile does not work here (RuntimeError: no C++ compiler was found)"


MISTAKES = [
    ("--batch 0", "--batch: 0 is not allowed", "from 1 to 65536"),
    ("--k 1.5", "--k: 1.5 is not allowed"),
    ("--vocab 32x", "--vocab: '32x' is not a value"),
    ("--vocab 1", "--vocab: 1 is not allowed", "from 2"),
    ("--dtype float64", "--dtype: 'float64' is not one", "float32, float16, bfloat16"),
    ("--backend numpy,triton", "--backend: 'triton' is not one", ", ".join(BACKENDS)),
    ("--backend numpy,numpy", "--backend: 'numpy,numpy' names one twice"),
    ("--temperature 0", "--temperature: 0 is not allowed", "0.01 to 100"),
    ("--temperature nan", "--temperature: nan is not allowed"),
    ("--plot b.pdf", "--plot b.pdf", ".png or .svg"),
    ("--csv b.txt", "--csv b.txt"),
    ("--device tpu", "--device: 'tpu' is no device"),
    ("--batch 65536 --vocab 16000000", "--batch 65536, --k 4, --vocab 16000000", "GiB", "free on cpu"),
    ("--batch 1:2000", "points, expected at most 1000"),
    ("--backend cuda --vocab 100", "nothing can be timed on cpu: cuda: the tensors are on the CPU"),
]


def test_a_mistake_is_one_line_and_nothing_is_written(run: Run, tmp_path: Path, user_error: Any) -> None:
    for arguments, *words in MISTAKES:
        user_error(run("bench-sampling", *instead(("--device", "cpu"), arguments.split())), *words)
        assert list(tmp_path.iterdir()) == [], arguments
    (tmp_path / "bench_sampling.json").write_text("mine")
    user_error(run("bench-sampling", *TINY), "--out bench_sampling.json: exists already", "--force")
    assert (tmp_path / "bench_sampling.json").read_text() == "mine"


def test_ctrl_c_keeps_what_was_measured(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_shape, shapes = bench_runner.run_shape, []

    def interrupted(*given: Any) -> Any:
        shapes.append(given)
        if len(shapes) == reached:
            raise KeyboardInterrupt
        return run_shape(*given)

    monkeypatch.setattr(bench_runner, "run_shape", interrupted)
    words = (
        "bench-sampling",
        "--device",
        "cpu",
        "--batch",
        "1:3",
        *TINY[4:],
        "--backend",
        "numpy",
        "--dtype",
        "float32",
    )
    for reached, said in (
        (1, "nothing was measured yet"),
        (2, "what was measured is kept in bench_sampling.json, with"),
    ):
        shapes.clear()
        done = run(*words)
        assert done.returncode == 130
        assert done.stderr.startswith(f"bench-sampling: interrupted; {said}")
        assert (tmp_path / "bench_sampling.json").exists() == (reached > 1)
    kept = json.loads((tmp_path / "bench_sampling.json").read_text())
    assert [point["axes"]["batch"] for point in kept["points"]] == [1]
    assert [(left["axes"]["batch"], left["reason"]) for left in kept["left_out"]] == [
        (2, "not run: interrupted"),
        (3, "not run: interrupted"),
    ]


def test_what_dies_has_kept_what_was_measured(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_shape, shapes = bench_runner.run_shape, []

    def dies(*given: Any) -> Any:
        shapes.append(given)
        if len(shapes) == 2:
            raise RuntimeError("dead")
        return run_shape(*given)

    monkeypatch.setattr("simulator.ground.partial.EVERY_S", 0.0)
    monkeypatch.setattr(bench_runner, "run_shape", dies)
    words = ("--device", "cpu", "--batch", "1:3", *TINY[4:], "--backend", "numpy", "--dtype", "float32")
    assert run("bench-sampling", *words).returncode == 70
    kept = json.loads((tmp_path / "bench_sampling.json").read_text())
    assert (kept["interrupted"], kept["raw"]) == (True, None)
    assert [point["axes"]["batch"] for point in kept["points"]] == [1]
    assert {left["reason"] for left in kept["left_out"]} == {"not run: interrupted"}


def test_what_is_kept_on_the_way_is_never_called_whole(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.ground.partial.EVERY_S", 0.0)
    kept: list[BenchResults] = []
    shapes = [shape(1, 1, 50), shape(2, 1, 50)]
    done = run_bench(place, shapes, ["numpy"], BRIEF, temperature=1.0, seed=1, keep=kept.append)
    # The raw samples are not yet written beside it, not even when all is measured.
    assert [(len(found.points), found.interrupted) for found in kept] == [(1, True), (2, True)]
    assert (len(done.points), done.interrupted) == (2, False)


def test_what_the_page_says_of_sampling_is_so(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs/sampling.md").read_text()
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(snippet, "sampling.md", "exec"), {})
    (shown,) = re.findall(r"# prints (.*)", snippet)
    assert capsys.readouterr().out.strip() == shown
    page = run("bench-sampling", "--help", COLUMNS="200").stdout
    lines = re.findall(r"^(?:\$ )?bench-sampling .*$", text.replace("\\\n", " "), re.MULTILINE)
    assert lines
    assert all(option in page for line in lines for option in re.findall(r"--[a-z-]+", line))


def test_the_command_is_installed(run_real: Run) -> None:
    done = run_real("bench-sampling", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("bench-sampling, version")
