"""Every other operation against plain torch, with the tolerance of its rounding."""

import pytest
import torch

from ttc.emulate import block_float, ttnn
from ttc.emulate.errors import EmulationError

pytestmark = pytest.mark.emulate

WIDE = ttnn.WormholeComputeKernelConfig(
    math_fidelity=ttnn.MathFidelity.HiFi4, fp32_dest_acc_en=True, packer_l1_acc=True
)


def tiles(values: torch.Tensor, device: ttnn.MeshDevice, dtype=ttnn.bfloat16) -> ttnn.Tensor:
    return ttnn.from_torch(values, dtype=dtype, layout=ttnn.TILE_LAYOUT, device=device)


def rows(values: torch.Tensor, device: ttnn.MeshDevice, dtype=ttnn.bfloat16) -> ttnn.Tensor:
    return ttnn.from_torch(values, dtype=dtype, device=device)


def bf16(shape: tuple[int, ...], random: torch.Generator) -> torch.Tensor:
    return torch.randn(shape, generator=random).bfloat16().float()


def values(tensor: ttnn.Tensor) -> torch.Tensor:
    return ttnn.to_torch(tensor).float()


def distance(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return ((ours - reference).norm() / reference.norm()).item()


def cores(count: int, first: int = 0) -> ttnn.CoreRangeSet:
    return ttnn.CoreRangeSet(
        [
            ttnn.CoreRange(ttnn.CoreCoord(i % 8, i // 8), ttnn.CoreCoord(i % 8, i // 8))
            for i in range(first, first + count)
        ]
    )


def by_user(count: int, width: int, first: int = 0) -> ttnn.MemoryConfig:
    spec = ttnn.ShardSpec(cores(count, first), [32, width], ttnn.ShardOrientation.ROW_MAJOR)
    layout = ttnn.TensorMemoryLayout.HEIGHT_SHARDED
    return ttnn.MemoryConfig(layout, ttnn.BufferType.L1, spec)


class TestElementWise:
    def test_add(self, device, random) -> None:
        a, b = bf16((1, 1, 32, 64), random), bf16((1, 1, 32, 64), random)
        ours = values(ttnn.add(tiles(a, device), tiles(b, device)))
        assert distance(ours, a + b) < 3e-3
        assert torch.equal(ours, ours.bfloat16().float())

    def test_products_of_bf16_round_to_nearest_even(self, device, random) -> None:
        a, b = bf16((1, 1, 32, 64), random), bf16((1, 1, 32, 64), random)
        ours = values(ttnn.mul(tiles(a, device), tiles(b, device)))
        assert torch.equal(ours, (a * b).bfloat16().float())

    def test_products_of_blocks_accumulate_by_phase(self, device, random) -> None:
        a, b = (
            block_float.quantize_on_host(bf16((1, 1, 32, 64), random), block_float.BFP8)
            for _ in range(2)
        )
        ours = ttnn.mul(
            tiles(a, device, ttnn.bfloat8_b), tiles(b, device, ttnn.bfloat8_b), dtype=ttnn.bfloat16
        )
        assert 0 < distance(values(ours), (a * b).bfloat16().float()) < 1e-2

    def test_gate(self, device, random) -> None:
        a, b = bf16((1, 1, 32, 64), random), bf16((1, 1, 32, 64), random)
        ours = ttnn.mul(
            tiles(a, device),
            tiles(b, device),
            input_tensor_a_activations=[ttnn.UnaryOpType.SILU],
            dtype=ttnn.bfloat8_b,
        )
        reference = torch.nn.functional.silu(a) * b
        assert distance(values(ours), reference) < 1.5e-2
        assert distance(values(ours), a * b) > 0.3

    def test_broadcast_over_rows_that_are_not_stored(self, device, random) -> None:
        a, b = bf16((1, 1, 32, 64), random), bf16((1, 1, 1, 64), random)
        x = tiles(a, device)
        x.stored = [x.stored[0][:, :, :2]]
        y = tiles(a, device)
        assert ttnn.add(x, tiles(b, device)).stored[0].shape == (1, 1, 2, 64)
        total = values(ttnn.add(x, y))
        assert torch.equal(total[:, :, 2:], a[:, :, 2:])
        assert torch.equal(total[:, :, :2], 2 * a[:, :, :2])

    def test_typecast_packs_precisely(self, device, random) -> None:
        a = bf16((1, 1, 32, 64), random)
        precise = block_float.quantize_on_device(a, block_float.BFP8, "bf16")
        assert torch.equal(values(ttnn.typecast(tiles(a, device), ttnn.bfloat8_b)), precise)
        assert not torch.equal(precise, block_float.quantize_on_device(a, block_float.BFP8))
        ids = rows(torch.tensor([[3, 4]], dtype=torch.int32), device, ttnn.int32)
        assert ttnn.to_torch(ttnn.typecast(ids, ttnn.uint32)).tolist() == [[3, 4]]


class TestNorm:
    @pytest.mark.parametrize(
        ("config", "tolerance"),
        [
            (WIDE, 3e-3),
            (
                ttnn.WormholeComputeKernelConfig(
                    math_fidelity=ttnn.MathFidelity.HiFi2, fp32_dest_acc_en=True
                ),
                2e-2,
            ),
            (None, 3e-2),  # 16-bit Dst
        ],
    )
    @pytest.mark.parametrize("flat", [True, False])
    def test_against_torch(self, device, random, config, tolerance: float, flat: bool) -> None:
        x, weight = bf16((1, 1, 32, 256), random), 1 + bf16((256,), random) / 8
        weight = weight.bfloat16().float()
        gamma = (
            tiles(weight.view(1, 1, 1, 256), device)
            if flat
            else rows(weight.view(1, 1, 8, 32), device)
        )
        ours = ttnn.rms_norm(
            tiles(x, device), epsilon=1e-5, weight=gamma, compute_kernel_config=config
        )
        reference = torch.nn.functional.rms_norm(x, (256,), weight, 1e-5)
        assert distance(values(ours), reference) < tolerance
        assert distance(values(ours), reference / weight) > 5e-2

    def test_hifi2_cuts_the_reciprocal_root(self, device) -> None:
        """x = 1: the root is 0.99999..., of which 7 significant bits are 0.992."""
        x = tiles(torch.ones(1, 1, 32, 64), device)
        config = ttnn.WormholeComputeKernelConfig(
            math_fidelity=ttnn.MathFidelity.HiFi2, fp32_dest_acc_en=True
        )
        ours = values(ttnn.rms_norm(x, epsilon=1e-5, compute_kernel_config=config))
        assert ours.unique().tolist() == [0.9921875]

    def test_exact_device(self, exact_device, random) -> None:
        x = torch.randn(1, 1, 32, 64, generator=random)
        ours = values(ttnn.rms_norm(tiles(x, exact_device), epsilon=1e-5))
        assert distance(ours, torch.nn.functional.rms_norm(x, (64,), None, 1e-5)) < 1e-6


class TestIndices:
    def test_embedding(self, device, random) -> None:
        table = bf16((1, 1, 50, 64), random)
        ids = torch.randint(0, 50, (1, 32), generator=random)
        tokens = rows(ids, device, ttnn.uint32)
        ours = ttnn.embedding(tokens, rows(table, device), layout=ttnn.TILE_LAYOUT)
        assert torch.equal(values(ours), table[0, 0][ids])
        with pytest.raises(RuntimeError, match="outside"):
            ttnn.embedding(rows(ids + 50, device, ttnn.uint32), rows(table, device))

    def test_argmax_into_tokens_keeps_live_users(self, device, random) -> None:
        logits = torch.randn(1, 1, 32, 100, generator=random)
        tokens = rows(torch.zeros(1, 32, dtype=torch.int32), device, ttnn.uint32)
        ttnn.mark_live_rows(tokens, 5)
        source = rows(logits, device, ttnn.float32)
        source.stored = [source.stored[0][:, :, :5]]
        assert ttnn.argmax(source, dim=3, output_tensor=tokens) is tokens
        assert tokens.stored[0].shape == (1, 5)
        assert tokens.stored[0][0].tolist() == logits[0, 0, :5].argmax(-1).tolist()

    def test_argmax_takes_the_first_of_equals(self, device) -> None:
        logits = rows(torch.tensor([[[[0.0, 2.0, 2.0, 1.0]]]]), device)
        assert ttnn.to_torch(ttnn.argmax(logits, dim=-1)).tolist() == [[[1]]]

    def test_plus_one_is_in_place_and_can_skip_idle_users(self, device) -> None:
        positions = rows(torch.tensor([3, -1, 0], dtype=torch.int32), device, ttnn.int32)
        ttnn.plus_one(positions, skip_negative_entries=True)
        assert ttnn.to_torch(positions).tolist() == [4, -1, 1]
        ttnn.plus_one(positions)
        assert ttnn.to_torch(positions).tolist() == [5, 0, 2]


class TestMovement:
    def test_reshape_keeps_a_leading_corner(self, device) -> None:
        x = tiles(torch.arange(64.0).view(1, 4, 16), device)
        x.stored = [x.stored[0][:, :2]]
        ours = ttnn.reshape(x, (1, 1, 4, 16))
        assert ours.stored[0].shape == (1, 1, 2, 16)
        assert torch.equal(values(ours).flatten()[:32], torch.arange(32.0))
        assert values(ours).flatten()[32:].count_nonzero() == 0
        column = ttnn.reshape(x, (1, 4, 1, 16))
        assert column.stored[0].shape == (1, 2, 1, 16)
        other = ttnn.reshape(x, (1, 1, 2, 32))
        assert values(other).flatten().tolist() == [*range(32), *([0] * 32)]

    def test_relabelling_rows(self, device) -> None:
        x = tiles(torch.arange(64.0).view(1, 1, 32, 2), device)
        fewer = ttnn.reshape(x, (1, 1, 3, 2), (1, 1, 32, 32))
        assert torch.equal(values(fewer), torch.arange(6.0).view(1, 1, 3, 2))
        more = ttnn.reshape(fewer, (1, 1, 32, 2), (1, 1, 32, 32))
        assert more.shape == (1, 1, 32, 2)

    def test_transpose_slice_concat(self, device, random) -> None:
        a, b = bf16((1, 2, 32, 64), random), bf16((1, 2, 32, 32), random)
        x, y = tiles(a, device), tiles(b, device)
        assert torch.equal(values(ttnn.transpose(x, 1, 2)), a.transpose(1, 2))
        piece = ttnn.slice(x, (0, 1, 3, 0), (1, 2, 9, 64), (1, 1, 2, 1))
        assert torch.equal(values(piece), a[:, 1:2, 3:9:2])
        assert torch.equal(values(ttnn.concat([x, y], dim=-1)), torch.cat((a, b), -1))
        x.stored = [x.stored[0][:, :, :4]]
        joined = values(ttnn.concat([x, y], dim=3))
        assert torch.equal(joined[..., 64:], b)
        assert joined[:, :, 4:, :64].count_nonzero() == 0

    def test_reshards_keep_values(self, device, random) -> None:
        a = bf16((1, 4, 9, 64), random)
        sharded = ttnn.to_memory_config(tiles(a, device), by_user(4, 64))
        assert sharded.is_sharded()
        assert torch.equal(values(ttnn.sharded_to_interleaved(sharded)), a)
        assert torch.equal(values(ttnn.untilize(sharded)), a)
        part = ttnn.untilize_with_unpadding(tiles(a, device), (0, 0, 4, 39))
        assert torch.equal(values(part), a[:, :1, :5, :40])
        with pytest.raises(EmulationError, match="no element"):  # ttnn reads what lies there
            ttnn.untilize_with_unpadding(tiles(a, device), (0, 0, 31, 999))

    def test_copy(self, device, random) -> None:
        a = bf16((1, 1, 32, 32), random)
        target = tiles(torch.zeros(1, 1, 32, 32), device)
        ttnn.copy(tiles(a, device), target)
        assert torch.equal(values(target), a)


class TestHeads:
    def test_split_and_join_a_step(self, device, random) -> None:
        x = bf16((1, 1, 32, 7 * 32), random)
        packed = tiles(x, device)
        q, k, v = ttnn.experimental.nlp_create_qkv_heads_decode(packed, num_heads=3, num_kv_heads=2)
        parts = x[0, 0].view(32, 7, 32)
        for tensor, part in ((q, parts[:, :3]), (k, parts[:, 3:5]), (v, parts[:, 5:])):
            assert torch.equal(values(tensor)[0], part)
        joined = ttnn.experimental.nlp_concat_heads_decode(q, num_heads=3)
        assert torch.equal(values(joined)[0, 0], parts[:, :3].flatten(1))

    def test_split_and_join_a_sequence(self, device, random) -> None:
        x = bf16((1, 1, 64, 7 * 32), random)
        q, k, v = ttnn.experimental.nlp_create_qkv_heads(
            tiles(x, device), num_heads=3, num_kv_heads=2
        )
        parts = x[0, 0].view(64, 7, 32).transpose(0, 1)
        assert torch.equal(values(q)[0], parts[:3])
        assert torch.equal(values(k)[0], parts[3:5].transpose(1, 2))
        assert torch.equal(values(v)[0], parts[5:])
        joined = ttnn.experimental.nlp_concat_heads(q)
        assert torch.equal(values(joined)[0, 0], parts[:3].transpose(0, 1).flatten(1))


def transformation() -> torch.Tensor:
    matrix = torch.zeros(32, 32)
    even = torch.arange(0, 32, 2)
    matrix[even, even + 1] = 1
    matrix[even + 1, even] = -1
    return matrix[None, None]


def angles(count: int, head_dim: int) -> torch.Tensor:
    frequencies = 10000.0 ** (-torch.arange(0, head_dim, 2) / head_dim)
    return torch.arange(count).unsqueeze(1) * frequencies


def rotate(x: torch.Tensor, turn: torch.Tensor, pairs: bool) -> torch.Tensor:
    """x [..., rows, head_dim] turned by angles [rows, head_dim / 2], in float64."""
    x = x.double()
    if pairs:
        a, b = x[..., 0::2], x[..., 1::2]
    else:
        a, b = x.chunk(2, dim=-1)
    real, imaginary = a * turn.cos() - b * turn.sin(), b * turn.cos() + a * turn.sin()
    if pairs:
        return torch.stack((real, imaginary), dim=-1).flatten(-2)
    return torch.cat((real, imaginary), dim=-1)


def spread(turn: torch.Tensor, pairs: bool) -> torch.Tensor:
    return turn.repeat_interleave(2, -1) if pairs else torch.cat((turn, turn), -1)


class TestRotary:
    @pytest.mark.parametrize("pairs", [True, False])
    def test_prefill(self, device, random, pairs: bool) -> None:
        x, turn = bf16((1, 3, 64, 64), random), angles(128, 64)
        cos, sin = (
            tiles(one(spread(turn, pairs))[None, None], device) for one in (torch.cos, torch.sin)
        )
        if pairs:
            ours = ttnn.experimental.rotary_embedding_llama(
                tiles(x, device), cos, sin, tiles(transformation(), device)
            )
        else:
            ours = ttnn.experimental.rotary_embedding_hf(tiles(x, device), cos, sin)
        reference = rotate(x, turn[:64], pairs)
        assert distance(values(ours), reference) < 1e-2
        assert distance(values(ours), rotate(x, turn[:64], not pairs)) > 0.1

    @pytest.mark.parametrize("users", [1, 3])
    def test_step_of_q_and_k(self, device, random, users: int) -> None:
        packed = ttnn.to_memory_config(
            tiles(bf16((1, 1, users, 7 * 64), random), device),
            ttnn.MemoryConfig(
                ttnn.TensorMemoryLayout.WIDTH_SHARDED,
                ttnn.BufferType.L1,
                ttnn.ShardSpec(cores(7), [32, 64], ttnn.ShardOrientation.ROW_MAJOR),
            ),
        )
        q, k, _ = ttnn.experimental.nlp_create_qkv_heads_decode(
            packed, num_heads=5, num_kv_heads=1, overlap_qk_coregrid=False
        )
        turn = angles(2 * users, 64)
        cos, sin = (
            ttnn.to_memory_config(
                tiles(one(spread(turn, True))[None, :, None], device), by_user(2 * users, 64)
            )
            for one in (torch.cos, torch.sin)
        )
        trans = ttnn.to_memory_config(
            tiles(transformation().repeat(1, 1, 2 * users, 1), device), by_user(2 * users, 32)
        )
        both = ttnn.experimental.rotary_embedding_llama_fused_qk(q, k, cos, sin, trans)
        for ours, x, angle in zip(both, (q, k), (turn[:users], turn[users:]), strict=True):
            reference = rotate(values(x), angle.unsqueeze(1), True)
            assert distance(values(ours), reference) < 1e-2
            assert ours.memory_config() == x.memory_config()

    def test_step_of_halves(self, device, random) -> None:
        x, turn = bf16((1, 4, 3, 64), random), angles(4, 64)
        cos, sin = (
            ttnn.to_memory_config(
                tiles(one(spread(turn, False))[None, :, None], device), by_user(4, 64)
            )
            for one in (torch.cos, torch.sin)
        )
        q = ttnn.to_memory_config(tiles(x, device), by_user(4, 64))
        ours = ttnn.experimental.rotary_embedding_hf(q, cos, sin, is_decode_mode=True)
        assert distance(values(ours), rotate(x, turn.unsqueeze(1), False)) < 1e-2

    def test_exact_device(self, exact_device, random) -> None:
        x, turn = torch.randn(1, 3, 64, 64, generator=random), angles(64, 64)
        cos, sin = (
            tiles(one(spread(turn, True))[None, None], exact_device)
            for one in (torch.cos, torch.sin)
        )
        ours = ttnn.experimental.rotary_embedding_llama(
            tiles(x, exact_device), cos, sin, tiles(transformation(), exact_device)
        )
        assert distance(values(ours), rotate(x, turn, True)) < 1e-6
