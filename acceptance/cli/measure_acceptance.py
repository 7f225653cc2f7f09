"""The command `measure-acceptance`: parse, load, measure, write, print. Its options are in `options`."""

import hashlib
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from acceptance.models.bundled import BUNDLED, load_libraries, place_of
from acceptance.models.rule import rules_of_pair
from simulator.ground.artefacts import UserError, check_outputs, envelope, to_json
from simulator.ground.command import OneLineErrorsGroup, command, is_given, progress, refuse_given

from .import_histogram import import_measurement
from .options import MAX_DRAFT_LENGTH, MEASURE_OPTIONS, OUTPUT_OPTIONS, TEXT_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from acceptance.estimate.analysis import Analysis
    from acceptance.measure.loop_check import LoopCheck
    from acceptance.measure.plan import Plan, Settings
    from acceptance.models.model import Pair
    from acceptance.text.prompts import Prompt
    from acceptance.text.texts import Text
    from acceptance.trace.trace import Trace
    from simulator.ground.records import Records

# What a measurement is told and a finished trace has been told already.
FROM_PROMPTS = ("prompts", "dataset", "turns", "max_new_tokens", "system_prompt", "check_loop")
FROM_MODELS = (
    "target",
    "draft",
    "texts",
    "max_prompts",
    "use_chat_template",
    "temperature",
    "draft_temperature",
    "top_k",
    "top_p",
    "batch_size",
    "device",
    "dtype",
    "quantization",
    "cross_tokenizer",
    "resume",
)


@command("measure-acceptance", cls=OneLineErrorsGroup, invoke_without_command=True)
@TEXT_OPTIONS
@MEASURE_OPTIONS
@OUTPUT_OPTIONS
@click.pass_context
def measure_acceptance(context: click.Context, /, **options: Any) -> None:
    """Measure what a draft/target pair accepts, and write accept_hist_k{K}.json for each K.

    The target continues the prompts; both models then score that text. From the resulting trace the exact
    histogram of every draft length follows, without running the speculative loop.
    """
    if context.invoked_subcommand is not None:
        refuse_given(context, tuple(options), f"{context.invoked_subcommand}: give options behind it")
        return
    from simulator.ground.ranges import parse_whole

    lengths = list(parse_whole("--k", options["k"], 1, MAX_DRAFT_LENGTH))
    check(context, options, lengths)
    if options["trace_file"]:
        from acceptance.trace.trace import load_trace

        given_trace: Path = options["trace_file"]
        trace, told = load_trace(given_trace / "trace.json" if given_trace.is_dir() else given_trace)
        present(trace, lengths, told, options, [], None)
        return
    planned, pair, settings, told, notes = prepare(options)
    with memory_errors(options["batch_size"]):
        trace = run(planned, pair, settings, told, options)

    def checked(q_kind: str) -> "LoopCheck":
        from acceptance.measure.loop_check import run as check_loop

        return check_loop(pair, planned, trace, settings, max(lengths), options["check_loop"], q_kind)

    from acceptance.measure.measure import turns_left_out

    notes += filter(None, [turns_left_out(planned, trace)])
    present(trace, lengths, told, options, notes, checked if options["check_loop"] else None)


def turn_count(text: str) -> int | None:
    """Read --turns: a whole number, or None for all.

    Raises:
        UserError: Neither.
    """
    if text == "all":
        return None
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--turns: {text!r} is not allowed, expected a whole number from 1, or all")
    return int(text)


def check(context: click.Context, options: Mapping[str, Any], lengths: list[int]) -> None:
    """Refuse what can be refused before anything is loaded."""
    if options["trace_file"]:
        refuse_given(context, FROM_PROMPTS + FROM_MODELS, "--trace, whose text is measured already")
    elif options["texts"]:
        refuse_given(context, FROM_PROMPTS, "--texts, which the target has written already")
    elif lengths[-1] > options["max_new_tokens"]:
        raise UserError(f"--k: {lengths[-1]} is above --max-new-tokens, expected 1 to {options['max_new_tokens']}")
    if options["cross_tokenizer"] and options["check_loop"]:
        raise UserError("--check-loop: the loop needs one vocabulary, expected it without --cross-tokenizer")
    _, draft_rule = rules_of_pair(*(options[n] for n in ("temperature", "draft_temperature", "top_k", "top_p")))
    if (
        not options["trace_file"]
        and draft_rule.is_greedy
        and options["q_kind"] == "sampled"
        and is_given(context, "q_kind")
    ):
        raise UserError("--q-kind: sampled, but the draft is greedy, expected --draft-temperature above 0")
    turn_count(options["turns"])
    if not options["draft_cost"] >= 0:
        raise UserError(f"--draft-cost: {options['draft_cost']} is not allowed, expected 0 to 1000")
    if options["plot"]:
        from simulator.ground.pictures import check_format

        check_format(options["plot"])
    measured = () if options["trace_file"] else ("trace.npz", "trace.json")
    read = {"--trace": options["trace_file"], "--texts": options["texts"], "--prompts": Path(options["prompts"])}
    for name in (*measured, *(f"accept_hist_k{k}.json" for k in lengths)):
        path = options["out_dir"] / name
        check_outputs({"--out-dir": path, "--plot": options["plot"]}, options["force"], read)


def load_items(options: Mapping[str, Any]) -> "Records[Prompt] | Records[Text]":
    """Read the prompts, or the texts written before."""
    from acceptance.text.prompts import load_prompts
    from acceptance.text.texts import load_texts

    limit = options["max_prompts"]
    if options["texts"]:
        return load_texts(options["texts"], limit=limit)
    path = Path(place_of(options["prompts"], "prompts.jsonl"))
    return load_prompts(path, options["dataset"], turns=turn_count(options["turns"]), limit=limit)


def prepare(options: dict[str, Any]) -> "tuple[Plan, Pair, Settings, dict[str, Any], list[str]]":
    """Load items and models; returns what to measure, with what, what that was told, and what was left out."""
    items = load_items(options)
    libraries = load_libraries()
    from acceptance.measure.cross_tokenizer import LABEL
    from acceptance.measure.plan import Settings, plan
    from acceptance.models.load import load_pair
    from acceptance.text.conversation import Framing, check_template

    target, draft = (place_of(options[name], name) for name in ("target", "draft"))
    how = {name: options[name] for name in ("device", "dtype", "quantization")}
    pair = load_pair(target, draft, **how, cross_tokenizer=options["cross_tokenizer"] is not None)
    framing = Framing(chat_template=options["use_chat_template"], system_prompt=options["system_prompt"])
    check_template(pair.tokenizer, framing, "--target")
    check_template(pair.draft_tokenizer, framing, "--draft")
    rule, draft_rule = rules_of_pair(*(options[n] for n in ("temperature", "draft_temperature", "top_k", "top_p")))
    plain = {name: options[name] for name in ("max_new_tokens", "seed", "batch_size")}
    settings = Settings(rule=rule, draft_rule=draft_rule, framing=framing, **plain)
    planned = plan(pair, items.rows, settings)
    names = ("target", "draft", "prompts", "dataset", "turns", "max_prompts", "use_chat_template", "system_prompt")
    told = plain | {name: options[name] for name in (*names, "quantization", "temperature", "top_k", "top_p")}
    told |= libraries | {
        "texts": str(options["texts"]) if options["texts"] else None,
        "draft_temperature": draft_rule.temperature,
        "device": pair.device,
        "dtype": pair.dtype,
        "prompt_count": len(planned.items),
        "items_sha256": hashlib.sha256(repr(planned.items).encode(errors="surrogatepass")).hexdigest(),
        "approximation": None if pair.same_vocabulary else LABEL,
    }
    left_out = [f"left out: {skipped.reason}" for skipped in planned.left_out]
    return planned, pair, settings, told, [*filter(None, [items.about_skipped()]), *left_out]


@contextmanager
def memory_errors(batch_size: int) -> "Iterator[None]":
    """Turn a device's lack of memory into one line."""
    try:
        yield
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        reason = str(error).partition("\n")[0]
        raise UserError(f"--batch-size: {batch_size} prompts at a time do not fit the device ({reason})") from None


@contextmanager
def resumable(parts: Any) -> "Iterator[None]":
    """Say how to go on after an interruption."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(f"what is done is kept in {parts.folder}: the same command with --resume goes on", err=True)
        raise


def run(planned: "Plan", pair: "Pair", settings: "Settings", told: dict[str, Any], options: Mapping[str, Any]) -> Any:
    """Measure, and write the trace."""
    from acceptance.measure.measure import measure
    from acceptance.trace.parts import FOLDER, Parts
    from acceptance.trace.trace import save_trace

    parts = Parts(options["out_dir"] / FOLDER)
    if options["resume"] and not parts.about.exists():
        click.echo(f"nothing unfinished in {parts.folder}: measuring from the start", err=True)
    parts.open(told, resume=options["resume"], force=options["force"])
    with resumable(parts), progress("measuring", len(planned.items)) as bar:
        trace = measure(pair, planned, settings, parts=parts, progress=bar.update)
    save_trace(options["out_dir"], trace, told)
    parts.close()
    return trace


def present(
    trace: "Trace",
    lengths: list[int],
    told: dict[str, Any],
    options: Mapping[str, Any],
    notes: list[str],
    check_loop: "Callable[[str], LoopCheck] | None",
) -> None:
    """Analyse the trace, write histograms and picture, compare with the loop if asked to, and print."""
    from acceptance.estimate.analysis import analyse
    from acceptance.estimate.report import full_text, loop_text, summary_text

    q_kind = "greedy" if told["draft_temperature"] == 0 else options["q_kind"]
    cost, seed = options["draft_cost"], options["seed"]
    told = told | {"q_kind": q_kind, "analysis_seed": seed}
    found = analyse(trace, lengths, told, q_kind=q_kind, draft_cost=cost, seed=seed)
    files = write(trace, found, told, options, q_kind)
    if options["as_json"]:
        from dataclasses import asdict

        loop = None if check_loop is None else asdict(check_loop(q_kind))
        payload = {"files": [str(f) for f in files], "notes": notes, "loop_check": loop, "draft_cost": cost}
        click.echo(to_json(envelope("acceptance_measurement", 2, told) | found.as_json() | payload), nl=False)
        return
    parts = [summary_text(trace, found, told, q_kind)]
    parts += [full_text(found, cost)] if options["report"] else []
    parts += ["\n".join(notes)] if notes else []
    click.echo("\n\n".join(parts) + "\n")
    for file in files:
        click.echo(f"wrote {file}")
    if check_loop is not None:
        click.echo("\n" + loop_text(check_loop(q_kind)))


def write(
    trace: "Trace", found: "Analysis", told: dict[str, Any], options: Mapping[str, Any], q_kind: str
) -> list[Path]:
    """Write the histograms and the picture; returns every file of the measurement."""
    from simulator.ground.histogram import save_histogram

    out: Path = options["out_dir"]
    files = [] if options["trace_file"] else [out / "trace.npz", out / "trace.json"]
    definition = "expected rounds along the decode walk, of a trace"
    if told.get("approximation"):
        definition += f"; {told['approximation']}"
    for k, rounds in found.rounds.items():
        files.append(out / f"accept_hist_k{k}.json")
        save_histogram(
            files[-1],
            rounds.histogram,
            told | {"k": k},
            metrics=found.metrics[k],
            synthetic_acceptance=found.synthetic[k],
            definition=definition,
        )
    if options["plot"]:
        from acceptance.estimate.plots import acceptance_figure
        from simulator.ground.pictures import save_figure

        names = {told.get("target"), told.get("draft")}
        pair = "the bundled pair" if names == {BUNDLED} else f"{told.get('target')} and its draft {told.get('draft')}"
        title = f"{pair}, temperature {told.get('temperature', 0):g}"
        note = told.get("approximation") or ""
        figure = acceptance_figure(
            trace, found.rounds[found.longest], q_kind=q_kind, title=title, note=note, seed=options["seed"]
        )
        save_figure(options["plot"], figure)
        files.append(options["plot"])
    return files


measure_acceptance.add_command(import_measurement)


if __name__ == "__main__":
    measure_acceptance(prog_name="measure-acceptance")
