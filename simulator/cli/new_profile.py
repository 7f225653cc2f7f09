"""The command `profiles new`: a device from a few numbers of its data sheet."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.ground.artefacts import UserError, check_outputs, to_json
from simulator.ground.command import FILE, command, say

if TYPE_CHECKING:
    from simulator.costs.datasheet import DataSheet

# Rates of arithmetic by the options that state them.
RATES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "fp8": "fp8", "int8": "int8", "fp4": "nvfp4"}


def rate_options(function: Any) -> Any:
    """Add an option for each rate."""
    for name in reversed(RATES):
        about = f"Peak dense arithmetic in {name}: 121TFLOP/s."
        function = click.option(f"--{name}", metavar="RATE", help=about)(function)
    return function


@command("new")
@click.argument("name")
@click.option("--memory", metavar="SIZE", required=True, help="Memory: 8GiB, or 8GB of 1000 MB each.")
@click.option("--bandwidth", metavar="RATE", required=True, help="Peak of the memory: 272GB/s, 1.8TB/s.")
@rate_options
@click.option("--link", metavar="RATE", help="Peak of the link to other devices, one direction: 32GB/s.")
@click.option("--power", metavar="WATTS", help="Under load: 115W.")
@click.option("--device", help="The device in full.  [default: NAME]")
@click.option("--out", type=FILE, help="The profile.  [default: NAME.json]")
@click.option("--json", "as_json", is_flag=True, help="Print the profile as JSON.")
@click.option("--force", is_flag=True, help="Overwrite a file that exists.")
def new(name: str, as_json: bool, force: bool, **stated: Any) -> None:
    """Make a profile of a device from a few numbers of its data sheet; all else is assumed as in those that come along.

    Rates are dense: where a sheet says "with sparsity", take half. For GeForce cards take the rates that accumulate in
    float32. A forecast names the profile's file: simulate --profile NAME.json.
    """
    from simulator.costs.profile_file import KIND, SCHEMA_VERSION, profile_json, save_profile

    out = stated["out"] or Path(f"{name}.json")
    if out.suffix != ".json":
        raise UserError(f"--out {out}: suffix {out.suffix!r}, expected .json")
    check_outputs({"--out": out}, force)
    profile = stated_sheet(name, stated).profile()
    given = {key: value for key, value in stated.items() if value is not None and key != "out"}
    save_profile(out, profile, {"name": name} | given)
    if as_json:
        click.echo(to_json({"kind": KIND, "schema_version": SCHEMA_VERSION, **profile_json(profile)}), nl=False)
        return
    notes = "\n".join(f"  {note}" for note in profile.notes)
    first = f"{name}: {profile.status}, in {', '.join(profile.passes)}"
    say(f"{first}\n\nnotes\n{notes}\n\nwrote {out} (profiles show {out})")


def stated_sheet(name: str, stated: Mapping[str, Any]) -> "DataSheet":
    """Return a data sheet of what a user states, by option; a UserError names a number without a unit."""
    from simulator.costs.datasheet import IN_FLOAT16, PCIE_S, TENTH, WEIGHT_ONLY, DataSheet
    from simulator.costs.profile import Power
    from simulator.ground.ranges import quantity

    def read(option: str, unit: str, example: str) -> float | None:
        text = stated[option]
        return None if text is None else quantity(f"--{option}", text, unit, f"a number with its unit: {example}")

    rates = {dtype: read(option, "FLOP/s", "121TFLOP/s") for option, dtype in RATES.items()}
    known = {dtype: rate for dtype, rate in rates.items() if rate is not None}
    for one, other in (("float16", "bfloat16"), ("bfloat16", "float16")):
        if one in known:
            known.setdefault(other, known[one])
    if not known:
        raise UserError("--bf16: is missing, expected a rate such as 121TFLOP/s, or one of another number format")
    power, link = read("power", "W", "115W"), read("link", "B/s", "32GB/s")
    said = ", ".join(f"{key} {stated[key]}" for key in ("memory", "bandwidth", *RATES, "link", "power") if stated[key])
    notes = [f"Stated, without a source: {said}.", WEIGHT_ONLY]
    notes += [] if "int8" in known else [IN_FLOAT16]
    return DataSheet(
        name=name,
        device=stated["device"] or name,
        flop_per_s=known,
        bytes_per_s=read("bandwidth", "B/s", "272GB/s") or 0.0,
        memory_bytes=round(read("memory", "B", "8GiB") or 0.0),
        link_bytes_per_s=link,
        link_latency_s=PCIE_S,
        power=(power and Power(load_w=power, idle_w=power / 10)) or None,
        notes=(*notes, *([TENTH] if power else [])),
    )
