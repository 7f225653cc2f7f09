"""What every command prints: the answer in its first line, no line above 100 columns, and with --json nothing else."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import numpy as np
import pytest

from simulator.ground.command import WIDTH
from tests.accept.conftest import WORDS, save_model
from tests.calib.made_decode import write_decode
from tests.calib.made_passes import GRID, write_passes
from tests.calib.made_probe import BURN_COST, BURNS, made_points, made_results, results, write_probe
from tests.calib.published_files import made_case, write

LONG = "a-model-whose-name-is-long-as-those-of-hubs-are"
SMALL = ("--target", f"{LONG}-target", "--draft", f"{LONG}-draft", "--max-prompts", 3, "--max-new-tokens", 8)
SMALL = (*SMALL, "--device", "cpu", "--prompts", "prompts.jsonl")
PROBE = (
    "--device",
    "cpu",
    "--quick",
    "--only",
    "empty",
    "--only",
    "verify",
    "--draftN",
    1,
    "--workflops",
    8,
    "--workmem",
    1,
)
HIST = {"k": 8, "hist": {str(a): 10 + a for a in range(9)}, "samples": sum(10 + a for a in range(9))}
SERVED = "--profile h100-sxm --target-model llama-3.1-8b --draft-model llama-3.2-1b --alpha 0.8"
SERVED += " --requests 20 --isl 64 --osl 8"
COMPARED = "calibrate probe.json -o e.json --compare then.json"
# Words, the exit code, and what the first line begins with. In this order: some read what others have written.
SAID: tuple[tuple[str, int, str], ...] = (
    ("profiles list", 0, r"\d+ devices, \d+ of them measured"),
    ("profiles show h100-sxm", 0, r"h100-sxm reads \d+ GB/s and computes "),
    ("profiles diff h100-sxm epyc-2-core", 0, r"epyc-2-core over h100-sxm: \d+ numbers differ"),
    ("measure-acceptance --k 1:4 --report --out-dir acc", 0, r"At K = 4 a round commits \d\.\d\d tokens \("),
    ("measure-acceptance import --rates 0.7,0.5,0.4 --out i.json", 0, r"At K = 3 a round commits 2\.600 tokens"),
    ("bench-decode --method speculative,topk --out b.jsonl", 0, "Fastest: |No method beats plain decoding: "),
    ("bench-decode --method speculative,topk --out b.jsonl --dry-run", 0, r"\d+ prompts in \d+ batches"),
    ("bench-decode list-presets", 0, ".*presets.toml:"),
    ("bench-decode validate-results b.jsonl", 0, "b.jsonl: all well"),
    ("probe-gpu --list", 0, "probe +axes +what"),
    ("probe-gpu --out p.json", 0, r"cpu: .+: .+ GFLOP/s, .*a launch "),
    (COMPARED, 0, "Fitted: burn units and bfloat16; points held out are off by "),
    ("calibrate blind.json -o d.json", 3, "Failed: no fit passes its checks"),
    ("calibrate --from-passes passes.json -o r.json --fit-k 1,4,8", 0, "Fitted: bfloat16; points held out "),
    ("validate d.jsonl --profile pair.json", 0, r"The forecasts hold: median error \d\.\d\d% of 5 rows"),
    ("validate d.jsonl --profile pair.json --max-error 0.0001", 1, "The forecasts do not hold: median error "),
    ("validate --passes passes.json --profile q.json --hist h.json", 0, "The forecasts hold: median error "),
    ("workload describe traffic.csv", 0, r"traffic.csv: 2 requests, rows of "),
    (f"simulate-serving {SERVED} --rate 5,6", 0, r"If alpha is 0\.8, it pays from 5 to 6 requests/s, all that was "),
    (
        f"simulate-serving {SERVED} --concurrency 8,9 --slo ttft:1s",
        0,
        r"warning: clients whose answers all have 8 tokens [^.]* tell more\s+"
        r"If alpha is 0\.8, it does not pay from 8 to 9 clients",
    ),
    (
        "validate --published-file cases.json",
        0,
        r"Median error \d+\.\d\d%, 90 % within \S+%, the largest \S+%, of \d+ rows",
    ),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, run_in: Callable) -> Path:
    """A folder with all files that the commands read."""
    folder = tmp_path_factory.mktemp("answers")
    for seed, name in enumerate(("target", "draft"), 1):
        save_model(folder / f"{LONG}-{name}", seed, WORDS)
    lines = [json.dumps({"prompt": f"w{i} w{i + 1}", "category": "of words"}) for i in range(5)]
    (folder / "prompts.jsonl").write_text("\n".join(lines))
    (folder / "h.json").write_text(json.dumps(HIST))
    write_probe(folder / "probe.json", made_results(noise=0.003))
    points = made_points({"empty": {}, "burn_flops": BURNS["burn_flops"]}, BURN_COST, 0.003, np.random.default_rng(0))
    write_probe(folder / "blind.json", results(points))
    write_passes(folder / "passes.json", noise=0.01, grid=GRID)
    write_decode(folder / "d.jsonl", prompts=12)
    write(folder / "cases.json", made_case())
    (folder / "traffic.csv").write_text("sent_s,prompt_tokens,output_tokens\n0,9,2\n1,8,3\n")
    for words in (
        "probe.json -o then.json",
        "--from-decode d.jsonl -o pair.json",
        "--from-passes passes.json -o q.json",
    ):
        more = () if words.startswith("probe") else ("--fit-k", "1,4,8")
        assert run_in(folder, "calibrate", *words.split(), *more).returncode == 0
    return folder


def told(words: str) -> list[object]:
    """The command and its options; those that measure get small ones."""
    name, *rest = words.split()
    more: tuple[object, ...] = ()
    if name in ("measure-acceptance", "bench-decode") and rest[0].startswith("-"):
        more = SMALL
    if name == "probe-gpu" and "--list" not in rest:
        more = PROBE
    return [name, *rest, *more]


def test_every_command_answers_first_in_100_columns(made: Path, run_in: Callable, quick_probe: None) -> None:
    for words, code, first in SAID:
        done = run_in(made, *told(words))
        assert done.returncode == code, (words, done.stderr)
        assert re.match(first, done.stdout), (words, done.stdout[:200])
        for line in done.stdout.splitlines():
            assert len(line) <= WIDTH or " " not in line.strip(), (words, line)


@pytest.mark.parametrize("name", sorted({words.split()[0] for words, _, _ in SAID}))
def test_with_json_there_is_nothing_else(
    made: Path, run_in: Callable, quick_probe: None, tmp_path: Path, name: str
) -> None:
    folder = copytree(made, tmp_path / "again")
    # That a comparison is nothing but JSON is shown in tests/calib/test_cli.py.
    for words in [words for words, _, _ in SAID if words.split()[0] == name and words != COMPARED]:
        payload = json.loads(run_in(folder, *told(words), "--json", *(["--force"] if "-o" in words else [])).stdout)
        assert {"kind", "schema_version"} <= payload.keys(), words
