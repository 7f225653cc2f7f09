"""Calls of every command, mangled in their words or files: each succeeds, or says in one line what is wrong with it.

`MUTANTS=800 pytest tests/contracts/test_mutated_arguments.py` tries a quarter as many of each call; a few by default.
What would run models or touch a device is stopped by the last words of each call.
"""

import json
import os
import random
import shlex
import time
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from acceptance.trace.trace import save_trace
from calibration.cli.specsim import COMMANDS
from tests.accept.traces import make_trace
from tests.calib.made_decode import write_decode
from tests.calib.made_passes import write_passes
from tests.contracts.test_mutated_files import mutated, mutated_arrays

ROOT = Path(__file__).parents[2]
EACH = int(os.environ.get("MUTANTS", "20")) // 4
MOST_S = 5.0
CODES = (0, 1, 2, 3)
ODD = (
    *("0", "-1", "1", "2.5", "7", "64", "1e308", "1e-300", "1e999", "nan", "inf", "9" * 40, "9" * 5000, "1_0", "0x10"),
    *(
        "",
        " ",
        "x",
        "x" * 2000,
        "=",
        "--",
        "-",
        "%s",
        "{}",
        "[1]",
        "½",
        "٣",
        "é\u202e",
        "\udcff",
        "a=b",
        "1,2",
        ",",
        "1,,2",
    ),
    *(
        "1:4",
        "4:1",
        "1:1e9",
        "1:2:0",
        "0:1:1e-12",
        "0.5:0.9:0.1",
        ":",
        "50%",
        "5ms",
        "8GiB",
        "out.json",
        "out.csv",
        "out.svg",
    ),
    *(".", "/dev/null", "/dev/zero", "/dev/full", "none/none.json", "loop", "pipe", "bf16", "llama-3.1-8b", "h100-sxm"),
)
FILES = (
    *(
        "hist.json",
        "profile.json",
        "probe.json",
        "decode.jsonl",
        "passes.json",
        "trace",
        "metrics.txt",
        "settings.toml",
    ),
    *("spec.json", "other.json", "other.csv", "other.svg", "other"),
)
WORDS = (
    "1",
    "2",
    "4",
    "0.3",
    "0.9",
    "16",
    "128",
    "1:4",
    "0.5,0.9",
    "8GiB",
    "2TB/s",
    "20ms",
    "h100-sxm",
    "llama-3.1-8b",
    '{"method": "eagle3", "num_speculative_tokens": 4}',
    "--speculative-algorithm EAGLE --speculative-num-steps 3",
)
NOWHERE = ("--target", "./none", "--draft", "./none")
PRICED = "--profile h100-sxm --target-model llama-3.1-70b --draft-model llama-3.2-1b --alpha 0.8 --draftN 4"
ON_TARGET = "--profile h100-sxm --target-model llama-3.1-8b"
SERVED, FEW = (
    f"{ON_TARGET} --method eagle3 --alpha 0.8",
    ("--requests", "4", "--isl", "64", "--osl", "8", "--replications", "1"),
)
FLAGS = "--speculative-algorithm EAGLE3 --speculative-num-steps 3 --speculative-eagle-topk 2"
FLAGS += " --speculative-num-draft-tokens 6 --tp 2"
SPEC = {
    "method": "eagle3",
    "num_speculative_tokens": 4,
    "num_speculative_tokens_per_batch_size": [[1, 8, 4], [9, 64, 2]],
}
# A good call of each command, and what it ends with.
CALLS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("simulate", "--draftN 4 --alpha 0.8", ("--replications", "2", "--total", "64")),
    ("simulate", "--hist hist.json --json", ("--replications", "2", "--total", "64")),
    ("simulate", PRICED, ("--replications", "2", "--total", "64")),
    ("sweep", "--draftN 1:4 --alpha 0.6,0.8", ("--replications", "0")),
    ("sweep", f"{PRICED} --batch 1,8", ("--replications", "0")),
    ("profiles diff", "h100-sxm profile.json", ()),
    ("profiles list", "", ()),
    ("profiles new", "mine --memory 8GiB --bandwidth 272GB/s --bf16 121TFLOP/s", ()),
    ("profiles show", "h100-sxm", ()),
    ("shapes list", "", ()),
    ("drafters list", "", ()),
    ("pairs list", "--method mtp --json", ()),
    ("pairs show", "eagle3-kimi-k2.5:coding", ()),
    ("workload describe", "traffic.csv --json", ()),
    ("simulate-serving", f"{SERVED} --rate 5,6", FEW),
    ("simulate-serving", f"{SERVED} --concurrency 2,3 --policy off-above:batch=2 --json", FEW),
    ("simulate-serving", f"{ON_TARGET} --workload traffic.csv --speed 1,2", ("--replications", "1")),
    (
        "simulate",
        "--acceptance eagle3-kimi-k2:gsm8k --draftN 9 --extrapolate",
        ("--replications", "2", "--total", "64"),
    ),
    ("measure-acceptance import", "metrics.txt --k 4 --out found.json --json", ()),
    ("measure-acceptance", "--trace trace --k 1:4 --out-dir out", ()),
    ("measure-acceptance", "--trace trace --k 1:4 --by context --out-dir by", ()),
    ("measure-acceptance", "--k 1:4", NOWHERE),
    ("measure-acceptance", "--target-server http://127.0.0.1:9 --draft-server http://127.0.0.1:9 --shard 1/2", ()),
    ("replay-policies", "--trace trace --policy static:k=2 --policy llama-cpp --workmem 8", ("--batch", "2")),
    ("bench-decode list-presets", "", ()),
    ("bench-decode validate-config", "settings.toml", ()),
    ("bench-decode validate-results", "decode.jsonl --strict", ()),
    ("bench-decode time-passes", "", NOWHERE),
    ("bench-decode", "--method baseline,speculative --k 2 --out run.jsonl", NOWHERE),
    ("probe-gpu", "--quick --out found.json", ("--device", "nowhere")),
    ("bench-sampling", "--quick --out found.json", ("--device", "nowhere")),
    ("monitor-gpu", "--interval 1", ("--", "true")),
    ("bench-server", "http://127.0.0.1:9 --rate 2 --isl 100:300 --out load.jsonl", ("--seed", "1")),
    ("calibrate", "probe.json --out found.json --json", ()),
    ("calibrate", "--from-decode decode.jsonl --out found.json", ()),
    ("validate", "decode.jsonl --profile decode.json --json", ()),
    ("report", "decode.jsonl --out page.html", ()),
    ("validate", "--passes passes.json --profile h100-sxm --hist hist.json", ()),
    ("simulate", f"{ON_TARGET} --speculative-config spec.json --engine vllm", ("--replications", "2", "--total", "64")),
    ("simulate", f"{ON_TARGET} --from-sglang '{FLAGS}' --json", ("--replications", "2", "--total", "64")),
    ("sweep", f"{ON_TARGET} --speculative-config @spec.json --batch 1,8 --engine sglang", ("--replications", "0")),
)
# Works for minutes or starts processes, on purpose.
LONG = ("--live", "--published", "--decisions", "--workers", "--cluster")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of good files, and of what is none."""
    here = tmp_path_factory.mktemp("arguments")
    measured = ROOT / "calibration/measured/epyc-2-core"
    copies = {"hist.json": ROOT / "examples/accept_hist_k4.json", "probe.json": measured / "probe.json"}
    for name, source in (copies | {"profile.json": measured / "pair_x4.json"}).items():
        (here / name).write_bytes(source.read_bytes())
    write_decode(here / "decode.jsonl", lengths=(1, 4, 8))
    write_passes(here / "passes.json")
    (here / "traffic.csv").write_text("sent_s,prompt_tokens,output_tokens\n0,9,2\n1,8,3\n")
    (here / "spec.json").write_text(json.dumps(SPEC))
    (here / "metrics.txt").write_text(
        "vllm:spec_decode_num_drafts_total 10\nvllm:spec_decode_num_draft_tokens_total 40\n"
        "vllm:spec_decode_num_accepted_tokens_total 20\n"
    )
    (here / "settings.toml").write_bytes((ROOT / "acceptance/bench/presets.toml").read_bytes())
    save_trace(here / "trace", make_trace([[0.5] * 9, [0.9] * 7]), {"temperature": 1.0, "draft_temperature": 1.0})
    with chdir(here):
        fitted = "--from-decode decode.jsonl --out decode.json"
        CliRunner().invoke(command_of("calibrate"), fitted.split(), catch_exceptions=False)
    (here / "loop").symlink_to("loop")
    os.mkfifo(here / "pipe")
    return here


def command_of(name: str) -> click.Command:
    """A command, or the subcommand of one."""
    first, *rest = name.split()
    found = COMMANDS[first].load()
    for word in rest:
        assert isinstance(found, click.Group)
        inner = found.get_command(click.Context(found), word)
        assert inner is not None
        found = inner
    return found


def mangled(words: list[str], options: list[click.Parameter], rng: random.Random) -> list[str]:
    """A call with one to three changes: options more, less, twice, or with odd values."""
    words = list(words)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        action, at = rng.choice((0, 0, 0, 0, 1, 2)), rng.randrange(len(words) + 1)
        if action == 0:
            option = rng.choice(options)
            choices = tuple(getattr(option.type, "choices", ()))
            likely = FILES if isinstance(option.type, click.Path) else WORDS
            value = rng.choice((*choices, *rng.choices(ODD, k=2), *rng.choices(likely, k=4)))
            flag = isinstance(option, click.Option) and option.is_flag
            named = [rng.choice(option.opts)] if isinstance(option, click.Option) else []
            words += named if flag else [*named, value]
        elif action == 1 and words:
            words[at % len(words)] = rng.choice(ODD)
        elif words:
            del words[at % len(words)]
    return words


def mangle_file(words: list[str], folder: Path, rng: random.Random) -> bool:
    """Change one of the files that a call names; False where it names none."""
    named = [folder / word for word in words if (folder / word).is_file()] + [*folder.glob("trace/*")] * (
        "trace" in words
    )
    if named:
        path = rng.choice(named)
        path.write_bytes((mutated_arrays if path.suffix == ".npz" else mutated)(path.read_bytes(), rng))
    return bool(named)


def calls(folder: Path) -> Iterator[tuple[str, click.Command, list[str]]]:
    """Every mutant: a name to find it again, its command, and its words; of every other call a file is mangled."""
    for index, (name, usual, last) in enumerate(CALLS):
        command, top = command_of(name), COMMANDS[name.split()[0]].load()
        options = [p for p in command.params if not set(p.opts) & {*LONG, "--version", *last[::2]}]
        for seed in range(EACH):
            rng, words = random.Random(f"{index} {seed}"), shlex.split(usual)
            if seed % 2 or not mangle_file(words, folder, rng):
                words = mangled(words, options, rng)
            yield f"{name}, {index}, seed {seed}", top, [*name.split()[1:], *words, *last]


def held(folder: Path) -> dict[Path, tuple[int, bytes]]:
    """The files of a folder and when they were written."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def tidy(folder: Path, before: dict[Path, tuple[int, bytes]]) -> None:
    """Have a folder hold what it held; a file that a call wrote anew is written back."""
    for path in (path for path in folder.rglob("*") if path.is_file() and path not in before):
        path.unlink()
    for path, (written_ns, content) in before.items():
        if not path.exists() or path.stat().st_mtime_ns != written_ns:
            path.write_bytes(content)
            os.utime(path, ns=(written_ns, written_ns))


def wrong(done: Result, cpu_s: float) -> str:
    """What a call did that none may."""
    if done.exit_code not in CODES:
        return f"exit code {done.exit_code}: {done.stderr[-700:]}"
    if "Traceback" in done.stderr or "Warning" in done.stderr:
        return done.stderr[-500:]
    if done.exit_code == 2 and (done.stderr.count("\n") != 1 or len(done.stderr) > 1100):
        return f"not one line: {done.stderr[:500]!r}"
    return f"took {cpu_s:.1f} s" if cpu_s > MOST_S else ""


def test_mangled_calls_succeed_or_say_in_one_line_what_is_wrong(folder: Path) -> None:
    found, codes, before = [], [], held(folder)
    environment = {"COLUMNS": "100", "SPECSIM_DEBUG": "1", "HF_HUB_OFFLINE": "1"}
    for at, command, words in calls(folder):
        with chdir(folder):
            began_s = time.process_time()
            done = CliRunner().invoke(command, words, env=environment)
        codes.append(done.exit_code)
        if what := wrong(done, time.process_time() - began_s):
            found.append(f"{at}: {words}: {what}")
        tidy(folder, before)
    assert not found, f"{len(found)} of {len(codes)}\n" + "\n".join(found)
    # Most changes hurt, and some calls remain.
    assert 0.2 * len(codes) < codes.count(2) < 0.9 * len(codes)
