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


MESHES = [(1, 4), (4, 1), (2, 2)]


def dump_for_meshes(folder: Path, ttnn: Any) -> None:
    """Files for meshes: replicated, sharded along each axis, and joined from host tensors."""
    values = torch.randn((1, 1, 64, 256), generator=torch.Generator().manual_seed(5)).bfloat16()
    torch.save(values, folder / "values.pt")
    for rows, columns in MESHES:
        shape = ttnn.MeshShape(rows, columns)
        same, cut = ttnn.PlacementReplicate(), ttnn.PlacementShard(3)
        for name, placements in {
            "same": (same, same),
            "axis0": (cut, same),
            "axis1": (same, cut),
        }.items():
            mapper = ttnn.create_mesh_mapper(shape, ttnn.MeshMapperConfig(list(placements)))
            tensor = ttnn.from_torch(
                values, dtype=ttnn.bfloat16, layout=ttnn.TILE_LAYOUT, mesh_mapper=mapper
            )
            ttnn.dump_tensor(str(folder / f"{name}-{rows}x{columns}.tensorbin"), tensor)
        parts = [
            ttnn.from_torch(part, dtype=ttnn.bfloat8_b, layout=ttnn.TILE_LAYOUT)
            for part in values.chunk(2, -1)
        ]
        joined = ttnn.from_host_shards([parts[0], parts[1], parts[0], parts[1]], shape)
        ttnn.dump_tensor(str(folder / f"joined-{rows}x{columns}.tensorbin"), joined)


@pytest.mark.parametrize("shape", MESHES)
def test_files_of_meshes(mock_host: MockHost, tmp_path: Path, shape: tuple[int, int]) -> None:
    mock_host.run_without_device(partial(dump_for_meshes, tmp_path))
    values: torch.Tensor = torch.load(tmp_path / "values.pt")
    mesh = emulated.open_mesh_device(emulated.MeshShape(*shape))
    suffix = f"{shape[0]}x{shape[1]}.tensorbin"

    def shards(name: str) -> list[emulated.Tensor]:
        return emulated.get_device_tensors(load_tensor(tmp_path / f"{name}-{suffix}", device=mesh))

    same = shards("same")
    assert len({id(one) for one in same}) == 1
    assert torch.equal(emulated.to_torch(same[3]), values)
    for axis in (0, 1):
        pieces = values.chunk(shape[axis], -1)
        for index, shard in enumerate(shards(f"axis{axis}")):
            place = divmod(index, shape[1])[axis]
            assert torch.equal(emulated.to_torch(shard), pieces[place])
    joined = shards("joined")
    assert joined[0] is joined[2]
    assert joined[0] is not joined[1]
    again = emulated.from_torch(values[..., 128:], emulated.bfloat8_b)
    assert torch.equal(emulated.to_torch(joined[3]), emulated.to_torch(again))


def test_a_file_of_another_mesh_is_refused(mock_host: MockHost, tmp_path: Path) -> None:
    mock_host.run_without_device(partial(dump_for_meshes, tmp_path))
    column = emulated.open_mesh_device(emulated.MeshShape(4, 1))
    with pytest.raises(RuntimeError, match=r"a file for the mesh \(1, 4\)"):
        load_tensor(tmp_path / "axis1-1x4.tensorbin", device=column)
