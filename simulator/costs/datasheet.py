"""Profiles from data sheets: peak rates as sheets state them, and what is assumed of how far those are reached."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from simulator.ground.fields import Field, read_toml

from .engine import Engine, engine_json, parse_engine
from .profile import DATASHEET, Link, PassCost, Power, Profile, Source, constant

SHEETS = Path(__file__).parent / "datasheets.toml"
# Of what a sheet states, the share that is reached.
ARITHMETIC, MEMORY, LINK = 0.7, 0.8, 0.8
# Relative variances of what is assumed.
VARIANCES = {"flop_scale[0]": 0.0225, "mem_scale[0]": 0.01, "launch_s": 0.25, "fixed_s": 0.25, "overlap_exponent": 0.09}
LINK_ERROR, ROUND_ERROR = 0.3, 0.5
# What an engine adds, where a sheet knows nothing else: fitted to rows of servers (docs/validation.md).
SERVER = Engine(
    layer_launches={"experts": 24.0, "latent": 8.0},
    expert_overlap=0.34,
    host_layer_s=8e-4,
    host_error=0.5,
    load_layer_s=1.6e-5,
    load_layer_sequence_s=3.2e-7,
    front_s=0.025,
    front_client_s=3e-4,
)
FAST_LINK_S, PCIE_S = 1e-5, 3e-5
# Devices of one machine, which a link joins where a sheet says no other number.
MACHINE = 8
ASSUMED = (
    "Assumed, not measured: kernels reach 70 % of the peak arithmetic, uncertain by 15 %, and 80 % of the peak memory "
    "bandwidth, by 10 %.",
    "Assumed: a fused engine with graphs launches 10 kernels a layer at 2 us, uncertain by 50 %; a pass costs 100 us "
    "besides, by 50 %, a round 600 us, by 50 %.",
    "Assumed: compute and memory time overlap with exponent 4, uncertain by 30 %.",
    "Assumed: layers of experts launch 24 kernels more (10 on Blackwell), those of latent attention 8; a further token "
    "of a sequence touches experts as 0.66 tokens of another would.",
    "Assumed of servers: a pass with a prompt, which no graph replays whole, takes the host 0.8 ms a layer beside the "
    "device; under load a layer takes 16 us more, and 0.32 us for each sequence; 25 ms a request and 0.3 ms a client "
    "lie in front of it. All are uncertain by 50 %.",
    "Assumed of servers: besides, a time a token is off by 12 %, that to the first by a factor of 2.2, as rows of 13 "
    "models were.",
    "Assumed: what a draft and a verification take against a plain step is off by 12 % each, besides, as published "
    "rounds were whose cost was taken to another device or a larger target.",
)
ASSUMED_LINK = (
    "Assumed: a link reaches 80 % of its peak, and an all-reduce has a latency of 10 us over NVLink or Infinity "
    "Fabric, 30 us over PCIe; their times are uncertain by 30 %, together."
)
WEIGHT_ONLY = "int4 is weight-only: arithmetic in float16 on int4 bytes."
AT_REST = "Watts at rest are a typical reading, from no data sheet."
IN_FLOAT16 = "int8 is weight-only too: arithmetic in float16 on int8 bytes."
TENTH = "Watts at rest are assumed, a tenth of those under load."
IN_GIB = "The memory size is read in GiB; driver, error correction and engine keep a part of it."


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSheet:
    """What a data sheet states of a device.

    Attributes:
        name: Of the profile.
        device: In full.
        flop_per_s: Peak dense rates by number format.
        bytes_per_s: Peak of the memory.
        memory_bytes: Its size.
        link_bytes_per_s: Peak of a link in one direction; None: no link.
        link_latency_s: Of an all-reduce.
        mesh: Whether a device has such a link to each other one.
        link_devices: That it joins.
        power: None where it is not known.
        sources: Where the numbers are from.
        notes: What a reader should know besides what is assumed.
        engine: What one that runs on it adds.
    """

    name: str
    device: str
    flop_per_s: Mapping[str, float]
    bytes_per_s: float
    memory_bytes: int | None = None
    link_bytes_per_s: float | None = None
    link_latency_s: float = FAST_LINK_S
    mesh: bool = False
    link_devices: int | None = None
    power: Power | None = None
    sources: tuple[Source, ...] = ()
    notes: tuple[str, ...] = ()
    engine: Engine = SERVER

    def profile(self) -> Profile:
        """Return the profile that follows, with what is assumed; int4 and int8 without a rate are weight-only."""
        rates = dict(self.flop_per_s)
        for weights in ("int4", "int8"):
            rates.setdefault(weights, rates.get("float16") or rates.get("bfloat16") or max(rates.values()))
        peak = self.link_bytes_per_s
        link = peak and Link(
            bytes_per_s=rounded(LINK * peak),
            latency_s=self.link_latency_s,
            mesh=self.mesh,
            error=LINK_ERROR,
            devices=self.link_devices,
        )
        return Profile(
            name=self.name,
            device=self.device,
            status=DATASHEET,
            passes={dtype: self.cost(rates[dtype]) for dtype in sorted(rates)},
            launches_per_layer=10.0,
            engine=self.engine,
            round_overhead_s=6e-4,
            round_overhead_error=ROUND_ERROR,
            memory_bytes=self.memory_bytes,
            link=link or None,
            power=self.power,
            sources=self.sources,
            notes=(*ASSUMED, *((ASSUMED_LINK,) if link else ()), *self.notes),
        )

    def cost(self, flop_per_s: float) -> PassCost:
        """Return what a pass costs at a peak rate."""
        return PassCost(
            flop_scale=constant(rounded(1 / (ARITHMETIC * flop_per_s))),
            mem_scale=constant(rounded(1 / (MEMORY * self.bytes_per_s))),
            launch_s=2e-6,
            fixed_s=1e-4,
            overlap_exponent=4.0,
            uncertain=tuple(VARIANCES),
            covariance=np.diag(list(VARIANCES.values())),
        )


def rounded(value: float) -> float:
    """Return six digits of a value: more than any sheet has."""
    return float(f"{value:.6g}")


@lru_cache(maxsize=1)
def sheets() -> Field:
    """Return the data sheets that come along, by name, and the notes that they share."""
    return read_toml(SHEETS)


def sheet_names() -> tuple[str, ...]:
    """Return the names of the data sheets that come along."""
    return tuple(name for name in sheets().object() if name != "notes")


def sheet_of(name: str) -> DataSheet:
    """Return a data sheet that comes along: rates in TFLOP/s, sizes in GB, watts; each figure with its source."""
    entry, shared = sheets()[name], sheets()["notes"]
    if entry["like"].is_given:
        base = sheets()[entry["like"].text()]
        entry = base.but(**entry.object() | {"notes": [*base["notes"].value, *entry["notes"].value]})
    rates = {dtype: field.number(above=True) for dtype, field in entry["tflops"].items()}
    figures = {dtype: f"{rate:g} {'TOP/s' if dtype == 'int8' else 'TFLOP/s'}" for dtype, rate in rates.items()}
    keys = ("gb_per_s", "memory_gb", "link_gb_per_s", "load_w", "idle_w")
    bandwidth, memory, link, load, idle = (entry[key] for key in keys)
    figures |= {"memory bandwidth": f"{bandwidth.number():g} GB/s", "memory": f"{memory.number():g} GB"}
    figures |= {"load": f"{load.number():g} W"} if load.is_given else {}
    figures |= {"link": f"{link.number():g} GB/s of one direction{entry['link'].text()}"} if link.is_given else {}
    listed = [[part.value for part in source.elements()] for source in entry["sources"].elements()]
    of = {figure: next(s for s in listed if len(s) == 2 or figure in s[2:]) for figure in figures}
    named = [note.text() for note in entry["notes"].elements()]
    own = [shared[note].text() if note in shared.object() else note for note in named]
    rest = [] if not load.is_given else [AT_REST if idle.is_given else TENTH]
    return DataSheet(
        name=name,
        device=entry["device"].text(),
        flop_per_s={dtype: rate * 1e12 for dtype, rate in rates.items()},
        bytes_per_s=bandwidth.number(above=True) * 1e9,
        memory_bytes=round(memory.number(above=True) * 2**30),
        link_bytes_per_s=link.number(above=True) * 1e9 if link.is_given else None,
        link_latency_s=PCIE_S if "PCIe" in str(entry["link"].value) else FAST_LINK_S,
        mesh=entry["mesh"].flag(default=False),
        link_devices=entry["link_devices"].whole(2) if entry["link_devices"].is_given else MACHINE,
        power=Power(load_w=load.number(), idle_w=idle.number(default=load.number() / 10)) if load.is_given else None,
        sources=tuple(Source(what=f"{k}: {v}", title=of[k][0], url=of[k][1]) for k, v in figures.items()),
        notes=(WEIGHT_ONLY, *rest, IN_GIB, *own),
        engine=parse_engine(Field(engine_json(SERVER)).but(**entry["engine"].value or {})),
    )
