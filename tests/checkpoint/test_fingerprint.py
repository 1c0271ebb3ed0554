from pathlib import Path

import pytest

from ttc.checkpoint import fingerprint
from ttc.checkpoint.fingerprint import Span, combine_fingerprints, fingerprint_file

pytestmark = pytest.mark.fast

HEADER_BYTES = 10
SPANS = (Span(offset=10, size_bytes=20_000), Span(offset=20_010, size_bytes=100))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "weights"
    path.write_bytes(bytes(range(256)) * 78 + bytes(142))
    return path


def changed(file: Path, offset: int) -> str:
    data = bytearray(file.read_bytes())
    data[offset] ^= 1
    file.write_bytes(data)
    return fingerprint_file(file, HEADER_BYTES, SPANS)


@pytest.mark.parametrize("offset", [0, 11, 5_000, 20_050])
def test_a_small_file_is_hashed_whole(file: Path, offset: int) -> None:
    assert fingerprint_file(file, HEADER_BYTES, SPANS) != changed(file, offset)


@pytest.mark.parametrize("offset", [0, 9, 10, 4_100, 10_000, 20_009, 20_010, 20_109])
def test_a_large_file_is_sampled(file: Path, offset: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fingerprint, "WHOLE_FILE_BYTES", 0)
    assert fingerprint_file(file, HEADER_BYTES, SPANS) != changed(file, offset)


def test_time_and_name_do_not_matter(file: Path) -> None:
    before = fingerprint_file(file, HEADER_BYTES, SPANS)
    copy = file.with_name("copy")
    copy.write_bytes(file.read_bytes())
    assert fingerprint_file(copy, HEADER_BYTES, SPANS) == before


def test_parts_are_combined_in_any_order() -> None:
    parts = [("a", "1"), ("b", "2")]
    assert combine_fingerprints(parts) == combine_fingerprints(reversed(parts))
    assert combine_fingerprints(parts) != combine_fingerprints([("a", "2"), ("b", "1")])
