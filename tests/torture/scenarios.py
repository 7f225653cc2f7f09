"""The commands that are killed, as small as they come."""

import json
import os
import signal
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import acceptance
from acceptance.models.bundled import load_libraries
from calibration.cli.live_options import plan_of
from calibration.validate import live
from cuda_probe.devices import cpu_facts
from cuda_probe.probe import runner
from simulator.ground import partial
from simulator.ground.artefacts import UserError
from simulator.rounds import kept, sweeping
from tests.accept.tool_files import Round, log_line, simulate

from .kills import Files, Scenario, command

BUNDLED = Path(acceptance.__file__).parent / "tiny_pair"
load_libraries()
SMALL = {"inflate": "1", "k": "1:3", "fit-k": "1,3", "max-prompts": 3, "max-new-tokens": 6}
SAMPLED = ("measure-acceptance", "--max-prompts", 3, "--max-new-tokens", 6, "--batch-size", 2, "--k", "1:2")
DECODE = ("bench-decode", "--max-prompts", 2, "--max-new-tokens", 6, "--method", "speculative", "--out", "a.jsonl")
PROBE = ("probe-gpu", "--device", "cpu", "--workflops", 8, "--only", "empty", "--only", "burn_flops")
# What a clock does not decide, of a record.
UNTIMED = ("kind", "method", "prompt_index", "run", "status", "output_sha256", "generated_tokens", "accepted_tokens")


def measured() -> Scenario:
    """The measurement of `validate --live`, killed on its own."""
    words = stage_words()
    ways = {"rerun": command(*words), "--resume": command(*words, "--resume"), "--force": command(*words, "--force")}
    ways["validate --live"] = partly_live
    return Scenario(name="measured", work=command(*words), ways=ways, may_refuse=("rerun",))


def sampled() -> Scenario:
    """A sampled measurement with a picture, in batches, in place of another one's results."""
    words = (*SAMPLED, "--temperature", 1, "--out-dir", "out", "--plot", "out/a.svg")
    ways = {"rerun": command(*words, "--force"), "--resume": command(*words, "--resume")}
    before = command(*SAMPLED, "--temperature", 0.5, "--out-dir", "out")
    work = command(*words, "--force")
    return Scenario(name="sampled", work=work, ways=ways, before=before, may_refuse=("--resume",))


def decoded() -> Scenario:
    """A benchmark."""
    ways = {"rerun": command(*DECODE)}
    return Scenario(name="decoded", work=command(*DECODE), ways=ways, same=same_records)


def whole_chain() -> Scenario:
    """All of `validate --live`."""
    words = [word for name, value in SMALL.items() for word in (f"--{name}", value)]
    work = quickly(command("validate", "--live", *words))
    return Scenario(name="live", work=work, ways={"rerun": work}, same=same_chain, codes=(0, 1, 3), most=40)


def probed() -> Scenario:
    """A probe with rows and a picture."""
    words = (*PROBE, "--out", "p.json", "--csv", "p.csv")
    ways = {"rerun": quickly(command(*words)), "--force": quickly(command(*words, "--force"))}
    work, same = quickly(command(*words)), same_points("p.json")
    return Scenario(name="probed", work=work, ways=ways, same=same, may_refuse=("rerun",))


def written() -> Scenario:
    """A sweep into a table and a picture."""
    words = ("sweep", "--draftN", "1:4", "--alpha", "0.5:0.8:0.1", "--out", "a.csv", "--plot", "a.svg")
    ways = {"rerun": command(*words), "--force": command(*words, "--force")}
    return Scenario(name="written", work=command(*words), ways=ways, may_refuse=("rerun",))


def swept() -> Scenario:
    """A sweep in many parts, each kept as it comes, into a table and a picture."""
    words = ("sweep", "--draftN", "1:4", "--alpha", "0.5:0.8:0.1", "--out", "a.csv", "--plot", "a.svg")
    ways = {"rerun": in_parts(command(*words)), "--force": in_parts(command(*words, "--force"))}
    return Scenario(name="swept", work=in_parts(command(*words)), ways=ways, may_refuse=("rerun",))


def timed() -> Scenario:
    """Passes of two models, kept after every one of them."""
    models = ("--target-model", BUNDLED / "target", "--draft-model", BUNDLED / "draft")
    small = ("--batch", 1, "--context", 4, "--k", 1, "--repeats", 3, "--dtype", "float32")
    words = ("bench-decode", "time-passes", *models, *small, "--out", "t.json")
    ways = {"--force": at_once(command(*words, "--force"))}
    return Scenario(name="timed", work=at_once(command(*words)), ways=ways, same=same_points("t.json"))


def benched() -> Scenario:
    """Sampling, with rows and a picture, kept after every point."""
    small = ("--device", "cpu", "--backend", "numpy", "--batch", 1, "--k", 2, "--vocab", "64,128", "--dtype", "float32")
    words = ("bench-sampling", *small, "--out", "b.json", "--csv", "b.csv", "--plot", "b.svg")
    ways = {"--force": at_once(command(*words, "--force"))}
    work = at_once(command(*words))
    return Scenario(name="benched", work=work, ways=ways, same=same_points("b.json"))


def imported() -> Scenario:
    """What another tool measured at several draft lengths, a histogram each."""
    words = ("measure-acceptance", "import", "server.log", "--out-dir", "out")
    ways = {"rerun": command(*words), "--force": command(*words, "--force")}
    work, before = command(*words), other_tools_file
    return Scenario(name="imported", work=work, ways=ways, before=before, may_refuse=("rerun",))


def stage_words() -> tuple[str, ...]:
    """Return the words by which `validate --live` measures."""
    said: list[tuple[str, ...]] = []
    with patch.object(live, "call", lambda *words: said.append(words)):
        live.measure(plan_of(SMALL), lambda _: None)
    return said[0]


def partly_live() -> None:
    """Have `validate --live` go on with its measurement, and no further."""
    with patch.object(live, "call", call_here):
        live.sweep(plan_of(SMALL).folder)
        live.measure(plan_of(SMALL), print)


def call_here(name: str, *words: str, allowed: tuple[int, ...] = (0,)) -> int:
    """Run a stage in this process, which is the one to be killed."""
    said = StringIO()
    try:
        with redirect_stderr(said):
            command(name, *words)()
    except SystemExit as error:
        code = int(error.code or 0)
    if code in live.INTERRUPTED:  # the signal is for all of us
        os.kill(os.getpid(), signal.SIGTERM)
    if code not in allowed:
        raise UserError(f"{name} ended with exit code {code}: {said.getvalue().splitlines()[-1]}")
    return code


def quickly(work: Callable[[], Any]) -> Callable[[], Any]:
    """Return the same work with stages in this process and probes that take no time."""

    def run() -> None:
        quick = replace(runner.QUICK, time_limit_s=0.01, min_samples=4, warm_up_s=0.001)
        with (
            patch.object(live, "call", call_here),
            patch.object(runner, "QUICK", quick),
            patch.object(cpu_facts, "last_level_cache", lambda: (1 << 20, "given")),
        ):
            work()

    return run


def at_once(work: Callable[[], Any]) -> Callable[[], Any]:
    """Return the same work, quick, and with all it finds kept as it comes."""

    def run() -> None:
        with patch.object(partial, "EVERY_S", 0.0):
            quickly(work)()

    return run


def in_parts(work: Callable[[], Any]) -> Callable[[], Any]:
    """Return the same sweep in parts of four points, kept from the first one on."""

    def run() -> None:
        with patch.object(kept, "AFTER_S", 0.0), patch.object(sweeping, "RUNS_A_PART", 64):
            work()

    return run


def other_tools_file() -> None:
    """Write a server's log that tells of two draft lengths."""
    lines = (log_line(simulate(200)[:100]), log_line([Round(2, accepted % 3) for accepted in range(99)], k=2))
    Path("server.log").write_text("".join(lines))


def records(content: bytes) -> list[tuple[Any, ...]]:
    """Return what a clock does not decide of a file of records, in any order.

    What a method is compared with may have been decoded, and written, once more: the same it has to be.
    """
    found = [json.loads(line) for line in content.splitlines()]
    return sorted({tuple(str(r.get(name)) for name in UNTIMED) for r in found})


def same_records(found: Files, whole: Files) -> bool:
    """Whether every record is there once, as it would be."""
    return found.keys() == whole.keys() and all(records(found[n]) == records(whole[n]) for n in whole)


def same_chain(found: Files, whole: Files) -> bool:
    """Whether acceptance is the same to the byte, and every record there once; fits may fail, as times are noise."""
    fits = ("pair_x", "device.json")
    names = [{n for n in files if not Path(n).name.startswith(fits)} for files in (found, whole)]
    exact = [n for n in names[1] if "accept_hist" in n or "trace." in n or n.endswith(("plan.json", "presets.toml"))]
    logs = [n for n in names[1] if n.endswith(".jsonl")]
    return (
        names[0] == names[1]
        and all(found[n] == whole[n] for n in exact)
        and all(records(found[n]) == records(whole[n]) for n in logs)
    )


def same_points(name: str) -> Callable[[Files, Files], bool]:
    """Return what tells whether the same files are there, one with as many points, of a run that came to its end."""

    def same(found: Files, whole: Files) -> bool:
        if found.keys() != whole.keys():
            return False
        told = [json.loads(files[name]) for files in (found, whole)]
        return not told[0]["interrupted"] and len(told[0]["points"]) == len(told[1]["points"])

    return same


SCENARIOS: Mapping[str, Callable[[], Scenario]] = {
    "measured": measured,
    "sampled": sampled,
    "decoded": decoded,
    "probed": probed,
    "written": written,
    "swept": swept,
    "timed": timed,
    "benched": benched,
    "imported": imported,
    "live": whole_chain,
}
