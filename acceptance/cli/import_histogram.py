"""The command `measure-acceptance import`: what another tool measured becomes a histogram of ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from simulator.ground.artefacts import check_outputs, envelope, to_json
from simulator.ground.command import FILE, command
from simulator.ground.limits import MAX_DRAFT_LENGTH

# The keys of importers.formats.FORMATS, which NumPy stands behind: --help does without.
FORMATS = ("spec-bench", "vllm-metrics", "vllm-requests", "vllm-bench", "sglang", "aiperf")


@command("import", short_help="Read what another tool measured.")
@click.argument("file", type=FILE)
@click.option("--from", "format", type=click.Choice(FORMATS), required=True, help="Where the file comes from.")
@click.option("--k", type=click.IntRange(1, MAX_DRAFT_LENGTH), help="Draft length, where the file does not tell it.")
@click.option("--before", type=FILE, help="vllm-metrics: the same counters before the run, to be subtracted.")
@click.option("--out", type=FILE, help="Histogram to write.", show_default="accept_hist_k{K}.json")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--force", is_flag=True, help="Overwrite a file that exists.")
def import_measurement(**values: Any) -> None:
    """Read what another tool measured into accept_hist_k{K}.json, and say by which definition."""
    import_file(ImportOptions(**values))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What the user asked for, by the names of the options."""

    file: Path
    format: str
    k: int | None
    before: Path | None
    out: Path | None
    as_json: bool
    force: bool


def import_file(options: ImportOptions) -> None:
    """Import, write, print."""
    from acceptance.importers.formats import import_histogram
    from simulator.ground.histogram import save_histogram
    from simulator.ground.records import about_skipped

    source, before = options.file, options.before
    imported = import_histogram(options.format, source, k=options.k, before=before)
    histogram = imported.histogram
    out = options.out or Path(f"accept_hist_k{histogram.draft_length}.json")
    check_outputs({"--out": out}, options.force, {"FILE": source, "--before": before})
    notes = [*imported.notes, *filter(None, [about_skipped(source, imported.skipped)])]
    parameters = {"from": options.format, "file": str(source), "before": str(before) if before else None}
    extra = {
        "definition": imported.definition,
        "reconstructed": imported.reconstructed,
        "rounds_apart": imported.rounds_apart,
        "notes": notes,
    }
    numbers = {
        "tokens_per_round": histogram.tokens_per_round,
        "draft_acceptance_rate": histogram.draft_acceptance_rate,
        "alpha_iid": histogram.alpha_iid,
        "survival": histogram.survival.tolist(),
        "conditional": histogram.conditional.tolist(),
    }
    save_histogram(out, histogram, parameters | {"k": histogram.draft_length}, metrics=numbers, **extra)
    if options.as_json:
        payload = numbers | extra | {"files": [str(out)], "k": histogram.draft_length}
        click.echo(to_json(envelope("acceptance_import", 1, parameters) | payload), nl=False)
        return
    survival = " ".join(f"{s:.3f}" for s in histogram.survival)
    lines = [
        f"{histogram.samples:,.0f} rounds, K = {histogram.draft_length}: "
        f"{histogram.tokens_per_round:.3f} tokens/round, "
        f"{histogram.draft_acceptance_rate:.1%} of drafted tokens accepted, i.i.d. alpha {histogram.alpha_iid:.4f}",
        f"P(A >= j): {survival}",
        imported.definition,
        *notes,
    ]
    click.echo("\n".join(lines) + f"\n\nwrote {out}")
