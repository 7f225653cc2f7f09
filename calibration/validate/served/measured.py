"""What was measured of servers under load: the requests of each arm at each load, block by block, as a log has them."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from acceptance.servers.answer import MOST_TOKENS, Answer
from acceptance.servers.server import Server
from calibration.servers.engine import counted
from calibration.servers.metrics import Part
from calibration.servers.records import LOADED, MOST_S, Ran, check_once, part_of, read_load
from simulator.answers.scene import CLIENTS, RATE
from simulator.ground.artefacts import UserError
from simulator.ground.fields import Field, Malformed, parse_json, text_of
from simulator.workloads.requests import MOST_TOKENS as MOST_SENT

# Of `vllm bench serve --save-detailed`: a value a request.
LISTS = ("input_lens", "output_lens", "ttfts", "itls", "start_times")
MOST_REQUESTS = 1_000_000
FORMATS = "what bench-server --out or vllm bench serve --save-detailed writes"


class Measured(NamedTuple):
    """One load.

    kind: what it is counted in, of `scene`. arms: blocks of each. urls: of servers; "" where that is not told. prefix:
    tokens that all prompts begin with. lacks: what its file does.
    """

    path: Path
    kind: str
    load: float
    arms: Mapping[str, tuple[Ran, ...]]
    urls: Mapping[str, str]
    prefix: int = 0
    lacks: tuple[str, ...] = ()

    @property
    def clients(self) -> int:
        """Who wait for their answers; 0: by the clock."""
        return int(self.load) if self.kind == CLIENTS else 0

    def parts(self, arm: str) -> tuple[Part, ...]:
        """Return the blocks of an arm."""
        return tuple(ran.part for ran in self.arms[arm])

    def drafts(self, arm: str) -> int:
        """Return the draft length that the engine's counters tell of an arm, 0 where they count no drafts."""
        found = counted(Server(arm, self.urls[arm]), self.arms[arm])
        return (found.k or 0) if found.drafts else 0

    def is_counted(self, arm: str) -> bool:
        """Whether the engine counts what an arm does."""
        return any(ran.before and ran.after for ran in self.arms[arm])


def read_all(paths: Sequence[Path], warmup: float) -> list[Measured]:
    """Read files: loads of clients, then others, as they rise.

    warmup: share of the requests of a block, the first, that counts in no latency.

    Raises:
        UserError: One is none of either kind, tells too little, or has what another has.
    """
    read_ones = [load for path in paths for load in read(path, warmup)]
    found = [load for load in read_ones if any(part.counted for arm in load.arms for part in load.parts(arm))]
    if not found:
        raise UserError(f"{paths[0]}: holds no request that was answered, expected {FORMATS}")
    check_once((load.path, ran) for load in found for arm in load.arms.values() for ran in arm)
    for load in found:
        check_lengths(load)
    return sorted(found, key=lambda load: (load.kind != CLIENTS, load.load))


def check_lengths(load: Measured) -> None:
    """Refuse lengths that no request has."""
    for arm in load.arms:
        for part in load.parts(arm):
            most = max((max(a.prompt_tokens or 0, a.tokens) for a in part.answers), default=0)
            if most > MOST_SENT:
                raise UserError(f"{load.path}: a request of {most:,} tokens, expected at most {MOST_SENT:,}")


def read(path: Path, warmup: float) -> Iterator[Measured]:
    """Yield the loads of a file."""
    first = first_object(path)
    if first.get("kind") == LOADED.name:
        yield from of_bench(path, warmup)
    elif "input_lens" in first or "total_input_tokens" in first:
        yield from of_vllm(path, warmup)
    else:
        raise UserError(f"{path}: holds no load of a server, expected {FORMATS}")


def first_object(path: Path) -> Mapping[str, Any]:
    """Return the object that a file begins with, or is; else an empty one."""
    text = text_of(path)
    for part in (text.partition("\n")[0], text):
        try:
            value = parse_json(part)
        except Malformed:
            continue
        return value if isinstance(value, dict) else {}
    return {}


def of_bench(path: Path, warmup: float) -> Iterator[Measured]:
    """Yield the loads of a file of bench-server."""
    log = read_load(path, warmup)
    own = log.parameters
    if own["turns"].is_given:
        raise UserError(f"{path}: is of sessions (--turns), which are not sent again, expected requests of their own")
    kind, urls = own["load_kind"].text(), {arm: url.text() for arm, url in own["arms"].items()}
    prefix = own["prefix"].whole(0, MOST_TOKENS, default=0)
    for load in sorted({ran.part.load for ran in log.ran}):
        # In the order in which they were run: those of parameters lie as JSON sorts them.
        names = dict.fromkeys(r.part.arm for r in log.ran)
        arms = {arm: tuple(r for r in log.ran if (r.part.load, r.part.arm) == (load, arm)) for arm in names}
        there = {arm: ran for arm, ran in arms.items() if any(r.part.answers for r in ran)}
        yield Measured(path, kind, load, there, urls, prefix, log.broken)


def of_vllm(path: Path, warmup: float) -> Iterator[Measured]:
    """Yield the loads of results of vLLM's bench, one an object or a line; arms are told apart by their labels."""
    lines = [line for line in text_of(path).splitlines() if line.strip()]
    try:
        values = [parse_json(line) for line in lines] if len(lines) > 1 and lines[0].endswith("}") else None
        values = [parse_json(text_of(path))] if values is None else values
    except Malformed as error:
        raise UserError(f"{path}: is {error.what}, expected {FORMATS}") from None
    found: dict[tuple[str, float], dict[str, list[Part]]] = {}
    for at, value in enumerate(values, 1):
        result = Field(value, path, f"result {at}" if len(values) > 1 else "")
        kind, load = load_of(result)
        arm = result["label"].text() if result["label"].is_given else path.stem
        blocks = found.setdefault((kind, load), {}).setdefault(arm, [])
        blocks.append(block_of(result, kind, load, arm, len(blocks), warmup))
    for (kind, load), arms in found.items():
        ran = {arm: tuple(Ran(part, True) for part in parts) for arm, parts in arms.items()}
        yield Measured(path, kind, load, ran, dict.fromkeys(ran, ""))


def load_of(result: Field) -> tuple[str, float]:
    """Return what a result's load is: clients, or requests a second."""
    if result["max_concurrency"].is_given:
        return CLIENTS, float(result["max_concurrency"].whole(1, MOST_REQUESTS))
    if isinstance(result["request_rate"].value, str):
        result["request_rate"].refuse("a number of requests a second, or max_concurrency beside it")
    return RATE, result["request_rate"].number(0, 1e9)


def block_of(result: Field, kind: str, load: float, arm: str, part: int, warmup: float) -> Part:
    """Return the requests of a result, those that failed without times."""
    for name in LISTS:
        if not result[name].is_given:
            raise UserError(f"{result.path}: has no {name}, expected a result with --save-detailed of a vLLM that has")
    prompt, output, first, gaps, start = (list(result[name].elements()) for name in LISTS)
    if len({len(prompt), len(output), len(first), len(gaps), len(start)}) > 1:
        result["ttfts"].refuse(f"{len(prompt)} values, one for each of input_lens")
    begin_s = min((at.number() for at in start), default=0.0)
    answers: list[tuple[int, Answer]] = []
    for row, (p, o, f, g, s) in enumerate(zip(prompt, output, first, gaps, start, strict=True)):
        answer = Answer(sent_s=s.number() - begin_s, prompt_tokens=p.whole(0, MOST_TOKENS))
        answer.output_tokens = o.whole(0, MOST_TOKENS)
        if answer.output_tokens:
            answer.gaps_s = [gap.number(0, MOST_S) for gap in g.elements()]
            answer.first_s = answer.sent_s + f.number(0, MOST_S)
            answer.last_s = answer.first_s + sum(answer.gaps_s)
        else:
            answer.error = "failed"
        answers.append((row, answer))
    return part_of((load, arm, part), answers, int(load) if kind == CLIENTS else 0, warmup)
