"""Tables in parts: the bytes of CSV are those of pandas, Parquet reads back the same, and no file is half there."""

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from simulator.ground.artefacts import neutral
from simulator.ground.tables import write_table, writing_table

numbers = st.floats(allow_nan=True, allow_infinity=True)
words = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), max_size=6)
SCALARS = st.one_of(numbers, st.integers(-(2**60), 2**60), st.booleans(), words, st.none())


@st.composite
def boxes(draw: st.DrawFn) -> tuple[tuple[int, ...], dict[str, object]]:
    """A shape, and columns that broadcast to it: of some of its axes, or one value."""
    shape = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=3)))
    columns: dict[str, object] = {"first, of all": np.arange(math.prod(shape)).reshape(shape)}
    for number in range(draw(st.integers(1, 6))):
        own = tuple(n if draw(st.booleans()) else 1 for n in shape)
        values = np.array(draw(st.lists(numbers, min_size=math.prod(own), max_size=math.prod(own)))).reshape(own)
        columns[f"column {number}"] = values if draw(st.booleans()) else draw(SCALARS)
    return shape, columns


def frame_of(shape: tuple[int, ...], columns: dict[str, object]) -> pd.DataFrame:
    whole = {name: np.broadcast_to(np.asarray(v), shape).ravel() for name, v in columns.items()}
    return pd.DataFrame({name: v.astype(object) if v.dtype.kind in "UO" else v for name, v in whole.items()})


@settings(max_examples=40, deadline=None)
@example(((2,), {"": "\n", "a": "x\ny", "b": np.arange(2)}), 1)
@given(boxes(), st.integers(1, 2))
def test_csv_has_the_bytes_of_pandas_however_columns_repeat(tmp_path_factory, box, parts: int) -> None:
    shape, columns = box
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    with writing_table(path) as table:
        for _ in range(parts):
            table.write(table.encode(columns, shape))
    # Texts that a spreadsheet would compute are held back.
    safe = {name: neutral(value) if isinstance(value, str) else value for name, value in columns.items()}
    frame = pd.concat([frame_of(shape, safe)] * parts)
    assert path.read_bytes() == frame.to_csv(index=False).encode()


@settings(max_examples=20, deadline=None)
@given(boxes())
def test_parquet_reads_back_as_it_was(tmp_path_factory, box) -> None:
    shape, columns = box
    path = tmp_path_factory.mktemp("parquet") / "t.parquet"
    with writing_table(path) as table:
        for _ in range(2):
            table.write(table.encode(columns, shape))
    frame = pd.concat([frame_of(shape, columns)] * 2, ignore_index=True)
    pd.testing.assert_frame_equal(pd.read_parquet(path), frame, check_dtype=False, check_column_type=False)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_what_is_interrupted_leaves_what_was_there(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    write_table(path, {"a": np.arange(3), "b": "x"})
    before = path.read_bytes()

    def write_half() -> None:
        with writing_table(path) as table:
            table.write(table.encode({"a": np.arange(9)}, (9,)))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    assert path.read_bytes() == before
