"""Files and functions that fit into a head: what is longer says why in its docstring ("Long because ...")."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("simulator", "cuda_probe", "acceptance", "calibration", "tests", "examples")
MOST_LINES_FILE, MOST_LINES_FUNCTION = 400, 60
REASON = "Long because"


def long_parts(path: Path) -> Iterator[str]:
    """Yield what of a file is too long and does not say why."""
    text = path.read_text()
    tree = ast.parse(text)
    name, lines = path.relative_to(ROOT), len(text.splitlines())
    if lines > MOST_LINES_FILE and REASON not in (ast.get_docstring(tree) or ""):
        yield f"{name}: {lines} lines"
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > MOST_LINES_FUNCTION and REASON not in (ast.get_docstring(node) or ""):
                yield f"{name}: {node.name}: {lines} lines"


def test_what_is_long_says_why() -> None:
    files = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(files) > 200
    assert [part for path in files for part in long_parts(path)] == []


def test_a_long_function_is_found(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    body = "\n".join("    x = 1" for _ in range(MOST_LINES_FUNCTION))
    (tmp_path / "a.py").write_text(f"def f():\n{body}\n")
    assert list(long_parts(tmp_path / "a.py")) == ["a.py: f: 61 lines"]
    (tmp_path / "a.py").write_text(f'def f():\n    """{REASON} it is one table."""\n{body}\n')
    assert list(long_parts(tmp_path / "a.py")) == []
