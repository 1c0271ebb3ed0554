"""Quantised checkpoints: every scheme by its definition, element by element."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ttc.checkpoint.safetensors_folder import SafetensorsFolder
from ttc.errors import CheckpointError

pytestmark = pytest.mark.emulate

OUT, IN, GROUP = 48, 64, 32
NAME = "model.layers.0.mlp.up_proj"


def folder(path: Path, settings: dict[str, Any], **tensors: torch.Tensor) -> SafetensorsFolder:
    named = {f"{NAME}.{kind}": values.contiguous() for kind, values in tensors.items()}
    save_file(named, path / "model.safetensors")
    (path / "config.json").write_text(json.dumps({"quantization_config": settings}))
    return SafetensorsFolder(path, "c")


def check(checkpoint: SafetensorsFolder, expected: torch.Tensor) -> None:
    name = f"{NAME}.weight"
    assert checkpoint.names() == (name,)
    assert checkpoint.shape(name) == (OUT, IN)
    assert checkpoint.unreadable(name) == ""
    assert np.allclose(checkpoint.read(name), expected.float(), rtol=1e-6)
    assert np.allclose(checkpoint.read(name, slice(5, 40)), expected[5:40].float(), rtol=1e-6)


def packed(values: torch.Tensor, bits: int, dim: int) -> torch.Tensor:
    """Unsigned values side by side in int32 words along a dim, the first in the lowest bits."""
    count = 32 // bits
    moved = values.movedim(dim, -1).long()
    words = moved.reshape(*moved.shape[:-1], -1, count) << (bits * torch.arange(count))
    joined = words.sum(-1)
    joined = torch.where(joined >= 1 << 31, joined - (1 << 32), joined)
    return joined.int().movedim(-1, dim)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
@pytest.mark.parametrize("scale_shape", [(), (1,), (OUT, 1)])
def test_8_bit_floats_with_a_scale_for_all_or_for_each_row(
    tmp_path: Path, dtype: torch.dtype, scale_shape: tuple[int, ...]
) -> None:
    weight = torch.randn(OUT, IN).to(dtype)
    scale = torch.rand(scale_shape) + 0.5
    settings = {"quant_method": "compressed-tensors"}
    extra = {"weight": weight, "weight_scale": scale, "input_scale": torch.ones(1)}
    check(folder(tmp_path, settings, **extra), weight.float() * scale)


def test_every_code_of_8_bit_floats(tmp_path: Path) -> None:
    codes = torch.arange(256, dtype=torch.uint8)
    for number, dtype in enumerate((torch.float8_e4m3fn, torch.float8_e5m2)):
        (path := tmp_path / str(number)).mkdir()
        weight = codes.view(dtype).reshape(4, 64)
        found = folder(path, {"quant_method": "fp8"}, weight=weight, weight_scale=torch.ones(()))
        read = torch.from_numpy(found.read(f"{NAME}.weight"))
        assert torch.equal(read.nan_to_num(7.0), weight.float().nan_to_num(7.0))


def test_8_bit_floats_with_a_scale_for_each_block(tmp_path: Path) -> None:
    """As DeepSeek-V3 and Qwen3 publish them; here with blocks of 32 x 16, cut off at the end."""
    weight = torch.randn(OUT, IN).to(torch.float8_e4m3fn)
    scale = torch.rand(2, 4) + 0.5
    whole = scale.repeat_interleave(32, 0).repeat_interleave(16, 1)[:OUT, :IN]
    settings = {"quant_method": "fp8", "weight_block_size": [32, 16]}
    found = folder(tmp_path, settings, weight=weight, weight_scale_inv=scale)
    check(found, weight.float() * whole)


def test_int8_with_a_scale_for_each_row(tmp_path: Path) -> None:
    weight = torch.randint(-128, 128, (OUT, IN), dtype=torch.int8)
    scale = (torch.rand(OUT, 1) + 0.5).bfloat16()
    settings = {"quant_method": "compressed-tensors"}
    found = folder(tmp_path, settings, weight=weight, weight_scale=scale)
    check(found, weight.float() * scale.float())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("symmetric", [True, False])
def test_packed_integers(tmp_path: Path, bits: int, symmetric: bool) -> None:
    values = torch.randint(0, 1 << bits, (OUT, IN))
    scale = torch.rand(OUT, IN // GROUP) + 0.5
    zero = torch.randint(0, 1 << bits, (OUT, IN // GROUP))
    tensors = {
        "weight_packed": packed(values, bits, 1),
        "weight_scale": scale,
        "weight_shape": torch.tensor([OUT, IN]),
    }
    if symmetric:
        zero = torch.full_like(zero, 1 << (bits - 1))
    else:
        tensors["weight_zero_point"] = packed(zero, bits, 0)
    settings = {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": {"num_bits": bits}}},
    }
    centred = values - zero.repeat_interleave(GROUP, 1)
    check(folder(tmp_path, settings, **tensors), centred * scale.repeat_interleave(GROUP, 1))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("form", ["gptq", "gptq_v2"])
def test_gptq(tmp_path: Path, bits: int, form: str) -> None:
    values = torch.randint(0, 1 << bits, (IN, OUT))
    zeros = torch.randint(1, 1 << bits, (IN // GROUP, OUT))
    scales = (torch.rand(IN // GROUP, OUT) + 0.5).half()
    index = torch.randint(0, IN // GROUP, (IN,), dtype=torch.int32)
    found = folder(
        tmp_path,
        {"quant_method": "gptq", "bits": bits, "checkpoint_format": form},
        qweight=packed(values, bits, 0),
        qzeros=packed(zeros - int(form == "gptq"), bits, 1),
        scales=scales,
        g_idx=index,
    )
    check(found, ((values - zeros[index.long()]) * scales.float()[index.long()]).t())


def test_awq(tmp_path: Path) -> None:
    order = torch.tensor([0, 2, 4, 6, 1, 3, 5, 7])  # which value lies at each place of a word

    def interleaved(values: torch.Tensor) -> torch.Tensor:
        return packed(values.reshape(len(values), -1, 8)[..., order].flatten(1), 4, 1)

    values = torch.randint(0, 16, (IN, OUT))
    zeros = torch.randint(0, 16, (IN // GROUP, OUT))
    scales = (torch.rand(IN // GROUP, OUT) + 0.5).half()
    found = folder(
        tmp_path,
        {"quant_method": "awq", "bits": 4},
        qweight=interleaved(values),
        qzeros=interleaved(zeros),
        scales=scales,
    )
    group = torch.arange(IN) // GROUP
    check(found, ((values - zeros[group]) * scales.float()[group]).t())


def test_other_methods_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="quantised with bitsandbytes"):
        folder(tmp_path, {"quant_method": "bitsandbytes"}, weight=torch.zeros(2, 2))


def test_parts_that_do_not_fit_are_not_guessed_at(tmp_path: Path) -> None:
    weight = torch.zeros(OUT, IN).to(torch.float8_e4m3fn)
    settings = {"quant_method": "fp8"}
    found = folder(tmp_path, settings, weight=weight, weight_scale_inv=torch.ones(5, 3))
    assert found.names() == (f"{NAME}.weight",)
    assert found.unreadable(f"{NAME}.weight") == (
        "has a weight_scale_inv of shape [5, 3]; expected one number, [48, 1] for rows "
        "or [1, 1] for blocks of 128 x 128"
    )
