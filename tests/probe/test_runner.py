"""Planning, checking before timing, leaving out with a reason, and the lines through time against work."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest

from cuda_probe.probe.probes import AXIS_UNITS, PROBES, Axes, DeviceFault, Job, points, select_probes
from cuda_probe.probe.runner import FULL, QUICK, line_fits, plan, run_probes, shuffled, timed_ms
from simulator.ground.artefacts import UserError

from .fake_device import BYTE_S, DEFAULTS, FLOP_S, LAUNCH_S, FakeDevice

RULE = replace(QUICK, warm_up_s=0.0)


def run(device: FakeDevice, *names: str, **given):
    """Run probes; progress has to count every point, those that are left out too."""
    planned, done = plan(device, select_probes(names), given, quick=True), []
    results = run_probes(device, planned, RULE, seed=4, progress=done.append)
    assert results.interrupted or sum(done) == len(planned)
    return results


def left_out(results) -> list[tuple[str, bool, str]]:
    return [(left.probe, left.failed, left.reason) for left in results.left_out]


def test_the_registry_is_sound_and_named_probes_come_in_its_order() -> None:
    assert [probe.name for probe in PROBES] == list(dict.fromkeys(probe.name for probe in PROBES))
    for probe in PROBES:
        assert set(probe.axes) <= set(AXIS_UNITS)
        assert probe.linear_in is None or probe.linear_in in probe.axes
        assert probe.summary.endswith((".", ")", "costs."))
    assert [p.name for p in select_probes(["triad", "empty"])] == ["empty", "triad"]
    assert select_probes([]) == PROBES
    with pytest.raises(UserError, match="--only: 'gemm' is no probe, expected one of 14, nearest: empty, matmul"):
        select_probes(["gemm"])


def test_points_are_all_combinations_the_last_axis_fastest() -> None:
    (probe,) = select_probes(["draft"])
    values = {"draft_n": (1, 2), "work_flops": (5,), "work_mem": (7, 8), "tokens": (1,)}
    rows = [tuple(p.values()) for p in points(probe, values)]
    assert rows == [(1, 5, 7), (1, 5, 8), (2, 5, 7), (2, 5, 8)]
    assert points(select_probes(["empty"])[0], {}) == [{}]


def test_formulas_of_streams_and_products_counted_element_by_element() -> None:
    elements = 1000
    axes, units = {"buffer_bytes": 4 * elements}, FakeDevice.units
    touched = {"read": 1, "write": 1, "copy": 2, "triad": 3}
    for probe in select_probes(touched):
        assert probe.bytes(axes, units) == sum(4 for _ in range(elements) for _ in range(touched[probe.name]))
        assert probe.flop(axes, units) == (2 * elements if probe.name == "triad" else 0)
    (skinny,) = select_probes(["skinny"])
    place = {"weight": "6x5", "tokens": 3, "dtype": "float16"}
    multiply_adds = sum(1 for _ in range(3) for _ in range(5) for _ in range(6))
    assert skinny.flop(place, units) == 2 * multiply_adds
    assert skinny.bytes(place, units) == 2 * (3 * 6 + 6 * 5) + 4 * 3 * 5  # accumulated and written in float32
    assert skinny.bytes(place | {"dtype": "float32"}, units) == 4 * (3 * 6 + 6 * 5 + 3 * 5)
    (matmul,) = select_probes(["matmul"])
    assert matmul.flop({"size": 7, "dtype": "bfloat16"}, units) == 2 * 7**3
    assert matmul.bytes({"size": 7, "dtype": "bfloat16"}, units) == (2 + 2 + 4) * 7**2


def test_the_users_values_replace_the_devices_and_full_takes_the_finer_grid() -> None:
    device, memory = FakeDevice(), select_probes(["burn_memory"])
    planned = plan(device, select_probes(["draft", "baseline"]), {"draft_n": (6,), "work_mem": (0, 9)}, quick=True)
    assert [p.axes for p in planned if p.probe.name == "baseline"] == [
        {"work_flops": f, "work_mem": m} for f in DEFAULTS["work_flops"] for m in (0, 9)
    ]
    assert {p.axes["draft_n"] for p in planned if p.probe.name == "draft"} == {6}
    with pytest.raises(UserError, match="draft_n: no axis of empty"):
        plan(device, select_probes(["empty"]), {"draft_n": (1,)}, quick=True)
    with pytest.raises(UserError, match="at most 10000"):
        plan(device, select_probes(["draft"]), {"draft_n": range(1, 10_002)}, quick=True)
    assert [len(plan(device, memory, {}, quick=quick)) for quick in (True, False)] == [3, 4]
    assert FULL.time_limit_s > QUICK.time_limit_s


def test_results_come_in_the_order_of_the_plan_though_taken_in_one_that_follows_the_seed() -> None:
    device = FakeDevice()
    planned = plan(device, select_probes(["burn_flops", "draft"]), {}, quick=True)
    wanted = [(p.probe.name, p.axes) for p in planned]
    assert [(p.probe, p.axes) for p in run_probes(device, planned, RULE, seed=1).points] == wanted
    taken = [(name, axes) for name, axes, _ in device.prepared]
    assert taken != wanted
    assert [name for name, _ in taken] == [name for name, _ in wanted]
    everything = plan(FakeDevice(), PROBES, {}, quick=True)
    assert shuffled(everything, 1) == shuffled(everything, 1) != shuffled(everything, 2)
    assert sorted(shuffled(everything, 1)) == list(range(len(everything)))


def test_every_point_is_checked_before_it_is_launched_and_a_wrong_result_is_never_timed() -> None:
    device = FakeDevice()
    run(device, "copy")
    assert device.log[device.log.index("copy") - 1] == "check copy"
    assert device.log.count("check copy") == len(DEFAULTS["buffer_bytes"])
    device = FakeDevice(wrong=("copy",))
    found = run(device, "copy", "read")
    assert {p.probe for p in found.points} == {"read"}
    assert "copy" not in device.log
    assert left_out(found) == [("copy", True, "wrong result: off by one")] * 2


def test_what_the_device_cannot_do_is_left_out_with_its_reason() -> None:
    found = run(FakeDevice(too_large=("triad",)), "draft_graph", "triad", "skinny")
    assert set(left_out(found)) == {
        ("draft_graph", False, "no graphs here"),
        ("triad", False, "does not fit into memory"),
        ("skinny", False, "no bfloat16"),
    }
    assert [p.axes["dtype"] for p in found.points] == ["float32"] * 3
    broken = FakeDevice()  # a fault of the device is no skipped point and frees what was taken
    broken.state = lambda: 1 / 0  # type: ignore[assignment]
    with pytest.raises(ZeroDivisionError):
        run(broken, "copy")
    assert broken.open_jobs == 0


def test_only_probes_that_say_so_and_do_not_miss_the_cache_by_themselves_are_flushed() -> None:
    device = FakeDevice()
    found = run(device, "copy", "skinny")
    assert {p.probe for p in found.points if p.measurement.flushed} == {"skinny"}
    assert device.log.count("flush") == sum(len(p.measurement.samples_s) for p in found.of("skinny")) > 0
    device = Troubled(misses_cache=True)
    assert not any(p.measurement.flushed for p in run(device, "skinny").points)
    assert "flush" not in device.log


def test_times_work_and_rates_are_those_of_the_devices_law() -> None:
    found = run(FakeDevice())
    for point in found.points:
        expected = LAUNCH_S + FLOP_S * point.flop + BYTE_S * point.bytes
        assert point.measurement.median_s == pytest.approx(expected)
        assert point.flop_per_s == (pytest.approx(point.flop / expected) if point.flop else None)
        assert point.bytes_per_s == (pytest.approx(point.bytes / expected) if point.bytes else None)
        assert point.states == ({"clock_hz": 10}, {"clock_hz": 10})


def test_the_device_is_asked_before_a_point_and_again_after_it_while_busy() -> None:
    class Telling(FakeDevice):
        def state(self, busy: Callable[[], object] | None = None) -> dict[str, Any]:
            if busy is not None:
                busy()
            return {"time_s": self.time_s, "busy": busy is not None}

    (point,) = run(Telling(), "empty").points
    before, after = point.states
    assert (before["busy"], after["busy"]) == (False, True)
    taken_s = sum(point.measurement.samples_s) * point.measurement.batch
    assert after["time_s"] - before["time_s"] > taken_s > 0


def test_lines_recover_what_a_unit_costs_and_two_points_make_none() -> None:
    fits = line_fits(run(FakeDevice()))
    burn = {fit.probe: fit for fit in fits if fit.probe.startswith("burn")}
    assert burn["burn_flops"].line.slope_s == pytest.approx(600 * FLOP_S)
    assert burn["burn_memory"].line.slope_s == pytest.approx(8000 * BYTE_S + 1000 * FLOP_S)
    for fit in fits:
        assert fit.line.max_relative_residual < 1e-6
        assert fit.probe == "draft" or fit.line.intercept_s > 0.9 * LAUNCH_S
    # A draft's and a verification's line each is for one setting of the knobs.
    assert sum(fit.probe == "draft" for fit in fits) == 9
    verify = next(f for f in fits if f.probe == "verify" and f.held == {"work_flops": 8, "work_mem": 1})
    assert verify.line.slope_s == pytest.approx(8 * 600 * FLOP_S)
    assert line_fits(run(FakeDevice(), "burn_flops", work_flops=(1, 2))) == ()


def test_timed_wrappers_return_milliseconds_by_the_devices_clock() -> None:
    device, knobs = FakeDevice(), {"work_flops": 5, "work_mem": 2}
    one = 5 * 600 * FLOP_S + 2 * (8000 * BYTE_S + 1000 * FLOP_S)
    assert timed_ms(device, "baseline", **knobs) == pytest.approx(1e3 * (LAUNCH_S + one))
    assert timed_ms(device, "draft", draft_n=3, **knobs) == pytest.approx(1e3 * (LAUNCH_S + 3 * one))
    more = 3 * 5 * 600 * FLOP_S
    assert timed_ms(device, "verify", draft_n=3, **knobs) == pytest.approx(1e3 * (LAUNCH_S + one + more))
    with pytest.raises(ArithmeticError, match="draft: off by one"):
        timed_ms(FakeDevice(wrong=("draft",)), "draft", draft_n=3, **knobs)


class Troubled(FakeDevice):
    """Fails where it is told to: a fault at each launch of one probe, or an interrupt at the n-th point."""

    def __init__(self, fault: DeviceFault | None = None, at: str = "", interrupted_at: int = -1, **job: Any) -> None:
        super().__init__()
        self.fault, self.at, self.interrupted_at, self.job = fault, at, interrupted_at, job

    @contextmanager
    def prepare(self, probe: str, axes: Axes, *, seed: int) -> Iterator[Job]:
        if len(self.prepared) == self.interrupted_at:
            raise KeyboardInterrupt
        with super().prepare(probe, axes, seed=seed) as job:
            if self.fault is not None and probe == self.at:
                raise self.fault
            yield replace(job, **self.job)


def test_a_fault_fails_its_points_and_the_run_goes_on() -> None:
    device = Troubled(DeviceFault("cuBLAS says no"), "read")
    found = run(device, "empty", "read", "write")
    assert {p.probe for p in found.points} == {"empty", "write"}
    assert left_out(found) == [("read", True, "cuBLAS says no")] * 2
    assert device.open_jobs == 0


def test_nothing_runs_on_a_device_that_is_lost_and_every_point_is_accounted_for() -> None:
    device, done = Troubled(DeviceFault("gone", lost=True), "read"), []
    planned = plan(device, select_probes(["empty", "read", "write", "copy"]), {}, quick=True)
    found = run_probes(device, planned, RULE, progress=done.append)
    assert [p.probe for p in found.points] == ["empty"]
    assert sorted(left.reason for left in found.left_out) == ["gone", *["not run after: gone"] * 5]
    assert all(left.failed for left in found.left_out)
    assert [name for name, _, _ in device.prepared] == ["empty", "read"]
    assert sum(done) == len(planned) == 7
    assert found.device["name"] == "fake"


def test_an_interrupt_keeps_what_was_measured_and_says_what_was_not() -> None:
    found = run(Troubled(interrupted_at=3), "empty", "read", "write", "copy")
    assert [p.probe for p in found.points] == ["empty", "read", "read"]
    assert [(failed, reason) for _, failed, reason in left_out(found)] == [(False, "not run: interrupted")] * 4
    assert found.interrupted
    assert not run(FakeDevice(), "empty").interrupted


def test_a_launch_of_many_works_is_told_as_one() -> None:
    (once,), (many,) = (run(Troubled(works=works), "empty").points for works in (1, 100))
    assert many.measurement.median_s == pytest.approx(once.measurement.median_s / 100)
    assert many.measurement.warm_ups_s[0] == pytest.approx(once.measurement.warm_ups_s[0] / 100)
    assert many.measurement.batch == 100 * once.measurement.batch
    assert timed_ms(Troubled(works=100), "empty") == pytest.approx(timed_ms(FakeDevice(), "empty") / 100)
