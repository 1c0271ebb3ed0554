"""What the text of an emitted module shows without running it."""

import ast
from pathlib import Path

from ttc.verify.finding import MockFinding

# Operations that run on the device, and those that only describe or free a tensor there. Anything
# else of ttnn inside a function would move data from or to the host, or allocate at replay.
DEVICE_OPERATIONS = frozenset(
    {
        "add",
        "all_gather",
        "all_reduce",
        "argmax",
        "concat",
        "copy",
        "cumsum",
        "deallocate",
        "embedding",
        "fill_cache",
        "gather",
        "gelu",
        "interleaved_to_sharded",
        "layer_norm",
        "le",
        "linear",
        "lt",
        "matmul",
        "max",
        "mul",
        "multiply",
        "pad",
        "plus_one",
        "reduce_scatter",
        "relu",
        "reshape",
        "rms_norm",
        "sampling",
        "sharded_to_interleaved",
        "silu",
        "slice",
        "softmax",
        "subtract",
        "sum",
        "to_memory_config",
        "topk",
        "transpose",
        "typecast",
        "unary_chain",
        "untilize",
        "untilize_with_unpadding",
        "experimental.all_reduce_async",
        "experimental.minimal_matmul",
        "experimental.nlp_concat_heads",
        "experimental.nlp_concat_heads_decode",
        "experimental.nlp_create_qkv_heads",
        "experimental.nlp_create_qkv_heads_decode",
        "experimental.paged_fill_cache",
        "experimental.paged_fused_update_cache",
        "experimental.paged_update_cache",
        "experimental.rotary_embedding_hf",
        "experimental.rotary_embedding_llama",
        "experimental.rotary_embedding_llama_fused_qk",
        "transformer.chunked_scaled_dot_product_attention",
        "transformer.paged_scaled_dot_product_attention_decode",
        "transformer.scaled_dot_product_attention",
    }
)
# Functions that build an argument and touch no device.
_CONFIGURATION = frozenset(
    {
        "CoreCoord",
        "CoreGrid",
        "CoreRange",
        "CoreRangeSet",
        "MemoryConfig",
        "ShardSpec",
        "UnaryWithParam",
    }
)


def check_calls(path: Path) -> tuple[MockFinding, ...]:
    """One finding for each ttnn call in a function of the module that is not a device operation.

    A trace replays device commands only: a host write or read in a step would be lost.
    """
    tree = ast.parse(path.read_text())
    findings: list[MockFinding] = []
    for function in _functions(tree):
        for node in ast.walk(function):
            if not isinstance(node, ast.Call):
                continue
            name = _ttnn_name(node.func)
            if name and name not in DEVICE_OPERATIONS | _CONFIGURATION:
                findings.append(
                    MockFinding(
                        kind="not a device operation",
                        info=f"ttnn.{name} cannot be part of a step that is replayed on the device",
                        where=f"{path.name}:{node.lineno}",
                        call=f"ttnn.{name}",
                        phase=function.name,
                    )
                )
    return tuple(findings)


def kept_values(path: Path, function_name: str) -> tuple[str, ...]:
    """Variables of a function that a ttnn call made, which it neither deallocates nor returns."""
    tree = ast.parse(path.read_text())
    function = next((each for each in _functions(tree) if each.name == function_name), None)
    if function is None:
        return ()
    made: list[str] = []
    gone: set[str] = set()
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Call):
            if _ttnn_name(node.value.func):
                made += [name for target in node.targets for name in _names(target)]
        elif isinstance(node, ast.Call) and _ttnn_name(node.func) == "deallocate":
            gone.update(name for argument in node.args[:1] for name in _names(argument))
        elif isinstance(node, ast.Return) and node.value is not None:
            gone.update(_names(node.value))
    return tuple(name for name in dict.fromkeys(made) if name not in gone)


def step_of(path: Path, where: str) -> str:
    """The comment nearest above a line, within its function; `where` is `model.py:123`."""
    file, _, number = where.rpartition(":")
    if file != path.name:
        return ""
    lines = path.read_text().splitlines()[: int(number)]
    for line in reversed(lines):
        if line.lstrip().startswith("#"):
            return line.strip().lstrip("# ")
        if line and not line[0].isspace():
            break
    return ""


def _functions(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in tree.body if isinstance(node, ast.FunctionDef)]


def _names(node: ast.expr) -> list[str]:
    return [each.id for each in ast.walk(node) if isinstance(each, ast.Name)]


def _ttnn_name(node: ast.expr) -> str:
    """`transformer.x` for the expression `ttnn.transformer.x`, empty for anything else."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.insert(0, node.attr)
        node = node.value
    return ".".join(parts) if isinstance(node, ast.Name) and node.id == "ttnn" else ""
