"""The command `measure-acceptance`: parse, load, measure, write, print. Its options are in `options`."""

import json
from collections.abc import Callable
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acceptance.models.gguf import FILES, in_one_name
from acceptance.text.prompts import DATASETS
from simulator.ground.artefacts import UserError, check_outputs, envelope, to_json
from simulator.ground.command import OneLineErrorsGroup, command, is_given, progress, refuse_given, say
from simulator.ground.fields import read_json_object
from simulator.ground.limits import lacks_memory
from simulator.ground.partial import sweep
from simulator.ground.version import VERSION

from .by_group import present_groups
from .from_servers import NOT_OF_SERVERS
from .import_histogram import import_measurement
from .options import MEASURE_OPTIONS, OF_SPEECH, OUTPUT_OPTIONS, TEXT_OPTIONS, MeasureOptions
from .ready import Ready
from .replay_texts import replay_texts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from acceptance.estimate.analysis import Analysis
    from acceptance.measure.loop_check import LoopCheck
    from acceptance.results.unfinished import Unfinished
    from acceptance.trace.trace import Trace

ARRAYS_FILE, SIDECAR = "trace.npz", "trace.json"
# Parameters of a measurement, which a finished trace has already.
FROM_PROMPTS = (
    *("prompts", "dataset", "old_dataset", "column", "turns", "max_new_tokens", "system_prompt", "check_loop"),
    *OF_SPEECH,
)
FROM_MODELS = (
    *(
        "target",
        "draft",
        *FILES,
        "target_server",
        "draft_server",
        "texts",
        "max_prompts",
        "use_chat_template",
        "temperature",
        "draft_temperature",
    ),
    *(
        "top_k",
        "top_p",
        "batch_size",
        "device",
        "dtype",
        "quantization",
        "allow_pickle",
        "cross_tokenizer",
        "resume",
        "shard",
    ),
)


@command("measure-acceptance", cls=OneLineErrorsGroup, invoke_without_command=True)
@TEXT_OPTIONS
@MEASURE_OPTIONS
@OUTPUT_OPTIONS
@click.pass_context
def measure_acceptance(context: click.Context, /, **values: Any) -> None:
    """Measure what a draft/target pair accepts, and write accept_hist_k{K}.json for each K.

    The target continues the prompts; both models then score that text. From the resulting trace the exact
    histogram of every draft length follows, without running the speculative loop.
    """
    if context.invoked_subcommand is not None:
        refuse_given(context, values, f"{context.invoked_subcommand}: give options behind it")
        return
    check_used(context, values)
    options = MeasureOptions(**in_one_name(in_new_words(context, values)))
    if is_given(context, "q_kind"):
        check_q_kind(options)
    if not is_done(options) and not options.by:
        check_files(options)
    if options.trace_files:
        again(options)
        return
    ready = prepare(options)
    from acceptance.results.unfinished import Unfinished

    unfinished = Unfinished(options.out_dir)
    with closing(unfinished), memory_errors(options.batch_size):
        done = finished(ready, options) if is_done(options) else None
        trace, parameters = done or run(ready, options, unfinished)
        check = None if ready.check is None else partial(ready.check, trace)
        present(trace, parameters, options, [*ready.notes, *ready.left_out(trace)], check, unfinished)


def again(options: MeasureOptions) -> None:
    """Say what traces that are there say; several are written as one."""
    from acceptance.results.shards import merged
    from acceptance.trace.trace import load_trace, save_trace

    sidecars = [sidecar_of(path) for path in options.trace_files]
    loaded = [(path, *load_trace(path)) for path in sidecars]
    trace, parameters = loaded[0][1:] if len(loaded) == 1 else merged(loaded)
    if options.by:
        present_groups(trace, parameters, options, sidecars[0])
        return
    if options.writes_trace:
        save_trace(options.out_dir, trace, parameters)
        trace, parameters = load_trace(options.out_dir / SIDECAR)
    present(trace, parameters, options, [], None, None)


def prepare(options: MeasureOptions) -> Ready:
    """Return what can be measured, of models that run here or on servers."""
    if options.target_server:
        from . import from_servers

        return from_servers.prepare(options)
    from . import from_models

    return from_models.prepare(options)


def check_used(context: click.Context, values: dict[str, Any]) -> None:
    """Refuse options that have no effect on what is measured already, or elsewhere."""
    if values["target_server"] is not None and not values["trace_files"]:
        refuse_given(context, NOT_OF_SERVERS, "--target-server, of which only tokens' own log probabilities are known")
    if values["trace_files"]:
        refuse_given(context, FROM_PROMPTS + FROM_MODELS, "--trace, whose text is measured already")
    elif values["texts"]:
        refuse_given(context, FROM_PROMPTS, "--texts, which the target has written already")


def in_new_words(context: click.Context, values: dict[str, Any]) -> dict[str, Any]:
    """Return options with --dataset under its new name: --format where it names one, else --prompts."""
    others = {name: value for name, value in values.items() if name != "old_dataset"}
    if values["old_dataset"] is None:
        return others
    name, flag = ("dataset", "--format") if values["old_dataset"] in DATASETS else ("prompts", "--prompts")
    if is_given(context, name):
        raise UserError(f"--dataset: {values['old_dataset']} beside {flag}, expected one of them")
    return others | {name: values["old_dataset"]}


def check_q_kind(options: MeasureOptions) -> None:
    """Refuse a sampled draft of a draft that is greedy."""
    if not options.trace_files and options.rules[1].is_greedy and options.q_kind == "sampled":
        raise UserError("--q-kind: sampled, but the draft is greedy, expected --draft-temperature above 0")


def is_done(options: MeasureOptions) -> bool:
    """Whether --resume finds nothing to go on with: all was written, by which a measurement ends."""
    from acceptance.results.unfinished import FILE

    return options.resume and (options.out_dir / SIDECAR).exists() and not (options.out_dir / FILE).exists()


def sidecar_of(path: Path) -> Path:
    """Return the JSON of a trace by its name, or its folder's."""
    return path / SIDECAR if path.is_dir() else path


def outputs_of(options: MeasureOptions) -> list[Path]:
    """Return every file to write but the picture."""
    measured = (ARRAYS_FILE, SIDECAR) if options.writes_trace else ()
    return [options.out_dir / n for n in (*measured, *(f"accept_hist_k{k}.json" for k in options.draft_lengths))]


def check_files(options: MeasureOptions) -> None:
    """Refuse files that are there already, but for those of what goes on here, or that are read."""
    from acceptance.results.unfinished import Unfinished

    read = {"--texts": options.texts, "--prompts": Path(options.prompts)}
    read |= {"--target": Path(options.target), "--draft": Path(options.draft)}
    for path in options.trace_files:
        read["--trace" if len(options.trace_files) == 1 else f"--trace {path}"] = sidecar_of(path)
    own = () if options.trace_files else Unfinished(options.out_dir).outputs
    check_outputs({"--out-dir": outputs_of(options), "--plot": options.plot}, options.force, read, own)


@contextmanager
def memory_errors(batch_size: int) -> "Iterator[None]":
    """Turn a device's lack of memory into one line."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not lacks_memory(error):
            raise
        reason = str(error).partition("\n")[0]
        raise UserError(f"--batch-size: out of memory with {batch_size} prompts at a time ({reason})") from None


def run(ready: Ready, options: MeasureOptions, unfinished: "Unfinished") -> "tuple[Trace, dict[str, Any]]":
    """Measure, or what is missing, and write the trace; returns it and its parameters."""
    from acceptance.trace.trace import load_trace, save_trace

    if options.resume and not unfinished.path.exists():
        click.echo(f"nothing unfinished in {options.out_dir}: measuring from the start", err=True)
    unfinished.hold(lambda: check_files(options))
    outputs = [*outputs_of(options), *filter(None, [options.plot])]
    done = unfinished.open(ready.parameters, outputs, force=options.force) * ready.together
    count = ready.count
    if done:
        click.echo(f"{unfinished.path}: going on, {min(done, count)} of {count} prompts are done", err=True)
    try:
        with progress("measuring", count) as bar:
            trace = ready.measure(unfinished, bar.update)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"what is done is kept in {unfinished.path}, the same command goes on") from None
    save_trace(options.out_dir, trace, ready.parameters)
    return load_trace(options.out_dir / SIDECAR)


def finished(ready: Ready, options: MeasureOptions) -> "tuple[Trace, dict[str, Any]] | None":
    """Return what was measured before; what was measured otherwise is refused, or None where it may be overwritten."""
    from acceptance.results.journal import first_difference
    from acceptance.trace.trace import load_trace

    path = options.out_dir / SIDECAR
    sweep(options.out_dir)
    trace, before = load_trace(path)
    version = "tool_version"
    same = {name: value for name, value in before.items() if name != "trace_sha256"}
    there, now = {version: read_json_object(path).get(version)} | same, {version: VERSION} | ready.parameters
    if told := first_difference(json.loads(to_json(now)), there):
        if options.force:
            return None
        raise UserError(f"--resume: {path} is done, and its {told}; expected the same, or --force to start anew")
    click.echo(f"nothing unfinished: {path} is done, and nothing is written (--trace answers more of it)", err=True)
    return trace, before


def present(
    trace: "Trace",
    parameters: dict[str, Any],
    options: MeasureOptions,
    notes: list[str],
    check_loop: "Callable[[str], LoopCheck] | None",
    unfinished: "Unfinished | None",
) -> None:
    """Analyse the trace, write histograms and picture, compare with the loop if asked to, and print.

    unfinished: ends with what is written; there is nothing to write where it was not begun.
    """
    from acceptance.estimate.analysis import analyse
    from acceptance.estimate.report import full_text, loop_text, summary_text

    q_kind = "greedy" if parameters["draft_temperature"] == 0 else options.q_kind
    cost, seed = options.draft_cost, options.seed
    parameters = parameters | {"q_kind": q_kind, "analysis_seed": seed}
    temperature = parameters["temperature"]
    analysis = analyse(
        trace,
        options.draft_lengths,
        temperature=temperature,
        q_kind=q_kind,
        draft_cost=cost,
        seed=seed,
        with_policies=options.report or options.as_json,
    )
    files = write(trace, analysis, parameters, options) if unfinished is None or unfinished.is_open else []
    if unfinished is not None and unfinished.is_open:
        unfinished.remove()
    if options.as_json:
        from dataclasses import asdict

        loop = None if check_loop is None else asdict(check_loop(q_kind))
        payload = {"files": [str(f) for f in files], "notes": notes, "loop_check": loop, "draft_cost": cost}
        click.echo(to_json(envelope("acceptance_measurement", 2, parameters) | analysis.as_json() | payload), nl=False)
        return
    parts = [summary_text(trace, analysis, parameters, q_kind)]
    parts += [full_text(analysis, cost)] if options.report else []
    parts += ["\n".join(notes)] if notes else []
    say("\n\n".join(parts) + "\n")
    for file in files:
        click.echo(f"wrote {file}")
    if check_loop is not None:
        say("\n" + loop_text(check_loop(q_kind)))


def write(trace: "Trace", analysis: "Analysis", parameters: dict[str, Any], options: MeasureOptions) -> list[Path]:
    """Write the histograms and the picture; returns every file of the measurement."""
    from acceptance.estimate.ranks import ranks_of
    from simulator.ground.histogram import save_histogram

    out = options.out_dir
    files = [out / ARRAYS_FILE, out / SIDECAR] if options.writes_trace else []
    definition = "expected rounds along the decode walk, of a trace"
    if parameters.get("approximation"):
        definition += f"; {parameters['approximation']}"
    text = ranks_of(trace, float(parameters["draft_temperature"]))
    ranks = {} if text is None else {"ranks": text.as_json()}
    for k, rounds in analysis.rounds.items():
        files.append(out / f"accept_hist_k{k}.json")
        save_histogram(
            files[-1],
            rounds.histogram,
            parameters | {"k": k},
            metrics=analysis.metrics[k],
            synthetic_acceptance=analysis.synthetic[k],
            definition=definition,
            draft_lengths=list(options.draft_lengths),
            **ranks,
        )
    if options.plot:
        draw(options.plot, trace, analysis, parameters, options.seed)
        files.append(options.plot)
    return files


def draw(path: Path, trace: "Trace", analysis: "Analysis", parameters: dict[str, Any], seed: int) -> None:
    """Write the picture."""
    from acceptance.estimate.plots import acceptance_figure
    from acceptance.estimate.report import pair_text
    from simulator.ground.pictures import save_figure

    title = f"{pair_text(parameters)}, temperature {parameters.get('temperature', 0):g}"
    note = parameters.get("approximation") or ""
    save_figure(
        path, acceptance_figure(trace, analysis, q_kind=parameters["q_kind"], title=title, note=note, seed=seed)
    )


measure_acceptance.add_command(import_measurement)
measure_acceptance.add_command(replay_texts)


if __name__ == "__main__":
    measure_acceptance(prog_name="measure-acceptance")
