"""Imports go one way, and third-party packages stay where they belong."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import ttc

pytestmark = pytest.mark.fast

ROOT = Path(ttc.__file__).parent

LAYERS = (
    "errors",
    "progress",
    "scratch",
    "located",
    "schema",
    "hardware",
    "spec",
    "graph",
    "plan",
    "lower",
    "emit",
    "compiler",
    "checkpoint",
    "runtime",
    "verify",
    "new",
    "weights",
    "accuracy",
    "api",
    "alternatives",
    "table",
    "search",
    "screen",
    "options",
    "commands",
    "cli",
    "__main__",
)
"""A layer imports only from itself and from those before it. `emulate` stands alone."""

PLACES = {
    "yaml": ("located.py",),
    "jsonschema": ("schema.py",),
    "jinja2": ("emit/", "runtime/template_child.py"),
    "networkx": ("graph/",),
    "torch": ("checkpoint/", "runtime/", "emulate/", "verify/", "accuracy/"),
    "safetensors": ("checkpoint/", "emulate/", "verify/"),
    "transformers": ("checkpoint/", "verify/"),
    "tokenizers": ("checkpoint/", "runtime/"),
    "gguf": ("checkpoint/",),
    "huggingface_hub": ("checkpoint/",),
    "ttnn": ("checkpoint/convert.py", "runtime/", "verify/mock_mesh.py", "verify/mock_child.py"),
    "typer": ("cli.py", "options.py", "commands/"),
    "rich": ("screen.py",),
    "matplotlib": ("accuracy/", "search/"),
    "scipy": ("search/",),
}
ENVIRONMENT = ("cli.py", "verify/mock_child.py", "runtime/mesh_graph.py")
"""The command line reads it; the other two set what ttnn reads."""

FILES = sorted(ROOT.rglob("*.py"))


def layer_of(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(tree: ast.AST) -> Iterator[str]:
    """Every module a file imports, wherever in the file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "no relative imports"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports(file: Path) -> None:
    place = str(file.relative_to(ROOT))
    tree = ast.parse(file.read_text())
    for name in imported(tree):
        package, *rest = name.split(".")
        allowed = PLACES.get(package)
        assert allowed is None or place.startswith(allowed), f"{place} imports {package}"
        if package == "ttc" and rest and place != "__init__.py":
            mine, other = layer_of(file), rest[0]
            if "emulate" in (mine, other):
                assert mine == other or mine in ("runtime", "verify", "accuracy"), (
                    f"{place} imports {name}"
                )
            else:
                assert LAYERS.index(other) <= LAYERS.index(mine), f"{place} imports {name}"
    reads = [node for node in ast.walk(tree) if isinstance(node, ast.Attribute)]
    if any(node.attr in ("environ", "getenv", "putenv") for node in reads):
        assert place.startswith(ENVIRONMENT), f"{place} reads the environment"


@pytest.mark.parametrize(
    "work",
    [
        "import ttc",
        "import ttc.compiler",
        "import ttc.cli",
        "import ttc.api; ttc.api.plan('smollm2-135m-instruct')",
    ],
)
def test_what_starts_fast_imports_nothing_heavy(work: str) -> None:
    heavy = "{'torch', 'ttnn', 'transformers', 'numpy', 'tokenizers', 'networkx', 'jinja2'}"
    script = f"import sys\n{work}\nprint(*sorted({heavy} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (run.stdout.strip(), run.stderr) == ("", "")
