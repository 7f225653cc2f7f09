"""Rows of load tests by the names of their columns, as people and tools spell these, and their values with units."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

from simulator.costs.formats import FORMATS
from simulator.ground.names import number_format
from simulator.ground.ranges import in_milliseconds, number_in
from simulator.ground.records import BadRecord

# What a row may say, by what tools call it; case and marks between the parts do not count.
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "concurrency": ("max concurrency", "silicon concurrency", "clients", "users", "num clients", "streams"),
    # Of one group of devices, where attention has several.
    "batch_size": ("batch",),
    "isl": ("input len", "input length", "input tokens", "prompt len", "prompt tokens", "random input len"),
    "osl": ("output len", "output length", "output tokens", "random output len"),
    "output_tok_s": ("output throughput", "output tokens per s", "output token throughput", "output tps"),
    "tp": ("tp size", "tensor parallel", "tensor parallel size"),
    "ep": ("ep size", "moe ep size", "expert parallel size"),
    "dp": ("dp size", "attention dp size", "data parallel size"),
    "pp": ("pp size", "pipeline parallel size"),
    "quantization": ("weight dtype", "gemm quant mode"),
    "dtype": ("precision",),
    "kv_dtype": ("kv cache dtype", "kv quant mode"),
    "model": ("model path", "model id", "model name"),
    "engine": ("backend", "framework", "server"),
    "device": ("system", "gpu", "hardware", "gpu name"),
    "draft_length": ("num speculative tokens", "speculative num steps", "k"),
    "tokens_per_round": ("acceptance length", "accept length", "spec decode acceptance length", "al"),
    "method": ("speculative method", "speculative algorithm"),
    "requests": ("num prompts", "num requests", "completed", "successful requests"),
    "request_rate": ("request rate",),
    "input_total": ("total input tokens",),
    "output_total": ("total output tokens", "total generated tokens"),
    "memory_share": ("gpu memory utilization", "mem fraction static"),
}
# Times, whose columns may name their unit; without one they are in ms. Of gaps between tokens where no tpot is told.
TIMES: Mapping[str, tuple[str, ...]] = {
    "tpot": ("tpot", "silicon tpot", "time per output token"),
    "itl": ("itl", "inter token latency"),
    "ttft": ("ttft", "silicon ttft", "time to first token"),
}
MEANS = ("{}", "mean {}", "{} mean", "avg {}", "{} avg", "average {}")
UNITS = {
    **dict.fromkeys(("ms", "msec", "msecs", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), 1.0),
    **dict.fromkeys(("us", "usec", "usecs", "microsecond", "microseconds"), 1e-6),
}
CANONICAL = {other: name for name, others in COLUMNS.items() for other in (name.replace("_", " "), *others)}
TIMED = {mean.format(other): name for name, others in TIMES.items() for other in others for mean in MEANS}
# Columns of which a table has one of each line at least.
NEEDED = {
    "concurrency": ("concurrency", "batch_size"),
    "isl": ("isl", "input_total"),
    "osl": ("osl", "output_total"),
    "tpot_ms": ("tpot", "itl", "output_tok_s"),
}
ENGINES = {"tensorrtllm": "trtllm", "trtllm": "trtllm", "trt": "trtllm", "vllm": "vllm", "vllmchat": "vllm"}
ENGINES |= {"sglang": "sglang", "sglangoai": "sglang", "sglangoaichat": "sglang", "sglangnative": "sglang"}
ENGINES |= {"openai": "", "openaichat": "", "openaihttp": ""}
# Of quantization that says how files are written, not how wide weights are.
CONTAINERS = ("auto", "none", "compressed-tensors", "modelopt", "quark", "gguf", "bitsandbytes")
ABSENT = ("", "-", "na", "n/a", "none", "null", "nan")
MOST = 1e12
# Requests a client: of fewer the first and the last, which are alone, count too much in a throughput. By what factor
# the time of a request that a throughput tells may be off that of its times: beyond it one of them is wrong.
LEAST_REQUESTS, MOST_APART = 3, 1.5


class Cell(NamedTuple):
    """A value of a row. column: as the file calls it. scale: to seconds, of a time. comma: whether one is decimal."""

    value: Any
    column: str
    scale: float = 1.0
    comma: bool = False


Cells = Mapping[str, Cell]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingRow:
    """A load and what was measured of it; "" and None where the row does not say.

    line: in the file that `path` names, where there are several. concurrency: requests on the way, in all. isl, osl:
    tokens of a prompt and an answer. requests: in all. draft_length: 0 without speculation, at least 1 with it. method:
    of speculation. tokens_per_round: of it, where the draft length is known too. memory_share: of a device's memory,
    what the engine uses. output_tok_s: of all clients together; is_derived: whether tpot_s follows from it. columns:
    that tell tpot_s and ttft_s, as the file calls them.
    """

    line: int
    concurrency: float
    isl: float
    osl: float
    tpot_s: float
    ttft_s: float | None = None
    tp: int | None = None
    dp: int = 1
    ep: int = 1
    pp: int = 1
    dtype: str = ""
    kv_dtype: str = ""
    model: str = ""
    engine: str = ""
    device: str = ""
    requests: float | None = None
    draft_length: int = 0
    method: str = ""
    tokens_per_round: float | None = None
    path: str = ""
    memory_share: float | None = None
    output_tok_s: float | None = None
    is_derived: bool = False
    columns: tuple[str, str] = ("tpot_ms", "ttft_ms")

    @property
    def place(self) -> str:
        """Where it stands: file and line, or which record of several."""
        is_record = self.path.endswith((".json", ".jsonl"))
        return f"{self.path}{self.path and ': '}{'record' if is_record else 'line'} {self.line}"

    @property
    def apart(self) -> float:
        """By what factor a request takes longer by the throughput than by its times; 1 where one is not told."""
        if self.output_tok_s is None or self.is_derived or not is_busy(self.concurrency, self.requests):
            return 1.0
        told_s, stated_s = self.concurrency * self.osl / self.output_tok_s, (self.osl - 1) * self.tpot_s
        if self.ttft_s is None:  # of the first token nothing is known: more than the others it may take
            return min(told_s / stated_s, 1.0) if stated_s else 1.0
        return told_s / (stated_s + self.ttft_s)


def is_busy(clients: float, requests: float | None) -> bool:
    """Whether so many requests keep clients busy: their throughput is that of a load that lasts."""
    return requests is None or requests >= LEAST_REQUESTS * clients


def plain(name: str) -> str:
    """Return a column's name in small letters, with a space for what stands between its parts."""
    return re.sub(r"[^a-z0-9]+", " ", name.lower()).strip()


@lru_cache(maxsize=4096)
def meaning(column: str) -> tuple[str, float] | None:
    """Return what a column tells and, of a time, its unit in seconds; None for what we do not use."""
    words = plain(column).split()
    units = [UNITS[word] for word in words if word in UNITS]
    timed = TIMED.get(" ".join(word for word in words if word not in UNITS))
    if timed and len(units) <= 1:
        return timed, units[0] if units else 1e-3
    name = CANONICAL.get(" ".join(words))
    return (name, 1.0) if name else None


def missing(columns: Iterator[str]) -> str:
    """Return what no column of a table tells, of what every row needs; "" where all is there."""
    there = {found[0] for found in map(meaning, columns) if found}
    return next((name for name, any_of in NEEDED.items() if not there & set(any_of)), "")


def read_row(values: Mapping[Any, Any], line: int, *, comma: bool = False) -> ServingRow:
    """Read a row by the names of its columns; of several that mean the same, the first that has a value.

    comma: whether a comma is a decimal one, where something else stands between cells.
    """
    cells: dict[str, Cell] = {}
    for key, value in values.items():
        found = meaning(str(key))
        if found and not isinstance(value, list | dict) and str(value).strip().lower() not in ABSENT:
            cells.setdefault(found[0], Cell(value, str(key), found[1], comma))
    done = number(cells, "requests")
    isl, osl = (per_request(cells, *names, done) for names in (("isl", "input_total"), ("osl", "output_total")))
    tpot_s, ttft_s = number(cells, "tpot") or number(cells, "itl"), number(cells, "ttft")
    rate = number(cells, "output_tok_s")
    dp, clients = whole(cells, "dp") or 1, clients_of(cells, done)
    is_derived = not tpot_s and bool(clients and osl and rate)
    if is_derived:
        tpot_s = derived_s(clients or 0.0, osl or 0.0, rate or 0.0, ttft_s, done)
    for name, value in (("concurrency", clients), ("isl", isl), ("osl", osl), ("tpot_ms", tpot_s)):
        if not value:
            raise BadRecord(f"no {name}")
    assert clients and isl and osl and tpot_s  # noqa: PT018 - for the types
    return ServingRow(
        line=line,
        concurrency=clients,
        isl=isl,
        osl=osl,
        tpot_s=tpot_s,
        ttft_s=ttft_s or None,
        tp=whole(cells, "tp") or None,
        dp=dp,
        ep=whole(cells, "ep") or 1,
        pp=whole(cells, "pp") or 1,
        dtype=weights_of(cells),
        kv_dtype=dtype_of(text(cells, "kv_dtype"), name_of(cells, "kv_dtype")),
        model=text(cells, "model"),
        engine=engine_of(text(cells, "engine")),
        device=text(cells, "device"),
        requests=done,
        draft_length=whole(cells, "draft_length") or int(is_drafted(cells)),
        method=text(cells, "method"),
        tokens_per_round=number(cells, "tokens_per_round") if "draft_length" in cells else None,
        memory_share=share_of(cells),
        output_tok_s=rate or None,
        is_derived=is_derived,
        columns=(tpot_column(cells, is_derived=is_derived), name_of(cells, "ttft")),
    )


def derived_s(clients: float, osl: float, rate: float, ttft_s: float | None, done: float | None) -> float:
    """Return the time a token that a throughput tells: a client's request takes osl / (rate / clients) seconds.

    Raises:
        BadRecord: It tells none.
    """
    if not ttft_s:
        raise BadRecord("no tpot_ms, and no ttft_ms beside output_tok_s that would tell it")
    if not is_busy(clients, done):
        raise BadRecord(
            f"no tpot_ms, and {done:g} requests of {clients:g} clients are too few to tell it by output_tok_s"
        )
    left_s = clients * osl / rate - ttft_s
    if osl < 2 or left_s <= 0:
        raise BadRecord(f"no tpot_ms, and output_tok_s of {rate:g} leaves no time for it beside ttft_ms")
    return left_s / (osl - 1)


def tpot_column(cells: Cells, *, is_derived: bool) -> str:
    """Return the column that tells the time a token."""
    return name_of(cells, "output_tok_s" if is_derived else "tpot" if "tpot" in cells else "itl")


def share_of(cells: Cells) -> float | None:
    """Return the share of a device's memory that the engine uses: 0.95, or 95 of percent."""
    if "memory_share" not in cells:
        return None
    cell = cells["memory_share"]
    stated = number_of(cell._replace(value=str(cell.value).strip().removesuffix("%")))
    share = stated / 100 if stated > 1 else stated
    if not 0 < share <= 1:
        raise BadRecord(f"{cell.column} is {stated:g}, expected a share from 0 to 1")
    return share


def clients_of(cells: Cells, done: float | None) -> float | None:
    """Return how many requests are on the way; those of a rate are not known by how many may be."""
    rate, batch = cells.get("request_rate"), number(cells, "batch_size")
    is_open = rate is not None and str(rate.value).lower() not in ("inf", "infinity", "trace") and number_of(rate)
    clients = cells.get("concurrency")
    if is_open and (clients is None or plain(clients.column) == "max concurrency"):
        raise BadRecord(f"{rate.column if rate else ''} is {is_open:g}, expected inf: clients that wait for answers")
    found = number(cells, "concurrency") or (batch * (whole(cells, "dp") or 1) if batch else None)
    return found or (done if rate is not None and not is_open else None)


def per_request(cells: Cells, each: str, total: str, done: float | None) -> float | None:
    """Return tokens of a request: what was sent or written in all by how many were done, else as it was asked for."""
    every = number(cells, total)
    return every / done if every and done else number(cells, each)


def is_drafted(cells: Cells) -> bool:
    """Return whether a row names a method of speculation, or says what its rounds made."""
    method = plain(text(cells, "method"))
    return method not in ("", "none", "off", "no", "baseline", "plain") or (number(cells, "tokens_per_round") or 0) > 1


def text(cells: Cells, name: str) -> str:
    """Return what a row says of something, "" for nothing."""
    return str(cells[name].value).strip() if name in cells else ""


def name_of(cells: Cells, name: str) -> str:
    """Return what a row's file calls something."""
    return cells[name].column if name in cells else name


def number(cells: Cells, name: str) -> float | None:
    """Return a number of a row, of a time in seconds; None where it has none. 0 stands for none too."""
    return number_of(cells[name]) if name in cells else None


def whole(cells: Cells, name: str) -> int | None:
    """Return a whole number of a row, such as 2 of `TP2`; None where it has none."""
    if name not in cells:
        return None
    cell = cells[name]
    bare = re.fullmatch(r"(?:[a-z]+\s*[=:_-]?\s*)?(\d+)x?", str(cell.value).strip().lower())
    found = number_of(cell._replace(value=bare[1]) if bare else cell)
    if found != int(found):
        raise BadRecord(f"{cell.column} is {found:g}, expected a whole number")
    return int(found)


def number_of(cell: Cell) -> float:
    """Return the number of a cell, of a time in seconds: `64`, `1k`, `21,47` where a comma is decimal, `21.5 ms`."""
    stated, scale, found = str(cell.value).strip(), cell.scale, meaning(cell.column)
    is_time = found is not None and found[0] in TIMES
    if cell.comma and re.fullmatch(r"\d+,\d+", stated):
        if not is_time and re.fullmatch(r"[1-9]\d{0,2},\d{3}", stated):
            either = f"{stated.replace(',', '')} or {stated.replace(',', '.')}"
            raise BadRecord(f"{cell.column} is {stated!r}, expected {either}")
        stated = stated.replace(",", ".")
    if is_time and (timed := in_milliseconds(stated)) != stated:
        stated, scale = timed, 1e-3
    value = number_in(stated)
    if value is None or not value.is_finite():
        raise BadRecord(f"{cell.column} is {str(cell.value)[:40]!r}, expected a number")
    if not 0 <= value <= MOST:
        raise BadRecord(f"{cell.column} is {float(value):g}, expected a number from 0 to {MOST:g}")
    return float(value) * scale


def weights_of(cells: Cells) -> str:
    """Return the number format of the weights: what is said of quantization, else of their type."""
    quantized = text(cells, "quantization")
    if plain(quantized).replace(" ", "-") not in CONTAINERS:
        found = dtype_of(quantized, name_of(cells, "quantization"))
        if found:
            return found
    return dtype_of(text(cells, "dtype"), name_of(cells, "dtype"))


def dtype_of(stated: Any, column: str = "dtype") -> str:
    """Return a number format as we call it, "" for none or one that the engine chooses."""
    bare = str(stated or "").strip().lower()
    bare = re.sub(r"[-_](block|wo|static|dynamic|per[-_]?tensor|per[-_]?channel)$", "", bare)
    bare = re.sub(r"^(modelopt|petit)[-_]", "", bare)
    if bare in ("", "auto", "none"):
        return ""
    name = number_format(bare)
    if name not in FORMATS:
        raise BadRecord(f"{column} is {str(stated)[:40]!r}, expected a number format such as bf16, fp8, nvfp4")
    return name


def engine_of(stated: str) -> str:
    """Return an engine as we call it; a name that we do not know in small letters."""
    return ENGINES.get(re.sub(r"[^a-z]", "", stated.lower()), stated.lower())
