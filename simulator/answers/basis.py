"""What a forecast rests on: whose acceptance, whose costs, and what an answer is conditional on."""

import re
from dataclasses import dataclass
from pathlib import PurePath

from simulator.costs.model_costs import ModelPair
from simulator.costs.profile import Profile
from simulator.costs.step import Costs
from simulator.costs.timed_pair import DecodedPair, TimedTokens
from simulator.rounds.acceptance_law import AcceptanceModel, EquivalentAcceptance, HistogramAcceptance

# Of all decode steps: fewer without a draft change no answer.
FEW_UNDRAFTED = 0.02
MEASURED, OTHER_PAIR, STATED, DEFAULT = "measured", "other pair", "stated", "default"


@dataclass(frozen=True, slots=True, kw_only=True)
class Basis:
    """Where the numbers of a forecast come from.

    acceptance: "measured", "other pair" (measured, though not on this one), "stated" or "default" (an alpha).
    condition: what has to hold for the answer to, in words; empty for what was measured. acceptance_text, costs_text:
    both sources in words. caveat: how far what was measured is approximate; empty where it is not.
    """

    acceptance: str
    condition: str
    acceptance_text: str
    costs_text: str
    caveat: str = ""

    @property
    def lines(self) -> list[str]:
        """Both sources, as answers print them."""
        from simulator.ground.command import folded

        said = [f"acceptance: {self.acceptance_text}", f"  ({self.caveat})", f"costs: {self.costs_text}"]
        return [folded(s) for s in said if s != "  ()"]


def basis_of(
    costs: Costs, acceptance: AcceptanceModel, *, alpha: float | None, is_default_alpha: bool, profile: Profile | None
) -> Basis:
    """Say what a forecast rests on.

    Args:
        costs: What rounds cost.
        acceptance: What rounds accept.
        alpha: Acceptance of a token, where no histogram is used; None where several are looked at.
        is_default_alpha: Whether nobody stated it.
        profile: The device, where there is one.
    """
    costs_text = costs_in_words(costs, profile)
    if isinstance(acceptance, HistogramAcceptance | EquivalentAcceptance):
        measured = acceptance.measured if isinstance(acceptance, EquivalentAcceptance) else acceptance
        source, this = measured.pair, pair_of(costs)
        words = measured_in_words(measured)
        said, condition = MEASURED, ""
        if source is not None and this is not None and not all(map(same_model, source, this)):
            said, condition = OTHER_PAIR, f"if it accepts as {' + '.join(PurePath(name).name for name in source)}"
        longest = measured.nearest(measured.longest)
        undrafted = longest.undrafted / (longest.undrafted + longest.samples)
        if undrafted > FEW_UNDRAFTED:
            condition = f"{f'{condition} and' if condition else 'if'} every step had a draft ({undrafted:.0%} had none)"
        return Basis(
            acceptance=said,
            condition=condition,
            acceptance_text=words,
            costs_text=costs_text,
            caveat=acceptance.caveat,
        )
    if alpha is None:
        words = "as stated, one alpha for every token"
        return Basis(acceptance=STATED, condition="if alpha is as stated", acceptance_text=words, costs_text=costs_text)
    if is_default_alpha:
        words = f"a default, alpha {alpha:g}: measure yours (--hist FILE) or state it (--alpha)"
        return Basis(
            acceptance=DEFAULT, condition=f"if alpha were {alpha:g}", acceptance_text=words, costs_text=costs_text
        )
    words = f"as stated, alpha {alpha:g} for every token"
    return Basis(acceptance=STATED, condition=f"if alpha is {alpha:g}", acceptance_text=words, costs_text=costs_text)


def pair_of(costs: Costs) -> tuple[str, str] | None:
    """Return the names of target and draft, where costs are those of a pair."""
    if isinstance(costs, ModelPair):
        return costs.target.name, costs.draft.name
    return (costs.decoding.target, costs.decoding.draft) if isinstance(costs, DecodedPair) else None


def same_model(one: str, other: str) -> bool:
    """Whether two names can be of one model: vendor, folder, case and what a name ends with do not count."""
    short, long = sorted((re.sub(r"[^a-z0-9]", "", PurePath(name).name.lower()) for name in (one, other)), key=len)
    return bool(short) and long.startswith(short)


def measured_in_words(acceptance: HistogramAcceptance) -> str:
    """Say what acceptance was measured on."""
    longest = acceptance.nearest(acceptance.longest)
    size = (
        "probabilities, of an unknown number of rounds: no interval follows from them"
        if longest.is_law
        else f"{longest.samples:,.0f} rounds"
    )
    prompts = "" if longest.is_law else f" of {longest.prompts:,} prompts" if longest.prompts else ", prompts not known"
    pair = "" if longest.pair is None else f", {longest.pair[1]} drafting for {longest.pair[0]}"
    return f"measured, {size}{prompts}{pair}"


def costs_in_words(costs: Costs, profile: Profile | None) -> str:
    """Say where costs come from."""
    if isinstance(costs, TimedTokens):
        gain = f"a round of {1e3 * costs.round_s:.3g} ms at K = {costs.draft_length}"
        return f"timed: {1e3 * costs.baseline_s:g} ms a token plain, {gain}; its split at other K is not known"
    if profile is None:
        return "burn units as given, of no device"
    if isinstance(costs, DecodedPair):
        return f"{profile.name}, timed while this pair decoded"
    return f"{profile.name}, {profile.status}"
