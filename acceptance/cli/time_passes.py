"""The command `bench-decode time-passes`: parse, time, write, print."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import click

from acceptance.bench.passes import LEAST_REPEATS
from simulator.ground.artefacts import check_outputs, to_json, write_json
from simulator.ground.command import FILE, command, progress, say, table

from .decode_options import RECORD_HOST


@command("time-passes", short_help="Time forward passes of models with random weights.")
@click.option("--target-model", required=True, help="config.json, its folder, or a name of the catalogue of shapes.")
@click.option("--draft-model", required=True, help="The same, of the draft.")
@click.option("--batch", default="1", metavar="VALUES", help="Sequences at a time.")
@click.option("--context", default="512", metavar="VALUES", help="Tokens that the KV cache holds of each.")
@click.option("--k", default="1:8", metavar="VALUES", help="Draft lengths to verify.")
@click.option("--dtype", type=click.Choice(("float32", "bfloat16", "float16")), default="bfloat16", help="Weights.")
@click.option("--device", default="cpu", help="cpu, or cuda:0.")
@click.option("--repeats", type=click.IntRange(LEAST_REPEATS, 100_000), default=15, help="Samples of each pass.")
@click.option("--seed", type=click.IntRange(0, 2**31), default=0, help="Of orders, caches and tokens.")
@RECORD_HOST
@click.option("--out", type=FILE, default=Path("passes.json"), help="What was timed, for calibrate --from-passes.")
@click.option("--json", "as_json", is_flag=True, help="Print what was timed as JSON.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def time_passes(*, as_json: bool, **values: Any) -> None:
    """Time passes of a target and a draft by batch, context and new tokens.

    Models are built from their config.json with random weights, and the KV cache is filled with random numbers: time
    hangs on neither. Passes that find no memory are left out, with the reason; Ctrl-C keeps what was timed.
    """
    from acceptance.bench import pass_times

    options = pass_times.PassOptions(**values)
    configs = {f"--{role}-model": path for role, (path, _) in options.configs.items()}
    check_outputs({"--out": options.out}, options.force, configs)
    written = pass_times.time_passes(options, partial(progress, "timing"))
    write_json(options.out, written)
    if as_json:
        click.echo(to_json(written), nl=False)
    else:
        say(f"{headline(written)}\n\n{text(written)}\n")
        click.echo(f"wrote {options.out}")
    if written["interrupted"]:
        kept = f"what was timed is kept in {options.out}, with --force the same command begins anew"
        raise KeyboardInterrupt(kept)


def headline(written: Mapping[str, Any]) -> str:
    """Say what the shortest and the longest pass of each model take, where batch and context are smallest."""
    batch, context = min((p["batch"], p["context"]) for p in written["points"])
    words = []
    for role in ("target", "draft"):
        points = [p for p in written["points"] if (p["role"], p["batch"], p["context"]) == (role, batch, context)]
        ends = {p["new_tokens"]: f"{1e3 * p['median_s']:.3f} ms" for p in sorted(points, key=lambda p: p["new_tokens"])}
        if ends:
            least, most = min(ends), max(ends)
            of_most = f", with {most} {ends[most]}" if most > least else ""
            words.append(f"of the {role} with {least} new token{'s' * (least > 1)} {ends[least]}{of_most}")
    return f"A pass at batch {batch}, context {context} takes {'; '.join(words)}."


def text(written: Mapping[str, Any]) -> str:
    """Return a row for each pass."""
    rows = [("model", "role", "batch", "context", "new tokens", "median", "std. error")]
    for point in written["points"]:
        sizes = (point[name] for name in ("batch", "context", "new_tokens"))
        error = f"{point['error_s'] / point['median_s']:.1%}"
        rows.append((point["model"], point["role"], *map(str, sizes), f"{point['median_s'] * 1e3:.3f} ms", error))
    for point in written["left_out"]:
        sizes = (point[name] for name in ("batch", "context", "new_tokens"))
        rows.append((point["model"], point["role"], *map(str, sizes), "left out", point["reason"]))
    return table(rows, left=(0, 1))
