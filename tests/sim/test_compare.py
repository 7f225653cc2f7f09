"""Same, faster, slower or cannot tell: what two profiles say of one device."""

from dataclasses import replace

import numpy as np
import pytest

from calibration.fit.report import comparison_text
from simulator.costs.compare import Change, changes, overall
from simulator.costs.profile import Curve, Decoding, Profile

from .builders import device, pass_cost

COST = pass_cost(1e-14, 5e-13, launch_s=5e-6, overlap_exponent=2.0)
NAMES = ("flop_scale[0]", "mem_scale[0]")


def profile(flop: float = 1.0, mem: float = 1.0, error: float = 0.01) -> Profile:
    cost = COST.scaled({"flop_scale": flop, "mem_scale": mem})
    return device({"bfloat16": replace(cost, uncertain=NAMES, covariance=np.diag([error**2] * 2))})


CHANGES = [
    (1.0, 0.0, "same"),
    (1.019, 0.001, "same"),  # sure, but too small to matter
    (1.03, 0.01, "slower"),
    (0.97, 0.01, "faster"),
    (1.03, 0.02, "same"),  # within two standard errors
    (1.2, 0.11, "same"),
    (1.2, 0.2, "cannot tell"),
    (3.0, 0.2, "slower"),
    (0.3, 0.2, "faster"),
    (1.0, 0.13, "cannot tell"),
]


def test_a_change_counts_beyond_two_standard_errors_and_2_percent() -> None:
    for ratio, error, verdict in CHANGES:
        assert Change(name="x", before=2.0, now=2.0 * ratio, error=error).verdict == verdict
    # The errors of both add up.
    (memory,) = (c for c in changes(profile(error=0.03), profile(error=0.04)) if c.name.endswith("mem_scale[0]"))
    assert memory.error == pytest.approx(0.05)


def test_one_word_for_all() -> None:
    for now, verdict in (
        (profile(), "same"),
        (profile(flop=1.2), "slower"),
        (profile(flop=0.8, mem=0.7), "faster"),
        (profile(flop=1.2, mem=0.8), "faster in parts, slower in others"),
        (profile(error=0.2), "cannot tell"),
        (profile(flop=3, error=0.2), "slower"),
    ):
        found = changes(profile(), now)
        assert {c.name for c in found} == {f"bfloat16 {n}" for n in (*NAMES, "launch_s")}
        assert overall(found) == verdict
        assert comparison_text(profile(), now).endswith(f"overall: {verdict}")


def test_what_is_not_in_both_is_not_compared() -> None:
    other = replace(profile(), passes={"float32": COST})
    assert changes(profile(), other) == []
    assert "cannot tell (the profiles have nothing in common)" in comparison_text(profile(), other)


def bent(tokens: tuple[float, ...], bytes_: tuple[float, ...], slower: float = 1.0, error: float = 0.02) -> Profile:
    """A device whose arithmetic and memory are faster the larger the work, as probes with these knots see it."""
    sizes = np.array(tokens), np.array(bytes_)
    flop_s, byte_s = slower * 1e-13 * sizes[0] ** -0.7, 1e-10 * sizes[1] ** -0.2
    cost = pass_cost(Curve(sizes[0], flop_s), Curve(sizes[1], byte_s))
    names = tuple(name for name in cost.parameters() if "scale" in name)
    return device({"bfloat16": replace(cost, uncertain=names, covariance=np.eye(len(names)) * error**2)})


MIB = 2.0**20
FEW = bent((1, 16, 1024), (MIB, 1024 * MIB))


@pytest.mark.parametrize("knots", [(1, 16, 1024), (1, 64, 1024), (1, 16, 256, 1024), (4, 4096)])
def test_curves_of_other_knots_are_compared_at_sizes_within_both(knots) -> None:
    for slower, verdict in ((1.0, "same"), (1.3, "slower"), (0.7, "faster")):
        found = changes(FEW, bent(knots, (4 * MIB, 64 * MIB, 256 * MIB), slower))
        assert {c.verdict for c in found if "flop_scale" in c.name} == {verdict}
        assert {c.verdict for c in found if "mem_scale" in c.name} == {"same"}
        assert overall(found) == verdict


def test_the_error_between_knots_is_that_of_both_together() -> None:
    found = {c.name: c for c in changes(FEW, bent((4, 4096), (MIB, 1024 * MIB)))}
    # From 4 to 1024 tokens, of which 64 is the middle: a third of the way from 16 to 1024, 2 of 5 of that to 4096.
    middle = found["bfloat16 flop_scale at 64 tokens"]
    expected = 0.02 * np.sqrt((2 / 3) ** 2 + (1 / 3) ** 2 + 0.6**2 + 0.4**2)
    assert (middle.ratio, middle.error) == pytest.approx((1, expected))
    assert set(found) == {
        *(f"bfloat16 flop_scale at {n} tokens" for n in (4, 64, 1024)),
        *(f"bfloat16 mem_scale at {n} bytes" for n in ("1.04858e+06", "1.07374e+09")),
    }
    # A constant is compared at the knots of the curve.
    found = {c.name: c.verdict for c in changes(FEW, bent((16,), (MIB, 1024 * MIB))) if "flop" in c.name}
    verdicts = {1: "faster", 16: "same", 1024: "slower"}
    assert found == {f"bfloat16 flop_scale at {n} tokens": verdict for n, verdict in verdicts.items()}
    # Without a common size they are not compared.
    assert not any("flop" in c.name for c in changes(FEW, bent((2048, 4096), (MIB, 1024 * MIB))))


COVARIANCE = np.array([[0.01, -0.0062], [-0.0062, 0.0039]])
VERIFY = pass_cost(1e-3, 8e-3, overlap_exponent=1.0, uncertain=NAMES, covariance=COVARIANCE)


def decoded(slower: float = 1.0, **more) -> Profile:
    values = {"target": "t", "draft": "d", "dtype": "bfloat16", "batch": 1, "baseline_s": 0.01 * slower}
    values |= {"baseline_error": 0.005, "draft_step_s": 0.001, "draft_step_error": 0.005}
    return device(decoding=Decoding(**values | {"verify": VERIFY, "draft_lengths": (1, 4)} | more))


def test_pairs_that_decoded_are_compared_by_their_steps() -> None:
    slow = decoded(1.1, verify=VERIFY.scaled({"flop_scale": 1.1, "mem_scale": 1.1}), draft_lengths=(1, 2, 4))
    found = {c.name: c for c in changes(decoded(), slow)}
    assert list(found) == ["baseline", "draft step", "verification at K = 1", "verification at K = 4"]
    assert [c.verdict for c in found.values()] == ["slower", "same", "slower", "slower"]
    # Its parameters are known to 10 % only, but move against each other: what a pass takes is known well.
    assert 0 < found["verification at K = 4"].error < 0.02
    # Times of another pair say nothing of the device.
    for other in ({"target": "u"}, {"draft": "u"}, {"dtype": "float32"}, {"batch": 8}):
        assert changes(decoded(), decoded(**other)) == []
