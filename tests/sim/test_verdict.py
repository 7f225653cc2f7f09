"""Does it pay: what the runs say and what constants and acceptance leave open, together."""

from dataclasses import replace

import pytest

from simulator.answers.uncertainty import Uncertainty
from simulator.answers.verdict import in_words, judge
from simulator.costs.step import Knobs
from simulator.rounds.acceptance_law import IidAcceptance
from simulator.rounds.experiment import Setting, replicate, summarise

KNOBS = Knobs(work_flops=1.0, work_mem=1.0, flop_scale_s=1e-4, mem_scale_s=1e-2, draft_cost=0.1)
SETTING = Setting(total=2000, draft_length=4, costs=KNOBS, acceptance=IidAcceptance(0.7))
SUMMARY = summarise(SETTING, replicate(SETTING, 8, 0))


def sure(low: float, high: float) -> Uncertainty:
    return Uncertainty(
        speedup_ci95=(low, high),
        best_draft_length=4,
        best_draft_length_ci95=(4, 4),
        best_share=1.0,
        draft_lengths=(4,),
        speedup_low95=(low,),
        speedup_high95=(high,),
    )


@pytest.mark.parametrize(
    ("runs", "known", "answer"),
    [
        ((1.1, 1.2), (1.05, 1.3), "pays"),
        ((1.1, 1.2), (0.9, 1.4), "cannot tell"),
        ((0.9, 1.1), (1.05, 1.3), "cannot tell"),
        ((0.8, 0.9), (0.7, 0.95), "does not pay"),
        ((0.8, 0.9), (0.7, 1.05), "cannot tell"),
        ((1.1, 1.2), (0.7, 0.9), "cannot tell"),
        (None, (1.2, 1.4), "cannot tell"),
        # Where nothing is uncertain, the runs alone say.
        ((1.1, 1.2), (0.99, 0.99), "pays"),
    ],
)
def test_both_intervals_have_to_lie_on_one_side_of_1(runs, known, answer: str) -> None:
    summary = replace(SUMMARY, simulation_noise_ci95=runs)
    assert judge(SETTING, summary, sure(*known)).answer == answer


def test_words_name_what_leaves_it_open() -> None:
    summary = replace(SUMMARY, speedup=1.15, simulation_noise_ci95=(1.1, 1.2))
    plain = judge(SETTING, summary)
    assert in_words(plain, summary, 4)[0] == "It pays: 1.15x as fast, 13% less time a token."
    open_ = in_words(judge(SETTING, summary, sure(0.9, 1.4)), summary, 4)[0]
    assert open_ == "Cannot tell: 1.15x, but constants and acceptance are not known well enough."
    summary = replace(summary, simulation_noise_ci95=(0.95, 1.2))
    runs = in_words(judge(SETTING, summary, sure(0.9, 1.4)), summary, 4)[0]
    assert runs.startswith("Cannot tell: 1.15x, and its interval holds 1. Take more --replications")
