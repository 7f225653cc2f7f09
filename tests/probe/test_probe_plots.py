"""The pictures of a probe: a panel for what was measured, with its numbers; the files decode and repeat."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cuda_probe.probe.plots import panels_of, probe_figure, roofs
from cuda_probe.probe.probes import select_probes
from cuda_probe.probe.runner import QUICK, Results, line_fits, plan, run_probes
from simulator.ground.artefacts import UserError
from simulator.ground.pictures import save_figure

from .fake_device import BYTE_S, FakeDevice


def measured(*names: str, **given: Any) -> Results:
    device = FakeDevice()
    return run_probes(device, plan(device, select_probes(names), given, quick=True), QUICK)


@pytest.fixture(scope="module")
def results() -> Results:
    return measured(work_mem=(1, 2, 3), work_flops=(2, 4, 8))


def panels(found: Results) -> dict[str, Any]:
    shown = (axes for axes in probe_figure(found).axes if axes.get_visible())
    return {axes.get_title().split(":")[0].split(",")[0]: axes for axes in shown}


def test_everything_measured_has_its_panel(results: Results) -> None:
    names = ["Roofline", "Streams", "Tokens by a weight matrix", "burn_flops", "burn_memory", "A round's parts"]
    assert list(panels(results)) == names
    assert all(axes.get_xlabel() and axes.get_ylabel() for axes in probe_figure(results).axes)


def test_the_roof_is_the_best_that_was_measured_and_no_point_of_the_roofs_own_lies_above(results: Results) -> None:
    best = roofs(results)
    assert best is not None
    flop_per_s, bytes_per_s = best
    assert flop_per_s == max(p.flop_per_s for p in results.points if p.flop_per_s)
    streams = [p.bytes_per_s for p in results.of("burn_memory", "read", "write", "copy", "triad")]
    assert bytes_per_s == max(streams) < 1 / BYTE_S
    roof = panels(results)["Roofline"].get_lines()[-1]
    x, y = roof.get_data()
    assert y.max() == pytest.approx(flop_per_s / 1e9)
    assert y[0] / x[0] == pytest.approx(bytes_per_s / 1e9)


def test_a_stream_that_fits_the_cache_raises_no_roof_and_has_no_place_under_it() -> None:
    found = measured("copy", "triad", "matmul", buffer_bytes=(4000, 8_000_000))
    in_cache, beyond = found.of("triad")
    assert roofs(found) == (
        pytest.approx(max(p.flop_per_s for p in found.of("matmul"))),
        max(found.of("copy")[1].bytes_per_s, beyond.bytes_per_s),
    )
    shown = {str(line.get_label()): line for line in panels(found)["Roofline"].get_lines()}
    assert shown["triad"].get_ydata() == pytest.approx([beyond.flop_per_s / 1e9])
    assert in_cache.axes["buffer_bytes"] == 4000


def test_points_and_lines_are_the_measured_and_the_fitted(results: Results) -> None:
    axes = panels(results)["burn_flops"]
    line = next(item for item in axes.get_lines() if str(item.get_label()).startswith("line"))
    fit = next(f for f in line_fits(results) if f.probe == "burn_flops")
    x, y = line.get_data()
    assert y == pytest.approx(1e3 * (fit.line.intercept_s + fit.line.slope_s * np.asarray(x)))
    skinny = panels(results)["Tokens by a weight matrix"]
    for panel, probe, places in ((axes, "burn_flops", [2, 4, 8]), (skinny, "skinny", [1, 2, 8])):
        (container,) = panel.containers
        points = container.lines[0].get_xydata()
        assert points[:, 0].tolist() == places
        assert points[:, 1] == pytest.approx([p.measurement.median_s * 1e3 for p in results.of(probe)])


def test_a_single_probe_has_a_single_panel_and_empty_alone_has_none() -> None:
    assert list(panels(measured("skinny"))) == ["Tokens by a weight matrix"]
    assert len(panels_of(measured("burn_flops"))) == 1
    no_work_too = measured("burn_flops", "draft", work_flops=(0, 1, 2, 3), work_mem=(0,))
    assert set(panels(no_work_too)) == {"burn_flops", "A round's parts"}
    with pytest.raises(UserError, match="--plot: nothing was measured that has a picture"):
        probe_figure(measured("empty"))


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_files_decode_and_the_same_figure_gives_the_same_bytes(results: Results, tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / f"{i}{suffix}" for i in range(2)]
    for path in paths:
        save_figure(path, probe_figure(results))
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    if suffix == ".png":
        image = Image.open(io.BytesIO(first)).convert("RGB")
        assert image.getpixel((2, 2)) == (255, 255, 255)
        colours = image.getcolors(1 << 24)
        assert colours is not None
        assert len(colours) > 20


def test_a_picture_of_a_disturbed_run_says_so(results: Results) -> None:
    assert "Disturbed" not in probe_figure(results).get_suptitle()
    noisy = [replace(p, states=({}, {"disturbed": "other work for $5"})) for p in results.points[:2]]
    disturbed = replace(results, points=(*noisy, *results.points[2:]))
    wanted = f"Disturbed: other work for $5, at 2 of {len(results.points)} points"
    assert probe_figure(disturbed).get_suptitle().splitlines()[-1] == wanted
