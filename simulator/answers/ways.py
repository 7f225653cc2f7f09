"""Ways of serving two models: what a scheduler reserves for a method, room for KV, costs of steps, what is accepted."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from simulator.costs.drafters.plan import Method
from simulator.costs.model_costs import ModelPair, Placed
from simulator.costs.parameters import CHUNK
from simulator.costs.profile import Profile
from simulator.costs.room import SHARES, room, with_share, would_fit
from simulator.costs.step import Floats
from simulator.ground.artefacts import UserError
from simulator.rounds.acceptance_law import AcceptanceModel, HistogramAcceptance, Ints
from simulator.rounds.request_laws import concentration_of, found_laws, laws_of, spread, tree_laws
from simulator.serving import policy_tables
from simulator.serving.draw_tables import Laws, Texts, acceptance_of, mean_accepted, mean_of_rounds
from simulator.serving.draws import Acceptance
from simulator.serving.pass_tables import step_costs
from simulator.serving.settings import SGLANG, Settings, settings_of
from simulator.serving.step_costs import StepCosts

from .live_policies import Live, Weighed
from .scene import Arm

# What a kind of request accepts: by a law, or along recorded texts.
Kind = AcceptanceModel | Texts
# Methods of vLLM's that read hidden states of the target: a block of the prefix cache is read again for them.
READS_STATES = ("eagle", "eagle3", "mtp", "dflash", "dspark")
# Requests that any server runs at once where memory sets no limit.
MOST_RUNNING = 1024
# A request has a prompt and an answer.
LEAST_TOKENS = 2
# Tokens of a round that branches, of each number of which a law is kept.
MOST_VERIFIED = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """How an engine is set, whatever it drafts with; None: as it is by default, or as memory allows.

    settings: Further attributes of `Settings` by name.
    """

    chunk: int = CHUNK
    most_running: int | None = None
    longest: int
    block_size: int = 16
    num_blocks: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)


def with_rounds_of(profile: Profile, models: ModelPair) -> ModelPair:
    """Return models whose rounds cost what a profile says besides passes."""
    return replace(models, round_overhead_s=profile.round_overhead_s, round_overhead_error=profile.round_overhead_error)


def reserved(method: Method, k: int) -> dict[str, Any]:
    """Return what vLLM's scheduler reserves for the drafts of a method: places in KV, rows of a step, a block."""
    of, is_parallel = method.engines.vllm.get("method"), bool(method.engines.vllm.get("parallel_drafting"))
    rows = {"dflash": k, "dspark": k - 1, "draft_model": k if is_parallel else 1}.get(str(of), (k - 1) * is_parallel)
    lookahead = k + (of == "dflash") if of in (*READS_STATES, "draft_model") else 0
    return {"lookahead": lookahead, "draft_rows": rows, "drops_block": of in READS_STATES}


def accepting(kinds: Sequence[Kind], models: ModelPair, k: int, concentration: float | None = None) -> Acceptance:
    """Return what rounds of each request accept, of as many kinds of requests; see `kind_of`."""
    return acceptance_of([kind_of(kind, models, k, concentration) for kind in kinds])


def kind_of(kind: Kind, models: ModelPair, k: int, concentration: float | None = None) -> Laws | Texts:
    """Return what rounds of a kind of request accept, as measured.

    concentration: Of a beta law across requests; None: they are as far apart as prompts were measured to be.
    """
    if isinstance(kind, Texts):
        return kind
    measured = kind.nearest(kind.longest) if isinstance(kind, HistogramAcceptance) else None
    if concentration is None:
        concentration = concentration_of(measured) if measured else np.inf
    if isinstance(kind, HistogramAcceptance) and models.varies and measured and measured.by_length is not None:
        return spread(found_laws(kind, k), concentration)
    widths = widths_of(models, k)
    if widths[-1] > k + 1:
        return spread(tree_laws(kind, widths), concentration)
    return laws_of(kind, k, concentration=concentration)


def widths_of(models: ModelPair, k: int) -> Ints:
    """Return the tokens of a sequence that are verified, by K from 0 on.

    Raises:
        UserError: They are more than laws are kept of.
    """
    widths = np.broadcast_to(models.plan(np.arange(k + 1)).width, k + 1)
    if k + 1 < widths[-1] > MOST_VERIFIED:
        raise UserError(
            f"--draftN: K = {k} verifies {widths[-1]:,} tokens of a request in a step, expected at most "
            f"{MOST_VERIFIED} of drafts that branch (--nodes, --branching)"
        )
    return widths


def blocks_of(models: ModelPair | Placed, server: Server, context: float) -> int:
    """Return how many blocks of KV there is memory for, by what sequences of a context take.

    Raises:
        UserError: The models do not fit into memory.
    """
    if server.num_blocks is not None:
        return server.num_blocks
    tokens = float(room(models, max(context, 1.0))) * max(context, 1.0)
    if tokens < LEAST_TOKENS:
        raise UserError(too_large(models, context))
    if tokens < server.longest:
        raise UserError(
            f"--max-model-len: {server.longest:,} tokens do not fit into the memory of the devices beside the weights, "
            f"expected at most {int(tokens):,}, more devices (--tp) or fewer bits (--dtype, --kv-dtype)"
        )
    if not np.isfinite(tokens):
        # Of memory nobody knows of: what all that run at once may hold.
        tokens = float(server.longest * (server.most_running or MOST_RUNNING))
    return int(tokens // server.block_size)


def too_large(models: ModelPair | Placed, context: float) -> str:
    """Say that models leave no room for a request in memory, and with which options they would."""
    if isinstance(models, Placed):
        shape, said = models.shape, f"{models.shape.name} does"
        pair = ModelPair(
            **{of: getattr(models, of) for of in ("profile", "dtype", "kv_dtype", "devices", "replicas")},
            target=shape,
            draft=shape,
            draft_dtype=models.dtype,
        )
        remedy = would_fit(pair, lambda p: bool(room(p.placed_target, context) >= 1))
    else:
        said = f"{models.target.name} and what drafts for it do"
        remedy = would_fit(models, lambda p: bool(room(p, context) >= 1))
    return f"--target-model: {said} not fit into memory: no request can run. {remedy}"


def less_room(models: ModelPair | Placed, server: Server, context: float) -> float:
    """Return the part of its room for KV that a server has on the smallest share of the memory that engines use; 1
    where somebody says which it uses."""
    profile = models.profile
    if server.num_blocks is not None or profile.memory_share is not None or profile.memory_bytes is None:
        return 1.0
    less, usual = (float(room(of, max(context, 1.0))) for of in (with_share(models, SHARES[0]), models))
    return less / usual if np.isfinite(usual) else 1.0


def settings_for(
    models: ModelPair | Placed, server: Server, context: float, k: int = 0, *, is_dynamic: bool = False
) -> Settings:
    """Return the settings of a scheduler for these models."""
    of_method = reserved(models.method, k) if isinstance(models, ModelPair) else {}
    blocks = blocks_of(models, server, context)
    try:
        return settings_of(
            num_blocks=blocks,
            max_model_len=server.longest,
            max_num_batched_tokens=server.chunk,
            max_num_seqs=server.most_running or MOST_RUNNING,
            block_size=server.block_size,
            k=k,
            is_dynamic=is_dynamic,
            **of_method,
            **server.settings,
        )
    except UserError as error:
        raise UserError(as_options(str(error), server)) from None


def as_options(text: str, server: Server) -> str:
    """Return what is wrong with settings under the names of options."""
    if text.startswith("max_model_len is ") and server.num_blocks is not None:
        return (
            f"--num-blocks: {server.num_blocks:,} blocks of {server.block_size:,} have no room for a request of "
            f"{server.longest:,} tokens, expected more, or a shorter --max-model-len"
        )
    names = {"max_model_len": "--max-model-len", "max_num_batched_tokens": "--chunk", "num_blocks": "--num-blocks"}
    name, _, rest = text.partition(" is ")
    return f"{names[name]}: {rest}" if name in names else text


def plain_way(target: Placed, server: Server, context: float, acceptance: Acceptance) -> Arm:
    """Return plain decoding; context: tokens of a sequence on average, by which memory is divided into blocks."""
    settings = settings_for(target, server, context)
    return Arm(
        name="plain",
        settings=settings,
        acceptance=acceptance,
        costs=costs_of(target, server, settings, 0),
        policy=policy_tables.fixed(-1),
        engine=target.engine,
        less_room=less_room(target, server, context),
    )


def drafted_way(
    live: Live,
    models: ModelPair,
    server: Server,
    kinds: Sequence[Kind],
    isl: float,
    osl: float,
    concentration: float | None = None,
) -> Arm:
    """Return speculation under a policy, of requests of so many tokens in and out on average, see `kind_of`."""
    k, context = live.longest, usual_context(isl, osl)
    if models.varies:
        # No engine plans a step before it knows what of the text was found.
        server = replace(server, settings=server.settings | {"async_scheduling": False})
    drafted = widths_of(models, k) - 1
    settings = settings_for(models, server, context, int(drafted[-1]), is_dynamic=live.follows)
    costs = costs_of(models, server, settings, k)
    each = [means_of(kind, k) for kind in kinds]
    means = each[0] if len(each) == 1 else mean_of_rounds(np.array(each), np.ones(len(each)))
    policy = live.make(Weighed(costs, means, drafted.astype(np.float64), settings.max_num_seqs, context, isl / osl))
    return Arm(
        name=f"{models.method.name} {live.name}",
        settings=settings,
        acceptance=accepting(kinds, models, k, concentration),
        costs=costs,
        policy=policy,
        engine=models.placed_target.engine,
        less_room=less_room(models, server, context),
    )


def means_of(kind: Kind, k: int) -> Floats:
    """Return the drafts that a round accepts on average, by K from 0 on."""
    if isinstance(kind, Texts):
        return mean_accepted(kind, k)
    return np.concatenate(([0.0], kind.tokens_per_round(np.arange(1, k + 1)) - 1))


def costs_of(models: ModelPair | Placed, server: Server, settings: Settings, longest: int) -> StepCosts:
    """Return what steps take; longest: K at most."""
    seats, tokens = settings.max_num_seqs, server.chunk
    if settings.scheduler == SGLANG:
        # All that run decode together, whatever a step has of prompts; a prompt that is read whole comes in any case.
        prompts = tokens if settings.chunked_prefill else max(settings.max_prefill_tokens, settings.max_model_len)
        tokens = max(prompts, seats * (1 + settings.k))
    return step_costs(models, longest, tokens=tokens + seats, sequences=seats)


def usual_context(isl: float, osl: float) -> float:
    """Return the tokens that a request holds on average while it decodes."""
    return float(np.maximum(isl + osl / 2, 1.0))
