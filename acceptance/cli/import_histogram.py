"""The command `measure-acceptance import`: what another tool measured becomes a histogram of ours."""

from dataclasses import dataclass, replace
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
# Of a file with several draft lengths.
CHOSEN = "one of several draft lengths of the file: which rounds drafted so many tokens was the server's choice"


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

    found = imports_by(options)
    outs = [output_of(options, imported.histogram.draft_length) for imported in found]
    inputs = {"FILE": options.file, "--before": options.before}
    check_outputs({"--out": outs}, options.force, inputs)
    payloads = []
    # Of several, each names all: one that was not written is missed.
    lengths = [imported.histogram.draft_length for imported in found]
    siblings = {"draft_lengths": lengths} if len(found) > 1 else {}
    for imported, out in zip(found, outs, strict=True):
        parameters, (numbers, extra) = parameters_of(options, imported), told_of(options.file, imported)
        k = imported.histogram.draft_length
        save_histogram(out, imported.histogram, parameters | {"k": k}, metrics=numbers, **extra, **siblings)
        payloads.append(numbers | extra | {"files": [str(out)], "k": k})
    if options.as_json:
        answer = envelope("acceptance_import", 1, parameters_of(options, found[0])) | payloads[0]
        several = {"files": [*map(str, outs)], "imports": payloads} if len(payloads) > 1 else {}
        click.echo(to_json(answer | several), nl=False)
        return
    for imported, out, payload in zip(found, outs, payloads, strict=True):
        say("\n".join(lines_of(options, imported, payload["notes"])))
        click.echo(f"\nwrote {out}{chr(10) * (imported is not found[-1])}")


def parameters_of(options: ImportOptions, imported: "Imported") -> dict[str, Any]:
    """Return what a histogram was made from, under plain keys."""
    return {
        "from": imported.format,
        "file": str(options.file) if options.file else None,
        "before": str(options.before) if options.before else None,
        "rates": options.rates,
        "target": imported.model or None,
    }


def told_of(file: Path | None, imported: "Imported") -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the metrics of what was imported, and what it is, under plain keys."""
    from simulator.ground.records import about_skipped

    histogram, notes = imported.histogram, list(imported.notes)
    if file is not None:
        notes += filter(None, [about_skipped(file, imported.skipped)])
    numbers = {
        "tokens_per_round": histogram.tokens_per_round,
        "draft_acceptance_rate": histogram.draft_acceptance_rate,
        "alpha_iid": histogram.alpha_iid,
        "survival": histogram.survival.tolist(),
        "conditional": histogram.conditional.tolist(),
        "steps_without_draft": imported.steps_without_draft,
    }
    extra = {
        "definition": imported.definition,
        "reconstructed": imported.reconstructed,
        "rounds_apart": imported.rounds_apart,
        "notes": notes,
    }
    if imported.by_length is not None:
        extra["by_draft_length"] = {str(d): list(counts) for d, counts in imported.by_length.items()}
    return numbers, extra


def lines_of(options: ImportOptions, imported: "Imported", notes: list[str]) -> list[str]:
    """Return what is said of what was imported."""
    histogram = imported.histogram
    rounds = "an unknown number of rounds" if histogram.is_law else f"{histogram.samples:,.0f} rounds"
    survival = " ".join(f"{s:.3f}" for s in histogram.survival)
    by_content = options.rates is None and options.format != imported.format
    return [
        f"At K = {histogram.draft_length} a round commits {histogram.tokens_per_round:.3f} tokens, by {rounds}.",
        f"{histogram.draft_acceptance_rate:.1%} of drafted tokens accepted, i.i.d. alpha {histogram.alpha_iid:.4f}",
        f"P(A >= j): {survival}",
        *([f"taken for {imported.format} by its content"] if by_content else []),
        imported.definition,
        *notes,
    ]


def imports_by(options: ImportOptions) -> "list[Imported]":
    """Import the file, or rates that were typed: one histogram, or one a draft length where a file has several."""
    from acceptance.importers.by_hand import import_rates
    from acceptance.importers.formats import import_histogram
    from acceptance.importers.imported import SeveralLengths

    if options.rates is not None:
        for name, value in (("FILE", options.file), ("--from", options.format), ("--before", options.before)):
            if value is not None:
                raise UserError(f"{name}: not used with --rates")
        return [import_rates(options.rates, options.k)]
    if options.file is None:
        raise UserError("FILE: nothing to import, expected a file of another tool, or --rates 0.72,0.55,...")
    try:
        return [import_histogram(options.format, options.file, k=options.k, before=options.before)]
    except SeveralLengths as error:
        if len(error.lengths) < 2 or (options.out is not None and not options.out.is_dir()):
            raise
        lengths = error.lengths
    found = [import_histogram(options.format, options.file, k=k, before=options.before) for k in lengths]
    return [replace(imported, notes=(*imported.notes, CHOSEN)) for imported in found]


def output_of(options: ImportOptions, draft_length: int) -> Path:
    """Return the file to write: --out, or the file's usual name in --out-dir, or in --out where that is a folder."""
    if options.out is not None and options.out_dir is not None:
        raise UserError("--out-dir: not used with --out, expected one of them")
    folder = options.out_dir or (options.out if options.out is not None and options.out.is_dir() else None)
    if options.out is not None and folder is None:
        return options.out
    return (folder or Path()) / f"accept_hist_k{draft_length}.json"
