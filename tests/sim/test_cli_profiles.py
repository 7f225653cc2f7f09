"""`profiles` as a user meets it; same, faster, slower or cannot tell: what two profiles say of one device."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from calibration.fit.report import comparison_text
from simulator.costs.compare import Change, changes, overall
from simulator.costs.profile import KERNELS_MEASURED, BurnUnits, Curve, Decoding, Profile
from simulator.costs.profile_file import load_profile, presets, profile_json
from simulator.ground.command import folded, table

from .builders import device, pass_cost, written


def measured(name: str = "one", error: float = 0.03, **cost: object) -> Profile:
    """A measured device: 100 TFLOP/s, known to `error`, 1000 GB/s and 5 us a launch, known to 10 %."""
    made = {"flop": 1e-14, "mem": 1e-12, "launch_s": 5e-6} | cost
    names = ("flop_scale[0]", "mem_scale[0]", "launch_s")
    made |= {"uncertain": names, "covariance": np.diag([error**2, 0.01, 0.01])}
    return device({"bfloat16": pass_cost(**made)}, name=name)


def row(text: str, start: str) -> list[str]:
    """The words of the only line that starts so."""
    (line,) = (line for line in text.splitlines() if f"{line.strip()} ".startswith(f"{start} "))
    return line.strip().removeprefix(start).split()


@pytest.fixture
def diff(output, tmp_path: Path) -> Callable[..., str]:
    """Return a function that gives what `profiles diff` says of two profiles."""

    def compared(*profiles: Profile) -> str:
        return output("profiles", "diff", *(written(tmp_path / f"{i}.json", p) for i, p in enumerate(profiles)))

    return compared


def test_the_list_has_every_preset_with_its_rates(output) -> None:
    text = output("profiles", "list")
    first, listing, _ = text.split("\n\n")
    head, *lines = listing.splitlines()
    assert first == f"{len(presets())} devices, 1 of them measured, the others from data sheets."
    assert head.split()[:2] == ["name", "memory"]
    assert [line.split()[0] for line in lines] == list(presets())
    listed = {p["name"]: p for p in json.loads(output("profiles", "list", "--json"))["profiles"]}
    assert list(listed) == list(presets())
    assert listed["h200"]["bytes_per_s"] == pytest.approx(3.84e12, rel=1e-4)
    for name, profile in listed.items():
        assert re.search(rf"{name} +{re.escape(profile['device'][:20])}", text)
    assert [line.split()[0] for line in lines if "datasheet, uncalibrated" not in line] == ["epyc-2-core"]
    # 80 % of 4800 GB/s and 70 % of 989.5 TFLOP/s.
    text = listing
    assert row(text, "h200")[:9] == ["141", "GiB", "3840", "GB/s", "692.7", "TFLOP/s", "bfloat16", "700", "W"]
    assert row(text, "t4")[4:7] == ["45.5", "TFLOP/s", "float16"]
    assert row(text, "cpu-2-core")[6] == "float32"


def test_a_preset_is_shown_with_units_uncertainty_sources_and_notes(output) -> None:
    text = output("profiles", "show", "h100-sxm")
    answer = "h100-sxm reads 2680 GB/s and computes 692.7 TFLOP/s in bfloat16: datasheet, uncalibrated."
    assert text.startswith(f"{answer}\nNVIDIA H100 SXM 80 GB\n")
    assert row(text, "link, one direction") == ["360", "GB/s", "+-", "30", "%"]
    assert row(text, "round overhead") == ["600", "us", "+-", "50", "%"]
    # The link of a mesh is that to one other device: 80 % of 64 GB/s.
    mesh = output("profiles", "show", "mi300x")
    assert row(mesh, "link to each other device, one direction") == ["51.2", "GB/s", "+-", "30", "%"]
    bfloat16 = text.partition("\nbfloat16\n")[2].partition("\n\n")[0]
    assert row(bfloat16, "arithmetic") == ["692.7", "TFLOP/s", "1.444e-15", "s/FLOP", "+-", "15", "%"]
    assert row(bfloat16, "memory bandwidth") == ["2680", "GB/s", "3.731e-13", "s/B", "+-", "10", "%"]
    profile = load_profile("h100-sxm")
    for source in profile.sources:
        assert f"    {source.what}\n" in text
        assert f"  {source.url}\n" in text
    said = " ".join(text.split())
    for note in profile.notes:
        assert note in said


def test_curves_are_shown_by_their_knots_and_burn_units_and_correlations_by_name(output, tmp_path: Path) -> None:
    curve = Curve(np.array([1.0, 128.0]), np.array([5e-14, 2e-15]))
    names, covariance = ("flop_scale[0]", "mem_scale[1]"), np.array([[0.04, -0.0085], [-0.0085, 0.0025]])
    memory = Curve(np.array([2.0**20, 2.0**30]), np.array([2e-12, 5e-13]))
    cost = pass_cost(curve, memory, uncertain=names, covariance=covariance)
    units = BurnUnits(workflops_flop=600, workmem_bytes=800, cost=pass_cost(curve, 1e-9))
    profile = replace(measured(), passes={"bfloat16": cost}, units=units)
    text = output("profiles", "show", written(tmp_path / "p.json", profile))
    bfloat16, burn = text.partition("\nbfloat16\n")[2].split("\n\n")[:2]
    assert row(bfloat16, "arithmetic, 1 tokens") == ["20", "TFLOP/s", "5e-14", "s/FLOP", "+-", "20", "%"]
    assert row(bfloat16, "arithmetic, 128 tokens") == ["500", "TFLOP/s", "2e-15", "s/FLOP"]
    assert row(bfloat16, "memory bandwidth, 1 MiB") == ["500", "GB/s", "2e-12", "s/B"]
    assert row(bfloat16, "memory bandwidth, 1024 MiB") == ["2000", "GB/s", "5e-13", "s/B", "+-", "5", "%"]
    assert row(bfloat16, "overlap exponent") == ["inf"]
    assert "  correlation of flop_scale[0] and mem_scale[1]: -0.85" in bfloat16
    assert burn.startswith("burn units\n")
    assert row(text, "workflops") == ["600", "FLOP"]
    assert row(text, "workmem") == ["800", "B"]
    assert "no sources" in text
    text = output("profiles", "show", written(tmp_path / "p.json", replace(profile, passes={})))
    assert " has costs of burn units alone: " in text.splitlines()[0]


def test_json_is_the_profile_and_can_be_read_again(output, tmp_path: Path) -> None:
    text = output("profiles", "show", "mi300x", "--json")
    (tmp_path / "again.json").write_text(text)
    assert json.loads(text)["kind"] == "hardware_profile"
    assert profile_json(load_profile(tmp_path / "again.json")) == profile_json(load_profile("mi300x"))
    assert output("profiles", "diff", "mi300x", "again.json").endswith("\n\nsame\n")


def test_two_presets_are_compared_field_by_field(output) -> None:
    text = output("profiles", "diff", "h100-sxm", "h200")
    assert row(text, "memory ") == ["80", "GiB", "141", "GiB", "1.762"]
    wide = row(text, "fp8: memory bandwidth")
    assert wide == ["2680", "GB/s", "+-", "10", "%", "3840", "GB/s", "+-", "10", "%", "1.433"]
    assert "arithmetic" not in text
    assert "power under load" not in text
    assert "device: not the same" in text
    for word in ("faster", "slower", "uncertainty"):
        assert word not in text
    assert text.startswith("h200 over h100-sxm: 8 numbers differ, memory bandwidth 1.43x, memory 1.76x\nA: h100-sxm")
    told = json.loads(output("profiles", "diff", "h100-sxm", "h200", "--json"))
    memory = told["numbers"][0]
    assert (memory["a"]["value"], memory["b"]["value"], memory["ratio"]) == (80, 141, 1.7625)
    assert (told["same"], told["not_the_same"]) == (False, ["device", "sources", "notes"])
    # A number format of one alone.
    assert row(output("profiles", "diff", "t4", "l4"), "bfloat16") == ["yes", "in", "B", "only"]
    assert row(output("profiles", "diff", "l4", "t4"), "fp8") == ["yes", "in", "A", "only"]


def test_measured_profiles_differ_beyond_2_standard_errors_of_both(diff) -> None:
    # 3 % and 4 % are 5 % together; 2 of them are exp(0.1) = 1.105.
    within = "same within the uncertainty"
    for times, verdict in ((1.10, within), (1.11, "slower"), (1 / 1.10, within), (1 / 1.11, "faster")):
        kernels = replace(measured(error=0.04, flop=1e-14 * times), status=KERNELS_MEASURED)
        words = row(diff(measured(error=0.03), kernels), "bfloat16: arithmetic")
        assert words[:5] == ["100", "TFLOP/s", "+-", "3", "%"]
        assert words[10:] == [f"{1 / times:.4g}", *verdict.split()]
    # Less time a launch is faster, and what has no error is left open.
    text = diff(measured(fixed_s=1e-4), measured(launch_s=2e-6, fixed_s=5e-5, mem=1.05e-12))
    assert row(text, "bfloat16: launch")[-2:] == ["0.4", "faster"]
    assert row(text, "bfloat16: fixed, of a pass")[-4:] == ["0.5", "no", "uncertainty", "stated"]
    assert text.count("same within the uncertainty") == 1
    assert "arithmetic" not in text
    # A name alone is no difference.
    assert diff(measured(), measured(name="other")).endswith("\n\nsame\n")
    noted = diff(measured(), replace(measured(), notes=("A note.",)))
    assert noted.endswith("every number is the same\n\nnotes: not the same\n")


def test_curves_are_compared_at_the_knots_of_both(diff) -> None:
    def curved(sizes: list[float], seconds: list[float], variances: list[float]) -> Profile:
        names = tuple(f"flop_scale[{i}]" for i in range(len(sizes)))
        curve = Curve(np.array(sizes), np.array(seconds))
        return device({"bfloat16": pass_cost(curve, 1e-12, uncertain=names, covariance=np.diag(variances))})

    two = curved([1, 16], [1.6e-13, 1e-14], [0.0016, 0.0004])
    text = diff(two, curved([1, 4, 16], [1.6e-13, 2e-14, 1e-14], [0.0016, 0.0009, 0.0004]))
    # Half way: one takes 4e-14, known to half the root of 0.0016 + 0.0004, 2.24 %; the other takes half of that.
    found = row(text, "bfloat16: arithmetic, 4 tokens")
    assert found == ["25", "TFLOP/s", "+-", "2.24", "%", "50", "TFLOP/s", "+-", "3", "%", "2", "faster"]
    assert "1 tokens" not in text
    assert "16 tokens" not in text
    text = diff(measured(), two)
    words = row(text, "bfloat16: arithmetic, 1 tokens")
    assert (words[:2], words[-1]) == (["100", "TFLOP/s"], "slower")
    assert row(text, "bfloat16: arithmetic, 16 tokens")[5:7] == ["100", "TFLOP/s"]


def test_mistakes_are_one_line_and_exit_code_2(run, user_error, tmp_path: Path) -> None:
    payload = json.loads(written(tmp_path / "bad.json", measured()).read_text())
    payload["passes"]["bfloat16"]["launch_s"] = -1
    (tmp_path / "bad.json").write_text(json.dumps(payload))
    where = "bad.json: passes.bfloat16.launch_s is -1, expected a number from 0 to 1000000"
    for words, *messages in (
        (("show", "h300"), "profiles: h300: no such file", "nearest: h200"),
        (("diff", "t4", "nothing.json"), "nothing.json: no such file"),
        (("show",), "NAME|FILE: is missing"),
        ((), "profiles: no command, expected one of list, show, diff, new"),
        (("lst",), "lst: no such command, nearest: list"),
        (("show", "bad.json"), where),
        (("diff", "t4", "bad.json"), where),
    ):
        user_error(run("profiles", *words), *messages)


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


ROWS = [("pass", "ms", "binds"), ("plain step", "6.393", "memory"), ("[draft]", "1.355", ""), ("verification", "6.400")]


def cells(text: str) -> list[list[str]]:
    lines = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text).splitlines()
    return [re.split(r" {2,}", line.strip()) for line in lines if line.strip("─ ")]


def test_a_file_gets_plain_columns_and_a_terminal_the_same_cells_ruled_and_coloured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = table(ROWS, left=(0, 2))
    assert plain.splitlines() == [
        "pass             ms  binds",
        "plain step    6.393  memory",
        "[draft]       1.355",
        "verification  6.400",
    ]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm-256color")
    for headed in (True, False):
        shown = table(ROWS, headed=headed)
        assert cells(shown) == cells(plain)
        assert ("\x1b[" in shown) == ("─" in shown) == headed
    monkeypatch.setenv("COLUMNS", "100")
    # Colours take no room, and a terminal that is wide enough gets its lines whole.
    assert folded(table([("a" * 30, "b" * 30, "c" * 30)] * 2)).count("\n") == 2
    monkeypatch.setenv("COLUMNS", "300")
    assert folded("many words " * 20).count("\n") == 0
    monkeypatch.setenv("COLUMNS", "22")
    parts = table(ROWS, headed=False).split("\n\n")
    assert [[row[-1] for row in cells(part)][1] for part in parts] == ["6.393", "memory"]


def test_a_table_too_wide_goes_on_below_behind_its_first_columns_and_long_cells_are_folded() -> None:
    wide = table([("name", "K", *("x" * 30 for _ in range(5))), ("a " * 40, "8", "1", "2", "3", "4", "5")], keys=2)
    assert max(map(len, wide.splitlines())) <= 100
    parts = wide.split("\n\n")
    assert len(parts) == 5
    assert all(part.splitlines()[0].split()[:2] == ["name", "K"] for part in parts)
    assert wide.count("a") - wide.count("name") == 40 * 5
    line = "x" * 120 + " and more words than a line holds, " * 4
    assert folded(f"  {line}").splitlines()[1].startswith("    and more")
    assert "x" * 120 in folded(line)
