"""How every picture looks: titles that it holds, axes whose numbers stand apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from simulator.ground.pictures import FAILED, MOST_TICKS, fitted, log_axis, new_figure, set_title


def labels(low: float, high: float) -> list[str]:
    with new_figure(4, 3) as figure:
        axes = figure.subplots()
        log_axis(axes, "x", low, high)
        figure.canvas.draw()
        return [label.get_text() for label in axes.get_xticklabels()]


@given(low=st.floats(1e-6, 1e6), ratio=st.floats(1.001, 1e9))
def test_a_logarithmic_axis_has_few_plain_numbers_all_of_them_different(low: float, ratio: float) -> None:
    with new_figure(4, 3) as figure:
        axes = figure.subplots()
        log_axis(axes, "y", low, low * ratio)
        ticks = axes.get_yticks()
    assert 1 <= len(ticks) <= MOST_TICKS
    assert all(low <= tick <= low * ratio * (1 + 1e-12) for tick in ticks)
    assert len({f"{tick:.6g}" for tick in ticks}) == len(ticks)


def test_ticks_of_a_wide_and_of_a_narrow_axis() -> None:
    assert labels(0.002, 20) == ["0.003", "0.01", "0.03", "0.1", "0.3", "1", "3", "10"]
    assert labels(0.002, 30) == ["0.01", "0.1", "1", "10"]
    assert labels(8.0, 8.2)[0] == "8"
    assert all(label.startswith("8") for label in labels(8.0, 8.2))


@pytest.mark.parametrize("failed", [False, True])
def test_a_title_is_held_by_its_figure_and_red_where_a_check_failed(failed: bool) -> None:
    with new_figure(4, 3, parse_math=True) as figure:
        set_title(figure, "wide words " * 20, "of $a_{b$" + "x" * 200, failed=failed)
        figure.canvas.draw()
        title = figure.texts[0]
        box = title.get_window_extent()
    assert figure.bbox.x0 <= box.x0 <= box.x1 <= figure.bbox.x1
    assert (title.get_color() == FAILED) == failed
    assert "".join(fitted("a bc def " * 9, 1).split()) == "abcdef" * 9
