"""A program small enough to predict: the next token is the sum of all tokens so far, mod VOCAB."""

# pyright: reportUnknownLambdaType=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false

from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from ttc.runtime.backends import Backend
from ttc.runtime.program import load_program
from ttc.runtime.replica import Replica, load_weights
from ttc.runtime.session import Session

SUMMING_PROGRAM = '''
"""Keeps every token in its paged cache; logits are 1 for the sum of the user's tokens."""

import ttnn

BATCH = 3
CONTEXT = 96
KV_BLOCK = 32
KV_BLOCKS = 10
CHUNK_START = 32
PAGES = 8
VOCAB = 23
ROPE_POSITIONS = 6
MESH_SHAPE = (1, 1)
VOCAB_SHARDS = 1
TOP_K = 32
OFFSETS = (0,)
LOGPROB_SHARDS = 1
SEMAPHORES = 0
BUFFERS = {}
PROMPT_TABLES = {}
SAMPLING = {
    **{name: ((1, 1, 32, 32), "float32", None, None) for name in ("scale", "mask", "places")},
    **{name: ((1, 1, 32, 32), "float32", None, None) for name in ("top_p", "draws")},
    **{name: ((32,), "int32", None, None) for name in ("best", "ones")},
}
MODEL_WEIGHTS = {"embed": ((1, 1), None, None, None)}
DECODER_WEIGHTS = ({"wqkv": ((1, 1), None, None, None)},)
CACHES = ((((KV_BLOCKS, 1, KV_BLOCK, 1), None, None, None),) * 2,)


def decode(tokens, positions, rope_positions, page_table, caches, w):
    assert w.embed.values == "embed" and w.decoders[0].wqkv.values == "decoders.0.wqkv"
    assert rope_positions.values[0].tolist() == [max(0, p) for p in positions.values.tolist()] * 2
    ttnn.decoded.append(positions.values.tolist())
    logits = ttnn.torch.zeros(1, 1, 32, VOCAB)
    for user, position in enumerate(positions.values.tolist()):
        if position >= 0:
            ttnn.append(caches, page_table, user, position, tokens.values[0, 0, 0, user])
            logits[0, 0, user] = ttnn.sum_logits(caches, page_table, user, position + 1, VOCAB)
    return ttnn.Tensor(logits)


def greedy(logits, tokens):
    tokens.values[0, 0, 0] = logits.values[0, 0].argmax(-1)


def sample(logits, tokens, how):
    best = logits.values[0, 0].sort(dim=-1, descending=True, stable=True)
    count = min(32, VOCAB)
    weights = (best.values[:, :count] * how.scale.values[0, 0, :, :count]
        + how.mask.values[0, 0, :, :count]).softmax(-1)
    before = weights.cumsum(-1) - weights
    kept = before < how.top_p.values[0, 0, :, :count]
    drawn = how.draws.values[0, 0, :, :count] * (weights * kept).sum(-1, keepdim=True)
    places = kept * (before <= drawn) * how.places.values[0, 0, :, :count]
    tokens.values[0, 0, 0] = best.indices.gather(-1, places.argmax(-1, keepdim=True))[:, 0]
    return tuple(ttnn.Tensor(each[None, None, :, :count]) for each in (best.values, best.indices))


def logprobs(logits):
    largest = logits.values.amax(-1, keepdim=True)
    return ttnn.Tensor(largest), ttnn.Tensor((logits.values - largest).exp().sum(-1, keepdim=True))


def advance(positions, rope_positions):
    rope_positions.values += (positions.values >= 0).repeat(2).int()
    positions.values += (positions.values >= 0).int()


def _prefill(tokens, rope_positions, blocks, user, caches, w):
    _write(tokens, rope_positions, blocks, 0, caches)
    return ttnn.Tensor(ttnn.torch.cumsum(tokens.values[0], 0).tolist())


def _prefill_chunk(tokens, rope_positions, blocks, start, page_table, user, first, caches, w):
    assert first == int(start.values)
    _write(tokens, rope_positions, blocks, first, caches)
    return ttnn.Tensor(_totals(rope_positions, 1, first, page_table, caches))


def _prefill_prompts(tokens, rope_positions, blocks, prompts, caches, w):
    _write(tokens, rope_positions, blocks, 0, caches)
    assert prompts.values.tolist() == list(range(len(blocks.values)))
    rows = tokens.values.reshape(len(blocks.values), -1)
    return ttnn.Tensor(ttnn.torch.cumsum(rows, 1).flatten().tolist())


def _prefill_chunk_prompts(tokens, rope_positions, blocks, prompts, start, page_table, caches, w):
    first = int(start.values)
    _write(tokens, rope_positions, blocks, first, caches)
    return ttnn.Tensor(_totals(rope_positions, len(blocks.values), first, page_table, caches))


def _totals(rope_positions, prompts, first, page_table, caches):
    assert first % CHUNK_START == 0
    assert page_table.values.shape == (prompts, PAGES)
    ends = range(first + 1, first + rope_positions.values.shape[1] + 1)
    return [
        ttnn.total(caches, page_table, prompt, min(end, CONTEXT))
        for prompt in range(prompts)
        for end in ends
    ]


def _write(tokens, rope_positions, blocks, first, caches):
    count = rope_positions.values.shape[1]
    assert rope_positions.values[0].tolist() == [
        min(first + i, CONTEXT - 1) for i in range(count)
    ]
    prompts = tokens.values.shape[1] // count
    assert blocks.values.shape == (prompts, count // KV_BLOCK)
    ttnn.prefilled.append((first, count) if prompts == 1 else (first, count, prompts))
    for place, token in enumerate(tokens.values[0]):
        prompt, position = divmod(place, count)
        if blocks.values[prompt, position // KV_BLOCK] >= 0:
            ttnn.append(caches, blocks, prompt, position, token)


def head_prefill(x, row, w):
    logits = [ttnn.likeliest(total % VOCAB, VOCAB) for total in x.values[row : row + 32]]
    return ttnn.Tensor(ttnn.torch.stack(logits)[None, None])


def head_prompts(x, last, w):
    logits = [ttnn.likeliest(x.values[row] % VOCAB, VOCAB) for row in last.values[0].tolist()]
    return ttnn.Tensor(ttnn.torch.stack(logits)[None, None])


PREFILL = {32: _prefill, 64: _prefill}
PREFILL_CHUNK = {32: _prefill_chunk, 64: _prefill_chunk}
PREFILL_PROMPTS = {(3, 32): _prefill_prompts, (2, 64): _prefill_prompts}
PREFILL_CHUNK_PROMPTS = {(3, 32): _prefill_chunk_prompts}
TOGETHER = {}
'''


class Tensor:
    """Values that can be freed once."""

    live = 0

    def __init__(self, values: Any) -> None:
        self.values = values
        Tensor.live += 1


def small_ttnn() -> ModuleType:
    """Just what Backend and the summing program use."""
    ttnn: Any = ModuleType("ttnn")
    ttnn.torch, ttnn.Tensor = torch, Tensor
    ttnn.uint32, ttnn.int32 = "uint32", "int32"
    ttnn.ROW_MAJOR_LAYOUT = ttnn.DRAM_MEMORY_CONFIG = None
    ttnn.decoded, ttnn.prefilled, ttnn.writes = [], [], []

    def from_torch(values: torch.Tensor, **_: Any) -> Tensor:
        return Tensor(values.clone())

    def copy_host_to_device_tensor(host: Tensor, tensor: Tensor) -> None:
        assert host.values.shape == tensor.values.shape
        ttnn.writes.append(host.values.tolist())
        tensor.values.copy_(host.values)
        deallocate(host)

    def deallocate(tensor: Tensor) -> None:
        assert tensor.values is not None, "freed twice"
        tensor.values = None
        Tensor.live -= 1

    def slot(page_table: Tensor, user: int, position: int) -> tuple[int, int, int, int]:
        return int(page_table.values[user, position // 32]), 0, position % 32, 0

    def append(caches: Any, page_table: Tensor, user: int, position: int, token: Any) -> None:
        caches[0][0].values[slot(page_table, user, position)] = int(token)

    def total(caches: Any, page_table: Tensor, user: int, tokens: int) -> int:
        return sum(int(caches[0][0].values[slot(page_table, user, p)]) for p in range(tokens))

    def likeliest(token: int, vocab: int) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(token), vocab).float()

    def sum_logits(caches: Any, page_table: Tensor, user: int, tokens: int, vocab: int) -> Any:
        return likeliest(total(caches, page_table, user, tokens) % vocab, vocab)

    ttnn.from_torch, ttnn.deallocate = from_torch, deallocate
    ttnn.copy_host_to_device_tensor = copy_host_to_device_tensor
    ttnn.to_torch = lambda tensor: tensor.values.clone()
    ttnn.get_device_tensors = lambda tensor: [tensor]
    ttnn.load_tensor = lambda path, device: Tensor(Path(path).stem)
    ttnn.zeros = lambda shape, **_: Tensor(torch.zeros(shape))
    ttnn.CoreCoord = ttnn.CoreRange = ttnn.CoreRangeSet = lambda *_: None
    ttnn.append, ttnn.sum_logits = append, sum_logits
    ttnn.total, ttnn.likeliest = total, likeliest
    return ttnn


type MakeSession = Callable[..., Session]


@pytest.fixture
def make_session(tmp_path: Path) -> MakeSession:
    """Sessions of the summing program; `blocks` is the order in which blocks are handed out, and
    `together` says whether several prompts are read at once.

    Each replica has a ttnn of its own, as each has chips of its own.
    """
    (tmp_path / "model.py").write_text(SUMMING_PROGRAM)

    def replica(blocks: list[int] | None, together: bool) -> Replica:
        device = SimpleNamespace(compute_with_storage_grid_size=lambda: SimpleNamespace(x=8, y=8))
        backend = Backend(ttnn=small_ttnn(), device=device)
        program = load_program(tmp_path / "model.py", backend.ttnn)
        if together:
            program.TOGETHER = {(32, 2): (3, 32), (64, 2): (2, 64)}
        weights = load_weights(program, lambda name: tmp_path / f"{name}.tensorbin", backend)
        return Replica(program=program, backend=backend, weights=weights, blocks=blocks)

    def make(blocks: list[int] | None = None, replicas: int = 1, together: bool = False) -> Session:
        made = tuple(replica(blocks, together) for _ in range(replicas))
        return Session(program=made[0].program, replicas=made)

    return make


@pytest.fixture
def session(make_session: MakeSession) -> Session:
    """A session of the summing program: batch 3, context 96, chunks of 64 and 32 tokens."""
    return make_session()


@pytest.fixture
def live_tensors() -> Callable[[], int]:
    """How many tensors are not freed."""
    return lambda: Tensor.live
