"""Attention over the tokens of a prompt: how many queries a core takes at once, and its L1."""

from dataclasses import replace
from math import gcd

from ttc.hardware.chips import Chip
from ttc.plan.matmul import matmul_limit
from ttc.plan.placement import TILE, TILE_BYTES, DType, tiles
from ttc.plan.programs import SdpaProgram
from ttc.spec.precision import Fidelity

# Queries that a core takes at once: many of long prompts, few of short ones so that many cores are
# at work (tt-transformers' values for both architectures).
LONG_PROMPT_TOKENS = 2048
LONG_QUERY_TOKENS = 256
SHORT_QUERY_TOKENS = 64

# Keys that queries meet at once, in every prefill: sums are rounded after so many, and a prompt
# read in chunks is to be rounded as one that is read at once.
KEY_TOKENS = 256


def sdpa_bytes(
    program: SdpaProgram,
    *,
    head_dim: int,
    dtype: DType,
    kv_dtype: DType,
    window: int,
    compute: Fidelity,
) -> int:
    """Circular buffers of a core that attends: queries, keys, values and masks twice, scores,
    partial results, their statistics, results.

    `dtype` is that of queries and results. Source: the buffers that ttnn 0.81.1 lists on a mock
    board for head dims of 64 to 256, both widths of sums, with windows and without; but for the
    page table of a chunk that continues a prompt, some hundred bytes.
    """
    rows, keys, width = (
        tiles(each) for each in (program.q_chunk_tokens, program.k_chunk_tokens, head_dim)
    )
    bf16, fp32 = TILE_BYTES["bf16"], TILE_BYTES["fp32"]
    operands = 2 * rows * width * TILE_BYTES[dtype] + 4 * keys * width * TILE_BYTES[kv_dtype]
    partial = (2 * rows * width + 3 * rows) * bf16
    if compute.fp32_dest_acc:
        mask = 2 * rows * keys * TILE_BYTES["bfp4"] if window else 2 * bf16
        sums = (rows * keys + 2 * rows) * fp32
        return operands + partial + mask + sums + 2 * bf16 + rows * width * TILE_BYTES[dtype]
    mask = (5 if window else 2) * bf16
    sums = (rows * keys + 2 * rows) * bf16
    return operands + partial + mask + sums + 3 * bf16 + 4 * width * TILE_BYTES[dtype]


def plan_sdpa(
    tokens: int,
    *,
    head_dim: int,
    dtype: DType,
    kv_dtype: DType,
    window: int,
    compute: Fidelity,
    chip: Chip,
    kept_bytes: int = 0,
) -> tuple[SdpaProgram, int]:
    """The program for `tokens` of a prompt with the most queries at once that fit in L1, at most
    what such prompts should have; and its bytes per core.
    """

    def size(program: SdpaProgram) -> int:
        return sdpa_bytes(
            program,
            head_dim=head_dim,
            dtype=dtype,
            kv_dtype=kv_dtype,
            window=window,
            compute=compute,
        )

    queries = LONG_QUERY_TOKENS if tokens >= LONG_PROMPT_TOKENS else SHORT_QUERY_TOKENS
    program = SdpaProgram(
        grid=(chip.grid.x, chip.grid.y),
        q_chunk_tokens=gcd(queries, tokens),
        k_chunk_tokens=min(KEY_TOKENS, tokens),
    )
    limit = matmul_limit(chip, kept_bytes)
    while size(program) > limit and program.q_chunk_tokens > TILE:
        program = replace(program, q_chunk_tokens=program.q_chunk_tokens // 2)
    return program, size(program)
