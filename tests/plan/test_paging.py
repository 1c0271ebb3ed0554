"""Blocks of the KV caches: which sizes are legal, how many there are, and what is refused."""

import pytest

from ttc.compiler import plan_spec
from ttc.errors import PlanError
from ttc.hardware.hardware import load_mesh
from ttc.plan.paging import Paging
from ttc.plan.plan import Plan
from ttc.spec.model import load_model
from ttc.spec.precision import load_profile

pytestmark = pytest.mark.fast

SPEC = "smollm2-135m-instruct"


def plan(paging: Paging | None = None, *, batch: int = 8, context: int | None = 1024) -> Plan:
    mesh, profile = load_mesh("N150"), load_profile("bf16")
    return plan_spec(load_model(SPEC), mesh, profile, batch=batch, context=context, paging=paging)[
        1
    ]


@pytest.mark.parametrize("size", [32, 64, 128, 256, 1024])
def test_blocks_hold_every_context_and_one_belongs_to_nobody(size: int) -> None:
    cache = plan(Paging(block_tokens=size)).kv_cache
    assert cache.block_tokens == size
    assert cache.blocks == 8 * 1024 // size + 1
    assert cache.tensor[0].shape[0] == cache.blocks
    assert cache.tensor[0].shape[2] == size


def test_fewer_blocks_than_all_contexts_take_less_memory() -> None:
    full, shared = plan(), plan(Paging(max_blocks=64))
    assert shared.kv_cache.blocks == 65
    assert shared.memory.kv_cache_bytes < full.memory.kv_cache_bytes // 3
    assert shared.largest.batch == 32
    assert shared.largest.context == 64 * 32


def test_the_context_that_nobody_named_fits_into_the_blocks() -> None:
    assert plan(Paging(max_blocks=10), context=None).context == 320
    assert plan(Paging(block_tokens=256), context=None).context == 4096


def test_blocks_for_which_there_is_no_memory() -> None:
    """The advice fits, and one block more does not."""
    with pytest.raises(PlanError, match="the largest that fits is --max-blocks") as caught:
        plan(Paging(max_blocks=10**9))
    most = int(caught.value.problems[0].help.rpartition(" ")[2])
    assert plan(Paging(max_blocks=most)).kv_cache.blocks == most + 1
    with pytest.raises(PlanError, match=f"is --max-blocks {most}"):
        plan(Paging(max_blocks=most + 1))


@pytest.mark.parametrize(
    ("paging", "words"),
    [
        (Paging(block_tokens=48), "a cache block of 48 tokens"),
        (Paging(block_tokens=96), "--page-block-size 64"),
        (Paging(block_tokens=0), "--page-block-size 32"),
        (Paging(block_tokens=-64), "--page-block-size 32"),
        (Paging(max_blocks=0), "0 cache blocks"),
        (Paging(max_blocks=31), "31 cache blocks hold 992 tokens, less than the context of 1024"),
        (Paging(block_tokens=100_000), "--page-block-size 8192"),
        (Paging(block_tokens=1 << 20), "--page-block-size 8192"),
        (Paging(block_tokens=2048), "1024 tokens is not a whole number of cache blocks"),
    ],
)
def test_what_is_refused(paging: Paging, words: str) -> None:
    with pytest.raises(PlanError, match=words):
        plan(paging)
