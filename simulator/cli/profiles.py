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
    from simulator.costs.compare import Number
    from simulator.costs.profile import Curve, PassCost, Profile

WIDTH = 100
# Correlations that are shown: from here on one parameter hardly tells without the other.
SHOWN_CORRELATION = 0.5


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

    loaded = load_profile(profile)
    if as_json:
        click.echo(to_json({"kind": KIND, "schema_version": SCHEMA_VERSION, **profile_json(loaded)}), nl=False)
        return
    click.echo(profile_text(loaded))


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


class Shown(NamedTuple):
    """How a number is written: so many of a unit; of a rate, the inverse of the seconds that the file has."""

    name: str
    unit: str = ""
    per: float = 1.0
    of_curve: str = ""

    def value(self, number: "Number") -> float:
        """Return a number in the unit."""
        return 1 / number.value / self.per if self.of_curve else number.value / self.per

    def text(self, number: "Number") -> str:
        """Return value and unit."""
        return f"{self.value(number):.4g} {self.unit}".rstrip()

    def name_of(self, number: "Number") -> str:
        """Return its name, with the size at which a curve is read."""
        if number.key == "verify_s":
            return f"verification of {number.size:g} tokens"
        if number.size is None:
            return self.name
        size = f"{number.size:g}" if self.of_curve == "tokens" else f"{number.size / 2**20:.4g}"
        return f"{self.name}, {size} {self.of_curve}"


SHOWN = {
    "memory_bytes": Shown("memory", "GiB", 2.0**30),
    "load_w": Shown("power under load", "W"),
    "idle_w": Shown("power at rest", "W"),
    "link_bytes_per_s": Shown("link, one direction", "GB/s", 1e9),
    "mesh_bytes_per_s": Shown("link to each other device, one direction", "GB/s", 1e9),
    "latency_s": Shown("all-reduce latency", "us", 1e-6),
    "launches_per_layer": Shown("launches a layer"),
    "round_overhead_s": Shown("round overhead", "us", 1e-6),
    "baseline_s": Shown("plain step", "ms", 1e-3),
    "draft_step_s": Shown("drafted token", "ms", 1e-3),
    "verify_s": Shown("verification", "ms", 1e-3),
    "workflops_flop": Shown("workflops", "FLOP"),
    "workmem_bytes": Shown("workmem", "B"),
    "flop_scale": Shown("arithmetic", "TFLOP/s", 1e12, "tokens"),
    "mem_scale": Shown("memory bandwidth", "GB/s", 1e9, "MiB"),
    "launch_s": Shown("launch", "us", 1e-6),
    "fixed_s": Shown("fixed, of a pass", "us", 1e-6),
    "overlap_exponent": Shown("overlap exponent"),
}
BESIDE = {"flop_scale": "s/FLOP", "mem_scale": "s/B"}


def error_text(number: "Number") -> str:
    """Return the error in percent."""
    return f"+- {100 * number.error:.3g} %" if number.error else ""


def full_name(number: "Number") -> str:
    """Return a number's name, and what it belongs to."""
    name = SHOWN[number.key].name_of(number)
    return f"{number.of}: {name}" if number.of else name


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
    from simulator.costs.compare import cost_numbers, costs_by_name, device_numbers

    named = [(full_name(number), number) for number in device_numbers(profile)]
    parts = [f"{profile.name}: {profile.device}\n{profile.status}", numbers_text(named)]
    for name, cost in costs_by_name(profile).items():
        rows = [(SHOWN[number.key].name_of(number), number) for number in cost_numbers(name, cost)]
        parts.append("\n".join([name, numbers_text(rows), *correlations(cost)]))
    parts.append("\n".join(["sources", *sources_text(profile)]) if profile.sources else "no sources")
    notes = [textwrap.fill(note, WIDTH, initial_indent="  ", subsequent_indent="    ") for note in profile.notes]
    parts += ["\n".join(["notes", *notes])] if notes else []
    return "\n\n".join(parts)


def numbers_text(named: "Iterable[tuple[str, Number]]") -> str:
    """Lay numbers out, one a line: as they read, and the seconds of a rate as the file has them."""
    rows = []
    for name, number in named:
        shown, unit = SHOWN[number.key], BESIDE.get(number.key)
        beside = f"{number.value:.4g} {unit}" if unit else ""
        rows.append((f"  {name}", f"{shown.value(number):.4g}", shown.unit, beside, error_text(number)))
    return table(rows, left=(0, 2, 4), headed=False)


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
            correlation = float(cost.covariance[i, j]) / spread if spread else 0.0
            if abs(correlation) >= SHOWN_CORRELATION:
                yield f"  correlation of {other} and {one}: {correlation:+.2f}"


def diff_text(a: "Profile", b: "Profile") -> str:
    """Return what differs between two profiles, a line each."""
    from simulator.costs.compare import costs_by_name, device_numbers
    from simulator.costs.profile import BURN_UNITS, DATASHEET

    head = f"A: {a.name}: {a.device}, {a.status}\nB: {b.name}: {b.device}, {b.status}"
    both_measured = DATASHEET not in (a.status, b.status)
    rows = list(differences(device_numbers(a), device_numbers(b), both_measured))
    costs = costs_by_name(a), costs_by_name(b)
    for name in sorted({**costs[0], **costs[1]}, key=lambda name: name == BURN_UNITS):
        rows += cost_differences(name, costs[0].get(name), costs[1].get(name), both_measured)
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
    from simulator.costs.compare import cost_numbers, joint_sizes

    if a is None or b is None:
        yield (name, "" if a is None else "yes", "" if b is None else "yes", "", f"in {'A' if a else 'B'} only")
        return
    sizes = joint_sizes(a.flop_scale, b.flop_scale), joint_sizes(a.mem_scale, b.mem_scale)
    yield from differences(cost_numbers(name, a, *sizes), cost_numbers(name, b, *sizes), both_measured)


def differences(a: "Iterable[Number]", b: "Iterable[Number]", both_measured: bool) -> Iterator[Sequence[str]]:
    """Yield a row for each number that differs."""
    from simulator.costs.compare import matched, verdict

    for one, other in matched(a, b):
        number = one or other
        if number is None or one == other:
            continue
        shown = SHOWN[number.key]
        cells = [shown.text(side) if side else "" for side in (one, other)]
        if one is None or other is None:
            yield (full_name(number), *cells, "", "")
            continue
        before, now = shown.value(one), shown.value(other)
        ratio = f"{now / before:.4g}" if before and math.isfinite(before) else ""
        errors = [f" {error_text(side)}".rstrip() for side in (one, other)]
        cells = [cell + error for cell, error in zip(cells, errors, strict=True)]
        yield (full_name(number), *cells, ratio, verdict(one, other) if both_measured else "")


if __name__ == "__main__":
    profiles(prog_name="profiles")
