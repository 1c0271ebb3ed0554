"""Watching the named values of an emitted module as it runs.

The module stays the file that was emitted; only its parsed form gets a call after each statement
of a function that gives a value a name.
"""

import ast
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from ttc.runtime.program import Program, ttnn_answers_with

type Observer = Callable[[str, str, Any, Any], None]
"""Told the function, the name, the value, and the weights the function was given (or None)."""

_OBSERVER = "__observe__"
_WEIGHTS = "w"  # the name that emitted functions give their weights


def load_observed(path: Path, backend: ModuleType, observe: Observer) -> Program:
    """As `load_program`; `observe` is told every value that a function of the module names.

    Names given in a loop are left out: there they stand for the same value again and again.
    """
    tree = ast.parse(path.read_text(), str(path))
    for function in tree.body:
        if isinstance(function, ast.FunctionDef):
            function.body = [each for line in function.body for each in _watched(function, line)]
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    setattr(module, _OBSERVER, observe)
    with ttnn_answers_with(backend):
        exec(compile(ast.fix_missing_locations(tree), str(path), "exec"), module.__dict__)
    return cast(Program, module)


def _watched(function: ast.FunctionDef, line: ast.stmt) -> list[ast.stmt]:
    if not isinstance(line, ast.Assign) or not isinstance(line.value, ast.Call):
        return [line]
    names = [
        each.id
        for target in line.targets
        for each in ast.walk(target)
        if isinstance(each, ast.Name)
    ]
    takes = any(argument.arg == _WEIGHTS for argument in function.args.args)
    weights: ast.expr = ast.Name(_WEIGHTS, ast.Load()) if takes else ast.Constant(None)
    told = [
        ast.Expr(
            ast.Call(
                ast.Name(_OBSERVER, ast.Load()),
                [
                    ast.Constant(function.name),
                    ast.Constant(name),
                    ast.Name(name, ast.Load()),
                    weights,
                ],
                [],
            )
        )
        for name in names
    ]
    return [line, *(ast.copy_location(each, line) for each in told)]
