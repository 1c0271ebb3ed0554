"""Emitted modules: golden copies, style, and no trace of the machine that wrote them."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from ttc.compiler import Compiled, compile_model
from ttc.emit.literals import WIDTH, broken, expression
from ttc.hardware.hardware import load_mesh
from ttc.lower.calls import Invoke, Items, Name, Ref, Sum
from ttc.spec.model import load_model
from ttc.spec.precision import load_profile
from ttc.spec.taken_names import why_no_result

pytestmark = pytest.mark.fast
GOLDEN = Path(__file__).parent / "golden"


def compiled(
    spec: str | Path, mesh: str = "N150", precision: str = "performance", batch: int = 1
) -> Compiled:
    return compile_model(
        load_model(spec), load_mesh(mesh), load_profile(precision), batch=batch, context=128
    )


@pytest.mark.parametrize(
    ("name", "mesh", "precision", "batch"),
    [
        ("tiny-N150-bf16", "N150", "bf16", 1),
        ("tiny-P150-performance", "P150", "performance", 32),
        ("tiny-T3K-performance", "T3K", "performance", 2),
    ],
)
def test_golden_modules(
    tiny_spec: Path, golden, name: str, mesh: str, precision: str, batch: int
) -> None:
    module = compiled(tiny_spec, mesh, precision, batch).module
    golden(GOLDEN / f"{name}.txt", module)


@pytest.mark.parametrize(
    ("spec", "mesh"),
    [("smollm2-135m-instruct", "N150"), ("llama-3.1-8b-instruct", "N150"), ("tiny", "N300")],
)
def test_emitted_text_is_well_formed(spec: str, mesh: str, tiny_spec: Path, tmp_path: Path) -> None:
    module = compiled(tiny_spec if spec == "tiny" else spec, mesh).module
    path = tmp_path / "model.py"
    path.write_text(module)
    for command in (["check"], ["format", "--check"]):
        run = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length", "100", path],
            capture_output=True,
            text=True,
            check=False,
        )
        assert run.returncode == 0, run.stdout
    imports = [node for node in ast.walk(ast.parse(module)) if isinstance(node, ast.Import)]
    assert [alias.name for node in imports for alias in node.names] == ["ttnn"]


@pytest.mark.parametrize(
    ("spec", "mesh", "batch"),
    [
        ("tiny", "N150", 1),
        ("tiny", "T3K", 32),
        ("gemma-3-1b-it", "T3K", 2),
        ("gemma-2-2b", "P150", 1),
    ],
)
def test_what_else_stands_beside_results_is_taken(
    spec: str, mesh: str, batch: int, tiny_spec: Path
) -> None:
    """No architecture can give a result the name of another variable of its function."""
    made = compiled(tiny_spec if spec == "tiny" else spec, mesh, batch=batch)
    architecture = made.spec.architecture
    results = {step.result for step in (*architecture.decoder, *architecture.model)}
    for function in ast.parse(made.module).body:
        if not isinstance(function, ast.FunctionDef):
            continue
        names = {each.id for each in ast.walk(function) if isinstance(each, ast.Name)}
        names |= {each.arg for each in ast.walk(function) if isinstance(each, ast.arg)}
        others = {each for each in names if not each.isupper()} - results - {"x"}
        if names & results - {"x"}:
            assert not {each for each in others if not why_no_result(each, {*results, "x"})}


def test_emitted_functions_are_straight_lines() -> None:
    """No branch, and no loop but the one over the layers."""
    tree = ast.parse(compiled("smollm2-135m-instruct").module)
    banned = (ast.If, ast.IfExp, ast.While, ast.Try, ast.With, ast.Lambda, ast.Match)
    assert not [node for node in ast.walk(tree) if isinstance(node, banned)]
    loops = [node for node in ast.walk(tree) if isinstance(node, ast.For)]
    assert all("_LAYERS" in ast.unparse(loop.iter) for loop in loops)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            assert ast.get_docstring(node), f"{node.name} has no docstring"


def test_the_same_inputs_give_the_same_bytes() -> None:
    first, second = compiled("tinyllama-1.1b-chat"), compiled("tinyllama-1.1b-chat")
    assert first.module == second.module
    assert str(Path.cwd()) not in first.module


def test_modules_of_two_meshes_differ_only_in_the_plan(tiny_spec: Path) -> None:
    """The functions are the same calls; grids and shards are in the constants."""
    one = compiled(tiny_spec, "N150", "performance", 8)
    other = compiled(tiny_spec, "P150", "performance", 8)
    names = [function.name for function in one.calls.functions]
    assert names == [function.name for function in other.calls.functions]
    assert one.calls.functions == other.calls.functions


def test_modules_of_two_meshes_differ_only_where_the_plans_do() -> None:
    """4 chips in a row and 8 of them cut in two rows: shapes, axis and wires are the same."""
    one, other = (compiled("smollm2-135m-instruct", mesh) for mesh in ("T3K:1x4", "T3K:2x4"))
    assert one.plan.parallel.tp == other.plan.parallel.tp == 4
    assert (one.plan.parallel.dp, other.plan.parallel.dp) == (1, 2)
    assert one.calls.functions == other.calls.functions
    differing = [
        (a, b)
        for a, b in zip(one.module.splitlines(), other.module.splitlines(), strict=True)
        if a != b
    ]
    assert all(a.replace("T3K:1x4", "T3K:2x4") == b or a.startswith("plan ") for a, b in differing)


def test_an_axis_of_the_mesh_is_an_argument(tiny_spec: Path) -> None:
    """The rows of a mesh and its columns differ in the axis that collectives run along."""
    columns, rows = (compiled(tiny_spec, mesh).module for mesh in ("N300:1x2", "N300:2x1"))
    changes = [
        (a, b)
        for a, b in zip(columns.splitlines(), rows.splitlines(), strict=True)
        if a != b and "plan " not in a
    ]
    turned = ("cluster_axis=1", "cluster_axis=0"), ("(1, 2)", "(2, 1)"), ("1x2", "2x1")
    for a, b in changes:
        for old, new in turned:
            a = a.replace(old, new)
        assert a == b


def test_expressions() -> None:
    value = Invoke(
        "op",
        (Ref(name="x"), (1, Sum(name="row", number=32)), 'a"b'),
        (("flags", Items((Name(name="A.B"), True))), ("scale", 0.125)),
    )
    assert (
        expression(value)
        == 'ttnn.op(x, (1, row + 32), "a\\"b", flags=[ttnn.A.B, True], scale=0.125)'
    )
    assert expression((1,)) == "(1,)"


def test_long_calls_are_broken_as_ruff_does() -> None:
    value = Invoke("function", tuple(Ref(name=f"argument_number_{i}") for i in range(8)))
    lines = broken("result = ", value, "")
    assert lines[0] == "result = ttnn.function("
    assert len(lines) == 10
    assert all(len(line) <= WIDTH for line in lines)
