"""The command `profiles`: list, show, compare and make hardware profiles."""

import math
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from simulator.ground.artefacts import envelope, to_json
from simulator.ground.command import OneLineErrorsGroup, command, say, table

from .new_profile import new

if TYPE_CHECKING:
    from simulator.costs.compare import Number
    from simulator.costs.profile import Curve, PassCost, Profile

AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
# Correlations that are shown: from here on one parameter hardly tells without the other.
SHOWN_CORRELATION = 0.5


@command("profiles", cls=OneLineErrorsGroup, no_args_is_help=False)
def profiles() -> None:
    """Hardware profiles: what a forward pass costs on a device.

    Those that come along are from data sheets; `calibrate` writes measured ones.
    """


@command("list")
@AS_JSON
def list_profiles(as_json: bool) -> None:
    """List the profiles that come along: sizes, peak rates as forecasts reckon them, watts under load."""
    from simulator.costs.profile_file import load_profile, presets

    loaded = [load_profile(name) for name in presets()]
    listed = [listed_json(profile) for profile in loaded]
    if as_json:
        click.echo(to_json(envelope("profile_list", 1, {}) | {"profiles": listed}), nl=False)
        return
    measured = sum(row["is_measured"] for row in listed)
    say(f"{len(listed)} devices, {measured} of them measured, the others from data sheets.\n")
    click.echo(
        table([("name", "memory", "bandwidth", "arithmetic", "", "power", "status"), *map(row_of, listed)], (0, 4, 6))
    )
    names = [(row["name"], row["device"], " ".join(row["dtypes"])) for row in listed]
    click.echo("\n" + table([("name", "device", "number formats"), *names], (0, 1, 2)))


@command("show")
@click.argument("profile", metavar="NAME|FILE")
@AS_JSON
def show(profile: str, as_json: bool) -> None:
    """Show every number of a profile, with its uncertainty, where it comes from and what was assumed."""
    from simulator.costs.profile_file import KIND, SCHEMA_VERSION, load_profile, profile_json

    loaded = load_profile(profile)
    if as_json:
        click.echo(to_json({"kind": KIND, "schema_version": SCHEMA_VERSION, **profile_json(loaded)}), nl=False)
        return
    say(profile_text(loaded))


@command("diff")
@click.argument("first", metavar="A")
@click.argument("second", metavar="B")
@AS_JSON
def diff(first: str, second: str, as_json: bool) -> None:
    """Compare two profiles, names or files: what differs, and B over A.

    Of two measured profiles, a number of B counts as faster or slower where the two are more than 2 standard errors of
    both together apart.
    """
    from simulator.costs.profile_file import load_profile

    a, b = load_profile(first), load_profile(second)
    if as_json:
        click.echo(to_json(envelope("profile_diff", 1, {"a": first, "b": second}) | diff_json(a, b)), nl=False)
        return
    say(diff_text(a, b))


for subcommand in (list_profiles, show, diff, new):
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
    "memory_share": Shown("of it used by the engine", "%", 0.01),
    "load_w": Shown("power under load", "W"),
    "idle_w": Shown("power at rest", "W"),
    "link_bytes_per_s": Shown("link, one direction", "GB/s", 1e9),
    "mesh_bytes_per_s": Shown("link to each other device, one direction", "GB/s", 1e9),
    "latency_s": Shown("all-reduce latency", "us", 1e-6),
    "launches_per_layer": Shown("launches a layer"),
    "launches_experts": Shown("more launches of a layer of experts"),
    "launches_latent": Shown("more launches of latent attention"),
    "expert_overlap": Shown("experts that a further token of a sequence shares"),
    "logit_bytes": Shown("moved for a logit, besides", "B"),
    "tree_round_s": Shown("round of a tree, besides", "us", 1e-6),
    "graph_tokens": Shown("tokens of the largest graph"),
    "host_s": Shown("host, beside passes beyond graphs", "ms", 1e-3),
    "host_sequence_s": Shown("host a sequence, beside these", "ms", 1e-3),
    "host_launch_s": Shown("host a launch, beside these", "us", 1e-6),
    "host_layer_s": Shown("host a layer, beside these", "ms", 1e-3),
    "load_layer_s": Shown("layer under load, more", "us", 1e-6),
    "load_layer_sequence_s": Shown("its sequence, more", "us", 1e-6),
    "front_s": Shown("in front of a request", "ms", 1e-3),
    "front_client_s": Shown("in front, a client", "ms", 1e-3),
    "first_passes": Shown("passes waited for by a first token", "", 1.0),
    "round_sequence_s": Shown("round overhead of a sequence, besides", "us", 1e-6),
    "round_overhead_s": Shown("round overhead", "us", 1e-6),
    "draft_round_s": Shown("round of a draft model, besides", "us", 1e-6),
    "search_s": Shown("search of a sequence", "us", 1e-6),
    "draft_flops": Shown("time of a FLOP of a drafter, over the target's"),
    "attention_flops": Shown("time of a FLOP of attention, over others'"),
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
HEADLINES = {"flop_per_s": "arithmetic", "bytes_per_s": "memory bandwidth", "memory_bytes": "memory"}
BESIDE = {"flop_scale": "s/FLOP", "mem_scale": "s/B"}


def error_text(number: "Number") -> str:
    """Return the error in percent."""
    return f"+- {100 * number.error:.3g} %" if number.error else ""


def full_name(number: "Number") -> str:
    """Return a number's name, and what it belongs to."""
    name = SHOWN[number.key].name_of(number)
    return f"{number.of}: {name}" if number.of else name


def listed_json(profile: "Profile") -> dict[str, Any]:
    """Return a profile of the list: in bfloat16, else in float16, else in its fastest number format."""
    from simulator.costs.profile import DATASHEET

    fastest = {dtype: peak(cost.flop_scale) for dtype, cost in profile.passes.items()}
    usual = [dtype for dtype in ("bfloat16", "float16") if dtype in fastest]
    dtype = usual[0] if usual else max(fastest, key=lambda d: fastest[d], default=None)
    return {
        "name": profile.name,
        "device": profile.device,
        "status": profile.status,
        "is_measured": profile.status != DATASHEET,
        "memory_bytes": profile.memory_bytes,
        "bytes_per_s": None if dtype is None else peak(profile.passes[dtype].mem_scale),
        "flop_per_s": None if dtype is None else fastest[dtype],
        "dtype": dtype,
        "load_w": profile.power and profile.power.load_w,
        "dtypes": list(profile.passes),
    }


def row_of(listed: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the row of a profile in the list."""
    memory, bytes_per_s, flop_per_s, load_w = (
        listed[n] for n in ("memory_bytes", "bytes_per_s", "flop_per_s", "load_w")
    )
    return (
        listed["name"],
        f"{memory / 2**30:.0f} GiB" if memory else "",
        f"{bytes_per_s / 1e9:.0f} GB/s" if bytes_per_s else "",
        f"{flop_per_s / 1e12:.4g} TFLOP/s" if flop_per_s else "",
        listed["dtype"] or "",
        f"{load_w:.0f} W" if load_w else "",
        listed["status"],
    )


def peak(curve: "Curve") -> float:
    """Return the units of work a second where they are fastest."""
    return float(1 / curve.seconds.min())


def profile_text(profile: "Profile") -> str:
    """Return all that a profile says."""
    from simulator.costs.compare import cost_numbers, costs_by_name, device_numbers

    named = [(full_name(number), number) for number in device_numbers(profile)]
    parts = [f"{reached(profile)}\n{profile.device}", numbers_text(named)]
    for name, cost in costs_by_name(profile).items():
        rows = [(SHOWN[number.key].name_of(number), number) for number in cost_numbers(name, cost)]
        parts.append("\n".join([name, numbers_text(rows), *correlations(cost)]))
    parts.append("\n".join(["sources", *sources_text(profile)]) if profile.sources else "no sources")
    parts += ["\n".join(["notes", *(f"  {note}" for note in profile.notes)])] if profile.notes else []
    return "\n\n".join(parts)


def reached(profile: "Profile") -> str:
    """Say what forecasts reckon a device to do, in the number format of the list, and by what."""
    listed = listed_json(profile)
    if listed["dtype"] is not None:
        does = f"reads {listed['bytes_per_s'] / 1e9:.4g} GB/s and computes {listed['flop_per_s'] / 1e12:.4g} TFLOP/s"
        does += f" in {listed['dtype']}"
    elif profile.decoding is not None:
        does = f"has times of {profile.decoding.target} with {profile.decoding.draft}"
    else:
        does = "has costs of burn units alone"
    return f"{profile.name} {does}: {profile.status}."


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


class Difference(NamedTuple):
    """A number that two profiles do not share; one of them may lack it."""

    one: "Number | None"
    other: "Number | None"
    verdict: str

    @property
    def number(self) -> "Number":
        """Either."""
        number = self.one or self.other
        assert number is not None
        return number

    @property
    def ratio(self) -> float | None:
        """The second over the first, as they are shown; None where there is none."""
        if self.one is None or self.other is None:
            return None
        shown = SHOWN[self.number.key]
        before, now = shown.value(self.one), shown.value(self.other)
        return now / before if before and math.isfinite(before) else None

    def row(self) -> tuple[str, ...]:
        """Return it as a row of text."""
        shown = SHOWN[self.number.key]
        cells = [f"{shown.text(side)} {error_text(side)}".rstrip() if side else "" for side in (self.one, self.other)]
        return (full_name(self.number), *cells, "" if self.ratio is None else f"{self.ratio:.4g}", self.verdict)

    def as_json(self) -> dict[str, Any]:
        """Return it for programs; numbers in the unit."""
        shown = SHOWN[self.number.key]
        values = {
            side: n and {"value": shown.value(n), "relative_error": n.error}
            for side, n in zip("ab", self[:2], strict=True)
        }
        name = {"name": full_name(self.number), "unit": shown.unit}
        return name | values | {"ratio": self.ratio, "verdict": self.verdict or None}


# Costs that one of two profiles lacks: whose they are, and which has them.
OneSided = tuple[str, str]


def compared(a: "Profile", b: "Profile") -> tuple[list[Difference], list[OneSided], list[str]]:
    """Return the numbers that differ, the costs that one profile lacks, and the words that are not the same."""
    from simulator.costs.compare import costs_by_name, device_numbers
    from simulator.costs.profile import BURN_UNITS, DATASHEET

    both_measured = DATASHEET not in (a.status, b.status)
    found = list(differences(device_numbers(a), device_numbers(b), both_measured))
    one_sided: list[OneSided] = []
    costs = costs_by_name(a), costs_by_name(b)
    for name in sorted({**costs[0], **costs[1]}, key=lambda name: name == BURN_UNITS):
        sides = costs[0].get(name), costs[1].get(name)
        if sides[0] is None or sides[1] is None:
            one_sided.append((name, "B" if sides[0] is None else "A"))
        else:
            found += cost_differences(name, sides[0], sides[1], both_measured)
    words = ("device", "status", "sources", "notes")
    return found, one_sided, [word for word in words if getattr(a, word) != getattr(b, word)]


def diff_text(a: "Profile", b: "Profile") -> str:
    """Return what differs between two profiles, the answer first, then a line each."""
    found, one_sided, words = compared(a, b)
    head = f"A: {a.name}: {a.device}, {a.status}\nB: {b.name}: {b.device}, {b.status}"
    if not found and not one_sided and not words:
        return f"{head}\n\nsame"
    rows = [difference.row() for difference in found]
    rows += [(name, *("yes" if side == has else "" for side in "AB"), "", f"in {has} only") for name, has in one_sided]
    parts = [table([("", "A", "B", "B/A", ""), *rows], left=(0, 4))] if rows else ["every number is the same"]
    changed = "\n".join(f"{word}: not the same" for word in words)
    return "\n\n".join(filter(None, [f"{headline(a, b, found)}\n{head}", *parts, changed]))


def headline(a: "Profile", b: "Profile", found: list[Difference]) -> str:
    """Say what differs, in a line: verdicts where there are any, else what forecasts hang on most."""
    verdicts = [difference.verdict for difference in found if difference.verdict]
    said = [f"{verdicts.count(verdict)} {verdict}" for verdict in dict.fromkeys(verdicts)]
    one, other = listed_json(a), listed_json(b)
    for key, name in HEADLINES.items():
        if not verdicts and one["dtype"] == other["dtype"] and one[key] and other[key] and one[key] != other[key]:
            said.append(f"{name} {other[key] / one[key]:.3g}x")
    return f"{b.name} over {a.name}: {len(found)} numbers differ{''.join(f', {words}' for words in said)}"


def diff_json(a: "Profile", b: "Profile") -> dict[str, Any]:
    """Return the same for programs."""
    found, one_sided, words = compared(a, b)
    return {
        "same": not (found or one_sided or words),
        "numbers": [difference.as_json() for difference in found],
        "only_in": [{"costs": name, "profile": side.lower()} for name, side in one_sided],
        "not_the_same": words,
    }


def cost_differences(name: str, a: "PassCost", b: "PassCost", both_measured: bool) -> Iterator[Difference]:
    """Yield each number of a pass that differs; curves are compared at the sizes of both."""
    from simulator.costs.compare import cost_numbers, joint_sizes

    sizes = joint_sizes(a.flop_scale, b.flop_scale), joint_sizes(a.mem_scale, b.mem_scale)
    yield from differences(cost_numbers(name, a, *sizes), cost_numbers(name, b, *sizes), both_measured)


def differences(a: "Iterable[Number]", b: "Iterable[Number]", both_measured: bool) -> Iterator[Difference]:
    """Yield each number that differs."""
    from simulator.costs.compare import matched, verdict

    for one, other in matched(a, b):
        if one != other:
            judged = both_measured and one is not None and other is not None
            yield Difference(one, other, verdict(one, other) if judged and one and other else "")


if __name__ == "__main__":
    profiles(prog_name="profiles")
