"""The command `advise`: from a load to whether, how and on how many servers to speculate, in an engine's words."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.answers.latency import time_text
from simulator.cli.accepting import ACCEPTANCE_OPTIONS
from simulator.cli.comparing import method_names
from simulator.cli.options import DEVICE_OPTIONS, HIST_OPTIONS, options_of, parameter_options
from simulator.cli.running import running, serving
from simulator.cli.serving_options import (
    BLOCK_SIZES,
    OF_ONE,
    SERVER_OPTIONS,
    SHARE_OPTIONS,
    limits_of,
    loads_of,
    server_as,
    traffic_options,
)
from simulator.costs.parameters import PARAMETERS, Load
from simulator.ground.artefacts import UserError, check_outputs, envelope, to_json, writing
from simulator.ground.command import FILE, command, is_given, wrapped

from .asking import AdviseOptions, asked_of

if TYPE_CHECKING:
    from calibration.servers.watch import Watched
    from simulator.answers.advice import Advice, Asked
    from simulator.answers.basis import Basis
    from simulator.answers.slowness import Slowness

# What other commands have and advice has not.
ABSENT: dict[str, Any] = {"law": None, "head": None, "load": None, "overlap": False, "guesses": 1, "published": None}
ABSENT |= {"baseline_tpot": None, "speculative_tpot": None, "replications": 1, "said": ()}
# Requests of a run where nobody says: what a plain interpreter serves in a second.
USUAL_REQUESTS, USUAL_WATCH_S = 600, 60.0
# Whose scheduler plans steps, by engine; what engines call a method by.
SCHEDULERS = {"vllm": "vllm", "sglang": "sglang", "trtllm": "trtllm", "llama.cpp": "vllm"}
NO_GAIN = 3


@command("advise")
@click.option(
    "--engine", default="vllm", type=click.Choice(tuple(SCHEDULERS)), show_default=True, help="Which engine serves."
)
@parameter_options(many=False, without=tuple(p.name for p in PARAMETERS if p.name != "alpha"))
@DEVICE_OPTIONS
@HIST_OPTIONS
@ACCEPTANCE_OPTIONS
@click.option("--server", metavar="URL", help="A server at work: its load and what it accepts, by its /metrics.")
@click.option("--watch", type=click.FloatRange(1, 86_400), help="Seconds for which it is watched.  [default: 60]")
@traffic_options(str(USUAL_REQUESTS))
@SERVER_OPTIONS
@SHARE_OPTIONS
@click.option("--explain-slow", is_flag=True, help="Say what takes the time of rounds, cause by cause.")
@click.option("--seed", default=0, type=click.IntRange(0), help="Seed of every random stream.")
@click.option("--force", is_flag=True, help="Overwrite files that exist.")
@click.option("--write", type=FILE, help="Write the engine's settings as JSON.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def advise(**values: Any) -> None:
    """Say whether to turn speculation on for a load, with which method and draft length, and what to type.

    All methods that the engine has and the target can have are compared, those of --method or --draft-model alone
    where they are named, each with what was measured (--acceptance METHOD=FILE) or published of it. The best are served
    step for step as the engine schedules. Exits with 3 where nothing pays.
    """
    run(taken_options(values))


# Who serves a model calls it by this name, and names a draft by another.
next(option for option in advise.params if option.name == "target_model").opts.append("--model")


def taken_options(values: dict[str, Any]) -> AdviseOptions:
    """Return what click parsed as the options of `advise`; a server that is named is watched."""
    if is_given(click.get_current_context(), "scheduler"):
        raise UserError("--scheduler: is that of --engine, expected no such option")
    values["watched"] = watched = watched_of(values)
    if watched is not None:
        values |= as_watched(values, watched)
    if values["rate"] is None and values["concurrency"] is None and values["workload"] is None:
        raise UserError("--rate: missing, expected requests a second such as 5, --concurrency, --workload or --server")
    values |= {"loads": loads_of(values), "limits": limits_of(values["slo"]), "scheduler": SCHEDULERS[values["engine"]]}
    values |= server_as(values) | counted_beside(values)
    values["block_size"] = values["block_size"] or BLOCK_SIZES[values["scheduler"]]
    values["requests"] = values["requests"] or (None if values["workload"] else USUAL_REQUESTS)
    return options_of(AdviseOptions, {**ABSENT, **values, "values": values})


def counted_beside(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return methods and what they accept, where nobody says, as `calibrate` counted them beside a server's profile."""
    context, profile = click.get_current_context(), Path(values["profile"] or "")
    named = ("method", "acceptance", "hist", "alpha")
    if not profile.is_file() or any(is_given(context, name) for name in named):
        return {}
    from calibration.fit.server_acceptance import accepted_beside
    from simulator.costs.drafters.methods import methods

    folders = {path.name: path for path in sorted(accepted_beside(profile).glob("*/"))}
    able = [m for m in methods().values() if m.name in folders and (values["draft_model"] or not m.engines.needs_model)]
    stated = tuple(f"{method.name}={folders[method.name]}" for method in able)
    return {"method": ",".join(method.name for method in able), "acceptance": stated} if able else {}


def watched_of(values: Mapping[str, Any]) -> "Watched | None":
    """Watch the server that is named.

    Raises:
        UserError: It tells nothing, or loads are stated beside it.
    """
    if values["server"] is None:
        if values["watch"] is not None:
            raise UserError("--watch: of a server, expected --server URL beside it")
        return None
    from acceptance.servers.client import AIOHTTP
    from acceptance.servers.server import ALONE, Server, url_of
    from calibration.servers.watch import watch
    from simulator.ground.dependency import require

    for name, option in (("rate", "--rate"), ("concurrency", "--concurrency"), ("workload", "--workload")):
        if values[name] is not None:
            raise UserError(f"{option}: beside --server, whose load is what it gets; expected one of them")
    seconds = float(values["watch"] or USUAL_WATCH_S)
    server = Server(ALONE, url_of("--server", values["server"]))
    require(AIOHTTP)
    with running("advise", f"{server.url} is watched", seconds, round(seconds)) as update:
        done = 0

        def tell(passed: float) -> None:
            nonlocal done
            update(min(int(passed), round(seconds)) - done)
            done = min(int(passed), round(seconds))

        return watch(server, seconds, tell, asks_model=values["target_model"] is None)


def as_watched(values: Mapping[str, Any], watched: "Watched") -> dict[str, Any]:
    """Return options that nobody stated, as a server tells them."""
    context = click.get_current_context()
    told = {"rate": f"{watched.rate:.6g}", "target_model": values["target_model"] or watched.model}
    for name, tokens in (("prompts", watched.prompt), ("answers", watched.output)):
        if not is_given(context, name):
            told[name] = str(max(round(tokens), 1))
    return told


def run(options: AdviseOptions) -> None:
    """Compare, serve, write and print."""
    from simulator.answers.advice import advise as advised
    from simulator.answers.advice_report import advice_json, advice_text, written

    check_outputs({"--write": options.write}, options.force, options.inputs)
    if len(options.loads.values) > 1:
        raise UserError(f"{options.loads.option}: {len(options.loads.values)} loads, expected one")
    asked, notes, found, skipped = asked_of(options)
    with serving("advise", "runs", 0) as update:
        advice = advised(found, asked, update)
    basis = resting(options, advice)
    warnings = (*cautions_of(advice), *notes, *watched_in_words(options, advice))
    slow = slowness_of(options, advice, asked) if options.explain_slow else None
    draft = options.device.drafter
    if options.write:
        with writing(options.write) as file:
            file.write(to_json(written(advice, asked.engine, draft).settings or {}))
    if options.as_json:
        body = envelope("advice", 1, parameters_of(options)) | {"not_compared": skipped}
        click.echo(to_json(body | advice_json(advice, asked, basis, warnings, draft, slow)), nl=False)
    else:
        click.echo(
            advice_text(
                advice, asked, basis, heading(options, asked, advice.scene.traffic.count), warnings, draft, slow
            )
        )
        if options.device.method is None and skipped:
            click.echo(f"\n{wrapped([f'not compared: {listed(skipped)}'])}")
        if options.write:
            click.echo(f"wrote {options.write}")
    if not advice.take:
        raise click.exceptions.Exit(NO_GAIN)


def listed(skipped: Mapping[str, str]) -> str:
    """Return reasons with the methods that each is of."""
    reasons = dict.fromkeys(skipped.values())
    return "; ".join(f"{', '.join(n for n, why in skipped.items() if why == reason)}: {reason}" for reason in reasons)


def watched_in_words(options: AdviseOptions, advice: "Advice") -> tuple[str, ...]:
    """Say what a watched server does, beside what is forecast of it."""
    watched = options.values["watched"]
    if watched is None:
        return ()
    counted = watched.counted
    plain = advice.point.arms[0]
    drafts = counted.drafted > 0 or counted.mean is not None
    times = f"first token {time_text(watched.first_s)}, a token {time_text(watched.each_s)}"
    beside = f" (forecast: {time_text(plain['ttft_mean'][0])} and {time_text(plain['tpot_mean'][0])})"
    said = [
        f"{options.values['server']}: {watched.requests:,} requests, {watched.rate:.3g}/s, {watched.prompt:,.0f} "
        f"tokens in, {watched.output:,.0f} out, {watched.running:.3g} at once; {times}" + beside * (not drafts)
    ]
    if drafts and len(method_names(options.device)) != 1:
        said.append("the server drafts: --method NAME says how, and what it accepts counts")
    return (*said, *counted.notes)


def resting(options: AdviseOptions, advice: "Advice") -> "Basis":
    """Say what the answer rests on: costs, and what the ways that were served accept."""
    from simulator.answers.basis import basis_of, together
    from simulator.rounds.acceptance_law import IidAcceptance

    used = dict.fromkeys(way.contender for way in advice.ways) or [0]
    found = {}
    for at in used:
        of = advice.comparison.contenders[at]
        longest = max((way.policy.longest for way in advice.ways if way.contender == at), default=1)
        found[of.name] = basis_of(
            of.pair,
            of.acceptance,
            draft_length=longest,
            alpha=of.acceptance.alpha if isinstance(of.acceptance, IidAcceptance) else options.alpha,
            stated=options.stated | {"alpha"},
            profile=of.pair.profile,
        )
    # What is taken is conditional on its own acceptance, and on no other's.
    own = [advice.ways[advice.take - 1].contender] if advice.take else list(used)
    return together(found)._replace(condition=together({n: found[n] for n in names_of(advice, own)}).condition)


def names_of(advice: "Advice", at: Iterable[int]) -> list[str]:
    """Return the names of contenders by their places."""
    return [advice.comparison.contenders[i].name for i in at]


def cautions_of(advice: "Advice") -> tuple[str, ...]:
    """Return what to know of the models before the numbers."""
    from simulator.costs.cautions import cautions

    pairs = [(advice.comparison.contenders[w.contender].pair, w.policy.longest) for w in advice.ways]
    return tuple(dict.fromkeys(said for pair, k in pairs for said in cautions(replace(pair, batch=1), k)))


def slowness_of(options: AdviseOptions, advice: "Advice", asked: "Asked") -> "Slowness | None":
    """Return what takes the time of rounds of the way to take, or of the best of those that do not pay."""
    from simulator.answers.slowness import slowness

    if not advice.ways:
        return None
    at = advice.take - 1 if advice.take else max(range(len(advice.ways)), key=lambda i: advice.gains[i].value)
    way = advice.ways[at]
    batch = max(round(float(advice.point.arms[at + 1]["running"][0])), 1)
    isl, osl = max(round(asked.traffic.mean_prompt), 1), max(round(asked.traffic.mean_output), 2)
    of = advice.comparison.contenders[way.contender]
    return slowness(of, way.draft_length, batch, Load(chunk=asked.server.chunk), isl, osl)


def heading(options: AdviseOptions, asked: "Asked", count: int) -> str:
    """Say what was served."""
    device, own = options.device, options.values
    what = str(own["workload"]) if own["workload"] else f"{own['prompts']} tokens in, {own['answers']} out"
    devices = f"{device.tp} x " if device.tp and device.tp > 1 else ""
    return (
        f"{device.target_model or device.params} on {devices}{device.profile}, {what}; {count:,} "
        f"requests a run, {own['scheduler']}'s scheduler, {asked.server.chunk:,} tokens a step"
    )


def parameters_of(options: AdviseOptions) -> dict[str, Any]:
    """Return what a result hangs on."""
    device, own = options.device, options.values
    names: tuple[str, ...] = ("prompts", "answers", "burstiness", "prefix", "turns", "think", "budget", "seats")
    names += ("longest", "block_size", "num_blocks", "prefix_caching", "chunked_prefill", "async_scheduling")
    names += ("warmup", "server", "watch", *(name for name, whose in OF_ONE.items() if whose == own["scheduler"]))
    told = {name: own[name] for name in names} | {"workload": own["workload"], "acceptance": list(own["acceptance"])}
    told |= {"engine": options.engine, "profile": device.profile, "target_model": device.target_model}
    told |= {"hist": options.accepts_as, "gpu_memory_utilization": device.gpu_memory_utilization}
    told |= {"alpha": options.alpha} if "alpha" in options.stated else {}
    told |= {"method": device.method, "draft_model": device.drafter, "tp": device.tp, "slo": own["slo"]}
    return told | {"load": options.loads.values[0], "attain": options.attain, "seed": options.seed}
