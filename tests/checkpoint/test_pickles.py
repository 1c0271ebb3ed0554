"""Files of torch.save: nothing in them is run, nothing beyond a tensor's own bytes is read."""

import io
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ttc.checkpoint.pickles import read_pickle
from ttc.checkpoint.stored import PLAIN_DTYPES, read_values
from ttc.errors import CheckpointError

pytestmark = pytest.mark.emulate

TENSORS = {"a": torch.arange(64.0), "b": torch.full((64,), 7.0)}


class Command:
    """What runs a command when it is unpickled by Python's own unpickler."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (self.text,)


def rewritten(path: Path, change: Callable[[bytes], bytes], how: int = zipfile.ZIP_STORED) -> Path:
    """The archive of TENSORS with its pickled program changed."""
    torch.save(TENSORS, path)
    out = io.BytesIO()
    with zipfile.ZipFile(path) as whole, zipfile.ZipFile(out, "w", how) as copy:
        for entry in whole.infolist():
            data = whole.read(entry)
            changed = change(data) if entry.filename.endswith("data.pkl") else data
            copy.writestr(entry.filename, changed)
    path.write_bytes(out.getvalue())
    return path


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_pickle(path)
    assert f"{path} cannot be read as a file of tensors" in str(caught.value)
    return caught.value.problems[0].note


def test_values_are_those_of_torch(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / "x.pth")
    found = read_pickle(tmp_path / "x.pth")
    for name, values in TENSORS.items():
        assert np.array_equal(read_values(name, found[name]), values.numpy())


@pytest.mark.parametrize("wrap", [lambda evil: {"a": evil}, lambda evil: [evil], lambda evil: evil])
def test_no_code_is_run(tmp_path: Path, wrap: Callable[[object], object]) -> None:
    evil = wrap(Command(f"touch {tmp_path / 'run'}"))
    torch.save(evil, tmp_path / "x.pth")
    assert "no code of a checkpoint is ever run" in refusal(tmp_path / "x.pth")
    (tmp_path / "y.pth").write_bytes(pickle.dumps(evil))
    assert "it is no archive" in refusal(tmp_path / "y.pth")
    assert not (tmp_path / "run").exists()


def test_a_tensor_that_claims_bytes_of_another(tmp_path: Path) -> None:
    """127 values in a part of 64: torch would map what lies behind it."""
    path = tmp_path / "x.pth"
    torch.save(TENSORS, path)
    path.write_bytes(path.read_bytes().replace(b"K@", b"K\x7f"))
    assert refusal(path) == "tensor 'a' ends beyond the 256 bytes that the file has of it"


def test_an_archive_that_another_program_wrote(tmp_path: Path) -> None:
    """Its parts lie elsewhere, and torch says where they would be."""
    path = rewritten(tmp_path / "x.pth", lambda data: data)
    assert refusal(path) == "tensor 'b' does not lie where torch.save puts it"


def test_compressed_parts(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "x.pth", lambda data: data, zipfile.ZIP_DEFLATED)
    assert "data.pkl is compressed" in refusal(path)


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    path = rewritten(tmp_path / "x.pth", lambda data: data)
    path.write_bytes(path.read_bytes()[:-100])
    assert refusal(path) == "it is cut off"


def test_damaged_programs(tmp_path: Path) -> None:
    """Whatever the unpickler raises ends in an error with a message."""
    for seed in range(150):
        rng = random.Random(seed)

        def change(data: bytes, rng: random.Random = rng) -> bytes:
            at = rng.randrange(len(data))
            return data[:at] + rng.randbytes(rng.randint(0, 3)) + data[at + rng.randint(0, 8) :]

        path = rewritten(tmp_path / "x.pth", change)
        try:
            for name, stored in read_pickle(path).items():
                if stored.dtype in PLAIN_DTYPES:
                    read_values(name, stored)
        except CheckpointError:
            continue
