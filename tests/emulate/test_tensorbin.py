"""Files that ttnn wrote come back with the same values, types and placements."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from ttc.emulate import ttnn as emulated
from ttc.emulate.tensorbin import load_tensor
from ttc.hardware.hardware import load_mesh
from ttc.verify.mock_mesh import MockHost

pytestmark = pytest.mark.mock


def dump(folder: Path, ttnn: Any) -> None:
    """Write a tensor of each kind, and into one more file the values that ttnn reads back."""
    random = torch.Generator().manual_seed(3)
    banks = ttnn.CoreRangeSet([ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(11, 0))])
    ragged = ttnn.CoreRangeSet(
        [
            ttnn.CoreRange(ttnn.CoreCoord(0, 0), ttnn.CoreCoord(7, 1)),
            ttnn.CoreRange(ttnn.CoreCoord(0, 2), ttnn.CoreCoord(1, 2)),
        ]
    )

    def sharded(buffer: str, cores: Any, shape: list[int]) -> Any:
        spec = ttnn.ShardSpec(cores, shape, ttnn.ShardOrientation.ROW_MAJOR)
        layout = ttnn.TensorMemoryLayout.WIDTH_SHARDED
        return ttnn.MemoryConfig(layout, getattr(ttnn.BufferType, buffer), spec)

    kinds: dict[str, tuple[tuple[int, ...], str, bool, Any]] = {
        "bf16": ((1, 1, 64, 96), "bfloat16", True, None),
        "bf16_rows": ((1, 1, 3, 50), "bfloat16", False, None),
        "bf16_ragged": ((1, 3, 40, 70), "bfloat16", True, None),
        "fp32": ((64, 96), "float32", True, None),
        "bfp8": ((1, 1, 64, 96), "bfloat8_b", True, None),
        "bfp8_ragged": ((1, 3, 40, 70), "bfloat8_b", True, None),
        "bfp4": ((1, 1, 64, 96), "bfloat4_b", True, None),
        "uint32": ((3, 40), "uint32", False, None),
        "int32": ((3, 40), "int32", True, None),
        "vector": ((5,), "bfloat16", False, None),
        "bfp8_banks": ((1, 1, 64, 960), "bfloat8_b", True, sharded("DRAM", banks, [64, 96])),
        "bfp4_banks": ((1, 1, 64, 928), "bfloat4_b", True, sharded("DRAM", banks, [64, 96])),
        "bf16_cores": ((1, 1, 32, 576), "bfloat16", True, sharded("L1", ragged, [32, 32])),
    }
    values: dict[str, torch.Tensor] = {}
    for name, (shape, dtype, tiles, memory) in kinds.items():
        source = torch.randn(shape, generator=random)
        if "int" in name:
            source = torch.randint(0, 1000, shape, generator=random, dtype=torch.int32)
        tensor = ttnn.from_torch(
            source,
            dtype=getattr(ttnn, dtype),
            layout=ttnn.TILE_LAYOUT if tiles else ttnn.ROW_MAJOR_LAYOUT,
            memory_config=memory,
        )
        ttnn.dump_tensor(str(folder / f"{name}.tensorbin"), tensor)
        values[name] = ttnn.to_torch(tensor).double()
    torch.save(values, folder / "values.pt")


def test_every_kind_of_file(
    mock_host: MockHost, tmp_path: Path, device: emulated.MeshDevice
) -> None:
    mock_host.run(load_mesh("N150"), partial(dump, tmp_path), open_device=False)
    values: dict[str, torch.Tensor] = torch.load(tmp_path / "values.pt")
    tensors = {name: load_tensor(tmp_path / f"{name}.tensorbin", device=device) for name in values}
    for name, tensor in tensors.items():
        assert torch.equal(emulated.to_torch(tensor).double(), values[name]), name
        assert tensor.shape == tuple(values[name].shape)
        assert tensor.dtype.name.lower().startswith(
            {"bf16": "bfloat16", "bfp8": "bfloat8", "bfp4": "bfloat4", "fp32": "float32"}.get(
                name[:4], name[:3].replace("vec", "bfloat16")
            )
        )
    placed = tensors["bfp8_banks"].memory_config()
    assert placed.buffer_type is emulated.BufferType.DRAM
    assert placed.shard_spec is not None
    assert placed.shard_spec.shape == [64, 96]
    assert placed.shard_spec.grid.cores == tuple((bank, 0) for bank in range(12))
    ragged = tensors["bf16_cores"].memory_config().shard_spec
    assert ragged is not None
    assert ragged.num_cores() == 18


def test_a_placement_that_the_device_lacks_is_refused(mock_host: MockHost, tmp_path: Path) -> None:
    mock_host.run(load_mesh("N150"), partial(dump, tmp_path), open_device=False)
    small = emulated.open_mesh_device(emulated.MeshShape(1, 1), dram_banks=8)
    with pytest.raises(RuntimeError, match="no DRAM bank"):
        load_tensor(tmp_path / "bfp8_banks.tensorbin", device=small)
