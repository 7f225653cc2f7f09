"""What a forecast rests on: whose acceptance, whose costs, and what an answer is conditional on."""

import re
from collections.abc import Collection, Mapping
from pathlib import PurePath
from typing import TYPE_CHECKING, NamedTuple

from simulator.costs.kinds import is_decoded, is_models, is_timed
from simulator.costs.parameters import BY_NAME, UNIT_NAMES
from simulator.costs.step import Costs, Knobs
from simulator.rounds.acceptance_law import AcceptanceModel, EquivalentAcceptance, HistogramAcceptance

if TYPE_CHECKING:
    from simulator.costs.profile import Profile

# Of all decode steps: fewer without a draft change no answer.
FEW_UNDRAFTED = 0.02
# Endings of a model's name that leave it the same model, as its number format does: tuned for chat.
SAYS_NOTHING = {"instruct", "it", "chat", "hf"}
MEASURED, OTHER_PAIR, STATED, DEFAULT, TIMED = "measured", "other pair", "stated", "default", "timed"
PRIOR, PUBLISHED = "prior", "published"


class Basis(NamedTuple):
    """Where the numbers of a forecast come from.

    acceptance: "measured", "other pair" (measured, though not on this one), "published" (of a pair, by others), "prior"
    (published, of a method), "stated" or "default" (an alpha).
    costs: the status of a profile, "timed" (tokens of a server), "stated" or "default" (burn units).
    condition: what has to hold for the answer to, in words; empty for what was measured. acceptance_text, costs_text:
    both sources in words. caveat: how far what was measured is approximate; empty where it is not.
    """

    acceptance: str
    condition: str
    acceptance_text: str
    costs_text: str = ""
    costs: str = DEFAULT
    caveat: str = ""

    @property
    def lines(self) -> list[str]:
        """Both sources, as answers print them."""
        from simulator.ground.command import folded

        said = [f"acceptance: {self.acceptance_text}", f"  ({self.caveat})", f"costs: {self.costs_text}"]
        return [folded(s) for s in said if s != "  ()"]


def basis_of(
    costs: Costs,
    acceptance: AcceptanceModel,
    *,
    draft_length: int,
    alpha: float | None,
    stated: Collection[str],
    profile: "Profile | None",
) -> Basis:
    """Say what a forecast rests on.

    Args:
        costs: What rounds cost.
        acceptance: What rounds accept.
        draft_length: K, the longest where several are looked at.
        alpha: Acceptance of a token, where no histogram is used; None where several are looked at.
        stated: Names of the parameters that somebody stated: the others are defaults.
        profile: The device, where there is one.
    """
    found = basis_of_acceptance(costs, acceptance, draft_length, alpha, is_default_alpha="alpha" not in stated)
    condition, units = found.condition, (*UNIT_NAMES, "round_overhead_ms")
    source = STATED if any(name in stated for name in units) else DEFAULT
    source = TIMED if is_timed(costs) else profile.status if profile else source
    if isinstance(costs, Knobs) and "draft_cost" not in stated:
        cost = f"{float(costs.draft_cost):g}"
        condition = f"{condition}, at draft cost {cost}" if condition else f"if a draft costs {cost} of its target"
    return found._replace(condition=condition, costs=source, costs_text=costs_in_words(costs, profile, stated))


def together(found: Mapping[str, Basis]) -> Basis:
    """Return what several methods rest on as one, each part behind its method's name."""
    if len(found) == 1:
        return next(iter(found.values()))
    bases = list(found.values())
    conditions = [f"{b.condition.removeprefix('if ')} ({name})" for name, b in found.items() if b.condition]
    return bases[0]._replace(
        acceptance=", ".join(dict.fromkeys(b.acceptance for b in bases)),
        condition=f"if {' and '.join(conditions)}" if conditions else "",
        acceptance_text="; ".join(f"{name} {b.acceptance_text}" for name, b in found.items()),
        caveat="; ".join(dict.fromkeys(b.caveat for b in bases if b.caveat)),
    )


def basis_of_acceptance(
    costs: Costs, acceptance: AcceptanceModel, draft_length: int, alpha: float | None, *, is_default_alpha: bool
) -> Basis:
    """Say what a forecast rests on besides its costs; see `basis_of`."""
    if isinstance(acceptance, HistogramAcceptance | EquivalentAcceptance):
        measured = acceptance.measured if isinstance(acceptance, EquivalentAcceptance) else acceptance
        if measured.assumed:
            return basis_of_prior(measured, draft_length, is_default_alpha=is_default_alpha)
        source = measured.pair
        words = measured_in_words(measured)
        said, condition = MEASURED, ""
        if source is not None and is_other_pair(source, costs):
            said, condition = OTHER_PAIR, f"if it accepts as {' + '.join(PurePath(n).name for n in source if n)}"
        if beyond := goes_on(acceptance, draft_length):
            condition = f"{condition} and {beyond}" if condition else f"if {beyond}"
        longest = measured.nearest(measured.longest)
        if longest.is_law and said == MEASURED:
            said, condition = STATED, f"{condition} and these rates hold" if condition else "if these rates hold"
        undrafted = longest.undrafted / (longest.undrafted + longest.samples)
        if undrafted > FEW_UNDRAFTED:
            condition = f"{f'{condition} and' if condition else 'if'} every step had a draft ({undrafted:.0%} had none)"
        return Basis(
            acceptance=said,
            condition=condition,
            acceptance_text=words,
            caveat=acceptance.caveat,
        )
    if alpha is None:
        words = "as stated, one alpha for every token"
        return Basis(acceptance=STATED, condition="if alpha is as stated", acceptance_text=words)
    if is_default_alpha:
        words = f"a default, alpha {alpha:g}: measure yours (--hist FILE) or state it (--alpha)"
        return Basis(acceptance=DEFAULT, condition=f"if alpha were {alpha:g}", acceptance_text=words)
    words = f"as stated, alpha {alpha:g} for every token"
    return Basis(acceptance=STATED, condition=f"if alpha is {alpha:g}", acceptance_text=words)


def basis_of_prior(acceptance: HistogramAcceptance, draft_length: int, *, is_default_alpha: bool) -> Basis:
    """Say what a forecast rests on where nothing was measured: on published figures, or an alpha that trees follow."""
    assumed, is_alpha = acceptance.assumed, acceptance.nearest(acceptance.longest).is_law
    source = PUBLISHED if acceptance.pair else PRIOR
    if is_alpha:
        source = DEFAULT if is_default_alpha else STATED
    a = {STATED: "as ", PUBLISHED: ""}.get(source, "a ")
    words = f"{a}{source}, {assumed}" + (": measure yours (--hist FILE)" if source != STATED else "")
    beyond = goes_on(acceptance, draft_length)
    return Basis(
        acceptance=source,
        condition=f"if it accepts {'with' if is_alpha else 'as'} {assumed}{beyond and f' and {beyond}'}",
        acceptance_text=words,
        caveat=acceptance.caveat,
    )


def goes_on(acceptance: HistogramAcceptance | EquivalentAcceptance, draft_length: int) -> str:
    """Say what has to hold beyond the longest draft length that was measured; empty within it."""
    if isinstance(acceptance, EquivalentAcceptance):
        k, how = acceptance.measured.longest, "what was accepted to K = {} goes on as one alpha"
    else:
        k, how = acceptance.measured_to, "acceptance goes on falling as to K = {}"
    return how.format(k) if draft_length > k else ""


def is_other_pair(source: tuple[str, str], costs: Costs) -> bool:
    """Whether costs are those of a pair, and of another one than was measured."""
    names: list[tuple[str, ...]]
    if is_models(costs):
        names = [(shape.name, shape.stated_name) for shape in (costs.target, costs.draft)]
    elif is_decoded(costs):
        names = [(costs.decoding.target,), (costs.decoding.draft,)]
    else:
        return False
    # A server does not tell its draft: the target alone then says.
    return any(one and not any(same_model(one, name) for name in of) for one, of in zip(source, names, strict=True))


def same_model(one: str, other: str) -> bool:
    """Whether two names are of one model: vendor, folder, case and what says how it is stored do not count."""
    return bool(parts_of(one)) and parts_of(one) == parts_of(other)


def parts_of(name: str) -> list[str]:
    """Return what tells a model from others in its name."""
    from simulator.costs.named_formats import named_format

    plain = named_format(name.removesuffix(".json")).plain
    parts = re.findall(r"[a-z0-9]+", PurePath(plain).name.lower())
    return [part for i, part in enumerate(parts) if part not in SAYS_NOTHING and (i or part != "meta")]


def measured_in_words(acceptance: HistogramAcceptance) -> str:
    """Say what acceptance was measured on."""
    longest = acceptance.nearest(acceptance.longest)
    size = (
        "probabilities, of an unknown number of rounds: no interval follows from them"
        if longest.is_law
        else f"{longest.samples:,.0f} rounds"
    )
    prompts = "" if longest.is_law else f" of {longest.prompts:,} prompts" if longest.prompts else ", prompts not known"
    pair = "" if longest.pair is None else f", {pair_in_words(longest.pair)}"
    return f"{size if longest.is_law else f'measured, {size}'}{prompts}{pair}"


def pair_in_words(pair: tuple[str, str]) -> str:
    """Say whose acceptance it is: of target and draft, or of a server's target."""
    target, draft = pair
    return f"{draft} drafting for {target}" if draft else target


def costs_in_words(costs: Costs, profile: "Profile | None", stated: Collection[str]) -> str:
    """Say where costs come from."""
    if is_timed(costs):
        timed = f"{1e3 * costs.baseline_s:g} ms a token plain, a round of {1e3 * float(costs.round_s):.3g} ms"
        return f"timed: {timed} at K = {costs.draft_length}, as sure as these times; its split at other K is not known"
    if profile is None:
        given = [BY_NAME[name].flags[0] for name in (*UNIT_NAMES, "round_overhead_ms") if name in stated]
        said = f"{', '.join(given)} as stated, the rest " if given else ""
        return f"{said}default burn units, of no device"
    if is_decoded(costs):
        return f"{profile.name}, timed while this pair decoded"
    assumed = ", a draft's a default" if isinstance(costs, Knobs) and "draft_cost" not in stated else ""
    return f"{profile.name}, {profile.status}{assumed}"
