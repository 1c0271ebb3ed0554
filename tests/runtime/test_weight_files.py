"""Weight files: nothing is handed out before every byte of it was compared."""

import os
from dataclasses import asdict
from pathlib import Path

import pytest

from ttc.errors import ArtefactError
from ttc.runtime.artefact import file_facts
from ttc.runtime.weight_files import READ_AHEAD, WeightFile, checked_files

pytestmark = pytest.mark.fast

NAMES = tuple(f"decoders.{layer}.wo" for layer in range(3 * READ_AHEAD))


@pytest.fixture
def weights(tmp_path: Path) -> dict[str, WeightFile]:
    (tmp_path / "weights").mkdir()
    found: dict[str, WeightFile] = {}
    for number, name in enumerate(NAMES):
        file = f"weights/{name}.tensorbin"
        (tmp_path / file).write_bytes(bytes([number]) * 9000)
        facts = file_facts(tmp_path / file)
        found[name] = WeightFile(file=file, header_sha256="", **asdict(facts))
    return found


@pytest.mark.parametrize("names", [NAMES, NAMES[::-1], NAMES * 2])
def test_every_path_in_any_order(
    tmp_path: Path, weights: dict[str, WeightFile], names: tuple[str, ...]
) -> None:
    with checked_files(tmp_path, weights, NAMES) as path_of:
        assert [path_of(name) for name in names] == [tmp_path / weights[n].file for n in names]


def test_a_flipped_bit_that_left_no_trace(tmp_path: Path, weights: dict[str, WeightFile]) -> None:
    """What shares the file sees a new time of modification, and so reads all of it."""
    path = tmp_path / weights[NAMES[7]].file
    data, before = bytearray(path.read_bytes()), path.stat()
    data[8000] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with checked_files(tmp_path, weights, NAMES) as path_of:
        for name in NAMES[:7]:
            path_of(name)
        with pytest.raises(ArtefactError, match=r"the weight decoders\.7\.wo was changed"):
            path_of(NAMES[7])
    assert path.stat().st_mtime_ns != before.st_mtime_ns


def test_a_weight_that_is_missing(tmp_path: Path, weights: dict[str, WeightFile]) -> None:
    (tmp_path / weights[NAMES[1]].file).unlink()
    with checked_files(tmp_path, weights, [*NAMES, "head"]) as path_of:
        with pytest.raises(ArtefactError, match=r"decoders\.1\.wo\.tensorbin cannot be read"):
            path_of(NAMES[1])
        with pytest.raises(ArtefactError, match="has no weight head"):
            path_of("head")
