"""Real servers of vLLM, and all that we have to do with them, as one table.

    make test-server [PYTHON=/its/bin/python]

or `python -m tests.server.live --vllm /its/bin/vllm [--ways draft,ngram] [--turns 2] [--twin 1000] [--keep FOLDER]`.
The bundled pair is served on loopback in every way, one after the other, a minute to start and one or two of load:
plain; by the settings that our commands write for vLLM: a draft and n-grams of `advise --write`, draft lengths by batch
size of `sweep --engine`, acceptance as `simulate --engine` states it. On each both clients put load, and what importers
make of /metrics, the log and results of `vllm bench serve` is held against the server's own counts. Then both models
are served, each by itself, and the trace that they give is held against that of the same models here; then the
schedulers plan random workloads beside one another.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from acceptance.models.bundled import TINY_PAIR
from simulator.ground.compiled import PLAIN

from .live_acceptance import ACCEPTANCE, scored
from .live_load import COUNTED, OURS, THEIRS, by_ours, by_theirs, compared, in_turns
from .live_server import LOG, Row, logged, same, scrape, serving

BEFORE, AFTER = "before.txt", "after.txt"
# The result of a server whose drafts have several lengths.
SCHEDULED = "scheduled.json"
# Slow enough that speculation pays on it, and less in batches: what is written is to be settings, not advice.
DEVICE = ("--memory", "8GiB", "--bandwidth", "0.5GB/s", "--bf16")
RATES = {"schedule": "0.005TFLOP/s"}
PAIR = ("--target-model", str(TINY_PAIR / "target"), "--draft-model", str(TINY_PAIR / "draft"))
LOAD = ("--concurrency", "4", "--isl", "64", "--osl", "24:40", "--requests", "60")
LENGTHS = ("--draftN", "1:4", "--batch", "1:16", "--context", "256", "--replications", "0")
METHODS, FLAGS = {"draft": "draft_model", "ngram": "ngram"}, "flags.json"
WAYS = ("plain", "draft", "ngram", "schedule", "synthetic", ACCEPTANCE)
ALPHA = 0.7
# Most rounds of the answer that bench-server asks for before it begins.
TRIAL = 4


class Counts(NamedTuple):
    """Rounds that drafted, and what they accepted."""

    rounds: int
    accepted: int

    def __str__(self) -> str:
        return f"{self.rounds} rounds, {self.accepted} accepted"


def ours(*words: str, folder: Path) -> dict[str, Any]:
    """Run one of our commands, and return its JSON; an empty one where it prints none."""
    command = [sys.executable, "-m", "calibration.cli.specsim", *words]
    env = os.environ | {PLAIN: "1"}  # to compile loops takes longer than what they do here
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(words)} ended with {done.returncode}: {done.stderr}")
    found: dict[str, Any] = json.loads(done.stdout) if "--json" in words else {}
    return found


def settings(way: str, folder: Path) -> dict[str, Any] | None:
    """Return what our commands write for vLLM."""
    if way == "plain":
        return None
    rate = RATES.get(way, "0.2TFLOP/s")
    ours("profiles", "new", "slow", *DEVICE, rate, "--out", "slow.json", "--force", folder=folder)
    on, models = ("--profile", "slow.json", "--alpha", str(ALPHA)), PAIR[:2] if way == "ngram" else PAIR
    if way in METHODS:
        ours("advise", *on, *models, "--method", METHODS[way], *LOAD, "--write", FLAGS, "--force", folder=folder)
        found: dict[str, Any] = json.loads((folder / FLAGS).read_text())
        return found
    if way == "schedule":
        told = ours("sweep", *on, *models, *LENGTHS, "--engine", "vllm", "--json", folder=folder)
        return dict(told["schedules"][0]["vllm"])
    told = ours("simulate", *on, *models, "--draftN", "3", "--engine", "vllm", "--json", folder=folder)
    schedule = told["models"]["schedule"]
    return dict(schedule["vllm"] | schedule["synthetic_acceptance"]["vllm"])


def imported(name: str, folder: Path, *options: str) -> Counts:
    """Return what `measure-acceptance import` makes of a file."""
    out = f"{name}.hist.json"
    ours("measure-acceptance", "import", name, *options, "--out", out, "--force", folder=folder)
    rows = json.loads((folder / out).read_text())["hist"].items()
    return Counts(sum(rounds for _, rounds in rows), sum(int(n) * rounds for n, rounds in rows))


def window(url: str, folder: Path, name: str, client: Callable[[Path], dict[str, Any]]) -> Iterator[Row]:
    """Put load on; yield rows of what was counted of it: by /metrics, the client and importers of both."""
    before = scrape(url, folder / BEFORE)
    result = client(folder / name)
    made = scrape(url, folder / AFTER) - before
    told = Counts(int(result[COUNTED[0]]), int(result[COUNTED[2]]))
    right = Counts(made["drafts"], made["accepted_tokens"])
    # Ours asks for an answer before it counts, to see whether it is served.
    first = Counts(right.rounds - told.rounds, right.accepted - told.accepted)
    holds = min(first) >= 0 and max(first) <= (TRIAL if name != THEIRS else 0)
    yield Row(f"{name} beside /metrics", f"{told}; before it began {first}", holds)
    if name == SCHEDULED:
        yield shorter(name, folder)
        return
    yield same(f"import of {name}", imported(name, folder), told)
    yield same("import of /metrics, --before", imported(AFTER, folder, "--before", BEFORE), right)


def shorter(name: str, folder: Path) -> Row:
    """Return the row of a file whose drafts had several lengths: the importer says so, and takes --k 1."""
    try:
        return Row(f"import of {name}", f"{imported(name, folder)}, though lengths differ", False)
    except SystemExit as error:
        first = imported(name, folder, "--k", "1")
        return Row(f"import of {name}", f"refused without --k 1; {first} with it", "expected --k 1" in str(error))


def served(way: str, vllm: Path, folder: Path, turns: int) -> Iterator[Row]:
    """Yield rows of one way of serving."""
    said = settings(way, folder)
    with serving(vllm, said, folder) as url:
        yield Row("serves with", json.dumps(said).replace(str(TINY_PAIR), "..."), True)
        if way in ("plain", *METHODS):
            yield from compared(*in_turns(vllm, url, folder, turns))
        if not said or way == "synthetic":  # vLLM's CPU build takes these settings, and samples by them only on GPUs
            return
        yield from window(url, folder, SCHEDULED if way == "schedule" else OURS, partial(by_ours, url))
        if way in METHODS:
            yield from window(url, folder, THEIRS, partial(by_theirs, vllm, url))
        whole = scrape(url, folder / AFTER)
        right = (whole["accepted_tokens"], whole["draft_tokens"])
        yield same("its log: accepted, drafted", logged(folder / LOG, right), right)
        if way == "schedule":
            yield shorter(LOG, folder)
            return
        yield same("import of its log", imported(LOG, folder), Counts(whole["drafts"], whole["accepted_tokens"]))


def twin(python: Path, count: int) -> Row:
    """Return the row of the two schedulers."""
    words = [str(python), "-m", "tests.server.scheduler_twin", "--count", str(count)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    told = (done.stdout.splitlines() or [done.stderr[-300:]])[-1]
    return Row("vLLM's scheduler beside ours", told, done.returncode == 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vllm", type=Path, required=True, help="its command")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--twin", type=int, default=1000, help="workloads that both schedulers plan; 0: none")
    parser.add_argument("--keep", type=Path, help="a folder that the servers' files are left in")
    given = parser.parse_args()
    failed = 0
    for way, row in rows(given):
        failed += row.holds is False
        holds = {True: "holds", False: "FAILS", None: ""}[row.holds]
        print(f"{holds:6} {way:10} {row.what:38} {row.found}", flush=True)
    print(f"{failed} do not hold" if failed else "all hold")
    sys.exit(bool(failed))


def rows(given: argparse.Namespace) -> Iterator[tuple[str, Row]]:
    """Yield rows of every way, and of the schedulers; what breaks off is a row, and the next way is served."""
    for way in filter(None, given.ways.split(",")):
        with nullcontext(given.keep / way) if given.keep else tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            folder.mkdir(parents=True, exist_ok=True)
            try:
                found = (
                    scored(given.vllm, folder) if way == ACCEPTANCE else served(way, given.vllm, folder, given.turns)
                )
                yield from ((way, row) for row in found)
            except (SystemExit, subprocess.SubprocessError, LookupError) as error:
                told = getattr(error, "stderr", None) or error
                yield way, Row("broke off", f"{type(error).__name__}: {str(told)[-500:]}", False)
    if given.twin:
        yield "twin", twin(given.vllm.with_name("python"), given.twin)


if __name__ == "__main__":
    main()
