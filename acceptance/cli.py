"""The command `measure-acceptance`: parse, load, measure, write, print."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.artefacts import UserError, check_output, envelope, to_json
from simulator.command import command, progress, table
from simulator.dependency import Dependency, require

if TYPE_CHECKING:
    from simulator.histogram import AcceptanceHistogram

    from .trace import Trace

TINY_PAIR = Path(__file__).parent / "tiny_pair"
FILE = click.Path(path_type=Path)
BUNDLED = "bundled"
MAX_DRAFT_LENGTH = 1024
PURPOSE = "running the models of measure-acceptance"
LIBRARIES = [Dependency(import_name=name, purpose=PURPOSE, extra="measure") for name in ("torch", "transformers")]


def draft_lengths(text: str) -> list[int]:
    """Read --k: one draft length, a list or a range.

    Raises:
        UserError: Not whole numbers from 1 to MAX_DRAFT_LENGTH.
    """
    from simulator.values import parse_values

    values = parse_values("--k", text)
    for value in values:
        if not (value.is_integer() and 1 <= value <= MAX_DRAFT_LENGTH):
            raise UserError(f"--k: {value:g} is not allowed, expected whole numbers from 1 to {MAX_DRAFT_LENGTH}")
    return [int(v) for v in values]


@command("measure-acceptance")
@click.option("--target", default=BUNDLED, help="Folder or hub id.")
@click.option("--draft", default=BUNDLED, help="Folder or hub id.")
@click.option(
    "--prompts",
    default=BUNDLED,
    help='JSONL of {"prompt": ...}, or plain text with one prompt a line.',
)
@click.option("--k", default="4", metavar="VALUES", help="Draft length, list or range (1:8); a histogram for each.")
@click.option("--temperature", default=0.0, help="Of target and draft, 0.01 to 100; 0: greedy.")
@click.option("--max-new-tokens", default=128, type=click.IntRange(1), help="Tokens the target writes a prompt.")
@click.option("--device", default="auto", help="torch device, such as cpu or cuda:0.")
@click.option("--dtype", type=click.Choice(("auto", "float32", "float16", "bfloat16")), default="auto", help="Weights.")
@click.option("--seed", default=0, type=click.IntRange(0, 2**31), help="Seed of the sampling.")
@click.option("--out-dir", type=FILE, default=Path(), show_default="here", help="Folder for the files.")
@click.option("--json", "as_json", is_flag=True, help="Print the metrics as JSON.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
def measure_acceptance(**options: Any) -> None:
    """Measure what a draft/target pair accepts, and write accept_hist_k{K}.json for each K.

    The target continues the prompts; both models then score that text. From the resulting trace the exact
    histogram of every draft length follows, without running the speculative loop.
    """
    lengths, out = draft_lengths(options["k"]), options["out_dir"]
    # Written so that NaN fails as well, which click's own range lets through.
    if not (options["temperature"] == 0 or 0.01 <= options["temperature"] <= 100):
        raise UserError(f"--temperature: {options['temperature']:g} is not allowed, expected 0 or 0.01 to 100")
    if lengths[-1] > options["max_new_tokens"]:
        raise UserError(f"--k: {lengths[-1]} is above --max-new-tokens, expected 1 to {options['max_new_tokens']}")
    for name in ["trace.npz", "trace.json", *(f"accept_hist_k{k}.json" for k in lengths)]:
        check_output("--out-dir", out / name, options["force"])
    trace, parameters = run(options)
    report(trace, lengths, parameters, options)


def place(given: str, name: str) -> str:
    """Return where the user's model or prompts are: a path or hub id as given, or the bundled one of that name."""
    return str(TINY_PAIR / name) if given == BUNDLED else given


def run(options: dict[str, Any]) -> "tuple[Trace, dict[str, Any]]":
    """Load the pair and measure; returns the trace and what it was told."""
    from .prompts import load_prompts

    prompts = load_prompts(Path(place(options["prompts"], "prompts.jsonl")))
    # OpenMP threads that spin while they wait make small models many times slower as soon as a core is busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    libraries = {library.import_name: require(library).__version__ for library in LIBRARIES}
    from .measure import measure
    from .models import load_pair

    target, draft = (place(options[name], name) for name in ("target", "draft"))
    pair = load_pair(target, draft, device=options["device"], dtype=options["dtype"])
    told = {k: options[k] for k in ("temperature", "max_new_tokens", "seed")}
    with progress("measuring", len(prompts)) as bar:
        trace = measure(pair, prompts, **told, progress=bar.update)
    names = {k: options[k] for k in ("target", "draft", "prompts")}
    settings = {"device": pair.device, "dtype": pair.dtype, "prompt_count": len(prompts)}
    q_kind = "greedy" if options["temperature"] == 0 else "sampled"
    return trace, told | names | settings | libraries | {"q_kind": q_kind}


def report(trace: "Trace", lengths: list[int], parameters: dict[str, Any], options: dict[str, Any]) -> None:
    """Write the trace and the histograms, and print what they say."""
    from simulator.histogram import save_histogram

    from .estimators import acceptance_histogram, metrics
    from .trace import save_trace

    out: Path = options["out_dir"]
    files = list(save_trace(out, trace, parameters))
    histograms = {k: acceptance_histogram(trace, k) for k in lengths}
    found = {k: metrics(trace, h) for k, h in histograms.items()}
    for k, histogram in histograms.items():
        files.append(out / f"accept_hist_k{k}.json")
        save_histogram(files[-1], histogram, parameters | {"k": k}, metrics=found[k])
    if options["as_json"]:
        written = {"files": [str(f) for f in files], "metrics": {str(k): m for k, m in found.items()}}
        click.echo(to_json(envelope("acceptance_measurement", 1, parameters) | written), nl=False)
        return
    click.echo(result_text(trace, histograms, found, parameters))
    for file in files:
        click.echo(f"wrote {file}")


def result_text(
    trace: "Trace",
    histograms: "dict[int, AcceptanceHistogram]",
    found: dict[int, Any],
    parameters: dict[str, Any],
) -> str:
    """Return the report for a terminal."""
    heading = (
        f"{len(trace.accept):,} tokens of the target after {trace.prompts} prompts, "
        f"temperature {parameters['temperature']:g}, {parameters['q_kind']} draft"
    )
    rows = [("K", "tokens/round", "accepted of drafted", "i.i.d. alpha", "rounds", "cut by the end")]
    for k, h in histograms.items():
        rate, alpha = f"{h.draft_acceptance_rate:.1%}", f"{h.alpha_iid:.4f}"
        rows.append(
            (str(k), f"{h.tokens_per_round:.3f}", rate, alpha, f"{h.samples:,.1f}", f"{found[k]['rounds_cut']:,.1f}")
        )
    single = f"a single drafted token is accepted with probability {trace.accept.mean():.4f}"
    return "\n".join([heading, single, "", table(rows), ""])
