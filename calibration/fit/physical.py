"""What constants of a server may be: words, units, and the range outside of which no device or engine has them."""

from typing import NamedTuple

import numpy as np

from simulator.costs.datasheet import ARITHMETIC, LINK, MEMORY
from simulator.costs.profile import DATASHEET, Profile

from .from_serving import ServingCalibration


class Physical(NamedTuple):
    """A constant in words, its unit, that in SI, and the least and the most of it that there is, in the unit."""

    words: str
    unit: str
    scale: float
    least: float
    most: float


# Shares of a sheet's peak: above it is no device, far below it kernels would have to be at fault. Kernels are launched
# in a microsecond or two, some ten where nothing is captured. The host takes up to some milliseconds for a layer that
# it launches piece by piece, whose work under load is a small part of that. Ends of links answer in microseconds. A
# request passes HTTP and a tokenizer on its way in, one process for all clients; a first token may miss a pass or two,
# planned ahead, but not a dozen.
PHYSICAL = {
    "flop_scale": Physical("seconds a FLOP", "% of peak", 1.0, 15, 100),
    "mem_scale": Physical("seconds a byte", "% of peak", 1.0, 30, 100),
    "link_bytes_per_s": Physical("link bandwidth", "% of peak", 1.0, 10, 100),
    "launch_s": Physical("launch", "us", 1e-6, 0.2, 10),
    "fixed_s": Physical("a pass besides", "ms", 1e-3, 0.01, 10),
    "overlap_exponent": Physical("overlap exponent", "", 1.0, 1, np.inf),
    "host_layer_s": Physical("host a layer, with a prompt", "ms", 1e-3, 0.08, 4),
    "load_layer_s": Physical("layer under load, more", "us", 1e-6, 0, 200),
    "load_layer_sequence_s": Physical("its sequence, more", "us", 1e-6, 0, 3),
    "link_latency_s": Physical("all-reduce latency", "us", 1e-6, 1, 100),
    "front_s": Physical("in front of a request", "ms", 1e-3, 1, 250),
    "front_client_s": Physical("in front, a client", "ms", 1e-3, 0, 3),
    "first_passes": Physical("passes waited for", "", 1.0, 0, 4),
    "round_overhead_s": Physical("a round besides", "ms", 1e-3, 0.05, 10),
    "round_sequence_s": Physical("its sequence", "ms", 1e-3, 0, 1),
}
# Of what a sheet assumes to be reached; the second is seconds, the third bytes a second.
PEAKS = {"flop_scale": "arithmetic", "mem_scale": "memory bandwidth", "link_bytes_per_s": "link"}


def reached(calibration: ServingCalibration) -> dict[str, float]:
    """Return which share of its sheet's peaks the fit reaches, by constant; nothing where the prior is no sheet."""
    if calibration.prior.status != DATASHEET:
        return {}
    factors = {c.name: float(np.exp(log)) for c, log, _ in calibration.found}
    shares = {"flop_scale": ARITHMETIC / factors["flop_scale"], "mem_scale": MEMORY / factors["mem_scale"]}
    if "link_bytes_per_s" in factors:
        shares["link_bytes_per_s"] = LINK * factors["link_bytes_per_s"]
    return shares


def before(profile: Profile, name: str) -> float:
    """Return a constant of a profile, in SI units."""
    if name.startswith("link_"):
        return float(getattr(profile.link, name.removeprefix("link_")))
    cost = next(iter(profile.passes.values()))
    of = next(part for part in (cost, profile.engine, profile) if hasattr(part, name))
    return float(getattr(of, name))


def values(calibration: ServingCalibration) -> dict[str, float]:
    """Return what was fitted, in units of `PHYSICAL`; rates by their peaks, where the prior states these."""
    found = {name: 100 * share for name, share in reached(calibration).items()}
    others = ((c.name, log) for c, log, _ in calibration.found if c.name not in PEAKS)
    return found | {n: before(calibration.prior, n) * float(np.exp(log)) / PHYSICAL[n].scale for n, log in others}


def in_words(name: str, value: float) -> str:
    """Return a value with its unit."""
    unit = PHYSICAL[name].unit
    return f"{value:.0f}{unit}" if unit.startswith("%") else f"{value:.3g} {unit}".strip()


def unphysical(calibration: ServingCalibration) -> dict[str, str]:
    """Return constants that no device or engine has, with why."""
    found = {}
    for name, value in values(calibration).items():
        if not PHYSICAL[name].least <= value <= PHYSICAL[name].most:
            found[name] = f"not physical: {in_words(name, value)}, expected {allowed(name)}"
    return found


def allowed(name: str) -> str:
    """Say what is physical, in the constant's unit."""
    least, most = PHYSICAL[name].least, PHYSICAL[name].most
    return f"{least:g} to {most:g}" if np.isfinite(most) else f"{least:g} or more"
