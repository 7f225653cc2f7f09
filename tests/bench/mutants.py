"""Does the suite notice when the core is wrong? Small changes to it, one at a time, and the tests that should fail.

    python tests/bench/mutants.py                      # all targets, a fixed sample of mutants each
    python tests/bench/mutants.py --only engine --list

A mutant that its tests let pass has survived: read it, and write the missing test or see that it changes nothing. The
same functions give the same mutants, so that counts of two commits compare. Works on a copy of the checkout.
"""

import argparse
import ast
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
TIME_LIMIT_S = 900


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A file of the core, the tests that hold it (quickest first), and how many of its mutants are tried."""

    name: str
    file: str
    tests: tuple[str, ...]
    sample: int


def target(name: str, file: str, sample: int, *tests: str) -> Target:
    return Target(name=name, file=file, sample=sample, tests=tuple(f"tests/{test}.py" for test in tests))


TARGETS = (
    target("step", "simulator/costs/step.py", 24, "sim/test_cost_model", "sim/test_analytic", "sim/test_engine"),
    target("engine", "simulator/rounds/engine.py", 24, "sim/test_engine", "sim/test_experiment"),
    target("estimators", "acceptance/estimate/estimators.py", 36, "accept/test_estimators"),
    target("fit", "calibration/fit/fit.py", 36, "calib/test_fit", "calib/test_build_profile"),
    target("rule", "acceptance/models/rule.py", 10, "accept/test_scoring", "accept/test_decoders"),
    target("decoder", "acceptance/decoders/decoder.py", 6, "accept/test_decoders"),
    target("batch", "acceptance/decoders/batch.py", 14, "accept/test_decoders"),
    target("chain", "acceptance/decoders/chain.py", 20, "accept/test_decoders", "accept/test_chain_methods"),
    target("tree", "acceptance/decoders/tree.py", 20, "accept/test_trees"),
)
# Where a node begins or ends in the bytes of a file.
At = Callable[..., int]
COMPARISONS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "==", "is": "is not", "is not": "is"}
ARITHMETIC = {"+": "-", "-": "+", "*": "/", "/": "*", "//": "*", "**": "*", "@": "+", "&": "|", "|": "&", "%": "+"}
SYMBOLS = {
    **{ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">=", ast.Eq: "==", ast.NotEq: "!="},
    **{ast.Is: "is", ast.IsNot: "is not", ast.Add: "+", ast.Sub: "-", ast.Mult: "*", ast.Div: "/"},
    **{ast.FloorDiv: "//", ast.Pow: "**", ast.MatMult: "@", ast.BitAnd: "&", ast.BitOr: "|", ast.Mod: "%"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One change. where: the function, its kind and its place among those of this kind there."""

    where: str
    line: int
    start: int
    end: int
    text: str

    @property
    def key(self) -> str:
        """Orders mutants at random, in the same way for the same functions."""
        return hashlib.sha256(self.where.encode()).hexdigest()


def mutants_of(source: str) -> list[Mutant]:
    """Return every mutant of a file."""
    lines = source.encode().splitlines(keepends=True)
    starts = [sum(map(len, lines[:i])) for i in range(len(lines) + 1)]

    def at(node: ast.AST, *, end: bool = False) -> int:
        row, column = (node.end_lineno, node.end_col_offset) if end else (node.lineno, node.col_offset)  # type: ignore[attr-defined]
        return starts[row - 1] + column

    found: list[Mutant] = []
    for name, function in functions(ast.parse(source)):
        counts: dict[str, int] = {}
        for node in walk(function):
            for kind, start, end, text in changes(node, source.encode(), at):
                counts[kind] = counts.get(kind, 0) + 1
                where = f"{name} {kind} {counts[kind]}"
                found.append(Mutant(where=where, line=node.lineno, start=start, end=end, text=text))  # type: ignore[attr-defined]
    return found


def functions(tree: ast.Module) -> Iterator[tuple[str, ast.AST]]:
    """Yield the name and body of every function and method."""
    for node in tree.body:
        inner = node.body if isinstance(node, ast.ClassDef) else [node]
        for part in inner:
            if isinstance(part, ast.FunctionDef):
                yield (f"{node.name}.{part.name}" if isinstance(node, ast.ClassDef) else part.name), part


def walk(function: ast.AST) -> Iterator[ast.AST]:
    """Yield what a function does, in the order of its text: no annotations, docstring or error messages."""
    for child in ast.iter_child_nodes(function):
        if isinstance(child, ast.arguments | ast.JoinedStr | ast.Raise) or child is getattr(function, "returns", None):
            continue
        if isinstance(function, ast.FunctionDef) and child in function.decorator_list:
            continue
        yield child
        yield from walk(child)


def changes(node: ast.AST, source: bytes, at: At) -> Iterator[tuple[str, int, int, str]]:
    """Yield (kind, start, end, replacement) of what can be wrong at a node."""
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in SYMBOLS:
        yield swapped(node.left, SYMBOLS[type(node.ops[0])], node.comparators[0], COMPARISONS, source, at)
    elif (
        isinstance(node, ast.BinOp) and type(node.op) in SYMBOLS and not isinstance(node.left, ast.Constant | ast.List)
    ):
        yield swapped(node.left, SYMBOLS[type(node.op)], node.right, ARITHMETIC, source, at)
    elif isinstance(node, ast.Constant) and type(node.value) in (int, float):
        yield "number", at(node), at(node, end=True), repr(node.value + 1)
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "flag", at(node), at(node, end=True), repr(not node.value)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub | ast.Invert):
        yield "unary", at(node), at(node.operand), ""
    elif isinstance(node, ast.IfExp):
        yield (
            "if",
            at(node.test),
            at(node.test, end=True),
            f"not ({source[at(node.test) : at(node.test, end=True)].decode()})",
        )
    elif isinstance(node, ast.If | ast.While):
        yield "if", at(node.test), at(node.test, end=True), "False"


def swapped(
    left: ast.AST, symbol: str, right: ast.AST, table: dict[str, str], source: bytes, at: At
) -> tuple[str, int, int, str]:
    """Return the change of an operator between two operands."""
    start, end = at(left, end=True), at(right)
    between = source[start:end].decode()
    return symbol, start, end, between.replace(symbol, table[symbol], 1)


def chosen(own: Target, root: Path) -> list[Mutant]:
    """Return the mutants of a file that are tried."""
    return sorted(mutants_of((root / own.file).read_text()), key=lambda m: m.key)[: own.sample]


def is_killed(root: Path, own: Target, mutant: Mutant) -> bool:
    """Change the file, run its tests, and change it back."""
    path = root / own.file
    source = path.read_bytes()
    path.write_bytes(source[: mutant.start] + mutant.text.encode() + source[mutant.end :])
    tests = [test for test in own.tests if (root / test).exists()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "no:randomly", *tests]
    environment = os.environ | {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command, cwd=root, env=environment, capture_output=True, timeout=TIME_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return True
    finally:
        path.write_bytes(source)
    if done.returncode not in (0, 1):
        sys.exit(f"{own.name}: pytest ended with {done.returncode}\n{done.stdout.decode()[-2000:]}")
    return done.returncode == 1


def main() -> None:
    """Try the mutants and count those that are killed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="One target.")
    parser.add_argument("--list", action="store_true", help="Say which mutants there are, and try none.")
    arguments = parser.parse_args()
    killed = total = 0
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "checkout"
        shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache"))
        for own in TARGETS:
            if arguments.only not in (None, own.name):
                continue
            mutants = chosen(own, root)
            for mutant in mutants:
                verdict = "" if arguments.list else "killed  " if is_killed(root, own, mutant) else "SURVIVED"
                killed, total = killed + (verdict == "killed  "), total + 1
                print(f"{verdict} {own.file}:{mutant.line} {mutant.where} -> {mutant.text.strip()!r}", flush=True)
    print(f"{killed} of {total} mutants killed")


if __name__ == "__main__":
    main()
