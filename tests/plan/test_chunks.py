"""How prompts are cut: padding, chunks by memory and time, and what may override them."""

from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType

import pytest

from ttc.compiler import plan_spec
from ttc.hardware.hardware import load_mesh
from ttc.plan.chunks import (
    choose_buckets,
    choose_chunk,
    chunk_sizes,
    continuing_buckets,
    padding,
    start_multiple,
)
from ttc.plan.operations import operations_of
from ttc.plan.paging import Paging
from ttc.plan.plan import Plan
from ttc.spec.model import load_model
from ttc.spec.precision import load_profile

pytestmark = pytest.mark.fast

LONG = 131072


def plan(
    spec: str,
    mesh: str,
    context: int,
    *,
    chunk: int | None = None,
    named: int | None = None,
    block: int = 32,
) -> Plan:
    model = load_model(spec)
    if named is not None:
        model = replace(model, prefill_chunk_tokens=MappingProxyType({mesh: named}))
    profile, paging = load_profile("performance"), Paging(block_tokens=block)
    board = load_mesh(mesh)
    return plan_spec(model, board, profile, context=context, chunk=chunk, paging=paging)[1]


@pytest.mark.parametrize(
    ("spec", "mesh"),
    [
        ("llama-3.1-8b-instruct", "N300"),
        ("llama-3.1-8b-instruct", "T3K"),
        ("llama-3.1-70b-instruct", "T3K"),
        ("llama-3.2-1b-instruct", "N150"),
        ("llama-3.2-1b-instruct", "P150"),
    ],
)
def test_little_of_what_is_computed_is_padding(spec: str, mesh: str) -> None:
    """Over every 37th length from 1 to 128k tokens: of whole prompts, and of last chunks alone."""
    planned = plan(spec, mesh, LONG)
    wasted, last, padded = 0.0, 0, 0
    lengths = range(1, LONG + 1, 37)
    for tokens in lengths:
        computed = sum(planned.chunks_of(tokens))
        wasted += (computed - tokens) / computed
        last += planned.chunks_of(tokens)[-1]
        padded += computed - tokens
    assert wasted / len(lengths) < 0.02
    assert padded / last < 0.15
    assert planned.prefill_chunk_tokens in (2048, 4096)
    assert len(planned.prefill) + len(planned.chunks) <= 20


def test_chunks_of_a_prompt_hold_it_and_start_where_they_may() -> None:
    planned = plan("llama-3.2-1b-instruct", "N150", 8192)
    for tokens in range(1, 8193):
        chunks = planned.chunks_of(tokens)
        assert sum(chunks) >= tokens > sum(chunks[:-1])
        assert all(chunk % planned.chunk_start_tokens == 0 for chunk in chunks[:-1])
        later = [phase.tokens for phase in planned.chunks]
        assert chunks[0] in planned.buckets
        assert all(chunk in later for chunk in chunks[1:])


def test_padding_is_the_share_of_all_that_is_computed() -> None:
    assert padding((128, 256)) == 1 - 256 * 257 / 2 / (128 * 128 + 128 * 256)
    finer, choice = choose_buckets(2048)
    assert finer == (128, 256, 384, 512, 768, 1024, 1536, 2048)
    assert padding(finer) < 0.15 < padding(chunk_sizes(2048, 2048))
    assert choice.taken == "powers of two and one between"
    assert choose_buckets(128)[0] == (128,)


def test_the_smallest_chunk_that_is_nearly_as_fast_as_the_fastest() -> None:
    times = {128: 4.0, 256: 2.0, 512: 1.5, 1024: 1.02, 2048: 1.0, 4096: 0.999}

    def chosen(free: Callable[[int], int], *, largest: bool = False) -> int:
        return choose_chunk(
            65536,
            chunk_sizes(65536, 4096),
            least=256,
            free_bytes=free,
            seconds=lambda tokens, size: times[size],
            largest=largest,
        )[0]

    assert chosen(lambda size: 1) == 1024
    assert chosen(lambda size: 512 - size) == 512
    assert chosen(lambda size: 100 - size) == 256  # nothing fits: the plan is refused
    assert chosen(lambda size: 1, largest=True) == 4096
    assert chosen(lambda size: 3000 - size, largest=True) == 2048


def test_what_was_asked_for_is_taken_and_the_spec_is_a_limit() -> None:
    assert plan("llama-3.2-1b-instruct", "N150", 8192, chunk=256).prefill_chunk_tokens == 256
    assert plan("llama-3.2-1b-instruct", "N150", 8192, chunk=8192).prefill_chunk_tokens == 8192
    assert plan("llama-3.2-1b-instruct", "N150", 8192, named=1024).prefill_chunk_tokens == 1024
    assert plan("llama-3.2-1b-instruct", "N150", 8192, named=LONG).prefill_chunk_tokens == 2048


def test_chunks_fill_whole_blocks() -> None:
    for block in (32, 256, 1024, 4096):
        planned = plan("llama-3.2-1b-instruct", "N150", 8192, block=block)
        assert planned.chunk_start_tokens == max(256, block)
        assert planned.prefill_chunk_tokens % block == 0
    assert start_multiple(128, 32) == 128


def test_rows_of_page_tables_are_whole_32_bytes() -> None:
    assert plan("llama-3.2-1b-instruct", "N150", 8192, block=4096).pages == 8
    assert plan("llama-3.2-1b-instruct", "N150", 4128).pages == 136


def test_programs_that_continue_a_prompt_are_those_that_can() -> None:
    assert continuing_buckets((128, 256), 256, 32) == ()
    assert continuing_buckets((128, 256), 288, 32) == (128,)
    assert continuing_buckets((128, 256, 384, 512), 1024, 32) == (128, 256, 384, 512)
    assert continuing_buckets((128, 256, 384, 512, 768, 1024), 1024, 32) == (
        128,
        256,
        384,
        512,
        768,
    )


def test_a_later_chunk_differs_in_its_attention_only() -> None:
    planned = plan("llama-3.1-8b-instruct", "N300", 8192)
    first = planned.prefill[0].decoders[0].ops
    later = planned.chunks[0].decoders[0].ops
    assert operations_of(later) == operations_of(first) + 1
    assert sum(a != b for a, b in zip(first, later, strict=True)) == 1
    assert planned.chunks[0].name == "prefill_chunk_128"
