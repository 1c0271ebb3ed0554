"""Values are freed right after their last use, once, and only where they are owned."""

from pathlib import Path

import pytest

from ttc.compiler import compile_model
from ttc.hardware.hardware import load_mesh
from ttc.lower.calls import Call, Free, Function, Ref
from ttc.lower.liveness import free_after_last_use
from ttc.spec.model import load_model
from ttc.spec.precision import load_profile

pytestmark = pytest.mark.fast


def call(function: str, *args: str, out: str = "") -> Call:
    names = tuple(Ref(name=name) for name in args)
    return Call(function=function, args=names, results=(out,) if out else ())


def test_free_follows_the_last_use() -> None:
    body = [call("a", "x", out="y"), call("b", "y", "x", out="z"), call("c", "z", out="result")]
    freed = free_after_last_use(body, owned=("x",), keep=("result",))
    assert [each.name if isinstance(each, Free) else each.function for each in freed] == [
        "a",
        "b",
        "x",
        "y",
        "c",
        "z",
    ]


def test_a_change_of_shape_continues_a_life() -> None:
    body = [call("a", "x", out="y"), call("reshape", "y", out="y"), call("b", "y", out="z")]
    freed = free_after_last_use(body, owned=(), keep=("z",))
    assert [each.name for each in freed if isinstance(each, Free)] == ["y"]
    assert isinstance(freed[-1], Free)


def test_weights_and_what_the_caller_owns_stay() -> None:
    body = [call("a", "x", "w.wqkv", out="y")]
    freed = free_after_last_use(body, owned=(), keep=("y",))
    assert freed == tuple(body)


def functions(spec: Path, precision: str) -> tuple[Function, ...]:
    compiled = compile_model(
        load_model(spec), load_mesh("N150"), load_profile(precision), context=256
    )
    return (*compiled.calls.functions, *compiled.calls.entries)


@pytest.mark.parametrize("precision", ["performance", "bf16"])
def test_emitted_functions_free_all_they_make_and_use_nothing_freed(
    tiny_spec: Path, precision: str
) -> None:
    for function in functions(tiny_spec, precision):
        made: set[str] = set()
        gone: set[str] = set()
        for statement in function.body:
            if isinstance(statement, Free):
                assert statement.name not in gone, f"{function.name} frees {statement.name} twice"
                gone.add(statement.name)
            if isinstance(statement, Call):
                used = {arg.name for arg in statement.args if isinstance(arg, Ref)}
                assert not used & gone, f"{function.name} uses {used & gone} after freeing it"
                made |= set(statement.results)
        assert made - gone <= set(function.returns) | {"cos", "sin"} | {"x", "x_last"}


def test_decode_can_be_traced(tiny_spec: Path) -> None:
    """No host write and no allocation that outlives the step: only device calls, all freed."""
    host = ("from_torch", "to_torch", "empty", "zeros", "copy_host_to_device_tensor", "to_device")
    for function in functions(tiny_spec, "performance"):
        for statement in function.body:
            if isinstance(statement, Call):
                assert statement.function not in host


def test_every_matmul_states_its_fidelity(tiny_spec: Path) -> None:
    """Without a compute config ttnn silently computes a planned matmul at LoFi."""
    matmuls = [
        statement
        for function in functions(tiny_spec, "performance")
        for statement in function.body
        if isinstance(statement, Call) and statement.function == "linear"
    ]
    assert len(matmuls) > 4
    for matmul in matmuls:
        assert {"program_config", "compute_kernel_config", "dtype"} <= dict(matmul.kwargs).keys()
