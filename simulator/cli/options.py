"""The options that `simulate` and `sweep` share: what they are on the command line, and what they are parsed into."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from simulator.costs.parameters import PARAMETERS, DeviceOptions, Load, Parameter
from simulator.ground.artefacts import UserError
from simulator.ground.command import FILE, Decorator, is_given, stacked
from simulator.ground.ranges import in_milliseconds, not_a_number, number_in
from simulator.ground.read_as import AS
from simulator.ground.vocabulary import Milliseconds

from .accepting import TREE_OPTIONS, published_of, reaching_to
from .as_rows import fit_of, in_words, placed_as
from .load import load_of, memory_option

if TYPE_CHECKING:
    from simulator.costs.model_costs import ModelPair
    from simulator.costs.priced import Pricing
    from simulator.ground.histogram import AcceptanceHistogram
    from simulator.rounds.acceptance_law import EquivalentAcceptance, HistogramAcceptance
    from simulator.rounds.pairs import Published

    Measured = HistogramAcceptance | EquivalentAcceptance

T = TypeVar("T")
TPOT = Milliseconds(0, 1e9, min_open=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedOptions:
    """What both commands take besides numeric parameters.

    baseline_tpot, speculative_tpot: ms a token of a server without speculation, and with that of the histogram.
    hist: file or folder of histograms. hist_as: what their numbers are, see `parse_histogram`. measured: whether to
    sample them; None if the user did not say. engine: of whose settings to print what is best. law: what an engine's
    settings have it accept, in place of a file; published: what the registry of pairs has. extrapolate: whether a tail
    goes on beyond them. load: that is served; None: a batch that decodes; said: what of it nobody stated, in sentences.
    stated: names of the numeric parameters that the user set.
    """

    device: DeviceOptions
    load: Load | None
    said: tuple[str, ...]
    engine: str | None
    law: "AcceptanceHistogram | None"
    published: "Published | None"
    extrapolate: bool
    stated: frozenset[str]
    hist: Path | None
    hist_as: str | None
    measured: bool | None
    overlap: bool
    guesses: int
    replications: int
    seed: int
    force: bool
    baseline_tpot: float | None
    speculative_tpot: float | None

    @property
    def accepts_as(self) -> str | None:
        """What says how much is accepted: a file, or an engine's settings; None where neither does."""
        if self.published is not None:
            return self.published.name
        return "synthetic_acceptance" if self.law is not None else None if self.hist is None else str(self.hist)

    @property
    def ahead(self) -> int:
        """For how many outcomes of a verification the next draft is made meanwhile."""
        if self.guesses > 1 and not self.overlap:
            raise UserError(f"--guesses: {self.guesses} drafts ahead, expected --overlap beside it")
        return self.guesses if self.overlap else 0

    @property
    def inputs(self) -> dict[str, Path | None]:
        """The files that are read, by option: no output may take their place."""
        device = self.device
        names = {
            "--profile": device.profile,
            "--target-model": device.target_model,
            "--draft-model": device.draft_model,
        }
        return {"--hist": self.hist} | {option: Path(name) if name else None for option, name in names.items()}


class Number(click.ParamType):  # type: ignore[type-arg]  # generic only in the newest click
    """A number; whole where the parameter is. Bounds are checked with the parameter's own words."""

    def __init__(self, parameter: Parameter) -> None:
        self.parameter, self.name = parameter, "INTEGER" if parameter.whole else "FLOAT"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        p = self.parameter
        number = number_in(in_milliseconds(str(value)) if p.unit == "ms" else str(value), percent=p.most == 1)
        if number is None:
            several = (
                "; sweep takes lists and ranges"
                if p.whole and re.fullmatch(r"[\d\s]+[,:][\d\s,:]+", str(value))
                else ""
            )
            raise UserError(f"{p.flags[0]}: {not_a_number(str(value), p.allowed, p.most)}{several}")
        p.check(float(number))
        return int(number) if p.whole else float(number)


def parameter_options(*, many: bool, without: Collection[str] = ()) -> Decorator:
    """Add an option for every numeric parameter but those `without`; `many` takes lists and ranges as text."""

    def option(p: Parameter) -> Decorator:
        kind: dict[str, Any] = {"metavar": "VALUES"} if many else {"type": Number(p)}
        default = f"{p.default:g}" if many else (int(p.default) if p.whole else p.default)
        return click.option(*p.flags, p.name, default=default, help=f"{p.help} [{p.unit}]", **kind)

    return stacked(*(option(p) for p in PARAMETERS if p.name not in without))


DEVICE_OPTIONS = stacked(
    click.option("--profile", help="Device: profile.json of calibrate, or a name that `profiles list` shows."),
    click.option("--target-model", help="config.json, its folder, or a name of the catalogue, such as llama-3.1-8b."),
    click.option("--draft-model", help="The same, of the draft; what its file tells is how it drafts."),
    click.option("--method", help="How it drafts, see `drafters list`; without --draft-model as usual for a target."),
    TREE_OPTIONS,
    click.option(
        "--params", help="Weights of a target that no reader knows, such as 8.03B; in place of its config.json."
    ),
    click.option("--active-params", help="Weights that a token multiplies, where they are fewer: 3.3B."),
    click.option("--kv-bytes-per-token", help="Bytes that a token adds to the KV cache in 16 bits: 131072 or 96KiB."),
    click.option("--draft-params", help="The same three, of the draft."),
    click.option("--draft-active-params"),
    click.option("--draft-kv-bytes-per-token"),
    click.option("--dtype", help="Number format of the weights.  [default: that of its files, else bfloat16]"),
    click.option("--draft-dtype", help="The draft's.  [default: --dtype of 16 or 32 bits, else as of its files]"),
    click.option("--kv-dtype", help="Of the KV cache.  [default: 16 bits, or 32 of float32 weights]"),
    click.option("--tp", type=click.IntRange(1, 1024), help="Devices that share the target (tensor parallelism)."),
    click.option("--draft-tp", type=click.IntRange(1, 1024), help="Those that share the draft.  [default: --tp]"),
    click.option(
        "--placement",
        type=click.Choice(("same", "separate")),
        help="Draft on the target's devices, or on one of its own.",
    ),
    click.option(
        "--source",
        type=click.IntRange(1, 100_000_000),
        help="Tokens that the encoder of T5 or BART reads (Whisper: frames), before the first token; --isl is what the "
        "decoder begins with.  [default: Whisper's own 1500, else 512]",
    ),
    memory_option("Share of a device's memory for weights and KV cache, as the engine was told."),
)


HIST_OPTIONS = stacked(
    click.option(
        "--hist",
        type=FILE,
        help="Measured histogram, such as accept_hist_k4.json, or a folder of them; FOLDER:NAME of --by.",
    ),
    click.option(
        "--as",
        "hist_as",
        type=click.Choice(AS),
        help="What the numbers of --hist are.  [default: as the file says, or as they look]",
    ),
    click.option(
        "--measured/--no-measured",
        default=None,
        help="With --hist: sample it, or use only its i.i.d. equivalent.  [default: measured]",
    ),
)


def run_options(*, replications: int, least: int) -> Decorator:
    """Add the options of acceptance and of runs; `replications`: the default, `least`: the least that is allowed."""
    return stacked(
        HIST_OPTIONS,
        click.option("--overlap/--no-overlap", default=False, help="Draft the next round while the target verifies."),
        click.option(
            "--guesses", default=1, type=click.IntRange(1, 256), help="Outcomes for which --overlap drafts ahead."
        ),
        click.option(
            "--replications",
            default=replications,
            type=click.IntRange(least, 1_000_000),
            help="Simulated runs of each point.",
        ),
        click.option("--seed", default=0, type=click.IntRange(0), help="Seed of every random stream."),
        click.option("--force", is_flag=True, help="Overwrite files that exist."),
        click.option(
            "--baseline-tpot",
            type=TPOT,
            help="Time a token of a server without speculation, in place of costs. [ms]",
        ),
        click.option("--speculative-tpot", type=TPOT, help="The same with speculation, at the K of --hist. [ms]"),
    )


def options_of(cls: type[T], values: Mapping[str, Any]) -> T:
    """Return options from what click parsed: those that are fields of the class, `device` and `stated` besides."""
    context = click.get_current_context()
    if "," in (values["method"] or ""):
        from simulator.costs.drafters.methods import check_list

        check_list(values["method"])
    fit = fit_of(values["profile"])
    placed, rows = (placed_as(fit, values), fit.served) if fit else ({}, Load())
    device = {f.name: values.get(f.name, f.default) for f in fields(DeviceOptions)} | placed
    stated = frozenset(p.name for p in PARAMETERS if is_given(context, p.name))
    named = {**values, "device": DeviceOptions(**device), "stated": stated}
    if "load" not in values:
        named |= load_of(context, values, stated, rows)._asdict()
    named["said"] = (*named["said"], *in_words(values["profile"], placed, rows, named["load"]), *warmth(values))
    return cls(**{f.name: named[f.name] for f in fields(cls)})  # type: ignore[arg-type]


def warmth(values: Mapping[str, Any]) -> Iterator[str]:
    """Say at which temperature published figures were measured: what is accepted hangs on it."""
    if values["published"] is not None:
        yield f"temperature of {values['published'].name}: {values['published'].temperatures}"


def load_acceptance(
    options: SharedOptions, longest: int, models: "ModelPair | None" = None, alphas: Sequence[float] = ()
) -> "Measured | None":
    """Return what --hist says of acceptance up to `longest`, the largest K; None where --alpha is to be used.

    Without --hist and --alpha, a published figure of the method of these models, where there is one. alphas: values of
    --alpha, or its default; drafts that branch take one.
    """
    found = measured_acceptance(options, longest, models)
    if found is None and models is not None and "alpha" not in options.stated:
        # A language model that is named as a draft may be any: the default of --alpha stands for it.
        is_any = options.device.draft_model is not None or options.device.draft_params is not None
        is_any &= models.draft.drafting is None and models.draft.parameters > 0
        found = None if is_any else prior_acceptance(longest, models, extrapolate=options.extrapolate)
    tree = models.tree if models else None
    from simulator.rounds.acceptance_law import HistogramAcceptance

    if tree is None:
        if isinstance(found, HistogramAcceptance) and counts_all(found, models):
            from simulator.rounds.length_law import length_acceptance

            found = reaching(length_acceptance(found), longest, options, models)
        return found
    from simulator.rounds.tree_law import LEVELS, tree_acceptance, tree_of_alpha

    if options.extrapolate:
        raise UserError("--extrapolate: trees grow from what was measured, expected no --topk beside it")
    if options.overlap:
        raise UserError("--overlap: the next draft of a tree is not known ahead, expected no --topk beside it")
    if found is None:
        if len(alphas) > 1:
            raise UserError(f"--alpha: {len(alphas)} values beside --topk, expected one")
        return tree_of_alpha(float(alphas[0]), tree, longest if tree.levels else max(longest, LEVELS))
    if not isinstance(found, HistogramAcceptance):
        raise UserError("--no-measured: trees take more than one alpha, expected no --topk beside it")
    return tree_acceptance(found, tree, longest)


def load_checked(
    options: SharedOptions, longest: int, models: "ModelPair | None", alphas: Sequence[float]
) -> "Measured | None":
    """Return the same of one method; a tail of what has no end is refused."""
    found = load_acceptance(options, longest, models, alphas)
    if options.extrapolate and found is None:
        raise UserError("--extrapolate: an alpha has no last K, expected --hist FILE or --acceptance PAIR beside it")
    return found


def prior_acceptance(longest: int, models: "ModelPair", *, extrapolate: bool) -> "HistogramAcceptance | None":
    """Return what the method of these models was published to accept, None where that is not known."""
    from simulator.rounds.acceptance_law import HistogramAcceptance
    from simulator.rounds.priors import prior

    published = prior(models.method.name)
    if published is None:
        return None
    # What drafts without weights drafts as far as engines have it, of which nothing is accepted at last.
    goes_on = models.method.is_weightless and longest > published.draft_length
    return reaching_to(
        HistogramAcceptance((published,)),
        longest,
        extrapolate=extrapolate or goes_on,
        models=models,
        source=published.assumed.partition(",")[0],
    )


def counts_all(model: "HistogramAcceptance", models: "ModelPair | None") -> bool:
    """Whether rounds draft what they find, and those of every drafted length were counted."""
    from simulator.costs.drafters.plan import LENGTH

    longest = model.nearest(model.longest)
    finds = models is not None and models.plan(1).accepts == LENGTH
    return finds and longest.by_length is not None and longest.drafted is None


def reaching(
    model: "HistogramAcceptance", longest: int, options: SharedOptions, models: "ModelPair | None"
) -> "HistogramAcceptance":
    """Return what tells of draft lengths up to `longest`, the largest K, see `reaching_to`."""
    source = str(options.accepts_as)
    named = options.published
    return reaching_to(model, longest, extrapolate=options.extrapolate, models=models, source=source, published=named)


def with_drafted(pricing: "Pricing", acceptance: object) -> "Pricing":
    """Return costs of rounds that draft as many tokens as acceptance was measured of."""
    drafted = getattr(acceptance, "drafted", None)
    if pricing.models is None or drafted is None:
        return pricing
    return pricing._replace(models=replace(pricing.models, drafted=drafted))


def measured_acceptance(options: SharedOptions, longest: int, models: "ModelPair | None") -> "Measured | None":
    """Return what --hist says, as it was measured; see `load_acceptance`."""
    from simulator.ground.histogram import load_histograms
    from simulator.rounds.acceptance_law import EquivalentAcceptance, HistogramAcceptance

    hist, states_alpha = options.hist, "alpha" in options.stated
    if hist is not None and options.law is not None:
        raise UserError(f"--hist: {hist} beside synthetic acceptance of --speculative-config, expected one of them")
    if hist is None and options.law is None and options.published is None:
        for option, value in (("--measured/--no-measured", options.measured), ("--as", options.hist_as)):
            if value is not None:
                raise UserError(f"{option}: nothing to measure by, expected --hist FILE beside it")
        return None
    if options.published is not None:
        model = published_of(options.published, models)
    else:
        found = load_histograms(hist, options.hist_as) if hist else tuple(filter(None, [options.law]))
        model = HistogramAcceptance(found)
    if options.measured is False and options.extrapolate:
        raise UserError("--extrapolate: one alpha goes on as it is, expected no --no-measured beside it")
    if options.measured is False:
        return None if states_alpha else EquivalentAcceptance(model)
    tree = models.tree if models else None
    is_grown = tree is not None and tree.topk > 1 and model.nearest(model.longest).ranks is not None
    if states_alpha:
        raise UserError("--alpha: not used while a histogram is sampled, expected one of them or --no-measured")
    return model if is_grown or counts_all(model, models) else reaching(model, longest, options, models)


def timed_pricing(pricing: "Pricing", options: SharedOptions, measured: "Measured | None") -> "Pricing":
    """Return costs from times a token of a server, where the user states them; else of rounds as they were measured."""
    pricing = with_drafted(pricing, measured)._replace(guesses=max(options.ahead, 1))
    tpots = {"--baseline-tpot": options.baseline_tpot, "--speculative-tpot": options.speculative_tpot}
    given = {option: ms for option, ms in tpots.items() if ms is not None}
    if not given:
        return pricing
    from simulator.costs.timed_pair import timed_tokens
    from simulator.rounds.acceptance_law import HistogramAcceptance

    option, ms = next(iter(given.items()))
    if len(given) == 1:
        raise UserError(f"{option}: {ms:g} alone, expected {next(o for o in tpots if o not in given)} beside it")
    if pricing.profile is not None:
        raise UserError(f"{option}: {ms:g} beside --profile, expected one or the other")
    if not isinstance(measured, HistogramAcceptance):
        raise UserError(
            f"{option}: {ms:g} without --hist, expected what that server accepted (measure-acceptance import)"
        )
    histogram = measured.nearest(measured.longest)
    baseline_s, speculative_s = (value / 1e3 for value in given.values())
    k, tau = histogram.draft_length, histogram.tokens_per_round
    return pricing._replace(timed=timed_tokens(baseline_s, speculative_s, tau, k))


def provenance(pricing: "Pricing", options: SharedOptions) -> Iterator[tuple[str, Any]]:
    """Yield device and models, and how those run; or times a token; nothing where neither is used."""
    from simulator.costs.priced import HOW_MODELS_RUN, MEMORY_SHARE, SOURCE, STATED

    if pricing.timed is not None:
        yield from (("baseline_tpot_ms", options.baseline_tpot), ("speculative_tpot_ms", options.speculative_tpot))
    if pricing.profile is None:
        return
    for name in ("profile", "target_model"):
        yield name, getattr(options.device, name)
    yield "draft_model", options.device.drafter
    for name in (*STATED, MEMORY_SHARE, SOURCE):
        if getattr(options.device, name) is not None:
            yield name, getattr(options.device, name)
    yield "profile_status", pricing.profile.status
    if pricing.models is not None:
        for option, name in HOW_MODELS_RUN.items():
            value = getattr(pricing.models, name)
            yield option, getattr(value, "name", value)
