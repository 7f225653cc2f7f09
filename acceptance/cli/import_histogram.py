"""The command `measure-acceptance import`: what another tool measured becomes a histogram of ours."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.ground.artefacts import UserError, check_outputs, envelope, to_json
from simulator.ground.command import FILE, command, say
from simulator.ground.limits import MAX_DRAFT_LENGTH

if TYPE_CHECKING:
    from acceptance.importers.imported import Imported

# The keys of importers.formats.FORMATS, which NumPy stands behind: --help does without.
FORMATS = (
    *("vllm-log", "vllm-metrics", "guidellm", "aiperf", "vllm-bench", "vllm-requests", "trtllm"),
    *("sglang", "llama-cpp", "spec-bench", "eagle"),
)


@command("import", short_help="Read what another tool measured.")
@click.argument("file", type=FILE, required=False)
@click.option(
    "--from",
    "format",
    type=click.Choice(FORMATS),
    metavar="FORMAT",
    help=f"Where FILE is from: {', '.join(FORMATS)}.  [default: by its content]",
)
@click.option("--rates", metavar="R1,R2,...", help="In place of FILE: the share of rounds that accepted each position.")
@click.option("--k", type=click.IntRange(1, MAX_DRAFT_LENGTH), help="Draft length, where the file does not tell it.")
@click.option("--before", type=FILE, help="A server's /metrics before the run, to be subtracted from FILE.")
@click.option("--out", type=FILE, help="Histogram to write.", show_default="accept_hist_k{K}.json")
@click.option("--out-dir", type=FILE, help="Folder for it.", show_default="here")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--force", is_flag=True, help="Overwrite a file that exists.")
def import_measurement(**values: Any) -> None:
    """Read what another tool measured into accept_hist_k{K}.json, and say by which definition."""
    import_file(ImportOptions(**values))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """What the user asked for, by the names of the options."""

    file: Path | None
    format: str | None
    rates: str | None
    k: int | None
    before: Path | None
    out: Path | None
    out_dir: Path | None
    as_json: bool
    force: bool


def import_file(options: ImportOptions) -> None:
    """Import, write, print."""
    from simulator.ground.histogram import save_histogram
    from simulator.ground.records import about_skipped

    imported = imported_by(options)
    histogram, source, before = imported.histogram, options.file, options.before
    out = output_of(options, histogram.draft_length)
    check_outputs({"--out": out}, options.force, {"FILE": source, "--before": before})
    notes = list(imported.notes)
    if source is not None:
        notes += filter(None, [about_skipped(source, imported.skipped)])
    parameters = {
        "from": imported.format,
        "file": str(source) if source else None,
        "before": str(before) if before else None,
        "rates": options.rates,
        "target": imported.model or None,
    }
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
        "steps_without_draft": imported.steps_without_draft,
    }
    save_histogram(out, histogram, parameters | {"k": histogram.draft_length}, metrics=numbers, **extra)
    if options.as_json:
        payload = numbers | extra | {"files": [str(out)], "k": histogram.draft_length}
        click.echo(to_json(envelope("acceptance_import", 1, parameters) | payload), nl=False)
        return
    rounds = "an unknown number of rounds" if histogram.is_law else f"{histogram.samples:,.0f} rounds"
    survival = " ".join(f"{s:.3f}" for s in histogram.survival)
    lines = [
        f"At K = {histogram.draft_length} a round commits {histogram.tokens_per_round:.3f} tokens, by {rounds}.",
        f"{histogram.draft_acceptance_rate:.1%} of drafted tokens accepted, i.i.d. alpha {histogram.alpha_iid:.4f}",
        f"P(A >= j): {survival}",
        *(
            [f"taken for {imported.format} by its content"]
            if options.rates is None and options.format != imported.format
            else []
        ),
        imported.definition,
        *notes,
    ]
    say("\n".join(lines))
    click.echo(f"\nwrote {out}")


def imported_by(options: ImportOptions) -> "Imported":
    """Import the file, or rates that were typed."""
    from acceptance.importers.by_hand import import_rates
    from acceptance.importers.formats import import_histogram

    if options.rates is not None:
        for name, value in (("FILE", options.file), ("--from", options.format), ("--before", options.before)):
            if value is not None:
                raise UserError(f"{name}: not used with --rates")
        return import_rates(options.rates, options.k)
    if options.file is None:
        raise UserError("FILE: nothing to import, expected a file of another tool, or --rates 0.72,0.55,...")
    return import_histogram(options.format, options.file, k=options.k, before=options.before)


def output_of(options: ImportOptions, draft_length: int) -> Path:
    """Return the file to write: --out, or the file's usual name in --out-dir, or in --out where that is a folder."""
    if options.out is not None and options.out_dir is not None:
        raise UserError("--out-dir: not used with --out, expected one of them")
    folder = options.out_dir or (options.out if options.out is not None and options.out.is_dir() else None)
    if options.out is not None and folder is None:
        return options.out
    return (folder or Path()) / f"accept_hist_k{draft_length}.json"
