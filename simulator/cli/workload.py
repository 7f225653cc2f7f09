"""The command `workload`: what recorded traffic is like."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from simulator.ground.artefacts import check_outputs, envelope, to_json
from simulator.ground.command import FILE, OneLineErrorsGroup, command, say, table, wrapped

if TYPE_CHECKING:
    from simulator.workloads.readers.columns import Workload
    from simulator.workloads.statistics import Lengths, Statistics

# A law that is farther than this from what was recorded is no stand-in for it.
FAR = 0.05
# Share of gaps that are none: more of them are hardly chance.
FEW = 0.02


@command("workload", cls=OneLineErrorsGroup, no_args_is_help=False)
def workload() -> None:
    """Workloads: what clients send, as recorded traffic tells it."""


@command("describe")
@click.argument("file", type=FILE)
@click.option("--tokenizer", type=FILE, help="Folder with a tokenizer.json that counts the tokens of texts.")
@click.option("--json", "as_json", is_flag=True, help="Print all figures as JSON.")
@click.option("--plot", type=FILE, help="Draw lengths and arrivals (.png or .svg).")
@click.option("--force", is_flag=True, help="Overwrite an existing picture.")
def describe(file: Path, tokenizer: Path | None, as_json: bool, plot: Path | None, force: bool) -> None:
    """Describe the requests of a file: lengths, arrivals, shared text, and laws that come close.

    FILE is recorded traffic: Azure LLM 2023 and 2024, BurstGPT, Mooncake (also Dynamo's sessions and agents),
    Bailian, ShareGPT, prompts of vLLM's custom data sets, MT-Bench and Spec-Bench, a result of vLLM's or SGLang's
    bench, or rows of prompt_tokens, output_tokens and sent_s. Its content says which; it may be packed, and CSV, JSON
    or Parquet.
    """
    from simulator.ground.pictures import check_format
    from simulator.workloads.readers.format import Options
    from simulator.workloads.reading import read_workload
    from simulator.workloads.statistics import statistics_of

    check_format(plot)
    check_outputs({"--plot": plot}, force, {"FILE": file})
    found = read_workload(file, Options(tokenizer))
    statistics = statistics_of(found)
    if plot is not None:
        from simulator.workloads.plots import draw

        draw(plot, found, statistics)
    if as_json:
        parameters = {"file": str(file), "tokenizer": None if tokenizer is None else str(tokenizer)}
        payload = envelope("workload", 1, parameters) | as_payload(found, statistics)
        click.echo(to_json(payload), nl=False)
        return
    say(text_of(found, statistics))


def as_payload(found: "Workload", statistics: "Statistics") -> dict[str, object]:
    """Return all figures under plain keys."""
    figures: dict[str, object] = statistics._asdict()
    for side in ("prompt", "output"):
        lengths: Lengths = getattr(statistics, side)
        percentiles = {f"p{p}": value for p, value in lengths.percentiles.items()}
        figures[side] = lengths._asdict() | percentiles | {"law": lengths.law}
        del figures[side]["percentiles"]  # type: ignore[attr-defined]
    return {
        "format": found.format,
        "is_timed": found.is_timed,
        "categories": category_counts(found),
        "notes": list(found.notes),
        **figures,
    }


def category_counts(found: "Workload") -> dict[str, int]:
    """Return how many requests each category has."""
    import numpy as np

    counts = np.bincount(found.requests.category, minlength=len(found.categories))
    return {name: int(counts[i]) for i, name in enumerate(found.categories)}


def text_of(found: "Workload", statistics: "Statistics") -> str:
    """Return what a reader wants to know, in a table and lines."""
    from simulator.workloads.statistics import PERCENTILES

    head = f"{found.path}: {statistics.requests:,} requests, {found.format}"
    rows = [("", "mean", *(f"p{p}" for p in PERCENTILES), "most", "lognormal", "off by")]
    for name, lengths in (("prompt tokens", statistics.prompt), ("answer tokens", statistics.output)):
        row = (lengths.mean, *lengths.percentiles.values(), lengths.most)
        rows.append((name, *(f"{v:,.0f}" for v in row), lengths.law.partition(":")[2], f"{lengths.off_by:.0%}"))
    lines = [arrivals_in_words(found, statistics)]
    if (statistics.together or 0) > FEW:
        lines.append(
            f"{statistics.together:.0%} are sent at the time of the one before: gaps tell of the clock as well"
        )
    if statistics.sessions:
        lines.append(f"{statistics.sessions:,} sessions")
    if statistics.shareable:
        lines.append(f"{statistics.shareable:.1%} of prompts' tokens stand in an earlier request, behind the same text")
    if found.categories:
        named = ", ".join(f"{name or 'none'} {count:,}" for name, count in category_counts(found).items())
        lines.append(f"by category: {named}")
    lines.append(f"laws: --isl {statistics.prompt.law} --osl {statistics.output.law}{said_of_rate(statistics)}")
    if max(statistics.prompt.off_by, statistics.output.off_by) > FAR:
        drawn = f"--isl file:{found.path} --osl file:{found.path}"
        lines.append(f"these laws are off by more than {FAR:.0%}: {drawn} draw what was recorded")
    return f"{wrapped([head])}\n\n{table(rows)}\n\n{wrapped([*lines, *found.notes])}"


def arrivals_in_words(found: "Workload", statistics: "Statistics") -> str:
    """Say when requests are sent."""
    if statistics.rate is None or statistics.span_s is None:
        return (
            "when they were sent is not told" if not found.is_timed else "all sent at once, or too few to tell a rate"
        )
    prompt, answer = statistics.prompt_tokens_per_s, statistics.output_tokens_per_s
    return (
        f"sent within {in_words(statistics.span_s)}: {statistics.rate:.3g} requests/s (gaps' CV "
        f"{statistics.gaps_cv:.2f}, 1 of Poisson), {prompt:,.0f} prompt and {answer:,.0f} answer tokens/s"
    )


def said_of_rate(statistics: "Statistics") -> str:
    """Return the options of the same rate and burstiness."""
    if statistics.rate is None:
        return ""
    return f" --rate {statistics.rate:.3g} --burstiness {statistics.burstiness:.3g}"


def in_words(seconds: float) -> str:
    """Return a time in the unit that fits."""
    for size, unit in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds > 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.3g} s"


workload.add_command(describe)


if __name__ == "__main__":
    workload(prog_name="workload")
