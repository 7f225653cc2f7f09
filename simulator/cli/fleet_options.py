"""The options of `simulate-serving` for servers side by side: how many, what stands before and between them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

from simulator.ground.artefacts import UserError
from simulator.ground.command import is_given, stacked
from simulator.ground.ranges import milliseconds_in

if TYPE_CHECKING:
    from simulator.answers.scene import Arm
    from simulator.costs.model_costs import ModelPair, Placed

ROUTERS = ("round-robin", "least-loaded", "prefix-aware")
MOST_SERVERS = 256
# Of any link there is; in milliseconds, what a transfer takes besides at most.
LEAST_GB_S, MOST_GB_S, MOST_LATENCY_MS = 0.01, 1e5, 60_000.0
BOTH = ("prefill_replicas", "decode_replicas")

FLEET_OPTIONS = stacked(
    click.option(
        "--replicas", default=1, type=click.IntRange(1, MOST_SERVERS), help="Servers, all alike; a load is that of all."
    ),
    click.option(
        "--router",
        default=ROUTERS[0],
        type=click.Choice(ROUTERS),
        help="How requests go to servers: in turn, to the one with the fewest, or to whose cache has much of a prompt.",
    ),
    click.option(
        "--prefill-replicas",
        type=click.IntRange(1, MOST_SERVERS),
        help="In place of --replicas: servers that read prompts alone (xPyD).",
    ),
    click.option(
        "--decode-replicas", type=click.IntRange(1, MOST_SERVERS), help="Beside them: servers that decode alone."
    ),
    click.option(
        "--kv-transfer",
        metavar="GB/S",
        type=click.FloatRange(LEAST_GB_S, MOST_GB_S),
        help="Between them: KV that a prefill server sends a second, over all its links.",
    ),
    click.option("--kv-latency", default="0ms", metavar="TIME", help="Between them: what each transfer takes besides."),
)


def check_fleet(values: Mapping[str, Any]) -> None:
    """Refuse servers that do not fit together.

    Raises:
        UserError: An option lacks another, or stands beside one that it excludes.
    """
    context = click.get_current_context()
    apart = [name for name in BOTH if values[name] is not None]
    if len(apart) == 1:
        lacking = next(name for name in BOTH if values[name] is None)
        raise UserError(f"{flag(lacking)}: missing, expected it beside {flag(apart[0])}")
    if apart and is_given(context, "replicas"):
        raise UserError("--replicas: beside --prefill-replicas, expected one of them")
    if apart and values["kv_transfer"] is None:
        raise UserError("--kv-transfer: missing, expected GB/s of a prefill server's links, such as 50 of 400 Gb/s")
    if apart and values["scheduler"] != "vllm":
        raise UserError(f"--prefill-replicas: by vLLM's rules, expected no --scheduler {values['scheduler']} beside it")
    for name in ("kv_transfer", "kv_latency"):
        if not apart and is_given(context, name):
            raise UserError(f"{flag(name)}: between prefill and decode, expected --prefill-replicas beside it")
    several = apart or values["replicas"] > 1
    if several and values["for_load"] is not None:
        other = "--prefill-replicas" if apart else "--replicas"
        raise UserError(f"--for-load: counts servers, expected no {other} beside it")
    if not several and values["for_load"] is None and is_given(context, "router"):
        raise UserError("--router: of several servers, expected --replicas, --prefill-replicas or --for-load beside it")
    if values["router"] == "prefix-aware" and not values["prefix_caching"]:
        raise UserError("--router prefix-aware: beside --no-prefix-caching, expected another or the cache")
    latency_s(values)


def flag(name: str) -> str:
    """Return an option's name."""
    return f"--{name.replace('_', '-')}"


def latency_s(values: Mapping[str, Any]) -> float:
    """Return what a transfer takes besides its bytes.

    Raises:
        UserError: It is no time.
    """
    told = milliseconds_in(values["kv_latency"])
    if told is None or not 0 <= told <= MOST_LATENCY_MS:
        raise UserError(f"--kv-latency: {values['kv_latency']!r} is not allowed, expected a time such as 2ms")
    return told / 1e3


def served_by(values: Mapping[str, Any], arm: "Arm", models: "ModelPair | Placed", prompt: float) -> "Arm":
    """Return a way of serving on as many servers as options say; prompt: its tokens on average."""
    from dataclasses import replace

    from simulator.answers.fleets import ROUTERS as RULES
    from simulator.answers.fleets import kv_bytes_a_token, of_link
    from simulator.serving.fleet import Replicas

    readers = values["prefill_replicas"] or 0
    servers = readers + values["decode_replicas"] if readers else values["replicas"]
    replicas = Replicas(servers=servers, router=RULES[values["router"]], readers=readers)
    if readers:
        bytes_each = kv_bytes_a_token(models, prompt)
        replicas = of_link(replicas, bytes_each, gb_per_s=values["kv_transfer"], latency_s=latency_s(values))
    return replace(arm, replicas=replicas)
