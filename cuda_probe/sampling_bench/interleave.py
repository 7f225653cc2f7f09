"""Times several launches in turn, so that a slow change of the device is no difference between them."""

from collections.abc import Mapping

import numpy as np

from cuda_probe.probe.timing import Clock, Launch, Measurement, StopRule, summarise, warm_up


def measure_in_turn(
    launches: Mapping[str, Launch], clock: Clock, rule: StopRule, lead: Launch, rng: np.random.Generator
) -> dict[str, Measurement]:
    """Take a sample of every launch, in an order drawn anew, until the rule is met for each of them.

    All get the same number of samples; the reason is that at which the rule was first met. The rule's time limit is
    that of one launch; `lead` comes before every sample, not timed.
    """
    names = sorted(launches)
    warm_ups = {name: warm_up(launches[name], clock, rule) for name in names}
    samples: dict[str, list[float]] = {name: [] for name in names}
    spent_s = dict.fromkeys(names, 0.0)
    reasons: dict[str, str] = {}
    while len(reasons) < len(names):
        for name in rng.permutation(names).tolist():
            began_s = clock.now_s()
            lead()
            samples[name].append(clock.elapsed_s(launches[name], 1))
            spent_s[name] += clock.now_s() - began_s
            if name not in reasons:
                reason = rule.reason(np.array(samples[name]), spent_s[name])
                reasons |= {} if reason is None else {name: reason}
    return {name: summarise(samples[name], warm_ups[name], 1, True, reasons[name], clock, rule) for name in names}
