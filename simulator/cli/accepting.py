"""`--acceptance` and `--extrapolate`: what is accepted where nothing was measured, and beyond what was."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from simulator.ground.artefacts import UserError
from simulator.ground.command import is_given, stacked
from simulator.ground.ranges import number_in
from simulator.ground.read_as import group_in

if TYPE_CHECKING:
    from simulator.costs.model_costs import ModelPair
    from simulator.rounds.acceptance_law import HistogramAcceptance
    from simulator.rounds.pairs import Published

    Stated = float | Path | Published

OPTION = "--acceptance"
ACCEPTANCE_OPTIONS = stacked(
    click.option(
        OPTION,
        "acceptance",
        multiple=True,
        metavar="[METHOD=]VALUE",
        help="What is accepted: an alpha, a file as of --hist, or PAIR[:TASK] of `pairs list`; once a method.",
    ),
    click.option(
        "--extrapolate", is_flag=True, help="Beyond the longest K that is known: a Weibull tail, said as such."
    ),
)


TREE_OPTIONS = stacked(
    click.option(
        "--topk", type=click.IntRange(1, 1024), help="Children of each of as many nodes, of drafts that branch."
    ),
    click.option(
        "--nodes", type=click.IntRange(2, 65_536), help="Tokens of such a tree that are verified, the last one's too."
    ),
    click.option("--branching", help="Of a static tree: children of every node by level, such as 4,2,1."),
)


def value_of(text: str, name: str = "") -> "Stated":
    """Return an alpha, the path of a file, or what the registry of published pairs has; name: of a method before it.

    Raises:
        UserError: It is none of them, or no share.
    """
    from simulator.rounds.pairs import published

    if not text.strip():
        raise UserError(f"{OPTION}: {name + text!r} has no value, expected {name}ALPHA, {name}FILE or {name}PAIR")
    number = number_in(text, percent=True)
    if number is not None and not 0 <= number <= 1:
        raise UserError(f"{OPTION}: {name}{text} is not allowed, expected 0 to 1, a file, or a pair of `pairs list`")
    if number is not None:
        return float(number)
    try:
        path = group_in(Path(text))
    except UserError as error:
        raise UserError(f"{OPTION} {name}{error}") from None
    return path if path.exists() or path.suffix == ".json" or "/" in text else published(text, OPTION)


def by_method(texts: tuple[str, ...]) -> "dict[str, Stated]":
    """Return what `--acceptance` states, by the names of methods.

    Raises:
        UserError: A text is no method and a value, a value no share, or a method comes twice.
    """
    from simulator.costs.drafters.methods import method_named

    found: dict[str, Stated] = {}
    for text in texts:
        name, _, value = text.partition("=")
        if not value:
            raise UserError(f"{OPTION}: {text!r} is not allowed, expected METHOD=ALPHA, METHOD=FILE or METHOD=PAIR")
        method = method_named(name, OPTION)
        if method.name in found:
            raise UserError(f"{OPTION}: {method.name} twice, expected it once")
        found[method.name] = value_of(value, f"{method.name}=")
    return found


def as_accepted(values: Mapping[str, Any], *, many: bool, compared: bool) -> dict[str, Any]:
    """Return what click parsed, with what `--acceptance` states of one method in place of --alpha or --hist.

    many: numeric parameters are text. compared: several methods are, which take theirs one by one.

    Raises:
        UserError: It is wrong, or at odds with an option beside it.
    """
    texts = values["acceptance"]
    filled = {**values, "published": None}
    if compared or not texts:
        return filled
    if len(texts) > 1:
        raise UserError(f"{OPTION}: {len(texts)} of one method, expected one, or --compare beside them")
    stated = stated_of(texts[0], values["method"])
    context = click.get_current_context()
    for option, name in (("--alpha", "alpha"), ("--hist", "hist")):
        if is_given(context, name):
            raise UserError(f"{OPTION}: {texts[0]} beside {option}, expected one of them")
    if values["law"] is not None:
        raise UserError(f"{OPTION}: {texts[0]} beside synthetic acceptance of an engine, expected one of them")
    name = "alpha" if isinstance(stated, float) else "hist" if isinstance(stated, Path) else "published"
    filled[name] = str(stated) if many and name == "alpha" else stated
    if name != "published":
        context.set_parameter_source(name, click.core.ParameterSource.COMMANDLINE)
    return filled


def stated_of(text: str, method: str | None) -> "Stated":
    """Return the value of one `--acceptance`, whose method, if it names one, is that of --method."""
    from simulator.costs.drafters.methods import method_named

    name, found, value = text.rpartition("=")
    named = method_named(name, OPTION) if found else None
    if named is not None and method is not None and named != method_named(method):
        raise UserError(f"{OPTION}: {text} beside --method {method}, expected the same method")
    return value_of(value, f"{name}{found}")


def published_of(published: "Published", models: "ModelPair | None") -> "HistogramAcceptance":
    """Return what a published pair accepts; refuses one that drafts otherwise than the models."""
    if models is not None and models.method.name != published.method:
        other = f"drafts as {published.method}, not as {models.method.name}"
        raise UserError(f"{OPTION}: {published.name} {other}, expected a pair of this method (pairs list)")
    return published.acceptance


def reaching_to(
    model: "HistogramAcceptance",
    longest: int,
    *,
    extrapolate: bool,
    models: "ModelPair | None",
    source: str,
    published: "Published | None" = None,
) -> "HistogramAcceptance":
    """Return what tells of draft lengths up to `longest`, the largest K; with a tail, where that is asked for.

    published: what the registry has, of which it is; without models it says how drafts are made.

    Raises:
        UserError: It does not reach so far, or drafts of one pass end where they were trained to.
    """
    from simulator.costs.drafters.methods import method_named
    from simulator.rounds.tail import with_tail

    method = models.method if models else method_named(published.method) if published else None
    is_block = method is not None and method.is_block
    if extrapolate and method is not None and is_block:
        known = f"nothing is known beyond K = {model.longest} of {source}"
        raise UserError(f"--extrapolate: {method.name} drafts all tokens in one pass, {known}; expected no such option")
    if extrapolate:
        return with_tail(model, longest)
    if longest > model.longest:
        beyond = "" if is_block or (models and models.tree) else ", or --extrapolate"
        told = f"{longest} is above k = {model.longest} of {source}"
        raise UserError(f"--draftN: {told}, expected 1 to {model.longest}{beyond}")
    return model
