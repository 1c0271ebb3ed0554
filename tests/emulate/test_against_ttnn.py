"""The emulator accepts and refuses what ttnn does, and its results have the same form.

Each case is a few calls. It runs on the real ttnn (mock N150, no values) and on the emulator;
shape, element type, layout and placement of the results must agree, or both must refuse.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import Any

import pytest

from ttc.emulate import ttnn as emulated
from ttc.hardware.hardware import load_mesh
from ttc.verify.mock_mesh import MockHost

pytestmark = pytest.mark.mock

HIDDEN, FFN, HEADS, KV_HEADS, HEAD_DIM = 576, 1536, 9, 3, 64
QKV = (HEADS + 2 * KV_HEADS) * HEAD_DIM


@dataclass
class Maker:
    """Tensors and configs of one ttnn, real or emulated."""

    t: Any
    device: Any

    def tensor(self, shape: Any, dtype: str = "bfloat16", memory: Any = None, rows: bool = False):
        return self.t.empty(
            shape,
            dtype=getattr(self.t, dtype),
            layout=self.t.ROW_MAJOR_LAYOUT if rows else self.t.TILE_LAYOUT,
            device=self.device,
            memory_config=memory or self.t.DRAM_MEMORY_CONFIG,
        )

    def cores(self, count: int, width: int = 8, first: int = 0) -> Any:
        """Cores `first` .. counted row by row over `width` columns."""
        return self.core_set([(i % width, i // width) for i in range(first, first + count)])

    def core_set(self, cores: list[tuple[int, int]]) -> Any:
        rows: dict[int, list[int]] = {}
        for x, y in cores:
            rows.setdefault(y, []).append(x)
        t = self.t
        return t.CoreRangeSet(
            [
                t.CoreRange(t.CoreCoord(min(xs), y), t.CoreCoord(max(xs), y))
                for y, xs in rows.items()
            ]
        )

    def sharded(self, kind: str, height: int, width: int, cores: Any, buffer: str = "L1") -> Any:
        t = self.t
        spec = t.ShardSpec(cores, [height, width], t.ShardOrientation.ROW_MAJOR)
        layout = getattr(t.TensorMemoryLayout, f"{kind}_SHARDED")
        return t.MemoryConfig(layout, getattr(t.BufferType, buffer), spec)

    def wide(self, width: int, cores: int, grid: int = 8) -> Any:
        return self.sharded("WIDTH", 32, ceil(width / 32 / cores) * 32, self.cores(cores, grid))

    def by_user(self, users: int, width: int = HEAD_DIM, first: int = 0) -> Any:
        return self.sharded("HEIGHT", 32, width, self.cores(users, first=first))

    def in_banks(self, depth: int, width: int, banks: int = 12) -> Any:
        cores = self.core_set([(bank, 0) for bank in range(banks)])
        return self.sharded("WIDTH", depth, ceil(width / 32 / banks) * 32, cores, "DRAM")

    def kernel(self, wide: bool = True) -> Any:
        return self.t.WormholeComputeKernelConfig(
            math_fidelity=self.t.MathFidelity.HiFi2,
            math_approx_mode=False,
            fp32_dest_acc_en=wide,
            packer_l1_acc=True,
        )

    def norm(self, x: int, y: int, subblock: int = 1, height: int = 1, width: int = 1) -> Any:
        return self.t.LayerNormShardedMultiCoreProgramConfig(
            compute_with_storage_grid_size=(x, y),
            subblock_w=subblock,
            block_h=height,
            block_w=width,
            inplace=False,
        )

    def attention(self, q: int, k: int) -> Any:
        return self.t.SDPAProgramConfig(
            compute_with_storage_grid_size=(8, 8),
            exp_approx_mode=False,
            q_chunk_size=q,
            k_chunk_size=k,
        )


def bank_matmul(
    m: Maker, cores: int = 18, block: int = 1, per_core: int = 2, out: Any = None, **changed: Any
) -> Any:
    a = changed.pop("a", None) or m.tensor((1, 1, 32, HIDDEN), memory=m.wide(HIDDEN, cores))
    b = changed.pop("b", None) or m.tensor(
        (1, 1, HIDDEN, QKV), "bfloat8_b", m.in_banks(HIDDEN, QKV)
    )
    program = m.t.MatmulMultiCoreReuseMultiCastDRAMShardedProgramConfig(
        in0_block_w=block, per_core_M=changed.pop("per_core_m", 1), per_core_N=per_core
    )
    return m.t.linear(
        a,
        b,
        program_config=program,
        compute_kernel_config=m.kernel(),
        memory_config=out or m.t.L1_WIDTH_SHARDED_MEMORY_CONFIG,
        **changed,
    )


def grid_matmul(m: Maker, rows: int = 512, block: int = 1, **changed: Any) -> Any:
    settings: dict[str, Any] = {
        "compute_with_storage_grid_size": (8, 8),
        "in0_block_w": block,
        "out_subblock_h": 1,
        "out_subblock_w": 1,
        "per_core_M": 2,
        "per_core_N": 4,
        "transpose_mcast": False,
        "fused_activation": None,
        "fuse_batch": True,
    }
    memory = changed.pop("memory", m.t.DRAM_MEMORY_CONFIG)
    dtype = changed.pop("dtype", "bfloat16")
    return m.t.linear(
        m.tensor((1, 1, rows, HIDDEN)),
        m.tensor((1, 1, HIDDEN, QKV), "bfloat8_b", m.in_banks(HIDDEN, QKV)),
        program_config=m.t.MatmulMultiCoreReuseMultiCastProgramConfig(**settings | changed),
        compute_kernel_config=m.kernel(),
        memory_config=memory,
        dtype=getattr(m.t, dtype),
    )


def line_matmul(m: Maker, rows: int = 32, width: int = QKV, **changed: Any) -> Any:
    settings: dict[str, Any] = {
        "compute_with_storage_grid_size": (8, 8),
        "in0_block_w": 1,
        "out_subblock_h": 1,
        "out_subblock_w": 1,
        "per_core_M": 1,
        "per_core_N": 1,
        "fuse_batch": True,
        "fused_activation": None,
        "mcast_in0": True,
    }
    memory = changed.pop("memory", m.t.DRAM_MEMORY_CONFIG)
    a = m.tensor((1, 1, rows, HIDDEN), memory=changed.pop("a_memory", None))
    b = m.tensor((1, 1, HIDDEN, width), "bfloat8_b", changed.pop("b_memory", None))
    return m.t.linear(
        a,
        b,
        program_config=m.t.MatmulMultiCoreReuseMultiCast1DProgramConfig(**settings | changed),
        compute_kernel_config=m.kernel(),
        memory_config=memory,
    )


def norm(m: Maker, cores: Any = None, width: int = 32, **changed: Any) -> Any:
    memory = cores and m.sharded("WIDTH", 32, width, cores)
    dtype = changed.pop("dtype", "bfloat16")
    weight = changed.pop("weight", None) or m.tensor((1, 1, 1, HIDDEN))
    return m.t.rms_norm(m.tensor((1, 1, 32, HIDDEN), dtype, memory), weight=weight, **changed)


def heads(m: Maker, memory: Any = None, rows: int = 32, dtype: str = "bfloat16", **changed: Any):
    x = m.tensor((1, 1, rows, QKV), dtype, memory or m.t.L1_MEMORY_CONFIG)
    settings = {"num_heads": HEADS, "num_kv_heads": KV_HEADS}
    settings["memory_config"] = m.t.L1_HEIGHT_SHARDED_MEMORY_CONFIG
    return m.t.experimental.nlp_create_qkv_heads_decode(x, **settings | changed)


def apart(m: Maker, rows: int = 32) -> Any:
    return heads(m, m.sharded("WIDTH", 32, 64, m.cores(15)), rows, overlap_qk_coregrid=False)


def pair_rope(m: Maker, users: int, cos_users: int | None = None, dtype: str = "bfloat16") -> Any:
    cos_users = cos_users or users
    cos = m.tensor((1, cos_users, 1, HEAD_DIM), dtype, m.by_user(cos_users))
    trans = m.tensor((1, 1, 32 * users, 32), memory=m.by_user(users, 32))
    q = m.tensor((1, users, HEADS, HEAD_DIM), dtype, m.by_user(users))
    return m.t.experimental.rotary_embedding_llama(q, cos, cos, trans, is_decode_mode=True)


def fused_rope(m: Maker, rows: int = 64, matrices: int = 64, together: bool = False) -> Any:
    q, k, _ = heads(m) if together else apart(m)
    cos = m.tensor((1, rows, 1, HEAD_DIM), memory=m.by_user(rows))
    trans = m.tensor((1, 1, 32 * matrices, 32), memory=m.by_user(matrices, 32))
    return m.t.experimental.rotary_embedding_llama_fused_qk(q, k, cos, cos, trans)


def half_rope(m: Maker, x: Any, cos: Any, decode: bool = False) -> Any:
    return m.t.experimental.rotary_embedding_hf(x, cos, cos, is_decode_mode=decode)


def cache(m: Maker, dtype: str = "bfloat8_b") -> Any:
    return m.tensor((64, KV_HEADS, 32, HEAD_DIM), dtype)


def table(m: Maker, users: int = 32, dtype: str = "int32") -> Any:
    return m.tensor((users, 2), dtype, rows=True)


def update(m: Maker, tokens: Any = None, **changed: Any) -> Any:
    tokens = tokens or apart(m)[1]
    settings = {"update_idxs_tensor": m.tensor((32,), "int32", rows=True), "page_table": table(m)}
    return m.t.experimental.paged_update_cache(cache(m), tokens, **settings | changed)


def fused_update(m: Maker, together: bool = False, second: str = "bfloat8_b") -> Any:
    _, k, v = heads(m) if together else apart(m)
    return m.t.experimental.paged_fused_update_cache(
        cache(m), k, cache(m, second), v,
        update_idxs_tensor=m.tensor((32,), "int32", rows=True), page_table=table(m),
    )  # fmt: skip


def fill(m: Maker, seq: int = 64, dtype: str = "bfloat8_b", kv: int = KV_HEADS, user: int = 0):
    tokens = m.tensor((1, kv, seq, HEAD_DIM), dtype)
    return m.t.experimental.paged_fill_cache(cache(m), tokens, table(m), batch_idx=user)


def attend(m: Maker, kv: int = KV_HEADS, keys: int = 64, dtype: str = "bfloat16", **changed: Any):
    q = m.tensor((1, HEADS, 64, HEAD_DIM), dtype)
    k = m.tensor((1, kv, keys, HEAD_DIM), dtype)
    return m.t.transformer.scaled_dot_product_attention(q, k, k, **changed)


def attend_step(m: Maker, q: Any = None, dtype: str = "bfloat8_b", **changed: Any) -> Any:
    settings: dict[str, Any] = {
        "page_table_tensor": table(m),
        "cur_pos_tensor": m.tensor((32,), "int32", rows=True),
    }
    q = q or m.tensor((1, 32, HEADS, HEAD_DIM))
    return m.t.transformer.paged_scaled_dot_product_attention_decode(
        q, cache(m, dtype), cache(m, dtype), **settings | changed
    )


def after_freeing_a_view(m: Maker) -> Any:
    x = m.tensor((1, 32, HIDDEN))
    m.t.deallocate(m.t.reshape(x, (1, 1, 32, HIDDEN)))
    return m.t.add(x, x)


def after_freeing_the_base(m: Maker) -> Any:
    x = m.tensor((1, 32, HIDDEN))
    view = m.t.reshape(x, (1, 1, 32, HIDDEN))
    m.t.deallocate(x)
    return m.t.add(view, view)


def after_freeing_what_was_not_moved(m: Maker) -> Any:
    x = m.tensor((1, 1, 32, HIDDEN))
    same = m.t.to_memory_config(x, m.t.DRAM_MEMORY_CONFIG)
    m.t.deallocate(x)
    return m.t.add(same, same)


def after_freeing(m: Maker) -> Any:
    x = m.tensor((1, 1, 32, HIDDEN))
    m.t.deallocate(x)
    m.t.deallocate(x)
    return m.t.add(x, x)


def x(m: Maker, memory: Any = None, dtype: str = "bfloat16", rows: int = 32) -> Any:
    return m.tensor((1, 1, rows, HIDDEN), dtype, memory)


def silu(m: Maker) -> Any:
    return [m.t.UnaryOpType.SILU]


def logits(m: Maker, rows: bool = True, dtype: str = "bfloat16") -> Any:
    return m.tensor((1, 1, 32, 512), dtype, rows=rows)


def ids(m: Maker, *shape: int, dtype: str = "uint32") -> Any:
    return m.tensor(shape, dtype, rows=True)


CASES: dict[str, Callable[[Maker], Any]] = {
    # placement
    "shards cover": lambda m: x(m, m.wide(HIDDEN, 18)),
    "shards with spare cores": lambda m: x(m, m.sharded("WIDTH", 32, 32, m.cores(32))),
    "shards too few": lambda m: x(m, m.sharded("WIDTH", 32, 32, m.cores(17))),
    "shards not of tiles": lambda m: x(m, m.sharded("WIDTH", 32, 36, m.cores(16))),
    "shards too high": lambda m: x(m, m.sharded("WIDTH", 64, 32, m.cores(18))),
    "shards without a spec": lambda m: x(m, m.t.L1_WIDTH_SHARDED_MEMORY_CONFIG),
    "shards off the grid": lambda m: x(m, m.sharded("WIDTH", 32, 32, m.cores(18, 9))),
    "too many banks": lambda m: m.tensor((1, 1, 64, FFN), memory=m.in_banks(64, FFN, 13)),
    "height shards too few": lambda m: x(m, m.sharded("HEIGHT", 32, HIDDEN, m.cores(1)), rows=64),
    "height shards too narrow": lambda m: x(m, m.sharded("HEIGHT", 32, 64, m.cores(2)), rows=64),
    "block format row major": lambda m: m.tensor((32, 32), "bfloat8_b", rows=True),
    # token ids
    "embed": lambda m: m.t.embedding(
        ids(m, 1, 32), ids(m, 1, 1, 99, HIDDEN, dtype="bfloat16"), layout=m.t.TILE_LAYOUT
    ),
    "embed row major": lambda m: m.t.embedding(
        ids(m, 1, 1), ids(m, 1, 1, 99, HIDDEN, dtype="bfloat16")
    ),
    "embed into shards": lambda m: m.t.embedding(
        ids(m, 1, 32),
        ids(m, 1, 1, 99, HIDDEN, dtype="bfloat16"),
        layout=m.t.TILE_LAYOUT,
        memory_config=m.wide(HIDDEN, 18),
    ),
    "embed a column": lambda m: m.t.embedding(
        ids(m, 64, 1),
        ids(m, 1, 1, 99, HEAD_DIM, dtype="bfloat16"),
        layout=m.t.TILE_LAYOUT,
        memory_config=m.by_user(64),
    ),
    "embed to block format": lambda m: m.t.embedding(
        ids(m, 1, 32),
        ids(m, 1, 1, 99, HIDDEN, dtype="bfloat16"),
        layout=m.t.TILE_LAYOUT,
        dtype=m.t.bfloat8_b,
    ),
    "embed signed": lambda m: m.t.embedding(
        ids(m, 1, 32, dtype="int32"), ids(m, 1, 1, 99, HIDDEN, dtype="bfloat16")
    ),
    "argmax": lambda m: m.t.argmax(logits(m), dim=3),
    "argmax keeps": lambda m: m.t.argmax(logits(m), dim=-1, keepdim=True),
    "argmax of tiles": lambda m: m.t.argmax(logits(m, rows=False), dim=3),
    "argmax of blocks": lambda m: m.t.argmax(logits(m, False, "bfloat8_b"), dim=3),
    "argmax into tokens": lambda m: m.t.argmax(logits(m), dim=3, output_tensor=ids(m, 1, 32)),
    "argmax into signed": lambda m: m.t.argmax(
        logits(m), dim=3, output_tensor=ids(m, 1, 32, dtype="int32")
    ),
    "plus one": lambda m: m.t.plus_one(ids(m, 32, dtype="int32"), skip_negative_entries=True),
    "plus one unsigned": lambda m: m.t.plus_one(ids(m, 1, 64)),
    "plus one of floats": lambda m: m.t.plus_one(ids(m, 1, 64, dtype="bfloat16")),
    "plus one of tiles": lambda m: m.t.plus_one(m.tensor((1, 64), "int32")),
    # moving data
    "reshape": lambda m: m.t.reshape(m.tensor((1, 32, HIDDEN)), (1, 1, 32, HIDDEN)),
    "reshape shards": lambda m: m.t.reshape(
        m.tensor((1, 32, HIDDEN), memory=m.wide(HIDDEN, 18)), (1, 1, 32, HIDDEN)
    ),
    "reshape to columns": lambda m: m.t.reshape(m.tensor((1, 64, 64)), (1, 64, 1, 64)),
    "reshape inferred": lambda m: m.t.reshape(m.tensor((1, 32, HIDDEN)), (1, 1, 32, -1)),
    "reshape wrong": lambda m: m.t.reshape(x(m), (1, 1, 31, HIDDEN)),
    "relabel rows": lambda m: m.t.reshape(
        x(m, m.wide(HIDDEN, 9)), (1, 1, 1, HIDDEN), (1, 1, 32, HIDDEN)
    ),
    "reshape ids": lambda m: m.t.reshape(ids(m, 1, 64), (64, 1)),
    "transpose": lambda m: m.t.transpose(m.tensor((1, 1, 64, 64)), 1, 2),
    "transpose to shards": lambda m: m.t.transpose(
        m.tensor((1, 1, 64, 64)), 1, 2, memory_config=m.by_user(64)
    ),
    "slice columns": lambda m: m.t.slice(x(m), (0, 0, 0, 0), (1, 1, 32, 64)),
    "slice a row": lambda m: m.t.slice(x(m, rows=128), (0, 0, 5, 0), (1, 1, 6, HIDDEN)),
    "slice steps": lambda m: m.t.slice(x(m), (0, 0, 0, 0), (1, 1, 32, 64), (1, 1, 1, 2)),
    "slice too far": lambda m: m.t.slice(x(m), (0, 0, 0, 0), (1, 1, 64, 64)),
    "slice ids": lambda m: m.t.slice(ids(m, 32, 16, dtype="int32"), (3, 0), (4, 16)),
    "slice rows of shards": lambda m: m.t.slice(
        x(m, m.wide(HIDDEN, 18)), (0, 0, 0, 0), (1, 1, 1, HIDDEN)
    ),
    "concat": lambda m: m.t.concat([x(m), x(m)], dim=3),
    "concat in L1": lambda m: m.t.concat([x(m)] * 2, dim=-1, memory_config=m.t.L1_MEMORY_CONFIG),
    "concat mixed": lambda m: m.t.concat([x(m), x(m, dtype="bfloat8_b")], dim=3),
    "concat shards": lambda m: m.t.concat([x(m, m.wide(HIDDEN, 18))] * 2, dim=3),
    "untilize": lambda m: m.t.untilize(x(m)),
    "untilize blocks": lambda m: m.t.untilize(x(m, dtype="bfloat8_b")),
    "untilize rows": lambda m: m.t.untilize(logits(m)),
    "shard": lambda m: m.t.interleaved_to_sharded(x(m), m.wide(HIDDEN, 18)),
    "shard by user": lambda m: m.t.interleaved_to_sharded(m.tensor((1, 64, 1, 64)), m.by_user(64)),
    "shard too few": lambda m: m.t.interleaved_to_sharded(
        x(m), m.sharded("WIDTH", 32, 32, m.cores(17))
    ),
    "shard shards": lambda m: m.t.interleaved_to_sharded(
        x(m, m.wide(HIDDEN, 18)), m.wide(HIDDEN, 9)
    ),
    "reshard": lambda m: m.t.to_memory_config(x(m, m.wide(HIDDEN, 18)), m.wide(HIDDEN, 9)),
    "to L1 as blocks": lambda m: m.t.to_memory_config(
        x(m), m.t.L1_MEMORY_CONFIG, dtype=m.t.bfloat8_b
    ),
    "unshard": lambda m: m.t.sharded_to_interleaved(x(m, m.wide(HIDDEN, 18))),
    "unshard to L1": lambda m: m.t.sharded_to_interleaved(
        x(m, m.wide(HIDDEN, 18)), m.t.L1_MEMORY_CONFIG, m.t.bfloat8_b
    ),
    "unshard interleaved": lambda m: m.t.sharded_to_interleaved(x(m), m.t.L1_MEMORY_CONFIG),
    "unshard to shards": lambda m: m.t.sharded_to_interleaved(
        x(m, m.wide(HIDDEN, 18)), m.wide(HIDDEN, 9)
    ),
    "copy": lambda m: m.t.copy(ids(m, 1, 64), ids(m, 1, 64)),
    "copy other shape": lambda m: m.t.copy(ids(m, 1, 64), ids(m, 1, 32)),
    "copy to blocks": lambda m: m.t.copy(x(m), x(m, dtype="bfloat8_b")),
    "typecast": lambda m: m.t.typecast(x(m), m.t.bfloat8_b),
    "typecast shards": lambda m: m.t.typecast(x(m, m.wide(HIDDEN, 18)), dtype=m.t.bfloat8_b),
    "typecast rows": lambda m: m.t.typecast(logits(m), m.t.bfloat8_b),
    "typecast ids": lambda m: m.t.typecast(ids(m, 1, 32, dtype="int32"), m.t.uint32),
    "after freeing": after_freeing,
    "after freeing a view": after_freeing_a_view,
    "after freeing the base": after_freeing_the_base,
    "after freeing what was not moved": after_freeing_what_was_not_moved,
    # element-wise
    "add": lambda m: m.t.add(x(m), x(m)),
    "add shards": lambda m: m.t.add(x(m, m.wide(HIDDEN, 18)), x(m, m.wide(HIDDEN, 18))),
    "add shards and L1": lambda m: m.t.add(x(m, m.wide(HIDDEN, 18)), x(m, m.t.L1_MEMORY_CONFIG)),
    "add other shards": lambda m: m.t.add(
        x(m, m.wide(HIDDEN, 18)), x(m, m.wide(HIDDEN, 9)), memory_config=m.wide(HIDDEN, 18)
    ),
    "add blocks": lambda m: m.t.add(x(m), x(m, dtype="bfloat8_b")),
    "add to blocks": lambda m: m.t.add(x(m, dtype="bfloat8_b"), x(m)),
    "add shapes": lambda m: m.t.add(x(m), m.tensor((1, 1, 32, 512))),
    "add a row": lambda m: m.t.add(x(m), x(m, rows=1)),
    "add to a row": lambda m: m.t.add(x(m, rows=1), x(m)),
    "add ids": lambda m: m.t.add(x(m), x(m, dtype="uint32")),
    "add ranks": lambda m: m.t.add(m.tensor((1, 32, HIDDEN)), x(m)),
    "add a number": lambda m: m.t.add(x(m), 1.0),
    "gate": lambda m: m.t.mul(
        x(m, m.wide(HIDDEN, 18)),
        x(m, m.wide(HIDDEN, 18)),
        input_tensor_a_activations=silu(m),
        dtype=m.t.bfloat8_b,
    ),
    "gate by name": lambda m: m.t.mul(x(m), x(m), input_tensor_a_activations=["silu"]),
    "multiply a number": lambda m: m.t.multiply(x(m), 0.5),
    "multiply to unspecified shards": lambda m: m.t.mul(
        x(m, m.wide(HIDDEN, 18)),
        x(m, m.wide(HIDDEN, 18)),
        memory_config=m.t.L1_WIDTH_SHARDED_MEMORY_CONFIG,
    ),
    # norm
    "norm": lambda m: norm(m),
    "norm row major weight": lambda m: norm(
        m, weight=ids(m, 1, 1, HIDDEN // 32, 32, dtype="bfloat16")
    ),
    "norm flat row major weight": lambda m: norm(
        m, weight=ids(m, 1, 1, 1, HIDDEN, dtype="bfloat16")
    ),
    "norm other weight": lambda m: norm(m, weight=m.tensor((1, 1, 1, 512))),
    "norm blocks": lambda m: norm(m, dtype="bfloat8_b"),
    "norm to shards": lambda m: norm(m, memory_config=m.wide(HIDDEN, 18)),
    "norm shards": lambda m: norm(m, m.cores(18, 6), program_config=m.norm(6, 3)),
    "norm shards in a larger grid": lambda m: norm(m, m.cores(18, 6), program_config=m.norm(8, 3)),
    "norm ragged shards": lambda m: norm(m, m.cores(18), program_config=m.norm(8, 3)),
    "norm grid too small": lambda m: norm(m, m.cores(18), program_config=m.norm(6, 3)),
    "norm without program": lambda m: norm(m, m.cores(18, 6)),
    "norm out of shards": lambda m: norm(
        m, m.cores(18, 6), program_config=m.norm(6, 3), memory_config=m.t.DRAM_MEMORY_CONFIG
    ),
    "norm wrong width": lambda m: norm(m, m.cores(18, 6), program_config=m.norm(6, 3, width=2)),
    "norm wrong height": lambda m: norm(m, m.cores(18, 6), program_config=m.norm(6, 3, height=2)),
    "norm wrong subblock": lambda m: norm(
        m, m.cores(6, 3), 96, program_config=m.norm(3, 2, 2, width=3)
    ),
    "norm program without shards": lambda m: norm(m, program_config=m.norm(6, 3)),
    "norm by user": lambda m: m.t.rms_norm(
        m.tensor((1, 32, 9, 64), memory=m.by_user(32)), weight=m.tensor((1, 1, 1, 64))
    ),
    "norm rows": lambda m: m.t.rms_norm(logits(m)),
    # matmul
    "banks": lambda m: bank_matmul(m),
    "banks, one column per core": lambda m: bank_matmul(m, per_core=1),
    "banks, uneven columns": lambda m: bank_matmul(m, per_core=7),
    "banks, 9 cores": lambda m: bank_matmul(m, 9, 2, 4),
    "banks, smaller block": lambda m: bank_matmul(m, 9, 1, 4),
    "banks, block across cores": lambda m: bank_matmul(m, 9, 3, 4),
    "banks to DRAM": lambda m: bank_matmul(m, out=m.t.DRAM_MEMORY_CONFIG),
    "banks to height shards": lambda m: bank_matmul(m, out=m.t.L1_HEIGHT_SHARDED_MEMORY_CONFIG),
    "banks to other shards": lambda m: bank_matmul(m, out=m.sharded("WIDTH", 32, 32, m.cores(30))),
    "banks, interleaved weight": lambda m: bank_matmul(
        m, b=m.tensor((1, 1, HIDDEN, QKV), "bfloat8_b")
    ),
    "banks, interleaved input": lambda m: bank_matmul(m, a=x(m, m.t.L1_MEMORY_CONFIG)),
    "banks, two rows of tiles": lambda m: bank_matmul(
        m, a=x(m, m.sharded("WIDTH", 64, 32, m.cores(18)), rows=64), per_core_m=2
    ),
    "banks, depth": lambda m: bank_matmul(
        m, b=m.tensor((1, 1, 512, QKV), "bfloat8_b", m.in_banks(512, QKV))
    ),
    "banks to blocks": lambda m: bank_matmul(m, dtype=m.t.bfloat8_b),
    "banks, one row": lambda m: bank_matmul(m, a=x(m, m.wide(HIDDEN, 18), rows=1)),
    "plain": lambda m: m.t.linear(x(m), m.tensor((1, 1, HIDDEN, QKV), "bfloat8_b")),
    "plain blocks": lambda m: m.t.linear(
        x(m, dtype="bfloat8_b"), m.tensor((1, 1, HIDDEN, QKV), "bfloat8_b")
    ),
    "plain of shards": lambda m: m.t.linear(
        x(m, m.wide(HIDDEN, 18)), m.tensor((1, 1, HIDDEN, QKV), "bfloat8_b")
    ),
    "rows of a weight": lambda m: m.t.linear(x(m), ids(m, 1, 1, HIDDEN, QKV, dtype="bfloat16")),
    "ids": lambda m: m.t.linear(x(m, dtype="uint32"), m.tensor((1, 1, HIDDEN, QKV))),
    "batches": lambda m: m.t.matmul(m.tensor((1, 4, 32, 64)), m.tensor((1, 4, 64, 32))),
    "batches, transposed": lambda m: m.t.matmul(
        m.tensor((1, 4, 32, 64)), m.tensor((1, 4, 32, 64)), transpose_b=True
    ),
    "grid": lambda m: grid_matmul(m),
    "grid to L1": lambda m: grid_matmul(m, memory=m.t.L1_MEMORY_CONFIG),
    "grid, blocks of 6": lambda m: grid_matmul(m, block=6),
    "grid, blocks of 4": lambda m: grid_matmul(m, block=4),
    "grid, too many rows": lambda m: grid_matmul(m, per_core_M=1),
    "grid, too many columns": lambda m: grid_matmul(m, per_core_N=3),
    "grid, subblock": lambda m: grid_matmul(m, out_subblock_h=2, out_subblock_w=2),
    "grid, subblock too large": lambda m: grid_matmul(m, out_subblock_h=2, out_subblock_w=4),
    "grid, subblock does not divide": lambda m: grid_matmul(m, out_subblock_w=3),
    "grid too large": lambda m: grid_matmul(m, compute_with_storage_grid_size=(9, 8)),
    "line": lambda m: line_matmul(m),
    "line to shards": lambda m: line_matmul(
        m, memory=m.t.L1_WIDTH_SHARDED_MEMORY_CONFIG, per_core_N=2
    ),
    "line of shards": lambda m: line_matmul(m, a_memory=m.wide(HIDDEN, 18)),
    "line, block over shards": lambda m: line_matmul(m, a_memory=m.wide(HIDDEN, 18), in0_block_w=2),
    "line, weight in banks": lambda m: line_matmul(m, b_memory=m.in_banks(HIDDEN, QKV)),
    "line, blocks of 4": lambda m: line_matmul(m, in0_block_w=4),
    "line, too many columns": lambda m: line_matmul(m, width=3 * FFN),
    "line by rows": lambda m: line_matmul(m, 512, mcast_in0=False, per_core_N=30),
    "minimal": lambda m: m.t.experimental.minimal_matmul(
        x(m, rows=512), m.tensor((1, 1, HIDDEN, QKV), "bfloat8_b")
    ),
    "minimal from banks": lambda m: m.t.experimental.minimal_matmul(
        x(m, rows=512),
        m.tensor((1, 1, HIDDEN, QKV), memory=m.in_banks(HIDDEN, QKV)),
        dtype=m.t.bfloat8_b,
    ),
    # heads
    "heads": lambda m: heads(m),
    "heads from DRAM": lambda m: heads(m, m.t.DRAM_MEMORY_CONFIG),
    "heads of 8 users": lambda m: heads(m, rows=8),
    "heads apart": lambda m: apart(m),
    "heads of 1 user apart": lambda m: apart(m, 1),
    "heads apart, interleaved": lambda m: heads(m, overlap_qk_coregrid=False),
    "heads apart, half a head per shard": lambda m: heads(
        m, m.sharded("WIDTH", 32, 32, m.cores(30)), overlap_qk_coregrid=False
    ),
    "heads apart, three heads per shard": lambda m: heads(
        m, m.sharded("WIDTH", 32, 192, m.cores(5)), overlap_qk_coregrid=False
    ),
    "heads of blocks": lambda m: heads(m, dtype="bfloat8_b"),
    "heads of 64 users": lambda m: heads(m, rows=64),
    "heads do not fit": lambda m: heads(m, num_heads=10),
    "40 heads": lambda m: m.t.experimental.nlp_create_qkv_heads_decode(
        m.tensor((1, 1, 32, 56 * 64), memory=m.t.L1_MEMORY_CONFIG), num_heads=40, num_kv_heads=8
    ),
    "prefill heads": lambda m: m.t.experimental.nlp_create_qkv_heads(
        m.tensor((1, 1, 64, QKV), "bfloat8_b"),
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        transpose_k_heads=False,
    ),
    "prefill heads, k transposed": lambda m: m.t.experimental.nlp_create_qkv_heads(
        m.tensor((1, 1, 64, QKV)),
        num_heads=HEADS,
        num_kv_heads=KV_HEADS,
        memory_config=m.t.L1_MEMORY_CONFIG,
    ),
    "join": lambda m: m.t.experimental.nlp_concat_heads(m.tensor((1, HEADS, 64, 64))),
    "join users": lambda m: m.t.experimental.nlp_concat_heads_decode(
        m.tensor((1, 4, HEADS, 64), memory=m.by_user(4)), num_heads=HEADS
    ),
    "join interleaved users": lambda m: m.t.experimental.nlp_concat_heads_decode(
        m.tensor((1, 4, HEADS, 64)), num_heads=HEADS
    ),
    "join users of blocks": lambda m: m.t.experimental.nlp_concat_heads_decode(
        m.tensor((1, 4, HEADS, 64), "bfloat8_b", m.by_user(4)), num_heads=HEADS
    ),
    # rotary embedding
    "pairs": lambda m: pair_rope(m, 32),
    "pairs of 1 user": lambda m: pair_rope(m, 1),
    "pairs of blocks": lambda m: pair_rope(m, 32, dtype="bfloat8_b"),
    "pairs, fewer rows": lambda m: pair_rope(m, 32, 16),
    "pairs, prefill": lambda m: m.t.experimental.rotary_embedding_llama(
        m.tensor((1, HEADS, 64, 64)),
        m.tensor((1, 1, 128, 64)),
        m.tensor((1, 1, 128, 64)),
        m.tensor((1, 1, 32, 32)),
    ),
    "pairs, prefill, rank of cos": lambda m: m.t.experimental.rotary_embedding_llama(
        m.tensor((1, HEADS, 64, 64)),
        m.tensor((1, 64, 64)),
        m.tensor((1, 64, 64)),
        m.tensor((1, 1, 32, 32)),
    ),
    "q and k": lambda m: fused_rope(m),
    "q and k, rows of one": lambda m: fused_rope(m, 32, 32),
    "q and k, matrices of one": lambda m: fused_rope(m, 64, 32),
    "q and k on the same cores": lambda m: fused_rope(m, together=True),
    "halves": lambda m: half_rope(
        m,
        m.tensor((1, 32, HEADS, 64), memory=m.by_user(32)),
        m.tensor((1, 32, 1, 64), memory=m.by_user(32)),
        True,
    ),
    "halves of blocks": lambda m: half_rope(
        m,
        m.tensor((1, 32, HEADS, 64), "bfloat8_b", m.by_user(32)),
        m.tensor((1, 32, 1, 64), memory=m.by_user(32)),
        True,
    ),
    "halves, interleaved cos": lambda m: half_rope(
        m, m.tensor((1, 32, HEADS, 64), memory=m.by_user(32)), m.tensor((1, 32, 1, 64)), True
    ),
    "halves, prefill": lambda m: half_rope(
        m, m.tensor((1, HEADS, 64, 64), "bfloat8_b"), m.tensor((1, 1, 128, 64))
    ),
    "halves, prefill, short cos": lambda m: half_rope(
        m, m.tensor((1, HEADS, 64, 64)), m.tensor((1, 1, 32, 64))
    ),
    "halves of 96": lambda m: half_rope(m, m.tensor((1, HEADS, 64, 96)), m.tensor((1, 1, 64, 96))),
    # caches
    "update": lambda m: update(m),
    "update from DRAM": lambda m: update(m, m.tensor((1, 32, KV_HEADS, 64))),
    "update from blocks": lambda m: update(
        m, m.tensor((1, 32, KV_HEADS, 64), "bfloat8_b", m.by_user(32))
    ),
    "update, unsigned positions": lambda m: update(m, update_idxs_tensor=ids(m, 32)),
    "update, unsigned table": lambda m: update(m, page_table=table(m, dtype="uint32")),
    "update, short table": lambda m: update(m, page_table=table(m, 16)),
    "update, few positions": lambda m: update(m, update_idxs_tensor=ids(m, 16, dtype="int32")),
    "update, no positions": lambda m: update(m, update_idxs_tensor=None),
    "update both": lambda m: fused_update(m),
    "update both on the same cores": lambda m: fused_update(m, together=True),
    "update both, two types": lambda m: fused_update(m, second="bfloat16"),
    "fill": lambda m: fill(m),
    "fill part of a block": lambda m: fill(m, seq=40),
    "fill another type": lambda m: fill(m, dtype="bfloat16"),
    "fill too long": lambda m: fill(m, seq=128),
    "fill other heads": lambda m: fill(m, kv=4),
    "fill nobody": lambda m: fill(m, user=32),
    # attention
    "attend": lambda m: attend(m),
    "attend, heads joined": lambda m: attend(m, output_concat_heads=True),
    "attend in blocks to L1": lambda m: attend(
        m, dtype="bfloat8_b", memory_config=m.t.L1_MEMORY_CONFIG
    ),
    "attend, heads do not divide": lambda m: attend(m, kv=2),
    "attend, more keys": lambda m: attend(m, keys=128),
    "attend, chunks": lambda m: attend(m, program_config=m.attention(64, 128)),
    "attend, odd chunk": lambda m: attend(m, program_config=m.attention(48, 64)),
    "step": lambda m: attend_step(m),
    "step, queries by user": lambda m: attend_step(
        m, m.tensor((1, 32, HEADS, 64), memory=m.by_user(32))
    ),
    "step to L1": lambda m: attend_step(m, memory_config=m.t.L1_MEMORY_CONFIG),
    "step to shards": lambda m: attend_step(m, memory_config=m.by_user(32)),
    "step, queries in L1": lambda m: attend_step(
        m, m.tensor((1, 32, HEADS, 64), memory=m.t.L1_MEMORY_CONFIG)
    ),
    "step, queries of blocks": lambda m: attend_step(m, m.tensor((1, 32, HEADS, 64), "bfloat8_b")),
    "step, unsigned positions": lambda m: attend_step(m, cur_pos_tensor=ids(m, 32)),
    "step, short table": lambda m: attend_step(m, page_table_tensor=table(m, 16)),
    "step, table of tiles": lambda m: attend_step(m, page_table_tensor=m.tensor((32, 2), "int32")),
    "step, no positions": lambda m: attend_step(m, cur_pos_tensor=None),
    "step, odd chunk": lambda m: attend_step(m, program_config=m.attention(32, 48)),
    "step, chunk left open": lambda m: attend_step(m, program_config=m.attention(0, 0)),
}
"""What to call, by a name for the report."""


def describe(result: Any) -> Any:
    """Everything about a result but its values."""
    if isinstance(result, list | tuple):
        return tuple(describe(one) for one in result)
    memory = result.memory_config()
    shards: Any = None
    if memory.shard_spec is not None:
        cores = {
            (x, y)
            for one in memory.shard_spec.grid.ranges()
            for x in range(one.start.x, one.end.x + 1)
            for y in range(one.start.y, one.end.y + 1)
        }
        shards = (list(memory.shard_spec.shape), sorted(cores))
    where = memory.memory_layout.name, memory.buffer_type.name, shards
    return list(result.shape), result.dtype.name, result.layout.name, where


def outcome(case: Callable[[Maker], Any], maker: Maker) -> Any:
    try:
        return describe(case(maker))
    except (RuntimeError, TypeError) as refusal:
        return "refused", str(refusal)


def all_outcomes(ttnn: Any, device: Any) -> dict[str, Any]:
    maker = Maker(ttnn, device)
    return {name: outcome(case, maker) for name, case in CASES.items()}


@pytest.fixture(scope="module")
def real(mock_host: MockHost) -> dict[str, Any]:
    return mock_host.run(load_mesh("N150"), all_outcomes)


@pytest.mark.parametrize("name", CASES)
def test_same_form_or_both_refuse(
    name: str, real: dict[str, Any], device: emulated.MeshDevice
) -> None:
    expected, got = real[name], outcome(CASES[name], Maker(emulated, device))
    if "refused" in (expected[0], got[0]):
        assert (expected[0], got[0]) == ("refused", "refused"), f"ttnn: {expected}\nours: {got}"
    else:
        assert got == expected


def test_the_comparison_sees_a_difference(
    real: dict[str, Any], device: emulated.MeshDevice
) -> None:
    """Another grid moves the shards of a matmul's result."""
    other = emulated.open_mesh_device(emulated.MeshShape(1, 1), grid=(4, 8))
    case = CASES["banks, one column per core"]
    assert outcome(case, Maker(emulated, device)) == real["banks, one column per core"]
    assert outcome(case, Maker(emulated, other)) != real["banks, one column per core"]
