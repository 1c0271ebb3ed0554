import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ttc.checkpoint.safetensors_folder import SafetensorsFolder
from ttc.checkpoint.safetensors_header import read_header
from ttc.errors import CheckpointError

pytestmark = pytest.mark.emulate

QUERY = "model.layers.1.self_attn.q_proj.weight"


def refusal(folder: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        SafetensorsFolder(folder, folder.name)
    return str(caught.value)


@pytest.mark.parametrize("shards", [1, 3])
def test_reads_every_tensor(
    tmp_path: Path, tiny_tensors: dict[str, Any], write_folder: Callable[..., Path], shards: int
) -> None:
    checkpoint = SafetensorsFolder(write_folder(tmp_path / "c", tiny_tensors, shards), "c")
    assert checkpoint.names() == tuple(sorted(tiny_tensors))
    for name, values in tiny_tensors.items():
        assert checkpoint.shape(name) == values.shape
        assert np.array_equal(checkpoint.read(name), values)


def test_reads_rows(tiny_folder: Path, tiny_tensors: dict[str, Any]) -> None:
    rows = SafetensorsFolder(tiny_folder, "tiny").read(QUERY, slice(16, 32))
    assert np.array_equal(rows, tiny_tensors[QUERY][16:32])


@pytest.mark.parametrize(
    ("stored", "read"),
    [
        (torch.bfloat16, np.uint16),
        (torch.float16, np.float32),
        (torch.float64, np.float32),
    ],
)
def test_dtypes(tmp_path: Path, stored: torch.dtype, read: type) -> None:
    values = torch.randn(4, 8).to(stored)
    save_file({"w": values}, tmp_path / "model.safetensors")
    checkpoint = SafetensorsFolder(tmp_path, "c")
    assert checkpoint.unreadable("w") == ""
    assert checkpoint.read("w").dtype == read
    bits = stored == torch.bfloat16
    expected = values.view(torch.int16).numpy().view(np.uint16) if bits else values.float().numpy()
    assert np.array_equal(checkpoint.read("w"), expected)


def test_names_a_dtype_that_it_cannot_read(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(4, dtype=torch.int8)}, tmp_path / "model.safetensors")
    assert "stored as I8" in SafetensorsFolder(tmp_path, "c").unreadable("w")


def test_fingerprint_follows_the_contents(tiny_folder: Path, tmp_path: Path) -> None:
    before = SafetensorsFolder(tiny_folder, "one").fingerprint
    copy = tmp_path / "copy"
    tiny_folder.rename(copy)
    assert SafetensorsFolder(copy, "two").fingerprint == before
    data = bytearray((copy / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (copy / "model.safetensors").write_bytes(data)
    assert SafetensorsFolder(copy, "two").fingerprint != before


def test_truncated_file(tiny_folder: Path) -> None:
    path = tiny_folder / "model.safetensors"
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1000])
    message = refusal(tiny_folder)
    assert "model.safetensors is truncated" in message
    assert f"describes {whole:,} bytes, the file has {whole - 1000:,}" in message
    assert "1,000 bytes are missing" in message


@pytest.mark.parametrize("kept", [0, 5, 100])
def test_truncated_header(tiny_folder: Path, kept: int) -> None:
    path = tiny_folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:kept])
    assert f"the file has {kept}" in refusal(tiny_folder)


def test_half_downloaded_with_a_foreign_tail(tiny_folder: Path) -> None:
    path = tiny_folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + b"tail")
    assert "is not a valid safetensors file" in refusal(tiny_folder)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ([], "not a JSON object"),
        ({"w": 1}, "'w' has no dtype, expected the name of a dtype"),
        (
            {"w": {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]}},
            "'w' has the data_offsets [-8, 0], expected two whole numbers from 0",
        ),
        (
            {"w": {"dtype": "F32", "shape": [2.0], "data_offsets": [0, 8]}},
            "'w' has the shape [2.0], expected whole numbers from 0",
        ),
        ({"__metadata__": ["a"]}, "its __metadata__ is ['a'], expected texts by name"),
        ({"__metadata__": {"a": 1}}, "its __metadata__ is {'a': 1}, expected texts by name"),
        ({"w": {"dtype": "F9", "shape": [1], "data_offsets": [0, 4]}}, "unknown dtype 'F9'"),
        ({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}, "needs 8 bytes"),
        ({"w": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}, "lacks"),
        ({"w": {"dtype": "F32", "shape": [True], "data_offsets": [0, 4]}}, "lacks"),
        (
            {
                "w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
                "v": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]},
            },
            "'v' overlaps with 'w'",
        ),
        (
            {
                "w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]},
                "v": {"dtype": "F32", "shape": [0], "data_offsets": [3, 3]},
                "u": {"dtype": "U8", "shape": [2], "data_offsets": [2, 4]},
            },
            "'u' leaves a hole after 'w'",
        ),
        ({"w": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}, "truncated"),
    ],
)
def test_bad_headers(tmp_path: Path, header: object, expected: str) -> None:
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + bytes(4)
    (tmp_path / "model.safetensors").write_bytes(data)
    assert expected in refusal(tmp_path)


def test_a_header_longer_than_any(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((1 << 60).to_bytes(8, "little") + b"{}")
    assert "a header of 1,152,921,504,606,846,976 bytes" in refusal(tmp_path)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_checkpoint_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    path.write_bytes(len(data).to_bytes(8, "little") + data)
    try:
        read_header(path)
    except CheckpointError:
        return


def test_missing_shard(
    tmp_path: Path, tiny_tensors: dict[str, Any], write_folder: Callable[..., Path]
) -> None:
    folder = write_folder(tmp_path / "c", tiny_tensors, shards=3)
    (folder / "model-00002-of-00003.safetensors").unlink()
    message = refusal(folder)
    assert "missing shard model-00002-of-00003.safetensors in the checkpoint folder" in message
    assert "2 of 3 shards are there" in message


def test_a_shard_of_another_revision(
    tmp_path: Path, tiny_tensors: dict[str, Any], write_folder: Callable[..., Path]
) -> None:
    folder = write_folder(tmp_path / "c", tiny_tensors, shards=2)
    save_file({"w": torch.zeros(1)}, folder / "model-00001-of-00002.safetensors")
    assert "lacks 11 tensors" in refusal(folder)


@pytest.mark.parametrize("shard", ["../evil.safetensors", "/etc/passwd", "a/b", 7])
def test_index_that_leaves_the_folder(tiny_folder: Path, shard: object) -> None:
    (tiny_folder / "model.safetensors").unlink()
    index = {"weight_map": {"w": shard}}
    (tiny_folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "places tensor 'w' outside the checkpoint folder" in refusal(tiny_folder)


@pytest.mark.parametrize("text", ["{", "[1]", '{"weight_map": []}', "[" * 100_000])
def test_unreadable_index(tiny_folder: Path, text: str) -> None:
    (tiny_folder / "model.safetensors").unlink()
    (tiny_folder / "model.safetensors.index.json").write_text(text)
    assert "model.safetensors.index.json" in refusal(tiny_folder)


def test_empty_folder(tmp_path: Path) -> None:
    assert "found an empty folder" in refusal(tmp_path)


def test_safetensors_are_taken_before_pickled_files(tmp_path: Path) -> None:
    values = torch.randn(4, 8)
    torch.save({"w": values}, tmp_path / "pytorch_model.bin")
    assert np.array_equal(SafetensorsFolder(tmp_path, "c").read("w"), values)
    assert np.array_equal(SafetensorsFolder(tmp_path, "c").read("w", slice(1, 3)), values[1:3])
    save_file({"w": -values}, tmp_path / "model.safetensors")
    assert np.array_equal(SafetensorsFolder(tmp_path, "c").read("w"), -values)


def test_pickled_shards(tmp_path: Path) -> None:
    names = {"a": "pytorch_model-00001-of-00002.bin", "b": "pytorch_model-00002-of-00002.bin"}
    for name, file in names.items():
        torch.save({name: torch.full((2, 2), float(ord(name)))}, tmp_path / file)
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    checkpoint = SafetensorsFolder(tmp_path, "c")
    assert checkpoint.names() == ("a", "b")
    assert checkpoint.read("b").tolist() == [[98, 98], [98, 98]]


class Attack:
    """What a hostile file would have pickle call."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (Path("attacked"),)


def test_no_code_of_a_pickled_file_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"w": torch.zeros(2), "attack": Attack()}, tmp_path / "pytorch_model.bin")
    assert "cannot be read as a file of tensors" in refusal(tmp_path)
    assert not (tmp_path / "attacked").exists()


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"\x80\2}."])
def test_damaged_pickled_files(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "pytorch_model.bin").write_bytes(content)
    assert "cannot be read as a file of tensors" in refusal(tmp_path)


@pytest.mark.parametrize("shard", ["../x.safetensors", "/x.safetensors", "x.bin", "\0.safetensors"])
def test_an_index_names_files_of_the_folder(tmp_path: Path, shard: str) -> None:
    index = {"weight_map": {"w": shard}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "outside the checkpoint folder" in refusal(tmp_path)
