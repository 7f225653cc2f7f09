"""The command `profiles`: list, show and compare hardware profiles."""

import math
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, NamedTuple

import click

from simulator.ground.artefacts import to_json
from simulator.ground.command import OneLineErrorsGroup, command, table

if TYPE_CHECKING:
    from simulator.costs.profile import Curve, Decoding, Floats, PassCost, Profile

WIDTH = 100
# Beyond so many standard errors of both together, two measurements differ.
DISTINCT = 2
# Correlations that are shown: from here on one parameter hardly tells without the other.
TOLD_CORRELATION = 0.5


@command("profiles", cls=OneLineErrorsGroup, no_args_is_help=False)
def profiles() -> None:
    """Hardware profiles: what a forward pass costs on a device.

    Those that come along are from data sheets; `calibrate` writes measured ones.
    """


@click.command("list")
def list_profiles() -> None:
    """List the profiles that come along: sizes, peak rates as forecasts reckon them, watts under load."""
    from simulator.costs.profile_file import load_profile, presets

    head = ("name", "memory", "bandwidth", "arithmetic", "", "power", "status", "number formats", "device")
    rows = [listed(load_profile(name)) for name in presets()]
    click.echo(table([head, *rows], left=(0, 4, 6, 7, 8)))


@click.command("show")
@click.argument("profile", metavar="NAME|FILE")
@click.option("--json", "as_json", is_flag=True, help="Print the profile as JSON.")
def show(profile: str, as_json: bool) -> None:
    """Show every number of a profile, with its uncertainty, where it comes from and what was assumed."""
    from simulator.costs.profile_file import KIND, SCHEMA_VERSION, load_profile, profile_json

    found = load_profile(profile)
    if as_json:
        click.echo(to_json({"kind": KIND, "schema_version": SCHEMA_VERSION, **profile_json(found)}), nl=False)
        return
    click.echo(profile_text(found))


@click.command("diff")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
def diff(first: str, second: str) -> None:
    """Compare two profiles, names or files: what differs, and B over A.

    Of two measured profiles, a number of B counts as faster or slower where the two are more than 2 standard errors of
    both together apart.
    """
    from simulator.costs.profile_file import load_profile

    click.echo(diff_text(load_profile(first), load_profile(second)))


for subcommand in (list_profiles, show, diff):
    profiles.add_command(subcommand)


class Number(NamedTuple):
    """A number of a profile, in units for reading.

    beside: the same as the file has it. error: standard error, relative; 0 where none is stated. faster: 1 if more is
    faster, -1 if less is, 0 if neither.
    """

    name: str
    value: float
    unit: str
    beside: str = ""
    error: float = 0.0
    faster: int = 0

    @property
    def text(self) -> str:
        """Value and unit."""
        return f"{self.value:.4g} {self.unit}".rstrip()

    @property
    def error_text(self) -> str:
        """The error in percent."""
        return f"+- {100 * self.error:.3g} %" if self.error else ""


def listed(profile: "Profile") -> tuple[str, ...]:
    """Return the row of a profile in the list: in bfloat16, else in float16, else in its fastest number format."""
    fastest = {dtype: peak(cost.flop_scale) for dtype, cost in profile.passes.items()}
    usual = [dtype for dtype in ("bfloat16", "float16") if dtype in fastest]
    dtype = usual[0] if usual else max(fastest, key=lambda d: fastest[d], default="")
    memory, power = profile.memory_bytes, profile.power
    return (
        profile.name,
        f"{memory / 2**30:.0f} GiB" if memory else "",
        f"{peak(profile.passes[dtype].mem_scale) / 1e9:.0f} GB/s" if dtype else "",
        f"{fastest[dtype] / 1e12:.4g} TFLOP/s" if dtype else "",
        dtype,
        f"{power.load_w:.0f} W" if power else "",
        profile.status,
        " ".join(profile.passes),
        profile.device,
    )


def peak(curve: "Curve") -> float:
    """Return the units of work a second where they are fastest."""
    return float(1 / curve.seconds.min())


def profile_text(profile: "Profile") -> str:
    """Return all that a profile says."""
    parts = [f"{profile.name}: {profile.device}\n{profile.status}", numbers_text(device_numbers(profile))]
    costs = [(dtype, cost) for dtype, cost in profile.passes.items()]
    costs += [("burn units", profile.units.cost)] if profile.units else []
    for name, cost in costs:
        parts.append("\n".join([name, numbers_text(cost_numbers(cost)), *correlations(cost)]))
    parts.append("\n".join(["sources", *sources_text(profile)]) if profile.sources else "no sources")
    notes = [textwrap.fill(note, WIDTH, initial_indent="  ", subsequent_indent="    ") for note in profile.notes]
    parts += ["\n".join(["notes", *notes])] if notes else []
    return "\n\n".join(parts)


def numbers_text(numbers: Iterable[Number]) -> str:
    """Lay numbers out, one a line."""
    rows = [(f"  {n.name}", f"{n.value:.4g}", n.unit, n.beside, n.error_text) for n in numbers]
    return table(rows, left=(0, 2, 4))


def sources_text(profile: "Profile") -> Iterator[str]:
    """Yield each source once, under it what is taken from there."""
    for (title, url), same in groupby(profile.sources, key=lambda s: (s.title, s.url)):
        yield f"  {title}"
        yield f"  {url}"
        yield from (f"    {source.what}" for source in same)


def correlations(cost: "PassCost") -> Iterator[str]:
    """Yield the pairs of parameters that are known together better than alone."""
    for i, one in enumerate(cost.uncertain):
        for j, other in enumerate(cost.uncertain[:i]):
            spread = math.sqrt(cost.covariance[i, i] * cost.covariance[j, j])
            found = float(cost.covariance[i, j]) / spread if spread else 0.0
            if abs(found) >= TOLD_CORRELATION:
                yield f"  correlation of {other} and {one}: {found:+.2f}"


def device_numbers(profile: "Profile") -> Iterator[Number]:
    """Yield the numbers of a device that do not depend on the number format."""
    if profile.memory_bytes:
        yield Number("memory", profile.memory_bytes / 2**30, "GiB")
    if profile.power:
        yield Number("power under load", profile.power.load_w, "W")
        yield Number("power at rest", profile.power.idle_w, "W")
    if profile.link:
        link, error = profile.link, profile.link.error
        name = "link to each other device, one direction" if link.mesh else "link, one direction"
        yield Number(name, float(link.bytes_per_s) / 1e9, "GB/s", error=error, faster=1)
        yield Number("all-reduce latency", float(link.latency_s) * 1e6, "us", error=error, faster=-1)
    yield Number("launches a layer", profile.launches_per_layer, "", error=profile.launches_per_layer_error, faster=-1)
    error = profile.round_overhead_error
    yield Number("round overhead", float(profile.round_overhead_s) * 1e6, "us", error=error, faster=-1)
    if profile.decoding:
        yield from pair_numbers(profile.decoding)
    if profile.units:
        yield Number("workflops", profile.units.workflops_flop, "FLOP")
        yield Number("workmem", profile.units.workmem_bytes, "B")


def pair_numbers(pair: "Decoding") -> Iterator[Number]:
    """Yield the times of a pair that decoded; verification at the draft lengths that were fitted."""
    own, error = f"{pair.draft} for {pair.target}, {pair.dtype}", float(pair.verify.covariance[0, 0]) ** 0.5
    yield Number(f"{own}: plain step", pair.baseline_s * 1e3, "ms", "", pair.baseline_error, -1)
    yield Number(f"{own}: drafted token", pair.draft_step_s * 1e3, "ms", "", pair.draft_step_error, -1)
    for k in pair.draft_lengths:
        pass_ms = float(pair.verify.pass_s(k + 1, 1, k + 1, 0)) * 1e3
        yield Number(f"{own}: verification of {k + 1} tokens", pass_ms, "ms", "", error, -1)


def cost_numbers(cost: "PassCost", tokens: "Floats | None" = None, bytes_: "Floats | None" = None) -> Iterator[Number]:
    """Yield the numbers of a pass; curves at given sizes, or at their own."""
    sizes = cost.flop_scale.sizes if tokens is None else tokens
    for size, seconds, error in curve_points(cost, "flop_scale", sizes):
        name = "arithmetic" if len(sizes) == 1 else f"arithmetic, {size:g} tokens"
        yield Number(name, 1e-12 / seconds, "TFLOP/s", f"{seconds:.4g} s/FLOP", error, 1)
    sizes = cost.mem_scale.sizes if bytes_ is None else bytes_
    for size, seconds, error in curve_points(cost, "mem_scale", sizes):
        name = "memory bandwidth" if len(sizes) == 1 else f"memory bandwidth, {size / 2**20:.4g} MiB"
        yield Number(name, 1e-9 / seconds, "GB/s", f"{seconds:.4g} s/B", error, 1)
    for name, key, scale, unit, faster in (
        ("launch", "launch_s", 1e6, "us", -1),
        ("fixed, of a pass", "fixed_s", 1e6, "us", -1),
        ("overlap exponent", "overlap_exponent", 1.0, "", 1),
    ):
        yield Number(name, float(getattr(cost, key)) * scale, unit, "", cost.error(key), faster)


def curve_points(cost: "PassCost", name: str, sizes: "Floats") -> Iterator[tuple[float, float, float]]:
    """Yield size, seconds a unit, and its relative standard error."""
    curve: Curve = getattr(cost, name)
    for size, seconds, error in zip(sizes, curve.at(sizes), cost.curve_errors(name, sizes), strict=True):
        yield float(size), float(seconds), float(error)


def diff_text(a: "Profile", b: "Profile") -> str:
    """Return what differs between two profiles, a line each."""
    from simulator.costs.profile import DATASHEET

    head = f"A: {a.name}: {a.device}, {a.status}\nB: {b.name}: {b.device}, {b.status}"
    both_measured = DATASHEET not in (a.status, b.status)
    rows = list(differences("", device_numbers(a), device_numbers(b), both_measured))
    for dtype in dict.fromkeys([*a.passes, *b.passes]):
        rows += cost_differences(dtype, a.passes.get(dtype), b.passes.get(dtype), both_measured)
    units = [profile.units.cost if profile.units else None for profile in (a, b)]
    rows += cost_differences("burn units", units[0], units[1], both_measured)
    words = ("device", "status", "sources", "notes")
    changed = [f"{word}: not the same" for word in words if getattr(a, word) != getattr(b, word)]
    if not rows and not changed:
        return f"{head}\n\nsame"
    parts = [table([("", "A", "B", "B/A", ""), *rows], left=(0, 4))] if rows else ["every number is the same"]
    return "\n\n".join([head, *parts, *(["\n".join(changed)] if changed else [])])


def cost_differences(
    name: str, a: "PassCost | None", b: "PassCost | None", both_measured: bool
) -> Iterator[Sequence[str]]:
    """Yield a row for each number of a pass that differs; curves are compared at the sizes of both."""
    if a is None or b is None:
        if a or b:
            yield (name, "" if a is None else "yes", "" if b is None else "yes", "", f"in {'A' if a else 'B'} only")
        return
    sizes = joint_sizes(a.flop_scale, b.flop_scale), joint_sizes(a.mem_scale, b.mem_scale)
    yield from differences(f"{name}: ", cost_numbers(a, *sizes), cost_numbers(b, *sizes), both_measured)


def joint_sizes(a: "Curve", b: "Curve") -> "Floats":
    """Return the sizes of either curve; those of a constant mean nothing."""
    import numpy as np

    curves = [curve.sizes for curve in (a, b) if len(curve.sizes) > 1]
    return np.unique(np.concatenate(curves)) if curves else a.sizes


def differences(prefix: str, a: Iterable[Number], b: Iterable[Number], both_measured: bool) -> Iterator[Sequence[str]]:
    """Yield a row for each number that differs."""
    ours, theirs = ({number.name: number for number in numbers} for numbers in (a, b))
    for name in dict.fromkeys([*ours, *theirs]):
        one, other = ours.get(name), theirs.get(name)
        if one is None or other is None:
            yield (prefix + name, one.text if one else "", other.text if other else "", "", "")
        elif one != other:
            ratio = f"{other.value / one.value:.4g}" if one.value and math.isfinite(one.value) else ""
            word = verdict(one, other) if both_measured else ""
            yield (prefix + name, measured_text(one), measured_text(other), ratio, word)


def measured_text(number: Number) -> str:
    """Return value, unit and error."""
    return f"{number.text} {number.error_text}".rstrip()


def verdict(a: Number, b: Number) -> str:
    """Say whether B is faster or slower than A by more than their uncertainty."""
    if not a.faster or a.value == b.value:
        return ""
    if not (a.error and b.error and a.value > 0 and b.value > 0):
        return "no uncertainty stated"
    apart = a.faster * math.log(b.value / a.value) / math.hypot(a.error, b.error)
    if abs(apart) <= DISTINCT:
        return "same within the uncertainty"
    return "faster" if apart > 0 else "slower"


if __name__ == "__main__":
    profiles(prog_name="profiles")
