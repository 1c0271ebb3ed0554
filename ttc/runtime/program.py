"""Loading an emitted module on the backend of one's choice."""

import sys
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast

from ttc.errors import ArtefactError, Problem

type Tensor = Any
"""A tensor of whichever backend runs the program."""

type TensorFacts = tuple[tuple[int, ...], Any, Any, Any]
"""Shape, dtype, layout and memory config of a tensor, in the backend's own types."""

type TensorForm = tuple[Any, Any, Any]
"""The same without the shape: dtype, layout and memory config."""


class Program(Protocol):
    """What an emitted module offers. Its docstrings give the shapes of every argument."""

    BATCH: int
    CONTEXT: int
    KV_BLOCK: int
    KV_BLOCKS: int
    CHUNK_START: int
    PAGES: int
    VOCAB: int
    ROPE_POSITIONS: int
    MESH_SHAPE: tuple[int, int]
    VOCAB_SHARDS: int
    TOP_K: int
    OFFSETS: tuple[int, ...]
    LOGPROB_SHARDS: int
    SEMAPHORES: int
    BUFFERS: Mapping[str, TensorFacts]
    PROMPT_TABLES: Mapping[str, tuple[Any, ...]]
    SAMPLING: Mapping[str, TensorFacts]
    PREFILL: Mapping[int, Callable[..., Tensor]]
    PREFILL_CHUNK: Mapping[int, Callable[..., Tensor]]
    PREFILL_PROMPTS: Mapping[tuple[int, int], Callable[..., Tensor]]
    PREFILL_CHUNK_PROMPTS: Mapping[tuple[int, int], Callable[..., Tensor]]
    TOGETHER: Mapping[tuple[int, int], tuple[int, int]]
    MODEL_WEIGHTS: Mapping[str, TensorFacts]
    DECODER_WEIGHTS: tuple[Mapping[str, TensorFacts], ...]
    CACHES: tuple[tuple[TensorFacts, TensorFacts], ...]
    decode: Callable[..., Tensor]
    head_prefill: Callable[..., Tensor]
    head_prompts: Callable[..., Tensor]
    greedy: Callable[[Tensor, Tensor], None]
    sample: Callable[[Tensor, Tensor, Any], tuple[Tensor, Tensor]]
    logprobs: Callable[[Tensor], tuple[Tensor, Tensor]]
    advance: Callable[[Tensor, Tensor], None]


@contextmanager
def ttnn_answers_with(backend: ModuleType) -> Generator[None]:
    """Inside the block, `import ttnn` gives `backend`; afterwards it gives what it gave before."""
    before = sys.modules.get("ttnn")
    sys.modules["ttnn"] = backend
    try:
        yield
    finally:
        if before is None:
            del sys.modules["ttnn"]
        else:
            sys.modules["ttnn"] = before


def load_program(path: Path, backend: ModuleType) -> Program:
    """Execute the emitted module at `path` with its `ttnn` bound to `backend`.

    Every call gives a new copy, so that one file can run on two backends in one process. Nothing
    is added to `sys.modules` and no bytecode is written beside the file.
    """
    try:
        text = path.read_text()
        code = compile(text, str(path), "exec")
    except (OSError, SyntaxError) as error:
        raise ArtefactError(
            Problem(message=f"cannot read the program {path}", details=(str(error),))
        ) from error
    module = ModuleType(path.stem)
    module.__file__ = str(path)
    with ttnn_answers_with(backend):
        exec(code, module.__dict__)
    return cast(Program, module)
