"""What is compiled is kept, as long as no source of loops changes, and runs where nothing can be kept."""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from simulator.ground import compiled

pytestmark = [pytest.mark.whole, pytest.mark.skipif(not compiled.IS_COMPILED, reason="needs numba")]
SOURCE = "from simulator.ground.compiled import lean\n\n\n@lean\ndef twice(x):\n    return 2 * x\n"


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def compiled_anew(path: Path) -> int:
    """How often a call compiles, rather than take what was kept."""
    twice: Any = loaded(path).twice
    assert twice(4) == 8
    return sum(twice.stats.cache_misses.values())


def test_what_was_compiled_is_kept_until_any_source_of_loops_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "loops.py"
    path.write_text(SOURCE)
    assert [compiled_anew(path), compiled_anew(path)] == [1, 0]
    # A function that it calls, say, in another file.
    other = (("other.py", 1, 2), *compiled.stamps())
    monkeypatch.setattr(compiled, "stamps", lambda: other)
    assert [compiled_anew(path), compiled_anew(path)] == [1, 0]


def test_who_asks_is_told_as_a_function_begins_to_be_compiled_and_not_of_another(tmp_path: Path) -> None:
    path, told = tmp_path / "loops.py", list[int]()
    path.write_text(SOURCE)
    for value in (4, 4.0, 4):
        twice: Any = loaded(path).twice
        with compiled.at_compiling(twice, lambda value=value: told.append(value)):
            assert twice(value) == 8
        with compiled.at_compiling(compiled.stamps, lambda: told.append(0)):
            assert twice(1j) == 2j
    assert [type(value) for value in told] == [int, float]


def test_a_function_runs_where_nothing_can_be_kept() -> None:
    names: dict[str, Any] = {}
    exec(SOURCE, names)
    assert names["twice"](4) == 8
