"""The command `bench-decode`: parse, load, measure in turns, append, print. Its options are in `options`."""

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import click

from acceptance.bench.options import DecodeOptions
from acceptance.bench.presets import (
    BUNDLED_PRESETS,
    Presets,
    check_given_knobs,
    check_methods,
    load_presets,
    presets_text,
)
from acceptance.models.bundled import load_libraries
from acceptance.models.gguf import in_one_name
from acceptance.results.settings import KNOBS
from simulator.ground.artefacts import UserError, check_outputs, envelope, to_json
from simulator.ground.command import (
    EXIT_INTERRUPTED,
    FILE,
    OneLineErrorsGroup,
    command,
    is_given,
    progress,
    refuse_given,
    say,
)

from .decode_options import KNOB_OPTIONS, MACHINE_OPTIONS, OUTPUT_OPTIONS, RUN_OPTIONS, WHAT_OPTIONS
from .time_passes import time_passes

if TYPE_CHECKING:
    from acceptance.bench.clock import Span
    from acceptance.bench.turns import Bench, Turn
    from acceptance.results.journal import Journal

EXIT_FAILED = 1
# Options that name what is read.
READ = {name: f"--{name}" for name in ("config", "task", "target", "draft", "medusa", "eagle", "judge")}
READ |= {"dataset": "--prompts", "ngram_texts": "--ngram-texts"}
# Of what is wrong with a file, that are printed.
MAX_LINES = 20
# A timeline holds several spans a round: a few prompts say where time goes.
PROFILED_PROMPTS = 4


@command("bench-decode", cls=OneLineErrorsGroup, invoke_without_command=True)
@WHAT_OPTIONS
@RUN_OPTIONS
@KNOB_OPTIONS
@MACHINE_OPTIONS
@OUTPUT_OPTIONS
@click.pass_context
def bench_decode(context: click.Context, /, **values: Any) -> int:
    """Decode the same prompts with every method, in turns, and say which is how much faster.

    Every prompt is decoded by plain decoding and by each method, in an order drawn anew each time. Records are appended
    to --out when all methods are through with a prompt, or a batch of them; the same command goes on where it stopped.
    The exit code is 1 where a run failed.
    """
    began_s = perf_counter()
    if context.invoked_subcommand is not None:
        refuse_given(context, tuple(values), f"{context.invoked_subcommand}: give options behind it")
        return 0
    options, presets = options_of(context, {n: value for n, value in values.items() if is_given(context, n)})
    check(options)
    check_given_knobs(presets, options.method, [name for name in KNOBS if is_given(context, name)])
    load_libraries()
    from acceptance.bench.load import prepare

    bench, parameters, notes = prepare(options, presets)
    if options.dry_run:
        return forecast(bench, parameters, options, perf_counter() - began_s)
    return run(bench, parameters, notes, options)


def options_of(context: click.Context, given: Mapping[str, Any]) -> tuple[DecodeOptions, Presets | None]:
    """Return the options, and the presets asked for; an experiment fills what the command line does not say."""
    config, experiment = given.get("config"), given.get("experiment")
    if config is None and experiment is None:
        return DecodeOptions().with_values(in_one_name(given)), None
    presets = load_presets(config or BUNDLED_PRESETS, parameters_of(context))
    filled = {} if experiment is None else presets.values_of(experiment)
    return DecodeOptions().with_values(in_one_name(filled | dict(given))), presets


def parameters_of(context: click.Context) -> dict[str, click.Parameter]:
    """Return the options of `bench-decode` by name."""
    return {p.name: p for p in context.find_root().command.params if p.name}


def check(options: DecodeOptions) -> None:
    """Refuse what can be refused before anything is loaded."""
    from simulator.ground.pictures import check_format

    check_format(options.plot)
    if options.require_headless:
        from acceptance.bench.headless import check_display

        check_display(os.environ)
    read = {flag: Path(v) for n, flag in READ.items() if (v := getattr(options, n)) is not None}
    check_outputs({"--out": options.out}, True, read)
    # What is drawn from records is drawn again where they go on; before it is, their configuration is compared.
    may_overwrite = options.force or goes_on(options.out)
    outputs = {"--plot": options.plot, "--trace-out": options.profile, "--torch-trace": options.torch_trace}
    check_outputs(outputs, may_overwrite, read | {"--out": options.out})


def goes_on(path: Path) -> bool:
    """Whether a file holds what a run can go on behind.

    Raises:
        UserError: It holds something else; names the first line that does.
    """
    from acceptance.results.journal import is_unbegun, read_records
    from acceptance.results.validate import line_problems

    if not path.exists() or is_unbegun(path):
        return False
    for number, record in enumerate(read_records(path)[0][1:], 2):
        for problem in line_problems(record, first=False):
            raise UserError(f"--out {path}: line {number}: {problem}")
    return True


def forecast(bench: "Bench", parameters: Mapping[str, Any], options: DecodeOptions, start_s: float) -> int:
    """Print what a run would measure and how long it would take."""
    from acceptance.bench.forecast import forecast_run
    from acceptance.results.report import forecast_text

    estimate = forecast_run(bench, start_s)
    if options.as_json:
        click.echo(to_json(envelope("decode_forecast", 1, parameters) | estimate), nl=False)
    else:
        say(forecast_text(parameters, estimate))
    return 0


def run(bench: "Bench", parameters: dict[str, Any], notes: list[str], options: DecodeOptions) -> int:
    """Measure what is missing, and say what is there; returns the exit code."""
    from acceptance.bench.machine import surroundings
    from acceptance.bench.runner import left_out
    from acceptance.bench.turns import plan_turns
    from acceptance.results.journal import KIND, SCHEMA_VERSIONS, Journal
    from acceptance.results.records import done_keys

    journal, anew = Journal(options.out), options.force or not goes_on(options.out)
    if bench.answers and anew and not options.force:
        bench.answers.refuse_others(bench)
    header = envelope(KIND, SCHEMA_VERSIONS[-1], parameters)
    header["environment"] |= surroundings(bench.devices, record_host=options.record_host)
    records = journal.open(header, force=options.force)
    if journal.torn:
        click.echo(f"{journal.path}: cut off a record that was never whole ({journal.torn} bytes)", err=True)
    done = done_keys(records)
    if bench.answers:
        take_up_answers(bench, journal, done, anew=anew)
    todo = plan_turns(bench, done)
    total = len(plan_turns(bench, ()))
    if records:
        click.echo(f"{journal.path}: going on, {total - len(todo)} of {total} turns are done", err=True)
    tracks: list[tuple[str, Sequence[Span]]] = []

    def keep(record: dict[str, Any]) -> None:
        journal.append(record)
        records.append(record)

    for record in left_out(bench, done):
        keep(record)
    interrupted = measure_all(bench, todo, keep, tracks)
    notes = [*notes, *profiles(bench, options, tracks, anew=bool(todo), interrupted=bool(interrupted))]
    kept = total - len(plan_turns(bench, done_keys(records)))
    if interrupted and not kept:
        journal.close()
        click.echo("bench-decode: interrupted; nothing was measured yet, the same command begins anew", err=True)
        return interrupted
    notes = [*notes, *(bench.answers.finish(bench) if bench.answers else [])]
    code = present(journal, records, parameters, notes, options, interrupted=bool(interrupted))
    if interrupted:
        words = f"{kept} of {total} turns are kept, the same command goes on with {journal.path}"
        click.echo(f"bench-decode: interrupted; {words}", err=True)
    return interrupted or code


def take_up_answers(bench: "Bench", journal: "Journal", done: Collection[str], *, anew: bool) -> None:
    """Have answers go on where records do; where they cannot, neither does."""
    assert bench.answers is not None
    try:
        bench.answers.begin(bench, done, anew=anew)
    except UserError:
        journal.close()
        raise


def profile(bench: "Bench", path: Path, tracks: "list[tuple[str, Sequence[Span]]]") -> None:
    """Write the timelines; where nothing was left to measure and none are there, of prompts decoded once more."""
    from acceptance.bench.clock import write_chrome_trace
    from acceptance.bench.runner import measure
    from acceptance.bench.turns import plan_turns

    if not tracks and path.exists():
        return
    if not tracks:
        todo = plan_turns(bench, ())[:PROFILED_PROMPTS]
        click.echo(f"{path}: decoding {len(todo)} prompts again for the profile; records stay as they are", err=True)
        measure(bench, todo, emit=lambda _: None, progress=lambda _: None, watch=lambda *each: tracks.append(each))
    write_chrome_trace(path, tracks)


def profiles(
    bench: "Bench",
    options: DecodeOptions,
    tracks: "list[tuple[str, Sequence[Span]]]",
    *,
    anew: bool,
    interrupted: bool,
) -> list[str]:
    """Write the profiles that were asked for, and return what did not run. anew: something was measured just now."""
    if options.profile and (tracks or not interrupted):
        profile(bench, options.profile, tracks)
    path = options.torch_trace
    if path is None or interrupted or (path.exists() and not anew):
        return []
    from acceptance.bench.operators import write_operators

    return [f"{path}: {why}" for why in write_operators(bench, path)]


def measure_all(
    bench: "Bench",
    todo: "Sequence[Turn]",
    keep: Callable[[dict[str, Any]], None],
    tracks: "list[tuple[str, Sequence[Span]]]",
) -> int:
    """Measure, keep every record; returns the exit code of what interrupted it, else 0."""
    from acceptance.bench.runner import measure

    wanted = len(bench.running) * PROFILED_PROMPTS

    def watch(name: str, spans: "list[Span]") -> None:
        if len(tracks) < wanted:
            tracks.append((name, spans))

    try:
        with progress("decoding", len(todo)) as bar:
            measure(bench, todo, emit=keep, progress=bar.update, watch=watch)
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return 0


def present(
    journal: "Journal",
    records: list[dict[str, Any]],
    parameters: dict[str, Any],
    notes: list[str],
    options: DecodeOptions,
    *,
    interrupted: bool,
) -> int:
    """Summarise, keep the summaries of a run that is over, draw and print; returns the exit code."""
    from acceptance.results.report import cut_notes, heading, headline, text
    from acceptance.results.steadiness import steadiness_notes
    from acceptance.results.summary import summarise

    notes = [*notes, *steadiness_notes(records), *cut_notes(records, parameters["max_new_tokens"])]
    summaries = summarise(records, parameters["seed"])
    if not interrupted:
        keep_summaries(journal, records, summaries)
    journal.close()
    if options.plot and summaries:
        from acceptance.estimate.report import pair_text
        from acceptance.results.plots import decode_figure
        from simulator.ground.pictures import save_figure

        pair = pair_text({role: model["name"] for role, model in parameters["models"].items()})
        save_figure(options.plot, decode_figure(summaries, title=f"{pair}, {heading(parameters, summaries)}"))
    if options.as_json:
        payload: dict[str, Any] = {"headline": headline(summaries), "summaries": summaries, "notes": notes}
        payload |= {"file": str(journal.path), "interrupted": interrupted}
        click.echo(to_json(envelope("decode_benchmark", 1, parameters) | payload), nl=False)
    else:
        say("\n\n".join([text(parameters, summaries), *(["\n".join(notes)] if notes else [])]) + "\n")
        for path in (journal.path, options.plot):
            if path:
                click.echo(f"wrote {path}")
    return EXIT_FAILED if any(s["runs_error"] for s in summaries) else 0


def keep_summaries(journal: "Journal", records: Sequence[Mapping[str, Any]], summaries: list[dict[str, Any]]) -> None:
    """Append the summaries, unless they are those that are there."""
    import json

    from acceptance.results.journal import to_line
    from acceptance.results.records import SUMMARY

    there = {r["method"]: r for r in records if r["kind"] == SUMMARY}
    fresh = {s["method"]: json.loads(to_line(s)) for s in summaries}
    # Earlier files have fewer columns, and stay as they are.
    if there.keys() != fresh.keys() or any(there[n].get(k, v) != v for n, s in fresh.items() for k, v in s.items()):
        for summary in summaries:
            journal.append(summary)


AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")


@command("list-presets", short_help="Say what a file of presets holds.")
@click.option("--config", type=FILE, show_default="bundled presets", help="TOML file of presets.")
@AS_JSON
@click.pass_context
def list_presets(context: click.Context, /, config: Path | None, as_json: bool) -> None:
    """Say what a file of presets holds."""
    presets = load_presets(config or BUNDLED_PRESETS, parameters_of(context))
    if as_json:
        payload = asdict(presets) | {"path": str(presets.path)}
        click.echo(to_json(envelope("decode_presets", 1, {"config": config and str(config)}) | payload), nl=False)
        return
    say(presets_text(presets))


@command("validate-config", short_help="Check a file of presets.")
@click.argument("file", type=FILE)
@AS_JSON
@click.pass_context
def validate_config(context: click.Context, /, file: Path, as_json: bool) -> None:
    """Check every key and value of a file of presets, and that the methods it names exist."""
    presets = load_presets(file, parameters_of(context))
    check_methods(presets)
    if not presets.experiments:
        raise UserError(f"{file}: holds no experiments, expected [experiments.NAME]")
    counts = {name: len(getattr(presets, name)) for name in ("models", "methods", "experiments")}
    if as_json:
        click.echo(
            to_json(envelope("decode_config_check", 1, {"file": str(file)}) | {"valid": True} | counts), nl=False
        )
        return
    say(f"{file}: all well, {', '.join(f'{count} {name}' for name, count in counts.items())}")


@command("validate-results", short_help="Check a file of records.")
@click.argument("file", type=FILE)
@click.option("--strict", is_flag=True, help="Also whether sums, calls, times and summaries follow from each other.")
@AS_JSON
def validate_results(file: Path, *, strict: bool, as_json: bool) -> int:
    """Check every line of a file of records against the published JSON Schema."""
    from acceptance.results.validate import problems

    errors = problems(file, strict=strict)
    if as_json:
        parameters, found = {"file": str(file), "strict": strict}, {"valid": not errors, "problems": errors}
        click.echo(to_json(envelope("decode_results_check", 1, parameters) | found), nl=False)
    else:
        for line in errors[:MAX_LINES] or ["all well"]:
            say(f"{file}: {line}")
        if len(errors) > MAX_LINES:
            say(f"{file}: and {len(errors) - MAX_LINES} more")
    return EXIT_FAILED if errors else 0


for subcommand in (list_presets, validate_config, validate_results, time_passes):
    bench_decode.add_command(subcommand)


if __name__ == "__main__":
    bench_decode(prog_name="bench-decode")
